"""Continuous batching iteration by iteration: the engine, its costs, and how they are measured."""
