"""What a host has room for."""

from typing import Protocol

from ssjf.core.types import Job


class Capacity(Protocol):
    """Places for running jobs, as a scheduler asks for them.

    Attributes:
        total: how many jobs run at once.
        taken: how many do.
    """

    @property
    def total(self) -> int: ...  # noqa: D102

    @property
    def taken(self) -> int: ...  # noqa: D102

    def fits(self) -> bool:
        """Whether one more job may run."""
        ...

    def take(self, job: Job, now: float) -> None:
        """Give the job a place, which `fits` promised."""
        ...

    def release(self, job: Job) -> None:
        """The job gives its place back."""
        ...


class Slots:
    """A number of places, each taken by one running job.

    Args:
        total: how many jobs run at once; at least 1.
    """

    __slots__ = ("taken", "total")

    def __init__(self, total: int) -> None:
        self.taken = 0
        self.resize(total)

    def resize(self, total: int) -> None:
        """Change the number of places; jobs beyond a smaller number keep running until they finish."""
        if total < 1:
            raise ValueError(f"there must be at least 1 slot, not {total}")
        self.total = total

    def fits(self) -> bool:
        """Whether one more job may run."""
        return self.taken < self.total

    def take(self, job: Job, now: float) -> None:
        """Occupy a place that `fits` promised."""
        assert self.taken < self.total
        self.taken += 1

    def release(self, job: Job) -> None:
        """Give a place back."""
        assert self.taken > 0
        self.taken -= 1


class KVBlocks:
    """The memory of a paged KV cache: blocks of `block_size` tokens, and sequences that each fill theirs step by step.

    Sequences that grow are known by their lengths only and counted by the step at which they will next need a block:
    each of them needs one block in every `block_size` steps. So what any number of steps takes is known without
    looking at a single sequence.

    Args:
        total: how many blocks there are; at least 1.
        block_size: tokens that a block holds; at least 1.

    Attributes:
        taken: blocks in use.
        num_growing: sequences that grow.
    """

    __slots__ = ("_due", "_step", "block_size", "num_growing", "taken", "total")

    def __init__(self, total: int, block_size: int) -> None:
        if total < 1 or block_size < 1:
            raise ValueError(f"there must be at least 1 block of at least 1 token, not {total} of {block_size}")
        self.total = total
        self.block_size = block_size
        self.taken = 0
        self.num_growing = 0
        self._step = 0  # modulo block_size
        self._due = [0] * block_size  # how many growing sequences need a block at each step, modulo block_size

    def blocks(self, num_tokens: int) -> int:
        """How many blocks so many tokens of one sequence fill, the last one perhaps in part."""
        return -(-num_tokens // self.block_size)

    def fits(self, num_blocks: int) -> bool:
        """Whether so many more blocks are free."""
        return self.taken + num_blocks <= self.total

    def take(self, num_blocks: int) -> None:
        """Occupy blocks that `fits` promised."""
        self.taken += num_blocks
        assert self.taken <= self.total

    def release(self, num_blocks: int) -> None:
        """Give blocks back."""
        self.taken -= num_blocks
        assert self.taken >= 0

    @property
    def due(self) -> int:
        """Blocks that the next step needs for those that grow."""
        return self._due[self._step]

    def start_growing(self, num_tokens: int) -> None:
        """A sequence that holds the blocks of `num_tokens` tokens gets one more token at every step from now on."""
        self._due[(self._step - num_tokens) % self.block_size] += 1
        self.num_growing += 1

    def stop_growing(self, num_tokens: int) -> None:
        """A sequence that has grown to `num_tokens` tokens grows no more; it keeps its blocks."""
        self._due[(self._step - num_tokens) % self.block_size] -= 1
        self.num_growing -= 1

    def steps_left(self, limit: int) -> int:
        """For how many steps, up to `limit`, there are blocks enough for all that grow. O(block_size)."""
        free = self.total - self.taken
        if self.num_growing * self.blocks(limit) <= free:
            return limit
        rounds, free = divmod(free, self.num_growing)
        steps = rounds * self.block_size
        while steps < limit:
            free -= self._due[(self._step + steps) % self.block_size]
            if free < 0:
                break
            steps += 1
        return steps

    def grow(self, steps: int) -> None:
        """Let all that grow do so for as many steps as `steps_left` promised. O(block_size)."""
        rounds, rest = divmod(steps, self.block_size)
        begin, end = self._step, self._step + rest
        wrapped = end - self.block_size
        due = sum(self._due[begin:end])
        if wrapped > 0:
            due += sum(self._due[:wrapped])
        self.take(rounds * self.num_growing + due)
        self._step = end % self.block_size
