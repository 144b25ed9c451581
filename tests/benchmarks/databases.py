"""The two databases, and on each the peers: the raw driver, the source systems' row, the `eventsourcing` recorder.

Raw tables are the ledger's own, made by its migrations, with every trigger taken away: the same columns, checks and
indexes, and no guard. They are as durable as the ledger's.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit
from uuid import UUID

import apsw
import psycopg
from eventsourcing.persistence import ApplicationRecorder
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore

from ledger.opening import open_store
from tests.benchmarks.work import Row
from tests.postgres_server import PostgresServer

_COLUMNS = "(run_id, version, event_id, type, envelope, payload, salt, closes, fence, fence_epoch)"
_BUSY_TIMEOUT_MS = 120_000
Stored = tuple[int, int, bytes, bytes]
"""Position, version, envelope and payload, as a reader finds them."""


class RawLog(Protocol):
    """The events table through the bare driver."""

    def insert(self, row: Row) -> None:
        """Insert one row, durably."""

    def insert_next(self, row: Row) -> None:
        """Insert one row at the next version of its run, whatever the row says, while others do the same."""

    def insert_many(self, rows: Iterable[Row]) -> None:
        """Insert rows in one transaction, the fastest way that the driver has."""

    def read_run(self, run_id: str) -> Iterator[Stored]: ...

    def read_log(self) -> Iterator[Stored]: ...

    def close(self) -> None: ...


class SplicedRun(Protocol):
    """The source systems' way: one row a run, its results in one JSON text that each append splices."""

    def create(self, run_id: str, results: bytes) -> None: ...

    def append(self, run_id: str, results: bytes) -> None: ...

    def close(self) -> None: ...


class Database(Protocol):
    """One kind of database, and a fresh one of it for whoever asks."""

    @property
    def name(self) -> str: ...

    def new_ledger(self) -> str:
        """Make an empty ledger and give its URL."""

    def new_raw(self) -> str:
        """Make an empty raw table and give its URL."""

    def open_raw(self, url: str) -> RawLog: ...

    def new_empty(self) -> str:
        """Give the URL of a database that nobody has used."""

    def new_spliced(self) -> SplicedRun: ...

    def new_recorder(self) -> ApplicationRecorder: ...


# --- SQLite ---------------------------------------------------------------------------------------------------------


class Sqlite:
    """SQLite files in a folder."""

    name = "SQLite"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = 0

    def new_ledger(self) -> str:
        url = self.new_empty()
        open_store(url, migrate=True).close()
        return url

    def new_raw(self) -> str:
        url = self.new_ledger()
        connection = connect_sqlite(url)
        for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.close()
        return url

    def open_raw(self, url: str) -> "RawSqlite":
        return RawSqlite(url)

    def new_empty(self) -> str:
        return f"sqlite:///{self._new_file()}"

    def new_spliced(self) -> "SplicedSqlite":
        return SplicedSqlite(self.new_empty())

    def new_recorder(self) -> ApplicationRecorder:
        recorder = SQLiteApplicationRecorder(SQLiteDatastore(str(self._new_file())))
        recorder.create_table()
        return recorder

    def _new_file(self) -> Path:
        self._files += 1
        return self._folder / f"{self._files}.db"


def connect_sqlite(url: str) -> apsw.Connection:
    """Connect as durably as the ledger does."""
    connection = apsw.Connection(url.removeprefix("sqlite:///"))
    connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
    connection.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA mmap_size = 0")
    return connection


_SQLITE_INSERT = f"INSERT INTO events {_COLUMNS} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SQLITE_INSERT_NEXT = f"""
INSERT INTO events {_COLUMNS}
SELECT ?1, 1 + coalesce((SELECT version FROM events WHERE run_id = ?1 ORDER BY version DESC LIMIT 1), 0),
    ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10 WHERE ?2 IS NOT NULL
"""
_SQLITE_READ = "SELECT position, version, envelope, payload FROM events "


class RawSqlite:
    """The events table through apsw."""

    def __init__(self, url: str) -> None:
        self._connection = connect_sqlite(url)

    def insert(self, row: Row) -> None:
        self._connection.execute(_SQLITE_INSERT, row)

    def insert_next(self, row: Row) -> None:
        self._connection.execute(_SQLITE_INSERT_NEXT, row)

    def insert_many(self, rows: Iterable[Row]) -> None:
        with self._connection:
            self._connection.executemany(_SQLITE_INSERT, rows)

    def read_run(self, run_id: str) -> Iterator[Stored]:
        return self._connection.execute(_SQLITE_READ + "WHERE run_id = ? ORDER BY version", (run_id,))

    def read_log(self) -> Iterator[Stored]:
        return self._connection.execute(_SQLITE_READ + "ORDER BY position")

    def close(self) -> None:
        self._connection.close()


# Both statements as the source systems have them, spelled alike for both databases.
_CREATE_RUN = "CREATE TABLE spliced_runs (id TEXT PRIMARY KEY, results TEXT)"
_SPLICE = """
UPDATE spliced_runs
SET results = CASE
    WHEN results IS NULL OR results = '[]' THEN {0}
    ELSE substr(rtrim(results), 1, length(rtrim(results)) - 1) || ',' || substr({0}, 2)
END
WHERE id = {1}
"""


class SplicedSqlite:
    """A mutable row in SQLite."""

    def __init__(self, url: str) -> None:
        self._connection = connect_sqlite(url)
        self._connection.execute(_CREATE_RUN)

    def create(self, run_id: str, results: bytes) -> None:
        self._connection.execute("INSERT INTO spliced_runs (id, results) VALUES (?, ?)", (run_id, results.decode()))

    def append(self, run_id: str, results: bytes) -> None:
        self._connection.execute(_SPLICE.format("?1", "?2"), (results.decode(), run_id))

    def close(self) -> None:
        self._connection.close()


# --- PostgreSQL -----------------------------------------------------------------------------------------------------


class Postgres:
    """Databases of one server."""

    name = "PostgreSQL"

    def __init__(self, server: PostgresServer) -> None:
        self._server = server

    @property
    def url(self) -> str:
        return self._server.url

    def new_ledger(self) -> str:
        url = self._server.create_database()
        open_store(url, migrate=True).close()
        return url

    def new_raw(self) -> str:
        url = self.new_ledger()
        with psycopg.connect(url, autocommit=True) as connection:
            found = connection.execute(
                "SELECT tgname FROM pg_trigger WHERE tgrelid = 'runfold.events'::regclass AND NOT tgisinternal"
            ).fetchall()
            for (name,) in found:
                connection.execute(f"DROP TRIGGER {name} ON runfold.events".encode())
        return url

    def open_raw(self, url: str) -> "RawPostgres":
        return RawPostgres(url)

    def new_empty(self) -> str:
        return self._server.create_database()

    def new_spliced(self) -> "SplicedPostgres":
        return SplicedPostgres(self.new_empty())

    def new_recorder(self) -> ApplicationRecorder:
        parts = urlsplit(self._server.create_database())
        recorder = PostgresApplicationRecorder(
            PostgresDatastore(
                dbname=parts.path.removeprefix("/"),
                host=parts.hostname or "",
                port=str(parts.port or 5432),
                user=parts.username or "",
                password=parts.password or "",
            )
        )
        recorder.create_table()
        return recorder


_POSTGRES_VALUES = "(%s::uuid, %s::bigint, %s::uuid, %s, %b::bytea, %b::bytea, %b::bytea, %s::boolean, %s, %s::integer)"
_POSTGRES_INSERT = f"INSERT INTO runfold.events {_COLUMNS} VALUES {_POSTGRES_VALUES}".encode()
_POSTGRES_INSERT_NEXT = f"""
INSERT INTO runfold.events {_COLUMNS}
SELECT %s::uuid,
    1 + coalesce((SELECT e.version FROM runfold.events e WHERE e.run_id = %s::uuid ORDER BY e.version DESC LIMIT 1), 0),
    %s::uuid, %s, %b::bytea, %b::bytea, %b::bytea, %s::boolean, %s, %s::integer
""".encode()
_POSTGRES_COPY = f"COPY runfold.events {_COLUMNS} FROM STDIN (FORMAT BINARY)".encode()
_COPY_TYPES = ("uuid", "int8", "uuid", "text", "bytea", "bytea", "bytea", "bool", "text", "int4")
_POSTGRES_READ = b"SELECT position, version, envelope, payload FROM runfold.events "
_READ_AT_ONCE = 5_000


class RawPostgres:
    """The events table through psycopg."""

    def __init__(self, url: str) -> None:
        self._connection: psycopg.Connection[Any] = psycopg.connect(url, autocommit=True)

    def insert(self, row: Row) -> None:
        self._connection.execute(_POSTGRES_INSERT, row, prepare=True)

    def insert_next(self, row: Row) -> None:
        connection = self._connection
        with connection.pipeline(), connection.transaction():  # one round trip
            connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (row[0],), prepare=True)
            connection.execute(_POSTGRES_INSERT_NEXT, (row[0], row[0], *row[2:]), prepare=True)

    def insert_many(self, rows: Iterable[Row]) -> None:
        with self._connection.cursor() as cursor, cursor.copy(_POSTGRES_COPY) as copy:
            copy.set_types(_COPY_TYPES)
            for row in rows:
                copy.write_row((UUID(row[0]), row[1], UUID(row[2]), *row[3:]))

    def read_run(self, run_id: str) -> Iterator[Stored]:
        query = _POSTGRES_READ + b"WHERE run_id = %s ORDER BY version"
        return iter(self._connection.execute(query, (run_id,), prepare=True, binary=True).fetchall())

    def read_log(self) -> Iterator[Stored]:
        query = _POSTGRES_READ + b"WHERE position > %s ORDER BY position LIMIT %s"
        position, more = 0, True
        while more:
            rows = self._connection.execute(query, (position, _READ_AT_ONCE), prepare=True, binary=True).fetchall()
            yield from rows
            more = len(rows) == _READ_AT_ONCE
            position = rows[-1][0] if rows else position

    def close(self) -> None:
        self._connection.close()


class SplicedPostgres:
    """A mutable row in PostgreSQL."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        self._connection.execute(_CREATE_RUN.encode())

    def create(self, run_id: str, results: bytes) -> None:
        self._connection.execute(
            "INSERT INTO spliced_runs (id, results) VALUES (%s, %s)", (run_id, results.decode()), prepare=True
        )

    def append(self, run_id: str, results: bytes) -> None:
        text = results.decode()
        self._connection.execute(
            _SPLICE.replace("{0}", "%s::text").replace("{1}", "%s").encode(), (text, text, run_id), prepare=True
        )

    def close(self) -> None:
        self._connection.close()


@contextmanager
def closing(*things: Any) -> Iterator[None]:
    """Close them all when the block ends."""
    try:
        yield
    finally:
        for thing in things:
            thing.close()


def chunks(rows: Iterable[Row], size: int) -> Iterator[Sequence[Row]]:
    iterator = iter(rows)
    while chunk := list(islice(iterator, size)):
        yield chunk


def vacuum(url: str) -> None:
    """Give the planner what it would know after a while: statistics, and on PostgreSQL the visibility map."""
    if url.startswith("sqlite"):
        connection = connect_sqlite(url)
        connection.execute("ANALYZE")
        connection.close()
        return
    with psycopg.connect(url, autocommit=True) as postgres:
        postgres.execute("VACUUM ANALYZE")
