"""How work is cut into shards: once, by whoever asks for the run; nobody cuts it again."""

from collections.abc import Mapping, Sequence
from heapq import heapify, heapreplace
from itertools import pairwise
from math import isfinite
from statistics import median
from typing import TypeVar

from ledger import limits
from ledger.errors import InvalidInput
from ledger.run.values import check_integer

_T = TypeVar("_T")


def partition(items: Sequence[_T], shard_count: int) -> list[Sequence[_T]]:
    """Cut items into slices that follow each other: in order, disjoint, all of them, sizes at most one apart.

    Args:
        items: What is to be done, such as the ids of tests; `range(n)` where only the sizes matter.
        shard_count: How many slices, 1 to `limits.SHARDS_MAX`; the last ones are empty when there are fewer items.

    Returns:
        One slice a shard; the first ones have one item more where it does not come out even.

    Raises:
        InvalidInput: when the number of shards is out of range, or the items are no list.
    """
    if isinstance(items, str | bytes) or not isinstance(items, Sequence):
        raise InvalidInput("items", f"is {type(items).__name__}; a list is needed.")
    check_integer(shard_count, field="shard_count", at_least=1, at_most=limits.SHARDS_MAX)
    size, larger = divmod(len(items), shard_count)
    starts = [shard * size + min(shard, larger) for shard in range(shard_count + 1)]
    return [items[start:end] for start, end in pairwise(starts)]


def balance(test_ids: Sequence[str], shard_count: int, *, durations: Mapping[str, float]) -> list[list[str]]:
    """Cut tests into shards that take about equally long: the longest first, each to the shard with the least to do.

    No shard takes longer than 4/3 of the shortest time in which that many shards could be done at all.

    Args:
        test_ids: What is to be run.
        shard_count: How many shards, 1 to `limits.SHARDS_MAX`.
        durations: How long tests took, in any unit. A test that is not in it, or took no sensible time, counts as the
            median of the others.

    Returns:
        The tests of each shard, in the order in which they were given.

    Raises:
        InvalidInput: when the number of shards is out of range, or the tests are no list.

    Source:
        R. L. Graham, Bounds on Multiprocessing Timing Anomalies, SIAM J. Appl. Math. 17 (1969), theorem 2.
    """
    if isinstance(test_ids, str | bytes) or not isinstance(test_ids, Sequence):
        raise InvalidInput("test_ids", f"is {type(test_ids).__name__}; a list is needed.")
    check_integer(shard_count, field="shard_count", at_least=1, at_most=limits.SHARDS_MAX)
    known = {test_id: took for test_id, took in durations.items() if isfinite(took) and took >= 0}
    usual = median([known[test_id] for test_id in test_ids if test_id in known] or [1.0])
    took = [known.get(test_id, usual) for test_id in test_ids]
    loads = [(0.0, 0, shard) for shard in range(shard_count)]  # the count spreads tests that take no time
    heapify(loads)
    shard_of = [0] * len(test_ids)
    for index in sorted(range(len(test_ids)), key=lambda index: (-took[index], index)):
        load, count, shard = loads[0]
        shard_of[index] = shard
        heapreplace(loads, (load + took[index], count + 1, shard))
    shards: list[list[str]] = [[] for _ in range(shard_count)]
    for index, shard in enumerate(shard_of):
        shards[shard].append(test_ids[index])
    return shards


def clamp_shard_count(wanted: object, *, at_most: int) -> int:
    """Give how many shards to cut, whatever was asked for.

    Args:
        wanted: What a request says; what is no number, or less than 1, is 1. Digits in text are a number.
        at_most: How many workers there are, 1 to `limits.SHARDS_MAX`.
    """
    check_integer(at_most, field="at_most", at_least=1, at_most=limits.SHARDS_MAX)
    if isinstance(wanted, str) and wanted.isascii() and wanted.isdigit() and len(wanted) <= 9:
        wanted = int(wanted)
    if isinstance(wanted, bool) or not isinstance(wanted, int):
        return 1
    return max(1, min(wanted, at_most))
