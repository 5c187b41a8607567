"""The command line: thin commands that use the same store functions as the API."""
