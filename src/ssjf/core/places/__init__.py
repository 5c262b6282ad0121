"""Where jobs run, how many at once, and when they may enter."""
