"""What a host has room for."""


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

    def take(self) -> None:
        """Occupy a place that `fits` promised."""
        assert self.taken < self.total
        self.taken += 1

    def release(self) -> None:
        """Give a place back."""
        assert self.taken > 0
        self.taken -= 1
