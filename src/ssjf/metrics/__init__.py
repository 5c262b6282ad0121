"""What happened to jobs, and what it adds up to: records, tables, summaries."""
