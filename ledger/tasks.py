"""The port through which a store tells what there is to do, and lends it to workers.

A task is a run, a shard of one, or the finalization of one. The store keeps the tasks in step with the log, inside the
transaction of each append; a claim appends the event that takes a task. What every store promises:

1. A task is lent to one worker at a time: by priority, then by age, not before it is available.
2. Whoever takes, settles or passes over tasks waits for nobody.
3. A deadline is measured by one clock: the database's.
4. What is open is what the log says: a run's tasks are gone with its closing event.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import NamedTuple, Protocol

import msgspec

from ledger.envelope import commitment
from ledger.events import EventId, NewEvent, Page, RunId
from ledger.run.leases import RUN_FENCE, Lease, Purpose
from ledger.store import Appended, AppendRequest


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to do.

    Attributes:
        shard: Which shard; None when it is the whole run, or its finalization.
        state: `waiting` may be claimed, `scheduled` at `available_at`, `held` is somebody's, `idle` waits for the
            run's other tasks.
        attempt: Attempts of the run begun so far; of a shard, the one it has come to.
        token: Of whoever holds it.
        deadline: Of its lease; None when whoever holds it has none.
        is_overdue: Whether its deadline has passed, by the database's clock.
        abort_by: By when it has to stop; None unless an abort with a deadline was requested.
        since: When it came to this state.
    """

    run_id: RunId
    kind: str
    project: str | None
    shard: int | None
    purpose: Purpose
    state: str
    priority: int
    attempt: int
    token: int | None
    worker: str | None
    available_at: datetime | None
    deadline: datetime | None
    abort_requested: bool
    is_overdue: bool
    since: datetime
    abort_by: datetime | None = None


class Claimable(NamedTuple):
    """A task that a claim may take, with what its events need to know.

    Attributes:
        attempt: As in `Task`.
        is_scheduled: Whether its run has yet to be released.
        is_started: Whether the run is under way already.
        run_attempt: Attempts of the run begun so far.
        version: Where the stream stands.
        first: The stream's first event, as a page.
    """

    run_id: RunId
    shard: int | None
    is_finalizing: bool
    attempt: int
    is_scheduled: bool
    is_started: bool
    run_attempt: int
    version: int
    first: Page


class Renewal(NamedTuple):
    """What became of renewing one lease."""

    is_held: bool
    deadline: datetime | None = None
    abort_requested: bool = False


class Claiming(Protocol):
    """Tasks that nobody else can take until the block ends; what was appended commits then."""

    tasks: Sequence[Claimable]

    def take(
        self, requests: Sequence[AppendRequest], shards: Sequence[int | None]
    ) -> tuple[datetime, Sequence[Appended]]:
        """Append what takes these tasks, one request a task in the order of `tasks`, and lend them.

        Returns:
            The leases' deadline, and where each request's events stand.
        """


class Settling(Protocol):
    """Tasks whose deadline passed, or whose abort is overdue, that nobody else can settle until the block ends."""

    tasks: Sequence[Task]

    def read_run(self, run_id: RunId, *, after_version: int, limit: int) -> Page:
        """Read a stream; nobody can append to it meanwhile."""

    def append(self, request: AppendRequest) -> Appended:
        """Append to a stream; it commits when the block ends."""

    def put_back(self, task: Task) -> None:
        """Let others claim a task whose holder is gone."""


class Lent(NamedTuple):
    """A run that a store took and lent at once, with everything that there is to know of its lease."""

    run_id: RunId
    attempt: int
    version: int
    position: int
    deadline: datetime
    first: Page


class Tasks(Protocol):
    """What there is to do."""

    def lend_runs(
        self, *, kinds: Sequence[str] | None, limit: int, lease_s: float, worker: str, started: "StartedTemplate"
    ) -> Sequence[Lent] | None:
        """Take whole runs in one step, if that is what comes next and the store can; None when it is not the way."""

    def claiming(self, *, kinds: Sequence[str] | None, limit: int, lease_s: float) -> AbstractContextManager[Claiming]:
        """Take hold of what may be claimed now: some or none, never waiting for anybody."""

    def settling(self, *, limit: int) -> AbstractContextManager[Settling]:
        """Take hold of tasks whose lease is over, and of runs whose abort is overdue."""

    def renew(self, leases: Sequence[Lease], *, lease_s: float) -> list[Renewal]:
        """Move the deadlines of those leases that are still held, in one statement."""

    def look(self, leases: Sequence[Lease]) -> list[Renewal]:
        """Tell whether leases are held, and whether an abort was requested, without writing anything."""

    def lend(self, run_id: RunId, *, token: int, lease_s: float) -> datetime | None:
        """Make a lease of a run that its starter holds without one; None when it is not held under this token."""

    def release(self, lease: Lease) -> bool:
        """Let others claim a task, without a word in the log; False when it was not held by this lease."""

    def list(
        self, *, run_id: str | None, kinds: Sequence[str] | None, after: tuple[str, int] | None, limit: int
    ) -> Sequence[Task]:
        """Give tasks in the order of their runs' ids, then shards."""

    def count(self, *, kinds: Sequence[str] | None) -> dict[tuple[str, str], int]:
        """Count tasks by kind and state: the depth of the queue."""

    def oldest(self) -> dict[str, float]:
        """Give for how many seconds the oldest task that may be claimed has waited, by kind."""

    def next_due(self) -> float | None:
        """Give in how many seconds the next scheduled task or deadline comes; None when there is none."""


class StartedTemplate(NamedTuple):
    """The bytes of the `started` events that a claim is going to append, but for what only the store can know.

    Attributes:
        event_ids: One for each run.
        salts: Likewise.
        payload: What stands before the attempt, and after it.
        envelope: What stands before the commitment, the event's id and the run's id, and after that.
    """

    event_ids: Sequence[EventId]
    salts: Sequence[bytes]
    payload: tuple[str, str]
    envelope: tuple[str, str, str, str]

    def event(self, index: int, run_id: RunId, version: int, attempt: int) -> NewEvent:
        """Make the event of one run, for a store that puts in by itself what it knows."""
        event_id, salt = self.event_ids[index], self.salts[index]
        payload = str(attempt).join(self.payload).encode()
        to_commitment, to_event, to_run, end = self.envelope
        envelope = f"{to_commitment}{commitment(salt, payload)}{to_event}{event_id}{to_run}{run_id}{end}".encode()
        return NewEvent(event_id, "started", envelope, payload, salt, False, RUN_FENCE, version)


def purpose_of(shard: int, is_finalizing: bool) -> Purpose:
    """Tell what a row of tasks is for; shard -1 is the run."""
    if shard >= 0:
        return Purpose.SHARD
    return Purpose.FINALIZE if is_finalizing else Purpose.RUN
