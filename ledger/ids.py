"""Makes ids: UUIDv7 (RFC 9562, section 5.7), in lower-case text, and salts.

Ids are for identity. They roughly grow with time so that indexes stay compact, and nothing is ever ordered by them
where the log has an order. CPython has uuid7 from 3.14 on; until then these few lines make them, many at a time,
because an append of a thousand events needs a thousand ids.
"""

import hashlib
import os
import time

from ledger.events import EventId, RunId


def _uuid7s(count: int) -> list[str]:
    """The ids of one call share their 62 random bits and count up in the 12 bits below the millisecond; more than
    4,096 borrow from the milliseconds to come. Two calls differ in their random bits."""
    first = time.time_ns() // 1_000_000 << 12
    noise = os.urandom(8).hex()
    tail = f"{_VARIANT[noise[0]]}{noise[1:4]}-{noise[4:]}"
    hexes = [f"{n:015x}" for n in range(first, first + count)]
    return [f"{h[:8]}-{h[8:12]}-7{h[12:]}-{tail}" for h in hexes]


_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
"""The variant's two bits are 10, so the digit they stand in keeps two random bits."""


def new_event_ids(count: int) -> list[EventId]:
    """Make the ids of one append's events."""
    return [EventId(uuid) for uuid in _uuid7s(count)]


def new_run_id() -> RunId:
    """Make the id of one run."""
    return RunId(_uuid7s(1)[0])


def new_salts(count: int, *, size_bytes: int) -> list[bytes]:
    """Make the salts of one append from one read of the system's random source."""
    noise = os.urandom(count * size_bytes)
    return [noise[start : start + size_bytes] for start in range(0, len(noise), size_bytes)]


def derived_id(*parts: str | int, at_ms: int) -> str:
    """Make the one id that stands for something said twice: the same parts and time give the same UUIDv7.

    Args:
        parts: What it stands for.
        at_ms: Its time, in milliseconds since 1970.

    Source: RFC 9562, section 5.7; the random bits are those of a SHA-256 of the parts.
    """
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()
    head = f"{at_ms:012x}"
    return f"{head[:8]}-{head[8:]}-7{digest[:3]}-{_VARIANT[digest[3]]}{digest[4:7]}-{digest[7:19]}"
