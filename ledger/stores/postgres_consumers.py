"""Consumers in a PostgreSQL database."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, LiteralString

import msgspec

from ledger.consumers import Batch, ConsumerSettings, Place, first_token
from ledger.filters import Filter
from ledger.run.codec import timestamp

if TYPE_CHECKING:
    from ledger.stores.postgres import PostgresStore


class PostgresConsumers:
    """Consumers in a PostgreSQL database."""

    def __init__(self, store: "PostgresStore") -> None:
        self._store = store

    def add(self, settings: ConsumerSettings, *, position: int) -> bool:
        with self._store.transaction() as connection:
            if connection.execute(_ADD, _row(settings)).rowcount == 0:
                return False
            connection.execute(_ADD_PLACES, (settings.name, position, first_token(settings), settings.partitions))
            return True

    def find(self, name: str) -> ConsumerSettings | None:
        with self._store.transaction() as connection:
            row = connection.execute(_FIND, (name,)).fetchone()
        return None if row is None else _settings(row)

    def list(self) -> Sequence[ConsumerSettings]:
        with self._store.transaction() as connection:
            return [_settings(row) for row in connection.execute(_LIST)]

    def remove(self, name: str) -> bool:
        return self._write(_REMOVE, (name,))

    def reset(self, name: str, *, position: int) -> bool:
        return self._write(_RESET, (position, name))

    def places(self, name: str) -> Sequence[Place]:
        with self._store.transaction() as connection:
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

    def _write(self, sql: LiteralString, row: tuple[str | int | float, ...]) -> bool:
        with self._store.transaction() as connection:
            return connection.execute(sql, row).rowcount > 0


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
INSERT INTO runfold.consumers (name, wanted, partitions, created_at)
VALUES (%s, %s, %s, %s)
ON CONFLICT DO NOTHING
"""
_ADD_PLACES: Final = """
INSERT INTO runfold.consumer_places (name, partition, position, token)
SELECT %s, number, %s, %s
FROM generate_series(0, %s - 1) number
"""
_FIND: Final = """
SELECT name, wanted, partitions, created_at
FROM runfold.consumers
WHERE name = %s
"""
_LIST: Final = """
SELECT name, wanted, partitions, created_at
FROM runfold.consumers
ORDER BY name
"""
_REMOVE: Final = """
DELETE FROM runfold.consumers
WHERE name = %s
"""
_RESET: Final = """
UPDATE runfold.consumer_places
SET position = %s, token = token + 1, lent_up_to = NULL, deadline = NULL
WHERE name = %s
"""
_PLACES: Final = """
SELECT
    partition,
    position,
    token,
    lent_up_to,
    nullif(greatest(deadline - extract(epoch FROM clock_timestamp())::float8, 0), 0)
FROM runfold.consumer_places
WHERE name = %s
ORDER BY partition
"""
_LEND: Final = """
UPDATE runfold.consumer_places
SET token = token + 1, lent_up_to = %s, deadline = extract(epoch FROM clock_timestamp())::float8 + %s::float8
WHERE name = %s
    AND partition = %s
    AND token = %s
    AND position = %s
    AND (deadline IS NULL OR deadline <= extract(epoch FROM clock_timestamp())::float8)
"""
_PASS_OVER: Final = """
UPDATE runfold.consumer_places
SET position = %s, token = token + 1, lent_up_to = NULL, deadline = NULL
WHERE name = %s
    AND partition = %s
    AND token = %s
    AND position = %s
    AND (deadline IS NULL OR deadline <= extract(epoch FROM clock_timestamp())::float8)
"""
_ACKNOWLEDGE: Final = """
UPDATE runfold.consumer_places
SET position = lent_up_to, lent_up_to = NULL, deadline = NULL
WHERE name = %s
    AND partition = %s
    AND token = %s
    AND lent_up_to = %s
"""
_EXTEND: Final = """
UPDATE runfold.consumer_places
SET deadline = extract(epoch FROM clock_timestamp())::float8 + %s::float8
WHERE name = %s
    AND partition = %s
    AND token = %s
    AND lent_up_to = %s
"""
_HAND_BACK: Final = """
UPDATE runfold.consumer_places
SET token = token + 1, lent_up_to = NULL, deadline = NULL
WHERE name = %s
    AND partition = %s
    AND token = %s
    AND lent_up_to = %s
"""
