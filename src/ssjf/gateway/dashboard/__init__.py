"""The live page: who waits, who runs, how long things take, and what first come, first served would have given."""
