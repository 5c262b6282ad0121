"""The embedded engine: a small OpenAI-compatible server of its own, in a process of its own."""
