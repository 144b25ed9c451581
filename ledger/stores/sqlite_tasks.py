"""Tasks in a SQLite file. A claim holds the file's write lock, for as long as its appends take.

Differs from PostgreSQL: nobody is ever passed over, since whoever claims is alone; times are the machine's, in
milliseconds.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final

import apsw

from ledger.clock import utc_now
from ledger.events import Page, RunId, join_page
from ledger.run.codec import encode_json
from ledger.run.leases import Lease
from ledger.store import Appended, AppendRequest, Turn, exactly
from ledger.tasks import Claimable, Lent, Renewal, StartedTemplate, Task, purpose_of

if TYPE_CHECKING:
    from ledger.stores.sqlite import SqliteStore, SqliteTurn

_RUN: Final = -1


class SqliteTasks:
    """What there is to do, in a SQLite file."""

    def __init__(self, store: "SqliteStore") -> None:
        self._store = store
        self._found: tuple[Sequence[str] | None, bool] = (None, False)

    def lend_runs(
        self, *, kinds: Sequence[str] | None, limit: int, lease_s: float, worker: str, started: StartedTemplate
    ) -> Sequence[Lent] | None:
        if self._found != (kinds, True) and not self._has_claimable(kinds):
            return []  # an idle worker looks often and must not keep writers waiting
        with self._store.turn() as (connection, turn):
            rows = _claimable_rows(connection, kinds, limit)
            plain = list(takewhile(_is_whole_run, rows))
            lent = _lend(connection, turn, plain, started, _now() + round(lease_s * 1000)) if plain else []
        self._found = (kinds, bool(rows))
        return None if rows and not plain else lent

    @contextmanager
    def claiming(self, *, kinds: Sequence[str] | None, limit: int, lease_s: float) -> Iterator["_SqliteClaiming"]:
        with self._store.turn() as (connection, turn):
            tasks = [_claimable(connection, row) for row in _claimable_rows(connection, kinds, limit)]
            yield _SqliteClaiming(connection, turn, tasks, lease_s)

    @contextmanager
    def settling(self, *, limit: int) -> Iterator["_SqliteSettling"]:
        with self._store.reading() as connection:
            is_idle = connection.execute(_ANY_OVERDUE, (_now(),)).get is None
        if is_idle:
            yield _SqliteSettling(None, None, ())
            return
        with self._store.turn() as (connection, turn):
            rows = connection.execute(_OVERDUE, (_now(), limit)).fetchall()
            yield _SqliteSettling(connection, turn, [_task(row) for row in rows])

    def renew(self, leases: Sequence[Lease], *, lease_s: float) -> list[Renewal]:
        deadline = _now() + round(lease_s * 1000)
        held = encode_json([[lease.run_id, _shard(lease.shard), lease.token] for lease in leases]).decode()
        with self._store.writing() as connection:
            renewed = {row[:3]: bool(row[3]) for row in connection.execute(_RENEW, (deadline, held)).fetchall()}
        return [
            Renewal(True, _moment(deadline), renewed[key]) if key in renewed else Renewal(False)
            for key in [(lease.run_id, _shard(lease.shard), lease.token) for lease in leases]
        ]

    def look(self, leases: Sequence[Lease]) -> list[Renewal]:
        keys = [(lease.run_id, _shard(lease.shard), lease.token) for lease in leases]
        with self._store.reading() as connection:
            rows = [connection.execute(_LOOK, key).get for key in keys]
        return [Renewal(False) if row is None else Renewal(True, _moment(row[0]), bool(row[1])) for row in rows]

    def lend(self, run_id: RunId, *, token: int, lease_s: float) -> datetime | None:
        deadline = _now() + round(lease_s * 1000)
        with self._store.writing() as connection:
            connection.execute(_LEND_STARTED, (deadline, run_id, token))
            return _moment(deadline) if connection.changes() else None

    def release(self, lease: Lease) -> bool:
        with self._store.writing() as connection:
            connection.execute(_RELEASE, (_now(), lease.run_id, _shard(lease.shard), lease.token))
            return bool(connection.changes())

    def list(
        self, *, run_id: str | None, kinds: Sequence[str] | None, after: tuple[str, int] | None, limit: int
    ) -> Sequence[Task]:
        run_after, shard_after = after or ("", _RUN - 1)
        wanted = None if kinds is None else encode_json(kinds).decode()
        with self._store.reading() as connection:
            rows = connection.execute(_LIST, (_now(), run_id, wanted, run_after, shard_after, limit)).fetchall()
        return [_task(row) for row in rows]

    def count(self, *, kinds: Sequence[str] | None) -> dict[tuple[str, str], int]:
        wanted = None if kinds is None else encode_json(kinds).decode()
        with self._store.reading() as connection:
            return {(kind, state): n for kind, state, n in connection.execute(_COUNT, (wanted,))}

    def oldest(self) -> dict[str, float]:
        now = _now()
        with self._store.reading() as connection:
            return {kind: max(0, now - since) / 1000 for kind, since in connection.execute(_OLDEST, (now,))}

    def next_due(self) -> float | None:
        with self._store.reading() as connection:
            due = connection.execute(_NEXT_DUE).get
        return None if due is None else max(0.0, (due - _now()) / 1000)

    def _has_claimable(self, kinds: Sequence[str] | None) -> bool:
        with self._store.reading() as connection:
            if connection.execute(_ANY_DUE, (_now(),)).get:
                return True
            if kinds is None:
                return connection.execute(_ANY_WAITING).get is not None
            return any(connection.execute(_ANY_WAITING_OF, (kind,)).get is not None for kind in kinds)


class _SqliteClaiming:
    def __init__(
        self,
        connection: apsw.Connection,
        turn: "SqliteTurn",
        tasks: Sequence[Claimable],
        lease_s: float,
    ) -> None:
        self._connection = connection
        self._turn = turn
        self._lease_s = lease_s
        self.tasks = tasks

    def take(
        self, requests: Sequence[AppendRequest], shards: Sequence[int | None]
    ) -> tuple[datetime, Sequence[Appended]]:
        deadline = _now() + round(self._lease_s * 1000)
        places = self._turn.append_all(requests)
        rows = [(deadline, request.run_id, _shard(shard)) for request, shard in zip(requests, shards, strict=True)]
        self._connection.executemany(_LEND, rows)
        return _moment(deadline), places


class _SqliteSettling:
    def __init__(self, connection: apsw.Connection | None, turn: Turn | None, tasks: Sequence[Task]) -> None:
        self._connection = connection
        self._turn = turn
        self.tasks = tasks

    def read_run(self, run_id: RunId, *, after_version: int, limit: int) -> Page:
        assert self._turn is not None
        return self._turn.read_run(run_id, after_version=after_version, limit=limit)

    def append(self, request: AppendRequest) -> Appended:
        assert self._turn is not None
        return self._turn.append(request)

    def put_back(self, task: Task) -> None:
        assert self._connection is not None
        self._connection.execute(_RELEASE, (_now(), task.run_id, _shard(task.shard), task.token))


def _now() -> int:
    return round(utc_now().timestamp() * 1000)


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=milliseconds)


def _shard(shard: int | None) -> int:
    return _RUN if shard is None else shard


# One look at an index each: with OR between them, every task that somebody holds would be looked at.
_ANY_DUE: Final = "SELECT 1 FROM tasks WHERE state = 'scheduled' AND available_at <= ? LIMIT 1"
_ANY_WAITING: Final = "SELECT 1 FROM tasks WHERE state = 'waiting' LIMIT 1"
_ANY_WAITING_OF: Final = "SELECT 1 FROM tasks WHERE state = 'waiting' AND kind = ? LIMIT 1"
_PROMOTE: Final = "UPDATE tasks SET state = 'waiting' WHERE state = 'scheduled' AND available_at <= ?"
_NEXT_KIND: Final = "SELECT kind FROM tasks WHERE state = 'waiting' AND kind > ? ORDER BY kind LIMIT 1"
_WAITING: Final = """
SELECT priority, enqueued, run_id, shard, is_finalizing, attempt, available_at, token
FROM tasks
WHERE state = 'waiting' AND kind = ?
ORDER BY priority DESC, enqueued, shard
LIMIT ?
"""


def _claimable_rows(connection: apsw.Connection, kinds: Sequence[str] | None, limit: int) -> list[tuple[Any, ...]]:
    now = _now()
    if connection.execute(_ANY_DUE, (now,)).get:
        connection.execute(_PROMOTE, (now,))
    return _waiting(connection, kinds, limit)


def _waiting(connection: apsw.Connection, kinds: Sequence[str] | None, limit: int) -> list[tuple[Any, ...]]:
    """Give the first tasks over all kinds: the first of each kind are read in the order of the index, and merged."""
    if kinds is None:
        kinds = list(_waiting_kinds(connection))
    if len(kinds) == 1:
        return connection.execute(_WAITING, (kinds[0], limit)).fetchall()
    rows = [row for kind in kinds for row in connection.execute(_WAITING, (kind, limit)).fetchall()]
    rows.sort(key=_by_priority)
    return rows[:limit]


def _by_priority(row: tuple[Any, ...]) -> tuple[int, int, int]:
    priority, enqueued, _, shard, *_ = row
    return -priority, enqueued, shard


def _waiting_kinds(connection: apsw.Connection) -> Iterator[str]:
    kind = connection.execute(_NEXT_KIND, ("",)).get
    while kind is not None:
        yield kind
        kind = connection.execute(_NEXT_KIND, (kind,)).get


def _is_whole_run(row: tuple[Any, ...]) -> bool:
    """Tell whether taking this task takes one `started`, and nothing else."""
    _, _, _, shard, is_finalizing, _, available_at, _ = row
    return shard == _RUN and not is_finalizing and available_at is None


_FIRST_EVENT: Final = """
SELECT (SELECT version FROM events WHERE run_id = ?1 ORDER BY version DESC LIMIT 1), position, envelope, payload
FROM events
WHERE run_id = ?1 AND version = 1
"""


def _lend(
    connection: apsw.Connection,
    turn: "SqliteTurn",
    rows: Sequence[tuple[Any, ...]],
    started: StartedTemplate,
    deadline: int,
) -> list[Lent]:
    """Start whole runs and lend them: the trigger moves their tasks, and the deadline is put there."""
    attempts = [row[5] + 1 for row in rows]
    firsts = [connection.execute(_FIRST_EVENT, (row[2],)).get for row in rows]
    places = turn.append_all(
        [
            AppendRequest(row[2], exactly(first[0]), (started.event(index, row[2], first[0] + 1, attempt),))
            for index, (row, first, attempt) in enumerate(zip(rows, firsts, attempts, strict=True))
        ]
    )
    connection.executemany(_LEND, [(deadline, row[2], _RUN) for row in rows])
    return [
        Lent(
            RunId(row[2]),
            attempt,
            place.version,
            place.positions[0],
            _moment(deadline),
            Page(join_page([(first[1], 1, first[2], first[3])]), 1, first[1]),
        )
        for row, first, attempt, place in zip(rows, firsts, attempts, places, strict=True)
    ]


_ABOUT_RUN: Final = """
SELECT
    run.token IS NOT NULL,
    run.attempt,
    (SELECT version FROM events WHERE run_id = ?1 ORDER BY version DESC LIMIT 1),
    event.position,
    event.envelope,
    event.payload
FROM tasks AS run
JOIN events AS event ON event.run_id = run.run_id AND event.version = 1
WHERE run.run_id = ?1 AND run.shard = -1
"""


def _claimable(connection: apsw.Connection, row: tuple[Any, ...]) -> Claimable:
    _, _, run_id, shard, is_finalizing, attempt, available_at, _ = row
    is_started, run_attempt, version, position, envelope, payload = connection.execute(_ABOUT_RUN, (run_id,)).get
    return Claimable(
        RunId(run_id),
        None if shard == _RUN else shard,
        bool(is_finalizing),
        attempt,
        available_at is not None,
        bool(is_started),
        run_attempt,
        version,
        Page(join_page([(position, 1, envelope, payload)]), 1, position),
    )


_LEND: Final = """
UPDATE tasks
SET state = 'held', available_at = NULL, deadline = ?
WHERE run_id = ? AND shard = ?
"""
_RENEW: Final = """
UPDATE tasks
SET deadline = ?1
WHERE deadline IS NOT NULL
    AND (run_id, shard, token) IN (
        SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?2)
    )
RETURNING run_id, shard, token, abort_requested
"""
_LOOK: Final = """
SELECT deadline, abort_requested
FROM tasks
WHERE run_id = ? AND shard = ? AND token = ? AND deadline IS NOT NULL
"""
_LEND_STARTED: Final = """
UPDATE tasks
SET deadline = ?
WHERE run_id = ? AND shard = -1 AND state = 'held' AND token = ? AND deadline IS NULL
"""
_RELEASE: Final = """
UPDATE tasks
SET state = 'waiting', worker = NULL, deadline = NULL, available_at = NULL, since = ?
WHERE run_id = ? AND shard = ? AND token = ? AND deadline IS NOT NULL
"""
_ANY_OVERDUE: Final = "SELECT 1 FROM tasks WHERE deadline < ?1 OR abort_by < ?1 LIMIT 1"
_OVERDUE: Final = """
SELECT run_id, kind, project, shard, is_finalizing, state, priority, attempt, token, worker, available_at, deadline,
    abort_requested, since, coalesce(deadline < ?1, 0), abort_by
FROM tasks
WHERE deadline < ?1 OR abort_by < ?1
LIMIT ?2
"""
_LIST: Final = """
SELECT run_id, kind, project, shard, is_finalizing, state, priority, attempt, token, worker, available_at, deadline,
    abort_requested, since, coalesce(deadline < ?1, 0), abort_by
FROM tasks
WHERE (?2 IS NULL OR run_id = ?2)
    AND (?3 IS NULL OR kind IN (SELECT value FROM json_each(?3)))
    AND (run_id, shard) > (?4, ?5)
ORDER BY run_id, shard
LIMIT ?6
"""
_COUNT: Final = """
SELECT kind, state, count(*)
FROM tasks
WHERE ?1 IS NULL OR kind IN (SELECT value FROM json_each(?1))
GROUP BY kind, state
"""
# What came due and was promoted by no claim yet waits as well.
_OLDEST: Final = """
SELECT kind, min(CASE state WHEN 'waiting' THEN since ELSE available_at END)
FROM tasks
WHERE state = 'waiting'
    OR (state = 'scheduled' AND available_at <= ?)
GROUP BY kind
"""
_NEXT_DUE: Final = """
SELECT min(due)
FROM (
    SELECT min(available_at) AS due FROM tasks WHERE state = 'scheduled'
    UNION ALL
    SELECT min(deadline) FROM tasks WHERE deadline IS NOT NULL
    UNION ALL
    SELECT min(abort_by) FROM tasks WHERE abort_by IS NOT NULL
)
"""


def _task(row: tuple[Any, ...]) -> Task:
    run_id, kind, project, shard, is_finalizing, state, priority, attempt, token, worker, *rest = row
    available_at, deadline, abort_requested, since, is_overdue, abort_by = rest
    return Task(
        run_id=RunId(run_id),
        kind=kind,
        project=project,
        shard=None if shard == _RUN else shard,
        purpose=purpose_of(shard, bool(is_finalizing)),
        state=state,
        priority=priority,
        attempt=attempt,
        token=token,
        worker=worker,
        available_at=None if available_at is None else _moment(available_at),
        deadline=None if deadline is None else _moment(deadline),
        abort_requested=bool(abort_requested),
        is_overdue=bool(is_overdue),
        since=_moment(since),
        abort_by=None if abort_by is None else _moment(abort_by),
    )
