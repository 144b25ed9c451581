"""Consumers in a SQLite file."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ledger.consumers import Batch, ConsumerSettings, Place, first_token
from ledger.filters import Filter
from ledger.run.codec import timestamp

if TYPE_CHECKING:
    from ledger.stores.sqlite import SqliteStore


class SqliteConsumers:
    """Consumers in a SQLite file."""

    def __init__(self, store: "SqliteStore") -> None:
        self._store = store

    def add(self, settings: ConsumerSettings, *, position: int) -> bool:
        with self._store.writing() as connection:
            if not list(connection.execute(_ADD, _row(settings))):
                return False
            places = [(settings.name, number, position, first_token(settings)) for number in range(settings.partitions)]
            connection.executemany(_ADD_PLACE, places)
            return True

    def find(self, name: str) -> ConsumerSettings | None:
        with self._store.reading() as connection:
            rows = list(connection.execute(_FIND, (name,)))
        return _settings(rows[0]) if rows else None

    def list(self) -> Sequence[ConsumerSettings]:
        with self._store.reading() as connection:
            return [_settings(row) for row in connection.execute(_LIST)]

    def remove(self, name: str) -> bool:
        with self._store.writing() as connection:
            connection.execute(_REMOVE_PLACES, (name,))
            return bool(list(connection.execute(_REMOVE, (name,))))

    def reset(self, name: str, *, position: int) -> bool:
        return self._write(_RESET, (position, name))

    def places(self, name: str) -> Sequence[Place]:
        with self._store.reading() as connection:
            return [Place(*row) for row in connection.execute(_PLACES, (name,))]

    def lend(self, name: str, place: Place, *, up_to: int, lease_s: float) -> int | None:
        row = (up_to, lease_s, name, place.partition, place.token, place.position)
        return place.token + 1 if self._write(_LEND, row) else None

    def pass_over(self, name: str, place: Place, *, up_to: int) -> bool:
        return self._write(_PASS_OVER, (up_to, name, place.partition, place.token, place.position))

    def acknowledge(self, batch: Batch) -> bool:
        return self._write(_ACKNOWLEDGE, (batch.consumer, batch.partition, batch.token, batch.up_to))

    def extend(self, batch: Batch, *, lease_s: float) -> bool:
        return self._write(_EXTEND, (lease_s, batch.consumer, batch.partition, batch.token, batch.up_to))

    def hand_back(self, batch: Batch) -> bool:
        return self._write(_HAND_BACK, (batch.consumer, batch.partition, batch.token, batch.up_to))

    def _write(self, sql: str, row: tuple[str | int | float, ...]) -> bool:
        with self._store.writing() as connection:
            return bool(list(connection.execute(sql, row)))


def _row(settings: ConsumerSettings) -> tuple[str, str, int, str]:
    wanted = msgspec.json.encode(settings.wanted).decode()
    return settings.name, wanted, settings.partitions, timestamp(settings.created_at)


def _settings(row: Sequence[Any]) -> ConsumerSettings:
    name, wanted, partitions, created_at = row
    return ConsumerSettings(
        name=name,
        wanted=_decode_filter(wanted),
        partitions=partitions,
        created_at=datetime.fromisoformat(created_at),
    )


_decode_filter: Final = msgspec.json.Decoder(Filter).decode

_ADD: Final = """
INSERT INTO consumers (name, wanted, partitions, created_at)
VALUES (?, ?, ?, ?)
ON CONFLICT DO NOTHING
RETURNING name
"""
_ADD_PLACE: Final = """
INSERT INTO consumer_places (name, partition, position, token)
VALUES (?, ?, ?, ?)
"""
_FIND: Final = """
SELECT name, wanted, partitions, created_at
FROM consumers
WHERE name = ?
"""
_LIST: Final = """
SELECT name, wanted, partitions, created_at
FROM consumers
ORDER BY name
"""
_REMOVE_PLACES: Final = """
DELETE FROM consumer_places
WHERE name = ?
"""
_REMOVE: Final = """
DELETE FROM consumers
WHERE name = ?
RETURNING name
"""
_RESET: Final = """
UPDATE consumer_places
SET position = ?, token = token + 1, lent_up_to = NULL, deadline = NULL
WHERE name = ?
RETURNING name
"""
_PLACES: Final = """
SELECT
    partition,
    position,
    token,
    lent_up_to,
    nullif(max(deadline - unixepoch('now', 'subsec'), 0), 0)
FROM consumer_places
WHERE name = ?
ORDER BY partition
"""
_LEND: Final = """
UPDATE consumer_places
SET token = token + 1, lent_up_to = ?, deadline = unixepoch('now', 'subsec') + ?
WHERE name = ?
    AND partition = ?
    AND token = ?
    AND position = ?
    AND (deadline IS NULL OR deadline <= unixepoch('now', 'subsec'))
RETURNING name
"""
_PASS_OVER: Final = """
UPDATE consumer_places
SET position = ?, token = token + 1, lent_up_to = NULL, deadline = NULL
WHERE name = ?
    AND partition = ?
    AND token = ?
    AND position = ?
    AND (deadline IS NULL OR deadline <= unixepoch('now', 'subsec'))
RETURNING name
"""
_ACKNOWLEDGE: Final = """
UPDATE consumer_places
SET position = lent_up_to, lent_up_to = NULL, deadline = NULL
WHERE name = ?
    AND partition = ?
    AND token = ?
    AND lent_up_to = ?
RETURNING name
"""
_EXTEND: Final = """
UPDATE consumer_places
SET deadline = unixepoch('now', 'subsec') + ?
WHERE name = ?
    AND partition = ?
    AND token = ?
    AND lent_up_to = ?
RETURNING name
"""
_HAND_BACK: Final = """
UPDATE consumer_places
SET token = token + 1, lent_up_to = NULL, deadline = NULL
WHERE name = ?
    AND partition = ?
    AND token = ?
    AND lent_up_to = ?
RETURNING name
"""
