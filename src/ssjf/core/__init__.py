"""The scheduling core: what waits, in which order, and who may run. Pure: standard library, no clock, no I/O."""
