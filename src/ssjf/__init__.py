"""Speculative shortest-job-first scheduling for LLM servers."""
