"""The command line: the only room that knows every other one, and builds objects from settings."""
