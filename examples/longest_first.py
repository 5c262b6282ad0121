"""A policy of one's own: a class with one method. Declared as an entry point, every command knows it by name.

[project.entry-points."ssjf.policies"]
longest-first = "longest_first:LongestFirst"
"""

from ssjf.core.types import Job


class LongestFirst:
    static = True  # the key does not move while the job waits

    def key(self, job: Job, now: float) -> float:
        return -job.predicted_service_s
