"""The command line: thin commands over the same store functions as the API."""
