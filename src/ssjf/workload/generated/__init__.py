"""Work that nobody has recorded: lengths from a distribution, and prompts that ask for answers of a kind."""
