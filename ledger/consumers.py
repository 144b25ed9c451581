"""Named consumers: what is kept of each, and the port to where.

A consumer has a filter and a number of partitions, both fixed when it is made. Each partition has a checkpoint, and at
most one batch behind it that is lent, under a token that grows with each loan. The events of one run are in one
partition for ever, so whoever holds a batch is alone with the runs in it, and their order is kept.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple, Protocol
from zlib import crc32

import msgspec

from ledger.events import RunId
from ledger.filters import Filter
from ledger.run.codec import RecordedRunEvent


class ConsumerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What of a consumer never changes.

    Attributes:
        wanted: Which events it is given.
        partitions: How many of its readers may have a batch at once.
    """

    name: str
    wanted: Filter
    partitions: int
    created_at: datetime


class Place(NamedTuple):
    """Where one partition stands.

    Attributes:
        position: Its checkpoint: everything up to here was acknowledged, or was not wanted.
        token: Of its latest loan.
        lent_up_to: Where the batch ends that is lent, or was and is not acknowledged; None when there is none.
        left_s: How long the loan goes on; None when the partition is free.
    """

    partition: int
    position: int
    token: int
    lent_up_to: int | None
    left_s: float | None


class Batch(msgspec.Struct, frozen=True):
    """Events that one reader has for a while; what came of them is told to the consumer with it.

    Attributes:
        token: Fences off readers that come back after their loan.
        after: The checkpoint that it stands behind,
        up_to: and the one that acknowledging it makes.
        events: In the order of the log; at least one.
    """

    consumer: str
    partition: int
    token: int
    after: int
    up_to: int
    events: tuple[RecordedRunEvent, ...] = ()


class Consumers(Protocol):
    """Where consumers are kept. Times are the database's. Each call is a transaction."""

    def add(self, settings: ConsumerSettings, *, position: int) -> bool:
        """Keep a consumer whose partitions all stand at a position; False when its name is taken."""

    def find(self, name: str) -> ConsumerSettings | None:
        """Give a consumer; None when there is none of that name."""

    def list(self) -> Sequence[ConsumerSettings]:
        """Give all, by name."""

    def remove(self, name: str) -> bool:
        """Forget a consumer; False when there is none."""

    def reset(self, name: str, *, position: int) -> bool:
        """Let all partitions stand at a position, and end their loans; False when there is no such consumer."""

    def places(self, name: str) -> Sequence[Place]:
        """Give where each partition stands, by number; none when there is no such consumer."""

    def lend(self, name: str, place: Place, *, up_to: int, lease_s: float) -> int | None:
        """Lend the batch behind a free place; its token, or None when the place is not as it was seen."""

    def pass_over(self, name: str, place: Place, *, up_to: int) -> bool:
        """Move a free place's checkpoint past what is not wanted; False when the place is not as it was seen."""

    def acknowledge(self, batch: Batch) -> bool:
        """Move the checkpoint to the end of a lent batch, and end the loan; False when the loan is not the latest."""

    def extend(self, batch: Batch, *, lease_s: float) -> bool:
        """Let a loan go on for so long from now; False when it is not the latest."""

    def hand_back(self, batch: Batch) -> bool:
        """End a loan, and leave the checkpoint; False when it is not the latest."""


def first_token(settings: ConsumerSettings) -> int:
    """Give the token that comes before a consumer's first loan: above those of an earlier one of the same name."""
    return int(settings.created_at.timestamp() * 1_000)


def partition_of(run_id: RunId, partitions: int) -> int:
    """Give the partition of a run; the same for ever, so the hash must never change."""
    return crc32(run_id.encode()) % partitions
