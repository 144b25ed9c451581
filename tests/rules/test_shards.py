"""How work is cut into shards."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import limits
from ledger.errors import InvalidInput
from ledger.run.shards import clamp_shard_count, partition


@pytest.mark.parametrize(
    ("total", "shard_count", "sizes"),
    [
        (4, 4, [1, 1, 1, 1]),
        (10, 4, [3, 3, 2, 2]),
        (5, 1, [5]),
        (2, 4, [1, 1, 0, 0]),
        (0, 3, [0, 0, 0]),
        (40, 4, [10, 10, 10, 10]),
    ],
)
def test_partition_when_cut(total: int, shard_count: int, sizes: list[int]) -> None:
    """The first slices have one more where it does not come out even; there are empty ones when items are few."""
    assert sizes == [len(piece) for piece in partition(range(total), shard_count)]


@given(st.lists(st.integers()), st.integers(1, 50))
def test_partition_when_joined(items: list[int], shard_count: int) -> None:
    """Slices follow each other, are disjoint, hold everything, and differ by one at most."""
    pieces = partition(items, shard_count)

    assert items == [item for piece in pieces for item in piece]
    assert shard_count == len(pieces)
    assert sorted(map(len, pieces), reverse=True) == list(map(len, pieces))
    assert max(map(len, pieces)) - min(map(len, pieces)) <= 1


@pytest.mark.parametrize("shard_count", [0, -1, limits.SHARDS_MAX + 1, 1.5, True])
def test_partition_when_the_number_is_out_of_range(shard_count: int) -> None:
    """There are 1 to `SHARDS_MAX` shards."""
    assert limits.SHARDS_MAX == len(partition([], limits.SHARDS_MAX))
    with pytest.raises(InvalidInput):
        partition([1, 2], shard_count)


@pytest.mark.parametrize("items", ["ab", b"ab", None, 7])
def test_partition_when_it_is_no_list(items: Sequence[str]) -> None:
    """Text is no list of tests."""
    with pytest.raises(InvalidInput):
        partition(items, 2)


@pytest.mark.parametrize(
    ("wanted", "shard_count"),
    [(None, 1), (1, 1), (3, 3), ("3", 3), (4, 4), (100, 4), ("abc", 1), (-5, 1), (0, 1), (True, 1), (2.5, 1), ("²", 1)],
)
def test_clamp_when_asked(wanted: object, shard_count: int) -> None:
    """Whatever is asked for, there are 1 to as many shards as workers."""
    assert shard_count == clamp_shard_count(wanted, at_most=4)
