"""The PostgreSQL store: the same store functions and statements, any number of processes."""
