"""Tasks in memory: the plainest statement of how they follow the log; see `schema/sqlite/0003_tasks.sql`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ledger import limits
from ledger.clock import utc_now
from ledger.events import Page, RunId
from ledger.run.codec import decode
from ledger.run.events import (
    AbortRequested,
    AttemptFailed,
    Enqueued,
    FinalizationStarted,
    Interrupted,
    Released,
    Resumed,
    RunEvent,
    ShardCompleted,
    ShardRetried,
    ShardStarted,
    Started,
    type_of,
)
from ledger.run.leases import Lease
from ledger.store import Appended, AppendRequest
from ledger.tasks import Claimable, Renewal, StartedTemplate, Task, purpose_of

if TYPE_CHECKING:
    from ledger.stores.memory import MemoryStore

_RUN = -1

FOLLOWED = frozenset(
    type_of(event)
    for event in (
        Enqueued,
        Released,
        Started,
        Resumed,
        ShardStarted,
        ShardCompleted,
        ShardRetried,
        AttemptFailed,
        Interrupted,
        AbortRequested,
        FinalizationStarted,
    )
)
"""The types of events that move tasks; besides, closing events end them."""


@dataclass(slots=True)
class TaskRow:
    """What the databases keep of a task; see there."""

    run_id: RunId
    shard: int
    kind: str
    project: str | None
    priority: int
    enqueued: int
    state: str
    since: datetime
    available_at: datetime | None = None
    attempt: int = 0
    shard_count: int | None = None
    shards_left: int = 0
    by_shard: bool = False
    is_finalizing: bool = False
    token: int | None = None
    worker: str | None = None
    deadline: datetime | None = None
    abort_requested: bool = False
    abort_by: datetime | None = None
    shard_attempts: dict[int, int] = field(default_factory=dict)
    """Of the run: which attempt each shard that was retried has come to, its fence."""

    def move(self, state: str, *, available_at: datetime | None = None) -> None:
        """Bring the task to a state in which nobody has a lease on it."""
        self.state, self.available_at, self.deadline, self.since = state, available_at, None, utc_now()

    def offer(self, available_at: datetime | None) -> None:
        """Let the task be claimed, now or later, by whoever comes."""
        self.move("waiting" if available_at is None else "scheduled", available_at=available_at)
        self.worker = self.token = None


Rows = dict[tuple[RunId, int], TaskRow]


def follow(rows: Rows, run_id: RunId, version: int, position: int, payload: bytes) -> None:
    """Bring a run's tasks in step with one more of its events."""
    event = decode(payload)
    if isinstance(event, Enqueued):
        _enqueue(rows, run_id, position, event)
        return
    run = rows.get((run_id, _RUN))
    if run is not None:
        _follow(rows, run, version, event)


def _enqueue(rows: Rows, run_id: RunId, position: int, event: Enqueued) -> None:
    if (run_id, _RUN) in rows:
        return
    is_later = event.not_before is not None and event.not_before > event.enqueued_at
    run = TaskRow(run_id, _RUN, event.kind, event.project, event.priority, position, "idle", utc_now())
    run.available_at = event.not_before if is_later else None
    run.shard_count = event.shard_count
    rows[run_id, _RUN] = run
    if event.shard_count is None:
        run.state = "scheduled" if is_later else "waiting"
    else:
        _lay_out(rows, run, run.available_at)


def _lay_out(rows: Rows, run: TaskRow, available_at: datetime | None) -> None:
    """Put the shards of a run there, all of them undone."""
    count = run.shard_count or 0
    for key in [key for key in rows if key[0] == run.run_id and key[1] >= 0]:
        del rows[key]
    run.shards_left = count
    for shard in range(count):
        _put_shard(rows, run, shard, run.shard_attempts.get(shard, 1), available_at)


def _put_shard(rows: Rows, run: TaskRow, shard: int, attempt: int, available_at: datetime | None) -> None:
    state = "waiting" if available_at is None else "scheduled"
    row = TaskRow(run.run_id, shard, run.kind, run.project, run.priority, run.enqueued, state, utc_now(), available_at)
    row.attempt, row.abort_requested, row.abort_by = attempt, run.abort_requested, run.abort_by
    if run.state == "held":
        row.state = "held"
    rows[run.run_id, shard] = row


def _follow(rows: Rows, run: TaskRow, version: int, event: RunEvent) -> None:  # noqa: C901 - one arm an event
    mine = [row for key, row in rows.items() if key[0] == run.run_id]
    match event:
        case Started():
            _start(rows, run, version, event)
        case Resumed():
            _resume(run, mine, version, event)
        case ShardStarted():
            shard = rows.get((run.run_id, event.shard))
            if shard is not None:
                shard.move("held")
                shard.attempt = shard.token = event.shard_attempt
                shard.worker = event.worker
        case ShardCompleted():
            _complete_shard(rows, run, event)
        case ShardRetried():
            _retry_shard(rows, run, event)
        case AttemptFailed():
            run.offer(event.retry_at)
            run.is_finalizing = run.by_shard = False
            if run.shard_count is not None:
                run.state = "idle"
                _lay_out(rows, run, event.retry_at)
        case Interrupted():
            for row in mine:
                row.move("held")
                row.worker = None
        case Released():
            for row in mine:
                if row.state == "scheduled":
                    row.move("waiting")
        case AbortRequested():
            for row in mine:
                row.abort_requested, row.abort_by = True, row.abort_by or event.deadline
        case FinalizationStarted() if run.shard_count is not None and run.shards_left <= 0:
            run.move("scheduled", available_at=utc_now() + timedelta(seconds=limits.FINALIZATION_GRACE_S))
            run.is_finalizing, run.token, run.worker = True, version, event.worker
        case _:
            pass


def _start(rows: Rows, run: TaskRow, version: int, event: Started) -> None:
    if run.shard_count is not None and event.attempt > 1:
        _lay_out(rows, run, None)
    run.attempt, run.by_shard, run.is_finalizing = event.attempt, event.by_shard, False
    for key, row in rows.items():
        if key[0] == run.run_id and (row is run or not event.by_shard):
            row.move("idle" if event.by_shard else "held")
            row.token, row.worker = version, event.worker


def _resume(run: TaskRow, mine: Sequence[TaskRow], version: int, event: Resumed) -> None:
    run.is_finalizing = False
    for row in mine:
        row.move("held" if not run.by_shard else "idle" if row is run else "waiting")
        row.token, row.worker = version, event.worker
    if run.by_shard:
        _offer_finalization(run)


def _complete_shard(rows: Rows, run: TaskRow, event: ShardCompleted) -> None:
    if event.shard is not None:
        shard = rows.get((run.run_id, event.shard))
        if shard is None or shard.attempt > event.shard_attempt:
            return
        del rows[run.run_id, event.shard]
    run.shards_left -= 1
    _offer_finalization(run)


def _offer_finalization(run: TaskRow) -> None:
    if run.shard_count is None or run.shards_left > 0 or run.attempt == 0 or run.is_finalizing:
        return
    run.is_finalizing = True
    grace = timedelta(seconds=limits.FINALIZATION_GRACE_S)
    run.move("waiting" if run.by_shard else "scheduled", available_at=None if run.by_shard else run.since + grace)


def _retry_shard(rows: Rows, run: TaskRow, event: ShardRetried) -> None:
    if run.shard_count is None:
        return
    if (run.run_id, event.shard) not in rows:
        run.shards_left += 1
        run.is_finalizing = False
        run.move("held" if run.token is not None and not run.by_shard else "idle")
    run.shard_attempts[event.shard] = event.shard_attempt
    _put_shard(rows, run, event.shard, event.shard_attempt, event.retry_at)


class MemoryTasks:
    """What there is to do, in memory."""

    def __init__(self, store: "MemoryStore", rows: Rows) -> None:
        self._store = store
        self._rows = rows

    def lend_runs(
        self, *, kinds: Sequence[str] | None, limit: int, lease_s: float, worker: str, started: StartedTemplate
    ) -> None:
        return None  # nothing to be saved: there are no round trips

    @contextmanager
    def claiming(self, *, kinds: Sequence[str] | None, limit: int, lease_s: float) -> Iterator["_MemoryClaiming"]:
        with self._store.in_turn(RunId("")):
            now = utc_now()
            for row in self._rows.values():
                if row.state == "scheduled" and row.available_at is not None and row.available_at <= now:
                    row.state = "waiting"
            rows = [
                row for row in self._rows.values() if row.state == "waiting" and (kinds is None or row.kind in kinds)
            ]
            rows.sort(key=lambda row: (-row.priority, row.enqueued, row.shard))
            tasks = [self._claimable(row) for row in rows[:limit]]
            yield _MemoryClaiming(self._store, self._rows, tasks, lease_s)

    @contextmanager
    def settling(self, *, limit: int) -> Iterator["_MemorySettling"]:
        with self._store.in_turn(RunId("")):
            now = utc_now()
            overdue = [
                row
                for row in self._rows.values()
                if (row.deadline is not None and row.deadline < now)
                or (row.abort_by is not None and row.abort_by < now)
            ]
            yield _MemorySettling(self._store, self._rows, [_task(row) for row in overdue[:limit]])

    def renew(self, leases: Sequence[Lease], *, lease_s: float) -> list[Renewal]:
        renewed = []
        with self._store.lock:
            for lease in leases:
                row = self._rows.get((lease.run_id, _shard(lease.shard)))
                if row is None or row.deadline is None or row.token != lease.token:
                    renewed.append(Renewal(False))
                else:
                    row.deadline = utc_now() + timedelta(seconds=lease_s)
                    renewed.append(Renewal(True, row.deadline, row.abort_requested))
        return renewed

    def look(self, leases: Sequence[Lease]) -> list[Renewal]:
        with self._store.lock:
            rows = [self._rows.get((lease.run_id, _shard(lease.shard))) for lease in leases]
            return [
                Renewal(False)
                if row is None or row.deadline is None or row.token != lease.token
                else Renewal(True, row.deadline, row.abort_requested)
                for lease, row in zip(leases, rows, strict=True)
            ]

    def lend(self, run_id: RunId, *, token: int, lease_s: float) -> datetime | None:
        with self._store.lock:
            row = self._rows.get((run_id, _RUN))
            if row is None or row.state != "held" or row.token != token or row.deadline is not None:
                return None
            row.deadline = utc_now() + timedelta(seconds=lease_s)
            return row.deadline

    def release(self, lease: Lease) -> bool:
        with self._store.lock:
            return _release(self._rows, lease.run_id, lease.shard, lease.token)

    def list(
        self, *, run_id: str | None, kinds: Sequence[str] | None, after: tuple[str, int] | None, limit: int
    ) -> Sequence[Task]:
        with self._store.lock:
            rows = [
                row
                for key, row in sorted(self._rows.items())
                if (run_id is None or key[0] == run_id)
                and (kinds is None or row.kind in kinds)
                and (after is None or key > after)
            ]
            return [_task(row) for row in rows[:limit]]

    def count(self, *, kinds: Sequence[str] | None) -> dict[tuple[str, str], int]:
        counts: dict[tuple[str, str], int] = {}
        with self._store.lock:
            for row in self._rows.values():
                if kinds is None or row.kind in kinds:
                    counts[row.kind, row.state] = counts.get((row.kind, row.state), 0) + 1
        return counts

    def oldest(self) -> dict[str, float]:
        ages: dict[str, float] = {}
        with self._store.lock:
            now = utc_now()
            for row in self._rows.values():
                is_due = row.state == "scheduled" and row.available_at is not None and row.available_at <= now
                if row.state == "waiting" or is_due:
                    since = row.available_at if is_due and row.available_at is not None else row.since
                    ages[row.kind] = max(ages.get(row.kind, 0.0), (now - since).total_seconds())
        return ages

    def next_due(self) -> float | None:
        with self._store.lock:
            dues = [
                due
                for row in self._rows.values()
                for due in (row.available_at if row.state == "scheduled" else None, row.deadline, row.abort_by)
                if due is not None
            ]
        return max(0.0, (min(dues) - utc_now()).total_seconds()) if dues else None

    def _claimable(self, row: TaskRow) -> Claimable:
        run = self._rows[row.run_id, _RUN]
        return Claimable(
            row.run_id,
            None if row.shard == _RUN else row.shard,
            row.is_finalizing,
            row.attempt,
            row.available_at is not None,
            run.token is not None,
            run.attempt,
            self._store.version(row.run_id),
            self._store.read_run(row.run_id, after_version=0, limit=1),
        )


class _MemoryClaiming:
    def __init__(self, store: "MemoryStore", rows: Rows, tasks: Sequence[Claimable], lease_s: float) -> None:
        self._store = store
        self._rows = rows
        self._lease_s = lease_s
        self.tasks = tasks

    def take(
        self, requests: Sequence[AppendRequest], shards: Sequence[int | None]
    ) -> tuple[datetime, Sequence[Appended]]:
        deadline = utc_now() + timedelta(seconds=self._lease_s)
        places = []
        for request, shard in zip(requests, shards, strict=True):
            places.append(self._store.append(request))
            row = self._rows[request.run_id, _shard(shard)]
            row.state, row.available_at, row.deadline = "held", None, deadline
        return deadline, places


class _MemorySettling:
    def __init__(self, store: "MemoryStore", rows: Rows, tasks: Sequence[Task]) -> None:
        self._store = store
        self._rows = rows
        self.tasks = tasks

    def read_run(self, run_id: RunId, *, after_version: int, limit: int) -> Page:
        return self._store.read_run(run_id, after_version=after_version, limit=limit)

    def append(self, request: AppendRequest) -> Appended:
        return self._store.append(request)

    def put_back(self, task: Task) -> None:
        _release(self._rows, task.run_id, task.shard, task.token)


def copy_rows(rows: Rows) -> Rows:
    """Copy the tasks, to go back to."""
    return {key: replace(row, shard_attempts=dict(row.shard_attempts)) for key, row in rows.items()}


def _release(rows: Rows, run_id: RunId, shard: int | None, token: int | None) -> bool:
    row = rows.get((run_id, _shard(shard)))
    if row is None or row.deadline is None or row.token != token:
        return False
    row.move("waiting")
    row.worker = None
    return True


def _shard(shard: int | None) -> int:
    return _RUN if shard is None else shard


def _task(row: TaskRow) -> Task:
    return Task(
        run_id=row.run_id,
        kind=row.kind,
        project=row.project,
        shard=None if row.shard == _RUN else row.shard,
        purpose=purpose_of(row.shard, row.is_finalizing),
        state=row.state,
        priority=row.priority,
        attempt=row.attempt,
        token=row.token,
        worker=row.worker,
        available_at=row.available_at,
        deadline=row.deadline,
        abort_requested=row.abort_requested,
        is_overdue=row.deadline is not None and row.deadline < utc_now(),
        since=row.since,
        abort_by=row.abort_by,
    )
