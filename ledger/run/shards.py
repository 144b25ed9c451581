"""How work is cut into shards: once, by whoever asks for the run; nobody cuts it again."""

from collections.abc import Sequence
from itertools import pairwise
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
