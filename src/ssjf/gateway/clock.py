"""The gateway's clock: monotonic seconds that began at the time of day.

So arrival times of several gateways before one engine can be compared (as well as their machines' clocks agree), and
yet no step of the wall clock makes a request younger.
"""

import time

_BEGAN = time.time() - time.monotonic()


def now() -> float:
    """Seconds."""
    return _BEGAN + time.monotonic()
