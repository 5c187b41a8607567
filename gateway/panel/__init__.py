"""The panel: pages for operators, drawn by the server, complete without a script."""
