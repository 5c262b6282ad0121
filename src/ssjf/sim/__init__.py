"""Discrete-event simulation: the deployed scheduling core under virtual time."""
