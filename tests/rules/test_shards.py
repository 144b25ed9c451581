"""How work is cut into shards."""

from collections.abc import Mapping, Sequence
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import limits
from ledger.errors import InvalidInput
from ledger.run.shards import balance, clamp_shard_count, partition


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


def longest(shards: Sequence[Sequence[str]], durations: Mapping[str, float]) -> float:
    return max(sum(durations[test_id] for test_id in shard) for shard in shards)


DURATIONS = st.lists(st.integers(0, 50), max_size=7).map(lambda took: {f"t{n}": float(s) for n, s in enumerate(took)})


@given(DURATIONS, st.integers(1, 3))
def test_balance_when_compared_with_the_best(durations: dict[str, float], shard_count: int) -> None:
    """The longest shard takes 4/3 of the best time at most, every test is in one shard, and in its order there."""
    tests = list(durations)
    best = min(
        longest(
            [[test for test, of in zip(tests, dealt, strict=True) if of == n] for n in range(shard_count)], durations
        )
        for dealt in product(range(shard_count), repeat=len(tests))
    )

    shards = balance(tests, shard_count, durations=durations)

    assert sorted(tests) == sorted(test for shard in shards for test in shard)
    assert shards == [sorted(shard, key=tests.index) for shard in shards]
    assert longest(shards, durations) <= best * (4 / 3 - 1 / (3 * shard_count)) + 1e-9


def test_balance_when_one_test_is_slow() -> None:
    """What takes as long as all the others has a shard of its own."""
    durations = {"slow": 100.0, "a": 20.0, "b": 30.0, "c": 25.0, "d": 25.0}

    assert [["slow"], ["a", "b", "c", "d"]] == balance(["a", "b", "slow", "c", "d"], 2, durations=durations)


@pytest.mark.parametrize(
    "durations", [{}, {"t0": float("nan"), "t1": -1.0, "t2": float("inf")}, dict.fromkeys("t0", 0)]
)
def test_balance_when_little_is_known(durations: dict[str, float]) -> None:
    """Without sensible durations shards get equally many tests."""
    tests = [f"t{n}" for n in range(10)]

    assert [2, 2, 3, 3] == sorted(len(shard) for shard in balance(tests, 4, durations=durations))


def test_balance_when_a_test_is_new() -> None:
    """A test of which nothing is known counts as the median of the others."""
    shards = balance(["a", "b", "c", "new"], 2, durations={"a": 10.0, "b": 2.0, "c": 4.0})

    assert [["a"], ["b", "c", "new"]] == sorted(shards)


def test_balance_when_it_cannot_be_cut() -> None:
    """Shards are 1 to `SHARDS_MAX`, and tests are a list."""
    assert limits.SHARDS_MAX == len(balance([], limits.SHARDS_MAX, durations={}))
    for tests, shard_count in ((["a"], 0), (["a"], limits.SHARDS_MAX + 1), ("ab", 2)):
        with pytest.raises(InvalidInput):
            balance(tests, shard_count, durations={})
