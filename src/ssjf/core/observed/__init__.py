"""What policies learn from the jobs that have been served."""
