"""Tasks in a PostgreSQL database, claimed by workers of many machines.

A claim takes rows with SKIP LOCKED and only tries for the runs' locks, so claims, heartbeats and sweeps wait for
nobody; see `schema/postgres/0003_tasks.sql`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.rows import TupleRow

from ledger.events import Page, RunId, join_page
from ledger.run.leases import Lease
from ledger.store import Appended, AppendRequest, Turn
from ledger.tasks import Claimable, Lent, Renewal, StartedTemplate, Task, purpose_of

if TYPE_CHECKING:
    from ledger.stores.postgres import PostgresStore, PostgresTurn

_RUN: Final = -1


class PostgresTasks:
    """What there is to do, in a PostgreSQL database."""

    def __init__(self, store: "PostgresStore") -> None:
        self._store = store

    def lend_runs(
        self, *, kinds: Sequence[str] | None, limit: int, lease_s: float, worker: str, started: StartedTemplate
    ) -> Sequence[Lent] | None:
        with self._store.committing() as (connection, heads):
            rows = connection.execute(
                _LEND_RUNS,
                (
                    None if kinds is None else _text_array(kinds),
                    limit,
                    lease_s,
                    worker,
                    _text_array(started.event_ids),
                    b"".join(started.salts),
                    *started.payload,
                    *started.envelope,
                ),
                prepare=True,
                binary=True,
            ).fetchall()
            for run_id, _, version, *_ in rows:
                if run_id is not None:
                    heads.note(run_id, version)
        if rows and rows[0][0] is None:
            return None
        lent = [_lent(row) for row in rows if row[0] is not None]
        if lent:  # a look for nothing wakes nobody: the one who looked would look again
            self._store.hint()
        return lent

    @contextmanager
    def claiming(self, *, kinds: Sequence[str] | None, limit: int, lease_s: float) -> Iterator["_PostgresClaiming"]:
        wanted = None if kinds is None else list(kinds)
        with self._store.turns() as (connection, turn):
            rows = connection.execute(_CLAIM, (wanted, limit), prepare=True, binary=True).fetchall()
            yield _PostgresClaiming(connection, turn, [_claimable(row) for row in rows], lease_s)

    @contextmanager
    def settling(self, *, limit: int) -> Iterator["_PostgresSettling"]:
        with self._store.turns() as (connection, turn):
            rows = connection.execute(_OVERDUE, (limit,), prepare=True).fetchall()
            yield _PostgresSettling(connection, turn, [_task(row) for row in rows])

    def renew(self, leases: Sequence[Lease], *, lease_s: float) -> list[Renewal]:
        keys = [(lease.run_id, _shard(lease.shard), lease.token) for lease in leases]
        columns = [list(column) for column in zip(*keys, strict=True)] or [[], [], []]
        with self._store.transaction() as connection:
            rows = connection.execute(_RENEW, (*columns, lease_s), prepare=True).fetchall()
        renewed = {row[:3]: Renewal(True, row[3].astimezone(UTC), row[4]) for row in rows}
        return [renewed.get(key, Renewal(False)) for key in keys]

    def look(self, leases: Sequence[Lease]) -> list[Renewal]:
        keys = [(lease.run_id, _shard(lease.shard), lease.token) for lease in leases]
        columns = [list(column) for column in zip(*keys, strict=True)] or [[], [], []]
        with self._store.transaction() as connection:
            rows = connection.execute(_LOOK, columns, prepare=True).fetchall()
        held = {row[:3]: Renewal(True, row[3].astimezone(UTC), row[4]) for row in rows}
        return [held.get(key, Renewal(False)) for key in keys]

    def lend(self, run_id: RunId, *, token: int, lease_s: float) -> datetime | None:
        with self._store.transaction() as connection:
            row = connection.execute(_LEND_STARTED, (lease_s, run_id, token), prepare=True).fetchone()
        return None if row is None else _utc(row[0])

    def release(self, lease: Lease) -> bool:
        with self._store.transaction() as connection:
            return _release(connection, lease.run_id, lease.shard, lease.token)

    def list(
        self, *, run_id: str | None, kinds: Sequence[str] | None, after: tuple[str, int] | None, limit: int
    ) -> Sequence[Task]:
        run_after, shard_after = after or (None, _RUN - 1)
        wanted = None if kinds is None else list(kinds)
        with self._store.transaction() as connection:
            rows = connection.execute(
                _LIST,
                {"run": run_id, "kinds": wanted, "run_after": run_after, "shard_after": shard_after, "limit": limit},
            ).fetchall()
        return [_task(row) for row in rows]

    def count(self, *, kinds: Sequence[str] | None) -> dict[tuple[str, str], int]:
        wanted = None if kinds is None else list(kinds)
        with self._store.transaction() as connection:
            return {(kind, state): n for kind, state, n in connection.execute(_COUNT, {"kinds": wanted})}

    def oldest(self) -> dict[str, float]:
        with self._store.transaction() as connection:
            return {kind: float(age) for kind, age in connection.execute(_OLDEST)}

    def next_due(self) -> float | None:
        with self._store.transaction() as connection:
            row = connection.execute(_NEXT_DUE, prepare=True).fetchone()
        return None if row is None or row[0] is None else max(0.0, float(row[0]))


class _PostgresClaiming:
    def __init__(
        self,
        connection: psycopg.Connection[TupleRow],
        turn: "PostgresTurn",
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
        row = self._connection.execute(_TERMS, (self._lease_s, self._lease_s), prepare=True).fetchone()
        assert row is not None
        places = self._turn.append_all(requests)  # the trigger lends each task until the deadline
        deadline: datetime = row[1]
        return deadline.astimezone(UTC), places


class _PostgresSettling:
    def __init__(self, connection: psycopg.Connection[TupleRow], turn: Turn, tasks: Sequence[Task]) -> None:
        self._connection = connection
        self._turn = turn
        self.tasks = tasks

    def read_run(self, run_id: RunId, *, after_version: int, limit: int) -> Page:
        return self._turn.read_run(run_id, after_version=after_version, limit=limit)

    def append(self, request: AppendRequest) -> Appended:
        return self._turn.append(request)

    def put_back(self, task: Task) -> None:
        _release(self._connection, task.run_id, task.shard, task.token)


def _shard(shard: int | None) -> int:
    return _RUN if shard is None else shard


_LEND_RUNS: Final = """
SELECT run_id::text, attempt, version, position, deadline, first_position, first_envelope, first_payload
FROM runfold.lend_runs(
    %s::text[], %s::integer, %s::float8, %s::text, %s::uuid[], %b::bytea,
    ARRAY[%s, %s]::text[], ARRAY[%s, %s, %s, %s]::text[]
)
"""


def _text_array(texts: Sequence[str]) -> str:
    """Write an array as PostgreSQL reads it: the driver needs 30 us to make one of a list."""
    return "{{{}}}".format(",".join([_quoted(text) for text in texts]))


def _quoted(text: str) -> str:
    return '"{}"'.format(text.replace("\\", "\\\\").replace('"', '\\"'))


def _lent(row: tuple[Any, ...]) -> Lent:
    run_id, attempt, version, position, deadline, *first = row
    page = Page(join_page([(first[0], 1, first[1], first[2])]), 1, first[0])
    return Lent(RunId(run_id), attempt, version, position, deadline.astimezone(UTC), page)


_CLAIM: Final = """
SELECT run_id::text, shard, attempt, is_finalizing, is_scheduled, is_started, run_attempt, version,
    first_position, first_envelope, first_payload
FROM runfold.claim_tasks(%s::text[], %s)
"""


def _claimable(row: tuple[Any, ...]) -> Claimable:
    run_id, shard, attempt, is_finalizing, is_scheduled, is_started, run_attempt, version, *first = row
    position, envelope, payload = first
    return Claimable(
        RunId(run_id),
        None if shard == _RUN else shard,
        is_finalizing,
        attempt,
        is_scheduled,
        is_started,
        run_attempt,
        version,
        Page(join_page([(position, 1, envelope, payload)]), 1, position),
    )


_TERMS: Final = """
SELECT set_config('runfold.lease', %s::text || ' s', true), now() + %s::float8 * interval '1 s'
"""
# Rows are locked in one order, whoever locks them: a heartbeat and an append on the same run cannot wait in a circle.
_RENEW: Final = """
WITH held AS MATERIALIZED (
    SELECT t.run_id, t.shard
    FROM runfold.tasks t
    JOIN unnest(%s::uuid[], %s::integer[], %s::bigint[]) AS l (run_id, shard, token)
        ON t.run_id = l.run_id AND t.shard = l.shard AND t.token = l.token
    WHERE t.deadline IS NOT NULL
    ORDER BY t.run_id, t.shard
    FOR UPDATE OF t
)
UPDATE runfold.tasks t
SET deadline = clock_timestamp() + %s::float8 * interval '1 s'
FROM held
WHERE t.run_id = held.run_id AND t.shard = held.shard
RETURNING t.run_id::text, t.shard, t.token, t.deadline, t.abort_requested
"""
_LOOK: Final = """
SELECT t.run_id::text, t.shard, t.token, t.deadline, t.abort_requested
FROM runfold.tasks t
JOIN unnest(%s::uuid[], %s::integer[], %s::bigint[]) AS l (run_id, shard, token)
    ON t.run_id = l.run_id AND t.shard = l.shard AND t.token = l.token
WHERE t.deadline IS NOT NULL
"""
_LEND_STARTED: Final = """
UPDATE runfold.tasks
SET deadline = clock_timestamp() + %s::float8 * interval '1 s'
WHERE run_id = %s AND shard = -1 AND state = 'held' AND token = %s AND deadline IS NULL
RETURNING deadline
"""
_RELEASE: Final = """
UPDATE runfold.tasks
SET state = 'waiting', worker = NULL, deadline = NULL, available_at = NULL, since = now()
WHERE run_id = %s AND shard = %s AND token = %s AND deadline IS NOT NULL
"""


def _release(connection: psycopg.Connection[TupleRow], run_id: RunId, shard: int | None, token: int | None) -> bool:
    return connection.execute(_RELEASE, (run_id, _shard(shard), token)).rowcount > 0


# A row is settled by whoever can lock it and its run at once; what somebody is writing to is looked at again later.
_OVERDUE: Final = """
SELECT run_id::text, kind, project, shard, is_finalizing, state, priority, attempt, token, worker, available_at,
    deadline, abort_requested, since, coalesce(deadline < clock_timestamp(), false), abort_by
FROM (
    SELECT *
    FROM runfold.tasks
    WHERE deadline < clock_timestamp() OR abort_by < clock_timestamp()
    LIMIT %s
    FOR UPDATE SKIP LOCKED
) AS overdue
WHERE pg_try_advisory_xact_lock(82, ('x' || right(run_id::text, 8))::bit(32)::integer)
"""
_LIST: Final = """
SELECT run_id::text, kind, project, shard, is_finalizing, state, priority, attempt, token, worker, available_at,
    deadline, abort_requested, since, coalesce(deadline < clock_timestamp(), false), abort_by
FROM runfold.tasks
WHERE (%(run)s::uuid IS NULL OR run_id = %(run)s::uuid)
    AND (%(kinds)s::text[] IS NULL OR kind = ANY (%(kinds)s::text[]))
    AND (%(run_after)s::uuid IS NULL OR (run_id, shard) > (%(run_after)s::uuid, %(shard_after)s))
ORDER BY run_id, shard
LIMIT %(limit)s
"""
_COUNT: Final = """
SELECT kind, state, count(*)
FROM runfold.tasks
WHERE %(kinds)s::text[] IS NULL OR kind = ANY (%(kinds)s::text[])
GROUP BY kind, state
"""
# What came due and was promoted by no claim yet waits as well.
_OLDEST: Final = """
SELECT kind, greatest(0, extract(epoch FROM clock_timestamp()
    - min(CASE state WHEN 'waiting' THEN since ELSE available_at END)))
FROM runfold.tasks
WHERE state = 'waiting'
    OR (state = 'scheduled' AND available_at <= clock_timestamp())
GROUP BY kind
"""
_NEXT_DUE: Final = """
SELECT extract(epoch FROM least(
    (SELECT min(available_at) FROM runfold.tasks WHERE state = 'scheduled'),
    (SELECT min(deadline) FROM runfold.tasks WHERE deadline IS NOT NULL),
    (SELECT min(abort_by) FROM runfold.tasks WHERE abort_by IS NOT NULL)
) - clock_timestamp())
"""


def _task(row: tuple[Any, ...]) -> Task:
    run_id, kind, project, shard, is_finalizing, state, priority, attempt, token, worker, *rest = row
    available_at, deadline, abort_requested, since, is_overdue, abort_by = rest
    return Task(
        run_id=RunId(run_id),
        kind=kind,
        project=project,
        shard=None if shard == _RUN else shard,
        purpose=purpose_of(shard, is_finalizing),
        state=state,
        priority=priority,
        attempt=attempt,
        token=token,
        worker=worker,
        available_at=_utc(available_at),
        deadline=_utc(deadline),
        abort_requested=abort_requested,
        is_overdue=is_overdue,
        since=since.astimezone(UTC),
        abort_by=_utc(abort_by),
    )


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(UTC)
