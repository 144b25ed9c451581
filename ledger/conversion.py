"""Makes structs of plain values."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import msgspec

_T = TypeVar("_T")


def converter(kind: type[_T]) -> Callable[[object], _T]:
    """Give a function that makes a `kind` of plain values, with its type learned now.

    Called while a module is imported, which one thread does: msgspec learns a type when it is first converted to, and
    lets other threads see what it knows before that is whole. Two threads that were first at once crashed the process
    (a segmentation fault, with msgspec 0.22).
    """
    msgspec.json.Decoder(kind)
    return partial(msgspec.convert, type=kind)
