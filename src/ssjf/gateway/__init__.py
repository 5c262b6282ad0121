"""The gateway: an OpenAI-compatible server that decides who is served next, before any engine."""
