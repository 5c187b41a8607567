"""The panel: pages for operators, which the server renders and which work without a script."""
