"""The outbox on each database; the SQL is the same but for names, placeholders, clocks and locks."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, cast

from cli.outbox.deliveries import Callback, Delivery
from cli.outbox.signing import new_secret
from ledger.events import EventId, RunId
from ledger.run.codec import timestamp
from ledger.store import Store


class SqliteOutbox:
    """The outbox in a SQLite file. A claim is a write, and writes are one after the other there."""

    def __init__(self, store: Store) -> None:
        from ledger.stores.sqlite import SqliteStore

        self._store = cast(SqliteStore, store)

    def add_callback(self, callback: Callback) -> None:
        with self._store.writing() as connection:
            connection.execute(_SQLITE_ADD_CALLBACK, _callback_row(callback))

    def callbacks(self) -> Sequence[Callback]:
        with self._store.reading() as connection:
            return [_callback(row) for row in connection.execute(_SQLITE_CALLBACKS)]

    def remove_callback(self, callback_id: str) -> bool:
        with self._store.writing() as connection:
            connection.execute(_SQLITE_FORGET_SINK, (callback_id,))
            return bool(list(connection.execute(_SQLITE_REMOVE_CALLBACK, (callback_id,))))

    def run_secret(self) -> str:
        with self._store.writing() as connection:
            return str(next(connection.execute(_SQLITE_SECRET, (new_secret(),)))[0])

    def position(self) -> int:
        with self._store.reading() as connection:
            return int(next(connection.execute(_SQLITE_POSITION))[0])

    def head(self) -> int:
        with self._store.reading() as connection:
            return int(next(connection.execute(_SQLITE_HEAD))[0])

    def advance(self, *, past: int, to: int, deliveries: Sequence[Delivery], purged: Sequence[RunId]) -> bool:
        with self._store.writing() as connection:
            if not list(connection.execute(_SQLITE_ADVANCE, (to, past))):
                return False
            connection.executemany(_SQLITE_ADD_DELIVERY, [_delivery_row(each) for each in deliveries])
            connection.executemany(_SQLITE_FORGET_RUN, [(run_id,) for run_id in purged])
            return True

    def claim(self, *, limit: int, lease_s: float) -> list[Delivery]:
        with self._store.reading() as connection:  # most looks find nothing, and need not be writers for that
            if not list(connection.execute(_SQLITE_IS_DUE)):
                return []
        with self._store.writing() as connection:
            return [_delivery(row) for row in connection.execute(_SQLITE_CLAIM, (lease_s, limit))]

    def settle(self, delivery: Delivery, *, state: str, delay_s: float, error: str | None) -> bool:
        row = (state, delay_s, error, delivery.event_id, delivery.sink, delivery.attempts)
        with self._store.writing() as connection:
            return bool(list(connection.execute(_SQLITE_SETTLE, row)))

    def list(self, *, state: str | None, limit: int) -> Sequence[Delivery]:
        with self._store.reading() as connection:
            return [_delivery(row) for row in connection.execute(_SQLITE_LIST, (state, state, limit))]

    def count(self) -> dict[str, int]:
        with self._store.reading() as connection:
            return dict(cast(Any, connection.execute(_SQLITE_COUNT)))

    def backlog(self) -> dict[str, int]:
        with self._store.reading() as connection:
            return dict(cast(Any, connection.execute(_SQLITE_BACKLOG)))

    def retry(self, *, event_id: str | None, limit: int) -> int:
        with self._store.writing() as connection:
            return len(list(connection.execute(_SQLITE_RETRY, (event_id, event_id, limit))))

    def prune(self, *, older_s: float, limit: int) -> int:
        with self._store.writing() as connection:
            return len(list(connection.execute(_SQLITE_PRUNE, (older_s, limit))))


class PostgresOutbox:
    """The outbox in a PostgreSQL database. A claim passes over what another daemon is claiming."""

    def __init__(self, store: Store) -> None:
        from ledger.stores.postgres import PostgresStore

        self._store = cast(PostgresStore, store)

    def add_callback(self, callback: Callback) -> None:
        with self._store.transaction() as connection:
            connection.execute(_POSTGRES_ADD_CALLBACK, _callback_row(callback))

    def callbacks(self) -> Sequence[Callback]:
        with self._store.transaction() as connection:
            return [_callback(row) for row in connection.execute(_POSTGRES_CALLBACKS)]

    def remove_callback(self, callback_id: str) -> bool:
        with self._store.transaction() as connection:
            connection.execute(_POSTGRES_FORGET_SINK, (callback_id,))
            return connection.execute(_POSTGRES_REMOVE_CALLBACK, (callback_id,)).rowcount > 0

    def run_secret(self) -> str:
        with self._store.transaction() as connection:
            row = connection.execute(_POSTGRES_SECRET, (new_secret(),)).fetchone()
        assert row is not None, "one row is given, always"
        return str(row[0])

    def position(self) -> int:
        with self._store.transaction() as connection:
            row = connection.execute(_POSTGRES_POSITION).fetchone()
        assert row is not None, "one row is given, always"
        return int(row[0])

    def head(self) -> int:
        with self._store.transaction() as connection:
            row = connection.execute(_POSTGRES_HEAD).fetchone()
        assert row is not None, "one row is given, always"
        return int(row[0])

    def advance(self, *, past: int, to: int, deliveries: Sequence[Delivery], purged: Sequence[RunId]) -> bool:
        with self._store.transaction() as connection:
            if connection.execute(_POSTGRES_ADVANCE, (to, past)).rowcount == 0:
                return False
            with connection.cursor() as cursor:
                if deliveries:
                    cursor.executemany(_POSTGRES_ADD_DELIVERY, [_delivery_row(each) for each in deliveries])
                if purged:
                    cursor.execute(_POSTGRES_FORGET_RUNS, (list(purged),))
            return True

    def claim(self, *, limit: int, lease_s: float) -> list[Delivery]:
        with self._store.transaction() as connection:
            return [_delivery(row) for row in connection.execute(_POSTGRES_CLAIM, (lease_s, limit))]

    def settle(self, delivery: Delivery, *, state: str, delay_s: float, error: str | None) -> bool:
        row = (state, delay_s, error, delivery.event_id, delivery.sink, delivery.attempts)
        with self._store.transaction() as connection:
            return connection.execute(_POSTGRES_SETTLE, row).rowcount > 0

    def list(self, *, state: str | None, limit: int) -> Sequence[Delivery]:
        with self._store.transaction() as connection:
            return [_delivery(row) for row in connection.execute(_POSTGRES_LIST, (state, state, limit))]

    def count(self) -> dict[str, int]:
        with self._store.transaction() as connection:
            return {str(state): int(count) for state, count in connection.execute(_POSTGRES_COUNT)}

    def backlog(self) -> dict[str, int]:
        with self._store.transaction() as connection:
            return {str(state): int(count) for state, count in connection.execute(_POSTGRES_BACKLOG)}

    def retry(self, *, event_id: str | None, limit: int) -> int:
        with self._store.transaction() as connection:
            return connection.execute(_POSTGRES_RETRY, (event_id, event_id, limit)).rowcount

    def prune(self, *, older_s: float, limit: int) -> int:
        with self._store.transaction() as connection:
            return connection.execute(_POSTGRES_PRUNE, (older_s, limit)).rowcount


def _callback_row(callback: Callback) -> tuple[str | None, ...]:
    return (
        callback.callback_id,
        callback.url,
        callback.project,
        callback.kind,
        callback.secret,
        timestamp(callback.created_at),
    )


def _callback(row: Sequence[Any]) -> Callback:
    callback_id, url, project, kind, secret, after_position, created_at = row
    return Callback(
        callback_id=callback_id,
        url=url,
        project=project,
        kind=kind,
        secret=secret,
        after_position=after_position,
        created_at=datetime.fromisoformat(created_at),
    )


def _delivery_row(delivery: Delivery) -> tuple[str | int, ...]:
    return (delivery.event_id, delivery.sink, delivery.run_id, delivery.version, delivery.position, delivery.url)


def _delivery(row: Sequence[Any]) -> Delivery:
    event_id, sink, run_id, version, position, url, state, attempts, due_at, last_error = row
    return Delivery(
        event_id=EventId(event_id),
        sink=sink,
        run_id=RunId(run_id),
        version=version,
        position=position,
        url=url,
        state=state,
        attempts=attempts,
        due_at=due_at,
        last_error=last_error,
    )


_SQLITE_ADD_CALLBACK: Final = """
INSERT INTO callbacks (callback_id, url, project, kind, secret, created_at, after_position)
SELECT ?, ?, ?, ?, ?, ?, coalesce(max(position), 0)
FROM events
"""
_SQLITE_CALLBACKS: Final = """
SELECT callback_id, url, project, kind, secret, after_position, created_at
FROM callbacks
ORDER BY created_at, callback_id
"""
_SQLITE_REMOVE_CALLBACK: Final = """
DELETE FROM callbacks
WHERE callback_id = ?
RETURNING callback_id
"""
_SQLITE_FORGET_SINK: Final = """
DELETE FROM deliveries
WHERE sink = ?
    AND state = 'pending'
"""
_SQLITE_SECRET: Final = """
INSERT INTO outbox AS kept (only_row, position, secret)
VALUES (1, 0, ?)
ON CONFLICT (only_row) DO UPDATE
SET secret = coalesce(kept.secret, excluded.secret)
RETURNING secret
"""
_SQLITE_POSITION: Final = """
SELECT coalesce(max(position), 0)
FROM outbox
"""
_SQLITE_HEAD: Final = """
SELECT coalesce(max(position), 0)
FROM events
"""
_SQLITE_ADVANCE: Final = """
INSERT INTO outbox AS kept (only_row, position)
VALUES (1, ?)
ON CONFLICT (only_row) DO UPDATE
SET position = excluded.position
WHERE kept.position = ?
RETURNING position
"""
_SQLITE_ADD_DELIVERY: Final = """
INSERT INTO deliveries (event_id, sink, run_id, version, position, url, state, attempts, due_at)
VALUES (?, ?, ?, ?, ?, ?, 'pending', 0, unixepoch('now', 'subsec'))
ON CONFLICT DO NOTHING
"""
_SQLITE_FORGET_RUN: Final = """
DELETE FROM deliveries
WHERE run_id = ?
"""
_SQLITE_IS_DUE: Final = """
SELECT 1
FROM deliveries
WHERE state = 'pending'
    AND due_at <= unixepoch('now', 'subsec')
LIMIT 1
"""
_SQLITE_CLAIM: Final = """
UPDATE deliveries
SET attempts = attempts + 1, due_at = unixepoch('now', 'subsec') + ?
WHERE (event_id, sink) IN (
    SELECT event_id, sink
    FROM deliveries
    WHERE state = 'pending'
        AND due_at <= unixepoch('now', 'subsec')
    ORDER BY due_at
    LIMIT ?
)
RETURNING event_id, sink, run_id, version, position, url, state, attempts, due_at, last_error
"""
_SQLITE_SETTLE: Final = """
UPDATE deliveries
SET state = ?, due_at = unixepoch('now', 'subsec') + ?, last_error = ?
WHERE event_id = ?
    AND sink = ?
    AND attempts = ?
    AND state = 'pending'
RETURNING event_id
"""
_SQLITE_LIST: Final = """
SELECT event_id, sink, run_id, version, position, url, state, attempts, due_at, last_error
FROM deliveries
WHERE ? IS NULL
    OR state = ?
ORDER BY position DESC, sink
LIMIT ?
"""
_SQLITE_COUNT: Final = """
SELECT state, count(*)
FROM deliveries
GROUP BY state
"""
_SQLITE_BACKLOG: Final = """
SELECT 'pending', count(*)
FROM deliveries
WHERE state = 'pending'
UNION ALL
SELECT 'failed', count(*)
FROM deliveries
WHERE state = 'failed'
    AND state <> 'pending'
"""
_SQLITE_RETRY: Final = """
UPDATE deliveries
SET state = 'pending', attempts = 0, due_at = unixepoch('now', 'subsec')
WHERE (event_id, sink) IN (
    SELECT event_id, sink
    FROM deliveries
    WHERE state = 'failed'
        AND (? IS NULL OR event_id = ?)
    ORDER BY due_at
    LIMIT ?
)
RETURNING event_id
"""
_SQLITE_PRUNE: Final = """
DELETE FROM deliveries
WHERE (event_id, sink) IN (
    SELECT event_id, sink
    FROM deliveries
    WHERE state = 'delivered'
        AND due_at < unixepoch('now', 'subsec') - ?
    LIMIT ?
)
RETURNING event_id
"""

# Not the newest position: an event with an earlier one may become visible later, and its run ends after this.
_POSTGRES_ADD_CALLBACK: Final = """
INSERT INTO runfold.callbacks (callback_id, url, project, kind, secret, created_at, after_position)
SELECT %s, %s, %s, %s, %s, %s, coalesce(max(position), 0)
FROM runfold.events
WHERE position <= (SELECT settled FROM runfold.settled())
"""
_POSTGRES_CALLBACKS: Final = """
SELECT callback_id, url, project, kind, secret, after_position, created_at
FROM runfold.callbacks
ORDER BY created_at, callback_id
"""
_POSTGRES_REMOVE_CALLBACK: Final = """
DELETE FROM runfold.callbacks
WHERE callback_id = %s
"""
_POSTGRES_FORGET_SINK: Final = """
DELETE FROM runfold.deliveries
WHERE sink = %s
    AND state = 'pending'
"""
_POSTGRES_SECRET: Final = """
INSERT INTO runfold.outbox AS kept (only_row, position, secret)
VALUES (1, 0, %s)
ON CONFLICT (only_row) DO UPDATE
SET secret = coalesce(kept.secret, excluded.secret)
RETURNING secret
"""
_POSTGRES_POSITION: Final = """
SELECT coalesce(max(position), 0)
FROM runfold.outbox
"""
_POSTGRES_HEAD: Final = """
SELECT coalesce(max(position), 0)
FROM runfold.events
WHERE position <= (SELECT settled FROM runfold.settled())
"""
_POSTGRES_ADVANCE: Final = """
INSERT INTO runfold.outbox AS kept (only_row, position)
VALUES (1, %s)
ON CONFLICT (only_row) DO UPDATE
SET position = excluded.position
WHERE kept.position = %s
"""
_POSTGRES_ADD_DELIVERY: Final = """
INSERT INTO runfold.deliveries (event_id, sink, run_id, version, position, url, state, attempts, due_at)
VALUES (%s, %s, %s, %s, %s, %s, 'pending', 0, extract(epoch FROM clock_timestamp()))
ON CONFLICT DO NOTHING
"""
_POSTGRES_FORGET_RUNS: Final = """
DELETE FROM runfold.deliveries
WHERE run_id = ANY (%s)
"""
_POSTGRES_CLAIM: Final = """
UPDATE runfold.deliveries d
SET attempts = d.attempts + 1, due_at = extract(epoch FROM clock_timestamp()) + %s
FROM (
    SELECT event_id, sink
    FROM runfold.deliveries
    WHERE state = 'pending'
        AND due_at <= extract(epoch FROM now())
    ORDER BY due_at
    LIMIT %s
    FOR UPDATE SKIP LOCKED
) due
WHERE d.event_id = due.event_id
    AND d.sink = due.sink
RETURNING d.event_id, d.sink, d.run_id, d.version, d.position, d.url, d.state, d.attempts, d.due_at, d.last_error
"""
_POSTGRES_SETTLE: Final = """
UPDATE runfold.deliveries
SET state = %s, due_at = extract(epoch FROM clock_timestamp()) + %s, last_error = %s
WHERE event_id = %s
    AND sink = %s
    AND attempts = %s
    AND state = 'pending'
"""
_POSTGRES_LIST: Final = """
SELECT event_id, sink, run_id, version, position, url, state, attempts, due_at, last_error
FROM runfold.deliveries
WHERE %s::text IS NULL
    OR state = %s
ORDER BY position DESC, sink
LIMIT %s
"""
_POSTGRES_COUNT: Final = """
SELECT state, count(*)
FROM runfold.deliveries
GROUP BY state
"""
_POSTGRES_BACKLOG: Final = """
SELECT 'pending', count(*)
FROM runfold.deliveries
WHERE state = 'pending'
UNION ALL
SELECT 'failed', count(*)
FROM runfold.deliveries
WHERE state = 'failed'
    AND state <> 'pending'
"""
_POSTGRES_RETRY: Final = """
UPDATE runfold.deliveries d
SET state = 'pending', attempts = 0, due_at = extract(epoch FROM now())
FROM (
    SELECT event_id, sink
    FROM runfold.deliveries
    WHERE state = 'failed'
        AND (%s::text IS NULL OR event_id = %s)
    ORDER BY due_at
    LIMIT %s
    FOR UPDATE SKIP LOCKED
) failed
WHERE d.event_id = failed.event_id
    AND d.sink = failed.sink
"""
_POSTGRES_PRUNE: Final = """
DELETE FROM runfold.deliveries d
USING (
    SELECT event_id, sink
    FROM runfold.deliveries
    WHERE state = 'delivered'
        AND due_at < extract(epoch FROM now()) - %s
    LIMIT %s
    FOR UPDATE SKIP LOCKED
) old
WHERE d.event_id = old.event_id
    AND d.sink = old.sink
"""
