"""A model of the money rules: the project's own rules in a world that does everything it may do."""
