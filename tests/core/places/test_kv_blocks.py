import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssjf.core.places.capacity import KVBlocks


def test_a_sequence_fills_its_last_block_in_part() -> None:
    kv = KVBlocks(total=10, block_size=16)
    assert [kv.blocks(num_tokens) for num_tokens in (1, 16, 17, 160)] == [1, 1, 2, 10]


def test_blocks_fit_until_all_are_taken() -> None:
    kv = KVBlocks(total=3, block_size=16)
    kv.take(2)
    assert kv.fits(1)
    assert not kv.fits(2)
    kv.release(1)
    assert kv.fits(2)


@pytest.mark.parametrize(("total", "block_size"), [(0, 16), (4, 0)])
def test_a_cache_that_holds_nothing_is_refused(total: int, block_size: int) -> None:
    with pytest.raises(ValueError, match="at least 1 block"):
        KVBlocks(total, block_size)


def test_a_full_block_needs_another_at_the_next_step() -> None:
    kv = KVBlocks(total=2, block_size=4)
    kv.take(1)
    kv.start_growing(4)
    assert kv.due == 1
    kv.grow(1)
    assert kv.taken == 2
    assert kv.due == 0
    assert kv.steps_left(100) == 3  # the second block has room for three more tokens


def test_a_sequence_that_stopped_keeps_its_blocks_and_needs_no_more() -> None:
    kv = KVBlocks(total=1, block_size=4)
    kv.take(1)
    kv.start_growing(1)
    kv.grow(3)
    kv.stop_growing(4)
    assert kv.taken == 1
    assert kv.steps_left(100) == 100


def test_memory_lasts_for_ever_when_nobody_grows() -> None:
    kv = KVBlocks(total=1, block_size=4)
    kv.take(1)
    assert kv.steps_left(7) == 7


@given(
    block_size=st.integers(1, 7),
    spare=st.integers(0, 40),
    events=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 40), st.booleans()), max_size=8),
)
def test_growth_is_what_sequences_need_that_are_looked_at_one_by_one(
    block_size: int, spare: int, events: list[tuple[int, int, bool]]
) -> None:
    """Each event: so many steps pass, then a sequence of so many tokens starts, or the oldest one stops."""

    def held(num_tokens: int) -> int:
        return (num_tokens + block_size - 1) // block_size

    stopped: list[int] = []
    growing: list[int] = []
    kv = KVBlocks(total=spare + sum(held(num_tokens) for _, num_tokens, _ in events) + 1, block_size=block_size)
    for wanted, num_tokens, starts in events:
        steps = 0
        while steps < wanted and sum(held(n + 1) for n in growing) + sum(map(held, stopped)) <= kv.total:
            growing = [n + 1 for n in growing]
            steps += 1
        assert kv.steps_left(wanted) == steps
        kv.grow(steps)
        assert kv.taken == sum(map(held, growing)) + sum(map(held, stopped))
        assert kv.num_growing == len(growing)
        if starts:
            if kv.fits(kv.blocks(num_tokens)):
                kv.take(kv.blocks(num_tokens))
                kv.start_growing(num_tokens)
                growing.append(num_tokens)
        elif growing:
            kv.stop_growing(growing[0])
            stopped.append(growing.pop(0))
