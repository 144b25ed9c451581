"""What every projection's tables do in PostgreSQL, beside the log.

Reads are single statements, each a transaction of its own. Catch-ups take turns on the projection's row in
`projections`, which appends never touch, so writers wait for none.

Differs from SQLite: the new rows of a rebuild are written with COPY. One rebuild of a projection at a time is an
advisory lock of a session, which the server gives back when the process dies; a transaction that held it would be idle
for as long as the rebuild takes, and servers are told to end those.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, Generic, LiteralString, Protocol, cast

import psycopg

from ledger.errors import StoreBusy
from ledger.stores.postgres import PostgresStore
from projections.projection import Checkpoint, Miscount, Named, Row, Stored

Connection = psycopg.Connection[tuple[Any, ...]]
Params = Sequence[str | int | bytes | Sequence[object] | None]


class PostgresRows(Protocol[Row, Stored]):
    """What one projection's rows need beyond that: the statements that know their columns."""

    header: LiteralString
    """The table with one row a run: generation, run_id and version are among its columns."""
    others: Sequence[LiteralString]
    """The tables with what else belongs to a run."""

    def load(self, connection: Connection, generation: int, run_ids: Sequence[str]) -> dict[str, Row]: ...

    def save(self, connection: Connection, generation: int, rows: Sequence[Stored]) -> None: ...

    def add(self, connection: Connection, generation: int, rows: Sequence[Stored]) -> None: ...

    def scan(self, connection: Connection, generation: int, *, after_run_id: str, limit: int) -> Sequence[Stored]: ...


class PostgresTables(Generic[Row, Stored]):
    """The tables of one projection in a PostgreSQL database."""

    def __init__(self, store: PostgresStore, projection: Named, rows: PostgresRows[Row, Stored]) -> None:
        self._store = store
        self._projection = projection
        self._rows = rows

    def checkpoint(self) -> Checkpoint:
        with self._store.session() as connection:
            return self._checkpoint(connection, _CHECKPOINT) or Checkpoint()

    @contextmanager
    def writing(self) -> Iterator["PostgresWriting[Row, Stored]"]:
        with self._store.transaction() as connection:
            checkpoint = self._checkpoint(connection, _LOCK_CHECKPOINT) or self._begin(connection)
            yield PostgresWriting(connection, self._projection, self._rows, checkpoint)

    @contextmanager
    def rebuilding(self) -> Iterator[None]:
        name = self._projection.name
        key = (f"runfold rebuild {name}",)
        with self._store.session() as connection:
            ((is_alone,),) = fetch(connection, _LOCK_REBUILD, key)
            if not is_alone:
                raise StoreBusy(f"a rebuild of `{name}` in {self._store.url} is under way. Wait for it.")
            try:
                yield
            finally:
                with suppress(psycopg.OperationalError):  # a connection that broke has given it back
                    connection.execute(_UNLOCK_REBUILD, key)

    def newest_generation(self) -> int:
        with self._store.transaction() as connection:
            return self._newest_generation(connection)

    def discard(self, *, below: int, rows_max: int) -> int:
        with self._store.transaction() as connection:
            for table in (self._rows.header, *self._rows.others):
                delete = _DISCARD.replace("{table}", table)
                deleted = connection.execute(delete, (below, self._projection.name, rows_max)).rowcount
                if deleted:
                    return deleted
        return 0

    def load(self, generation: int, run_ids: Sequence[str]) -> dict[str, Row]:
        with self._store.session() as connection:
            return self._rows.load(connection, generation, run_ids)

    def versions(self, generation: int, run_ids: Sequence[str]) -> Mapping[str, int]:
        with self._store.session() as connection:
            return dict(fetch(connection, _VERSIONS.replace("{table}", self._rows.header), (generation, run_ids)))

    def scan(self, generation: int, *, after_run_id: str, limit: int) -> Sequence[Stored]:
        with self._store.transaction() as connection:
            connection.execute(_ONE_MOMENT)  # a run's rows are in several tables, and are compared with each other
            return self._rows.scan(connection, generation, after_run_id=after_run_id, limit=limit)

    def miscounted(self, generation: int) -> Sequence[Miscount]:
        return ()

    def _is_live(self, connection: Connection, generation: int) -> bool:
        """Tell whether what was read just now was the live generation: its rows go only after it was replaced."""
        rows = fetch(connection, _GENERATION, (self._projection.name,))
        return (rows[0][0] if rows else 0) == generation

    def _checkpoint(self, connection: Connection, select: LiteralString) -> Checkpoint | None:
        rows = fetch(connection, select, (self._projection.name,))
        return Checkpoint(*rows[0]) if rows else None

    def _begin(self, connection: Connection) -> Checkpoint:
        """Begin the first generation, or the next one when somebody threw the live one's number away.

        When two begin it at once, one waits for the other in the insert, and takes what that one wrote.
        """
        begun = (self._projection.name, self._projection.version, self._newest_generation(connection) + 1)
        connection.execute(_BEGIN, begun)
        return cast(Checkpoint, self._checkpoint(connection, _LOCK_CHECKPOINT))

    def _newest_generation(self, connection: Connection) -> int:
        tables = (self._rows.header, *self._rows.others)
        found: list[int] = [
            fetch(connection, _NEWEST_GENERATION.replace("{table}", table), ())[0][0] for table in tables
        ]
        live: list[int] = [row[0] for row in fetch(connection, _GENERATION, (self._projection.name,))]
        return max([0, *found, *live])


class PostgresWriting(Generic[Row, Stored]):
    """A transaction that holds the lock on the projection's row."""

    def __init__(
        self, connection: Connection, projection: Named, rows: PostgresRows[Row, Stored], checkpoint: Checkpoint
    ) -> None:
        self._connection = connection
        self._name = projection.name
        self._rows = rows
        self.checkpoint = checkpoint

    def load(self, generation: int, run_ids: Sequence[str]) -> dict[str, Row]:
        return self._rows.load(self._connection, generation, run_ids)

    def save(self, generation: int, rows: Sequence[Stored]) -> None:
        if rows:
            self._rows.save(self._connection, generation, rows)

    def add(self, generation: int, rows: Sequence[Stored]) -> None:
        if rows:
            self._rows.add(self._connection, generation, rows)

    def move(self, position: int) -> None:
        self._connection.execute(_MOVE, (position, self._name))

    def build(self, generation: int) -> None:
        self._connection.execute(_BUILD, (generation, self._name))

    def go_live(self, generation: int, *, version: int, position: int) -> None:
        self._connection.execute(_GO_LIVE, (generation, version, position, self._name))


_CHECKPOINT: Final = "SELECT generation, version, position, building FROM runfold.projections WHERE name = %s"
_LOCK_CHECKPOINT: Final = """
SELECT generation, version, position, building
FROM runfold.projections
WHERE name = %s
FOR UPDATE
"""
_GENERATION: Final = "SELECT generation FROM runfold.projections WHERE name = %s"
_LOCK_REBUILD: Final = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"
_UNLOCK_REBUILD: Final = "SELECT pg_advisory_unlock(hashtextextended(%s, 0))"
_ONE_MOMENT: Final = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
_MOVE: Final = "UPDATE runfold.projections SET position = %s WHERE name = %s"
_BUILD: Final = "UPDATE runfold.projections SET building = %s WHERE name = %s"
_GO_LIVE: Final = """
UPDATE runfold.projections
SET generation = %s, version = %s, position = %s, building = NULL
WHERE name = %s
"""
_BEGIN: Final = """
INSERT INTO runfold.projections (name, version, generation, position)
VALUES (%s, %s, %s, 0)
ON CONFLICT (name) DO NOTHING
"""
_NEWEST_GENERATION: Final = "SELECT coalesce(max(generation), 0) FROM runfold.{table}"
_VERSIONS: Final = """
SELECT run_id, version
FROM runfold.{table}
WHERE generation = %s AND run_id = ANY (%s::text[])
"""
_DISCARD: Final = """
DELETE FROM runfold.{table}
WHERE ctid = ANY (ARRAY(
    SELECT ctid
    FROM runfold.{table}
    WHERE generation < %s AND generation <> (SELECT generation FROM runfold.projections WHERE name = %s)
    LIMIT %s
))
"""


def fetch(connection: Connection, sql: LiteralString, params: Params) -> list[tuple[Any, ...]]:
    """Give all rows of a query."""
    return connection.execute(sql, params, binary=True).fetchall()
