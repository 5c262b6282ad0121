"""Who waits, and who of them is next."""
