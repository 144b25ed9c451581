"""What every projection's tables do in a SQLite file, beside the log.

A catch-up takes the file's one write lock, like an append.

Differs from PostgreSQL: rows of a rebuild are written like any others, in small transactions, since writers of the
log wait meanwhile. One rebuild of a projection at a time is a lock on a file beside the database, which the kernel
gives back when the process dies.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Generic, LiteralString, Protocol, cast

import apsw

from ledger.errors import StoreBusy
from ledger.run.codec import encode_json
from ledger.stores.sqlite import SqliteStore
from projections.projection import Checkpoint, Miscount, Named, Row, Stored


class SqliteRows(Protocol[Row, Stored]):
    """What one projection's rows need beyond that: the statements that know their columns."""

    header: LiteralString
    """The table with one row a run: generation, run_id and version are among its columns."""
    others: Sequence[LiteralString]
    """The tables with what else belongs to a run."""

    @property
    def discards(self) -> Sequence[LiteralString]:
        """For each table: delete some rows below a generation that are not live. Parameters: it, the name, how many."""

    def load(self, connection: apsw.Connection, generation: int, run_ids: Sequence[str]) -> dict[str, Row]: ...

    def save(self, connection: apsw.Connection, generation: int, rows: Sequence[Stored]) -> None: ...

    def add(self, connection: apsw.Connection, generation: int, rows: Sequence[Stored]) -> None: ...

    def scan(
        self, connection: apsw.Connection, generation: int, *, after_run_id: str, limit: int
    ) -> Sequence[Stored]: ...


class SqliteTables(Generic[Row, Stored]):
    """The tables of one projection in a SQLite file."""

    def __init__(self, store: SqliteStore, projection: Named, rows: SqliteRows[Row, Stored]) -> None:
        self._store = store
        self._projection = projection
        self._rows = rows

    def checkpoint(self) -> Checkpoint:
        with self._store.reading() as connection:
            return _checkpoint(connection, self._projection) or Checkpoint()

    @contextmanager
    def writing(self) -> Iterator["SqliteWriting[Row, Stored]"]:
        with self._store.writing() as connection:
            checkpoint = _checkpoint(connection, self._projection) or self._begin(connection)
            yield SqliteWriting(connection, self._projection, self._rows, checkpoint)

    @contextmanager
    def rebuilding(self) -> Iterator[None]:
        path = self._store.path.with_name(f"{self._store.path.name}-rebuild-{self._projection.name}")
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            _lock(handle, self._projection.name, self._store.path)
            yield
        finally:
            os.close(handle)  # the file stays: taking it away could give two rebuilds a lock each

    def newest_generation(self) -> int:
        with self._store.reading() as connection:
            return self._newest_generation(connection)

    def discard(self, *, below: int, rows_max: int) -> int:
        with self._store.writing() as connection:
            for delete in self._rows.discards:
                connection.execute(delete, (below, self._projection.name, rows_max))
                if connection.changes():
                    return connection.changes()
        return 0

    def load(self, generation: int, run_ids: Sequence[str]) -> dict[str, Row]:
        with self._store.reading() as connection:
            return self._rows.load(connection, generation, run_ids)

    def versions(self, generation: int, run_ids: Sequence[str]) -> Mapping[str, int]:
        with self._store.reading() as connection:
            sql = _VERSIONS.replace("{table}", self._rows.header)
            return dict(fetch(connection, sql, (generation, json_list(run_ids))))

    def scan(self, generation: int, *, after_run_id: str, limit: int) -> Sequence[Stored]:
        with self._store.reading() as connection:
            return self._rows.scan(connection, generation, after_run_id=after_run_id, limit=limit)

    def miscounted(self, generation: int) -> Sequence[Miscount]:
        return ()

    @contextmanager
    def _live(self, generation: int) -> Iterator[apsw.Connection | None]:
        """Give a connection that sees one moment; None when the generation is not the live one in it."""
        with self._store.reading() as connection:
            is_live = (connection.execute(_GENERATION, (self._projection.name,)).get or 0) == generation
            yield connection if is_live else None

    def _begin(self, connection: apsw.Connection) -> Checkpoint:
        """Begin the first generation, or the next one when somebody threw the live one's number away."""
        generation = self._newest_generation(connection) + 1
        connection.execute(_BEGIN, (self._projection.name, self._projection.version, generation))
        return Checkpoint(generation, self._projection.version)

    def _newest_generation(self, connection: apsw.Connection) -> int:
        tables = (self._rows.header, *self._rows.others)
        found = [connection.execute(_NEWEST_GENERATION.replace("{table}", table)).get for table in tables]
        live = cast("int | None", connection.execute(_GENERATION, (self._projection.name,)).get)
        return max([0, *cast("list[int]", found), live or 0])


class SqliteWriting(Generic[Row, Stored]):
    """A transaction that holds the file's write lock."""

    def __init__(
        self,
        connection: apsw.Connection,
        projection: Named,
        rows: SqliteRows[Row, Stored],
        checkpoint: Checkpoint,
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


_CHECKPOINT: Final = "SELECT generation, version, position, building FROM projections WHERE name = ?"
_GENERATION: Final = "SELECT generation FROM projections WHERE name = ?"
_MOVE: Final = "UPDATE projections SET position = ? WHERE name = ?"
_BUILD: Final = "UPDATE projections SET building = ? WHERE name = ?"
_GO_LIVE: Final = "UPDATE projections SET generation = ?, version = ?, position = ?, building = NULL WHERE name = ?"
_BEGIN: Final = "INSERT INTO projections (name, version, generation, position) VALUES (?, ?, ?, 0)"
_NEWEST_GENERATION: Final = "SELECT coalesce(max(generation), 0) FROM {table}"
_VERSIONS: Final = """
SELECT run_id, version
FROM {table}
WHERE generation = ? AND run_id IN (SELECT value FROM json_each(?))
"""
_DISCARD: Final = """
DELETE FROM {table}
WHERE rowid IN (
    SELECT rowid
    FROM {table}
    WHERE generation < ? AND generation <> (SELECT generation FROM projections WHERE name = ?)
    LIMIT ?
)
"""


def discard_from(table: LiteralString) -> LiteralString:
    """Give the statement that discards old generations from a table with row ids."""
    return _DISCARD.replace("{table}", table)


def fetch(
    connection: apsw.Connection, sql: LiteralString, params: "Sequence[str | int | bytes | None]"
) -> "list[tuple[Any, ...]]":
    """Give all rows of a query."""
    return connection.execute(sql, params).fetchall()


def json_list(values: Sequence[str]) -> str:
    """Write a list as one parameter, for `json_each`."""
    return encode_json(values).decode()


def _checkpoint(connection: apsw.Connection, projection: Named) -> Checkpoint | None:
    row = cast("tuple[int, int, int, int | None] | None", connection.execute(_CHECKPOINT, (projection.name,)).get)
    return None if row is None else Checkpoint(*row)


def _lock(handle: int, name: str, path: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise StoreBusy(f"a rebuild of `{name}` in {path} is under way. Wait for it.") from exc
