"""The scheduling core inside engines that have a queue of their own. Nobody but the command line knows this room."""
