"""The port that every database adapter fulfils.

What a store promises, whatever it runs on; `tests/contract/` is the definition, and memory, SQLite and PostgreSQL pass
it alike:

1. An append is atomic. It is committed (it returns, and the events survive power loss), refused (a `Refused`,
   `EventIdReused`, `RunNotFound` or key error; nothing was written) or unknown (`OutcomeUnknown`).
2. Versions of a stream are dense from 1. Positions grow in the order in which a stream's events were appended, and
   over the whole log in an order that never changes.
3. Appending events whose ids are in the log already gives their first places back when run, type and payload are the
   same, and `EventIdReused` otherwise. That is looked at before the condition, so a repeated append succeeds.
4. A stream accepts one closing event, whatever the condition.
5. `read_log` never shows an event at a position up to which it has shown the log before: a reader that remembers the
   position of the last event it saw misses none and sees none twice.
6. Keys are claimed in the append that needs them. A key that is `until_closed` is given back by the closing event.
7. What is erased is gone from every read for good; places, envelopes, keys and conditions stay as they are. An erased
   event is read as one without payload, and appending it again still gives its first place back.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from ledger.errors import LedgerError
from ledger.events import EventId, NewEvent, Page, RunId

if TYPE_CHECKING:
    from ledger.consumers import Consumers
    from ledger.tasks import Tasks


class Rule(Enum):
    """What must hold of the stream for an append to be accepted."""

    ANY = "any"
    """Nothing; the stream may be empty."""
    EXISTS = "exists"
    """The stream has an event, and was not purged."""
    NO_RUN = "no_run"
    """The stream is empty."""
    EXACTLY = "exactly"
    """The stream is at one version."""
    UNLESS_CLOSED = "unless_closed"
    """The stream exists and has no closing event, and no newer epoch of the append's fence was begun."""


class Condition(msgspec.Struct, frozen=True):
    """When an append is accepted. Make one with the names below.

    Attributes:
        rule: Which rule.
        version: With `EXACTLY`: the version that the writer decided on.
        fence: The fence that the writer stands behind, such as `shard 3`; a newer epoch of it refuses.
        epoch: The writer's epoch of that fence.
    """

    rule: Rule
    version: int = 0
    fence: str | None = None
    epoch: int = 0


ANY = Condition(Rule.ANY)
EXISTS = Condition(Rule.EXISTS)
NO_RUN = Condition(Rule.NO_RUN)


def exactly(version: int) -> Condition:
    """Accept only while the stream is at this version; 0 is an empty stream."""
    return Condition(Rule.EXACTLY, version=version)


def unless_closed(fence: str | None = None, epoch: int = 0) -> Condition:
    """Accept in any order with its like: only a closing event, or a newer epoch of the fence, refuses."""
    return Condition(Rule.UNLESS_CLOSED, fence=fence, epoch=epoch)


class KeyClaim(msgspec.Struct, frozen=True):
    """A key that the append needs for its run alone.

    Attributes:
        space: `idempotency` or `exclusive`.
        project: Keys of two projects do not meet; empty for runs of no project.
        key: The key.
        fingerprint: Of the payload that the key stands for, in hex; empty where that does not matter.
        until_closed: Whether the run's closing event gives the key back.
    """

    space: str
    project: str
    key: str
    fingerprint: str = ""
    until_closed: bool = False


class KeyTaken(LedgerError):
    """Another run holds the key. `Ledger` turns this into what the caller asked for."""

    def __init__(self, *, claim: KeyClaim, run_id: str, fingerprint: str) -> None:
        super().__init__(f"{claim.space} key {claim.key!r} is held by run {run_id}. Use another key, or that run.")
        self.claim = claim
        self.run_id = run_id
        self.fingerprint = fingerprint


class AppendRequest(msgspec.Struct, frozen=True):
    """One append: events of one stream, of which at most one closes it, and what must hold."""

    run_id: RunId
    condition: Condition
    events: tuple[NewEvent, ...]
    claims: tuple[KeyClaim, ...] = ()


class Appended(NamedTuple):
    """Where an append's events stand.

    Attributes:
        run_id: Their stream.
        version: Version of the last one; the others stand just before it.
        positions: One an event, growing.
        is_duplicate: Whether they were in the log already.
    """

    run_id: RunId
    version: int
    positions: Sequence[int]
    is_duplicate: bool = False


class Turn(Protocol):
    """A stream that nobody else can append to until the turn ends."""

    def read_run(self, run_id: RunId, *, after_version: int, limit: int) -> Page:
        """Read the stream as of this turn."""

    def append(self, request: AppendRequest) -> Appended:
        """Append within the turn; it commits when the turn ends."""

    def erase(self, run_id: RunId, *, after_version: int, up_to: int, limit: int) -> int:
        """Erase payload and salt of the next events within the turn; a rollback brings them back.

        Args:
            run_id: The stream whose turn it is.
            after_version: Erase after this version,
            up_to: up to this one; the stream has it.
            limit: The most events; fewer are erased where they are large, at least one.

        Returns:
            The version up to which payloads are erased now; `up_to` when all are.
        """


class Listener(Protocol):
    """Wakes a live reader."""

    def wait(self, timeout_s: float) -> bool:
        """Return when something may have been appended, at the latest after the timeout.

        Returns:
            False when the time is over and it is known that nobody wrote; a false alarm is fine.
        """

    def close(self) -> None:
        """Let go of what it holds; `wait` returns at once from now on, in whatever thread."""


class Store(Protocol):
    """A log of events in streams, safe to use from many threads."""

    url: str
    """What it was opened with, without its password."""

    def append(self, request: AppendRequest) -> Appended:
        """Append, and return when it is durable.

        Raises:
            VersionConflict, RunClosed, RunPurged, ShardSuperseded, RunNotFound, KeyTaken, EventIdReused: refused.
            OutcomeUnknown: the connection was lost during the commit.
            StoreUnavailable: not even begun; nothing was written.
        """

    def append_all(self, requests: Sequence[AppendRequest]) -> "list[Appended | Exception]":
        """Append requests of one event each, without keys, in as few commits as may be; each succeeds or is refused
        for itself."""

    def in_turn(self, run_id: RunId) -> AbstractContextManager[Turn]:
        """Take the stream's turn: read, decide and append with nobody in between.

        The turn commits when its block ends; an exception rolls it back. Keep it short: it holds up other writers of
        the stream, and on SQLite of the file.
        """

    def read_run(self, run_id: RunId, *, after_version: int, limit: int) -> Page:
        """Read one stream from after a version on; everything that was committed before is in it."""

    def read_log(self, *, after_position: int, limit: int, unsettled: bool = False) -> Page:
        """Read the whole log from after a position on.

        Args:
            after_position: The last position seen; 0 at first.
            limit: The most events.
            unsettled: Also give committed events before which others may still appear. For readers that know how to
                see an event twice; they remember `settled_position` instead of the last one.
        """

    def find(self, event_ids: Sequence[EventId]) -> dict[EventId, tuple[RunId, int, int]]:
        """Give run, version and position of those events that are in the log."""

    def key_holder(self, *, space: str, project: str, key: str) -> RunId | None:
        """Give the run that holds a key; None when none does."""

    @property
    def tasks(self) -> "Tasks":
        """What there is to do; see `ledger.tasks`."""

    @property
    def consumers(self) -> "Consumers":
        """The named readers; see `ledger.consumers`."""

    def listen(self) -> Listener:
        """Watch for appends, of this process and of others."""

    def close(self) -> None:
        """Close every connection. Appends under way finish first."""
