"""The schedules on each database; the SQL is the same but for names and placeholders."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, cast

import msgspec

from cli.schedules.schedules import Change, Request, Schedule
from ledger.run.codec import timestamp
from ledger.store import Store

_decode_request = msgspec.json.Decoder(Request).decode


class SqliteSchedules:
    """Schedules in a SQLite file."""

    def __init__(self, store: Store) -> None:
        from ledger.stores.sqlite import SqliteStore

        self._store = cast(SqliteStore, store)

    def add(self, schedule: Schedule, *, actor: str | None) -> bool:
        with self._store.writing() as connection:
            if not list(connection.execute(_SQLITE_ADD, _row(schedule))):
                return False
            connection.execute(_SQLITE_NOTE, _note(schedule, "added", actor, schedule.created_at))
            return True

    def list(self) -> Sequence[Schedule]:
        with self._store.reading() as connection:
            return [_schedule(row) for row in connection.execute(_SQLITE_LIST)]

    def due(self, now: datetime, *, limit: int) -> Sequence[Schedule]:
        with self._store.reading() as connection:
            return [_schedule(row) for row in connection.execute(_SQLITE_DUE, (timestamp(now), limit))]

    def next_at(self, *, after: datetime) -> datetime | None:
        with self._store.reading() as connection:
            return _moment(next(connection.execute(_SQLITE_NEXT, (timestamp(after),)))[0])

    def move(self, schedule: Schedule, *, to: datetime) -> bool:
        row = (timestamp(to), schedule.name, timestamp(schedule.next_at), timestamp(schedule.created_at))
        with self._store.writing() as connection:
            return bool(list(connection.execute(_SQLITE_MOVE, row)))

    def change(self, schedule: Schedule, *, change: str, actor: str | None, at: datetime) -> bool:
        with self._store.writing() as connection:
            if change == "removed":
                done = list(connection.execute(_SQLITE_REMOVE, (schedule.name,)))
            else:
                row = (int(schedule.is_paused), timestamp(schedule.next_at), schedule.name, int(schedule.is_paused))
                done = list(connection.execute(_SQLITE_PAUSE, row))
            if done:
                connection.execute(_SQLITE_NOTE, _note(schedule, change, actor, at))
            return bool(done)

    def changes(self, name: str, *, limit: int) -> Sequence[Change]:
        with self._store.reading() as connection:
            return [_change(row) for row in connection.execute(_SQLITE_CHANGES, (name, limit))]


class PostgresSchedules:
    """Schedules in a PostgreSQL database."""

    def __init__(self, store: Store) -> None:
        from ledger.stores.postgres import PostgresStore

        self._store = cast(PostgresStore, store)

    def add(self, schedule: Schedule, *, actor: str | None) -> bool:
        with self._store.transaction() as connection:
            if connection.execute(_POSTGRES_ADD, _row(schedule)).rowcount == 0:
                return False
            connection.execute(_POSTGRES_NOTE, _note(schedule, "added", actor, schedule.created_at))
            return True

    def list(self) -> Sequence[Schedule]:
        with self._store.transaction() as connection:
            return [_schedule(row) for row in connection.execute(_POSTGRES_LIST)]

    def due(self, now: datetime, *, limit: int) -> Sequence[Schedule]:
        with self._store.transaction() as connection:
            return [_schedule(row) for row in connection.execute(_POSTGRES_DUE, (timestamp(now), limit))]

    def next_at(self, *, after: datetime) -> datetime | None:
        with self._store.transaction() as connection:
            row = connection.execute(_POSTGRES_NEXT, (timestamp(after),)).fetchone()
        return None if row is None else _moment(row[0])

    def move(self, schedule: Schedule, *, to: datetime) -> bool:
        row = (timestamp(to), schedule.name, timestamp(schedule.next_at), timestamp(schedule.created_at))
        with self._store.transaction() as connection:
            return connection.execute(_POSTGRES_MOVE, row).rowcount > 0

    def change(self, schedule: Schedule, *, change: str, actor: str | None, at: datetime) -> bool:
        with self._store.transaction() as connection:
            if change == "removed":
                done = connection.execute(_POSTGRES_REMOVE, (schedule.name,))
            else:
                row = (int(schedule.is_paused), timestamp(schedule.next_at), schedule.name, int(schedule.is_paused))
                done = connection.execute(_POSTGRES_PAUSE, row)
            if done.rowcount > 0:
                connection.execute(_POSTGRES_NOTE, _note(schedule, change, actor, at))
            return done.rowcount > 0

    def changes(self, name: str, *, limit: int) -> Sequence[Change]:
        with self._store.transaction() as connection:
            return [_change(row) for row in connection.execute(_POSTGRES_CHANGES, (name, limit))]


def _row(schedule: Schedule) -> tuple[str | int, ...]:
    return (
        schedule.name,
        schedule.cron,
        schedule.timezone,
        msgspec.json.encode(schedule.request).decode(),
        schedule.missed,
        int(schedule.is_paused),
        timestamp(schedule.next_at),
        timestamp(schedule.created_at),
    )


def _schedule(row: Sequence[Any]) -> Schedule:
    name, cron, timezone, request, missed, is_paused, next_at, created_at = row
    return Schedule(
        name=name,
        cron=cron,
        timezone=timezone,
        request=_decode_request(request),
        missed=missed,
        is_paused=bool(is_paused),
        next_at=datetime.fromisoformat(next_at),
        created_at=datetime.fromisoformat(created_at),
    )


def _note(schedule: Schedule, change: str, actor: str | None, at: datetime) -> tuple[str | None, ...]:
    return (schedule.name, change, timestamp(at), actor, msgspec.json.encode(schedule).decode())


def _change(row: Sequence[Any]) -> Change:
    name, change, changed_at, actor, schedule = row
    return Change(
        name=name,
        change=change,
        changed_at=datetime.fromisoformat(changed_at),
        actor=actor,
        schedule=msgspec.json.decode(schedule),
    )


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


_SQLITE_ADD: Final = """
INSERT INTO schedules (name, cron, timezone, request, missed, is_paused, next_at, created_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING
RETURNING name
"""
_SQLITE_NOTE: Final = """
INSERT INTO schedule_changes (name, change, changed_at, actor, schedule)
VALUES (?, ?, ?, ?, ?)
"""
_SQLITE_LIST: Final = """
SELECT name, cron, timezone, request, missed, is_paused, next_at, created_at
FROM schedules
ORDER BY name
"""
_SQLITE_DUE: Final = """
SELECT name, cron, timezone, request, missed, is_paused, next_at, created_at
FROM schedules
WHERE is_paused = 0
    AND next_at <= ?
ORDER BY next_at
LIMIT ?
"""
_SQLITE_NEXT: Final = """
SELECT min(next_at)
FROM schedules
WHERE is_paused = 0
    AND next_at > ?
"""
_SQLITE_MOVE: Final = """
UPDATE schedules
SET next_at = ?
WHERE name = ?
    AND next_at = ?
    AND created_at = ?
RETURNING name
"""
_SQLITE_REMOVE: Final = """
DELETE FROM schedules
WHERE name = ?
RETURNING name
"""
_SQLITE_PAUSE: Final = """
UPDATE schedules
SET is_paused = ?, next_at = ?
WHERE name = ?
    AND is_paused <> ?
RETURNING name
"""
_SQLITE_CHANGES: Final = """
SELECT name, change, changed_at, actor, schedule
FROM schedule_changes
WHERE name = ?
ORDER BY number DESC
LIMIT ?
"""

_POSTGRES_ADD: Final = """
INSERT INTO runfold.schedules (name, cron, timezone, request, missed, is_paused, next_at, created_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT DO NOTHING
"""
_POSTGRES_NOTE: Final = """
INSERT INTO runfold.schedule_changes (name, change, changed_at, actor, schedule)
VALUES (%s, %s, %s, %s, %s)
"""
_POSTGRES_LIST: Final = """
SELECT name, cron, timezone, request, missed, is_paused, next_at, created_at
FROM runfold.schedules
ORDER BY name
"""
_POSTGRES_DUE: Final = """
SELECT name, cron, timezone, request, missed, is_paused, next_at, created_at
FROM runfold.schedules
WHERE is_paused = 0
    AND next_at <= %s
ORDER BY next_at
LIMIT %s
"""
_POSTGRES_NEXT: Final = """
SELECT min(next_at)
FROM runfold.schedules
WHERE is_paused = 0
    AND next_at > %s
"""
_POSTGRES_MOVE: Final = """
UPDATE runfold.schedules
SET next_at = %s
WHERE name = %s
    AND next_at = %s
    AND created_at = %s
"""
_POSTGRES_REMOVE: Final = """
DELETE FROM runfold.schedules
WHERE name = %s
"""
_POSTGRES_PAUSE: Final = """
UPDATE runfold.schedules
SET is_paused = %s, next_at = %s
WHERE name = %s
    AND is_paused <> %s
"""
_POSTGRES_CHANGES: Final = """
SELECT name, change, changed_at, actor, schedule
FROM runfold.schedule_changes
WHERE name = %s
ORDER BY number DESC
LIMIT %s
"""
