"""What a decision of the waiting queue costs, for every installed policy, as the queue grows.

    python benchmarks/queue_cost.py [--sizes 1000,10000,100000] [--repeat 5]

For each policy and number of waiting jobs: CPU time of one push and one pop, in microseconds, with the queue kept at
that length; of moving keys (HRRN), of one pop. Beside it, in the same run, a bare heap of the same tuples: what any
priority queue in Python pays. `auto` is measured as the scheduler drives it, with a shadow that has seen 2,000 jobs.
Garbage collection is off while it is measured; the median of the repeats, and the largest.
Expected: push and pop at most 5 µs at 100,000 waiting for keys that stand still; a decision at most 1 ms at 10,000
waiting for keys that move.
"""

import argparse
import gc
import random
import statistics
import time
from collections.abc import Callable
from heapq import heappop, heappush

from ssjf.core.places.capacity import Slots
from ssjf.core.replay import replay
from ssjf.core.scheduler import Scheduler
from ssjf.core.types import Job, Policy, Request
from ssjf.core.waiting.queue import WaitingQueue
from ssjf.plugins import POLICIES, make_policy, names


def jobs(count: int, rng: random.Random, first: int = 0) -> list[Job]:
    """Log-normal predicted service around a second, one arrival every ten milliseconds."""
    made = []
    for index in range(first, first + count):
        service = rng.lognormvariate(0, 1)
        job = Job(Request(request_id=str(index), arrival_time=0.01 * index), service, sequence=index)
        job.service_quantiles = ((0.1, service / 3), (0.5, service), (0.9, 3 * service))
        made.append(job)
    return made


def learned(policy: Policy) -> Policy:
    """The policy after 2,000 jobs, where it is one that learns."""
    scheduler = Scheduler(policy, Slots(8))
    replay([(job, job.predicted_service_s) for job in jobs(2000, random.Random(9))], scheduler)
    return scheduler.adaptive or policy


def microseconds(work: Callable[[int], None], count: int, repeat: int) -> tuple[float, float]:
    """CPU time of one call, the median and the largest of the repeats."""
    times = []
    gc.disable()
    for turn in range(repeat):
        begin = time.process_time()
        for index in range(turn * count, (turn + 1) * count):
            work(index)
        times.append(1e6 * (time.process_time() - begin) / count)
    gc.enable()
    return statistics.median(times), max(times)


def measure(policy: Policy, size: int, count: int, repeat: int) -> tuple[float, float]:
    """One push and one pop at a queue of this length; of moving keys, the pop decides."""
    rng = random.Random(1)
    queue = WaitingQueue(policy)
    waiting = jobs(size, rng)
    now = waiting[-1].request.arrival_time + 5
    for job in waiting:
        queue.push(job, now)
    coming = jobs(count * repeat, rng, first=size)

    def push_and_pop(index: int) -> None:
        queue.push(coming[index], now)
        queue.pop(now)

    return microseconds(push_and_pop, count, repeat)


def bare_heap(size: int, count: int, repeat: int) -> tuple[float, float]:
    """The same tuples in a heap and nothing else."""
    rng = random.Random(1)
    heap: list[tuple[int, float, float, int, int, Job]] = []
    for job in jobs(size, rng):
        heappush(heap, (0, job.predicted_service_s, job.request.arrival_time, job.sequence, 1, job))
    coming = [
        (0, job.predicted_service_s, job.request.arrival_time, job.sequence, 1, job)
        for job in jobs(count * repeat, rng, first=size)
    ]

    def push_and_pop(index: int) -> None:
        heappush(heap, coming[index])
        heappop(heap)

    return microseconds(push_and_pop, count, repeat)


def main() -> None:
    """Print a row for each policy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1000,10000,100000")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    print("microseconds per push and pop, median (largest) of repeats, by number of waiting jobs")
    print(f"{'policy':20}" + "".join(f"{size:>20,}" for size in sizes))
    cells = [bare_heap(size, 2000, options.repeat) for size in sizes]
    print(f"{'(a bare heap)':20}" + "".join(f"{median:>11.2f} ({most:6.2f})" for median, most in cells))
    for name in names(POLICIES):
        policy = learned(make_policy(name))
        count = 2000 if policy.static else 50
        cells = [measure(policy, size, count, options.repeat) for size in sizes]
        print(f"{name:20}" + "".join(f"{median:>11.2f} ({most:6.2f})" for median, most in cells), flush=True)


if __name__ == "__main__":
    main()
