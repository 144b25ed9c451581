"""The log in one SQLite file, shared by the processes of one machine.

How it keeps the store's promises:
- Durable: WAL with synchronous=FULL; a commit that returned survives power loss. Read back at every connection.
- Order: there is one writer at a time (BEGIN IMMEDIATE), so positions are given in the order of commits, a rollback
  burns none, and whatever is visible is settled.
- Outcome: what fails before COMMIT was not written. An I/O error of COMMIT itself is `OutcomeUnknown`: measured, such
  an event can appear when the file is opened again. The connection is dropped then, never used again.
- Forks: SQLite keeps a file's locks in the memory of the process that took them, so a child of a fork believes that it
  holds them. Measured: of six appends of a child that opened a ledger of its own, five were lost when the parent closed
  its one. The child's ledger is refused.
- Threads share commits (`GroupCommit`); processes take turns, with short sleeps of random length: SQLite's own busy
  handler sleeps up to 100 ms and starved single writers for 0.9 to 1.5 s where this waited 4 ms.

Differs from PostgreSQL: one machine only (a network file system is refused), every writer waits for every other, and
positions have no holes.
"""

import itertools
import os
import random
import re
import select
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Final

import apsw

from ledger import limits
from ledger.clock import monotonic, utc_now
from ledger.errors import (
    EventIdReused,
    InvariantBroken,
    LedgerError,
    NotPermitted,
    OutcomeUnknown,
    RunClosed,
    RunNotFound,
    RunPurged,
    SchemaMismatch,
    ShardSuperseded,
    StoreBusy,
    StoreUnavailable,
    UnsafeStore,
    VersionConflict,
)
from ledger.events import PURGE_FENCE, EventId, Page, RunId
from ledger.run.codec import timestamp
from ledger.store import Appended, AppendRequest, KeyTaken, Listener, Rule
from ledger.stores.group_commit import GroupCommit
from ledger.stores.heads import Heads
from ledger.stores.migrations import (
    Migration,
    MigrationStatus,
    load_migrations,
    pending,
    require_none_pending,
)
from ledger.stores.sqlite_consumers import SqliteConsumers
from ledger.stores.sqlite_tasks import SqliteTasks

_NETWORK_FILE_SYSTEMS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "lustre", "gpfs", "beegfs", "fuse.sshfs", "fuse.glusterfs"}
)


class SqliteStore:
    """A log in a SQLite file.

    Args:
        path: The file; made with its folder if it is missing and `migrate` is True.
        migrate: Whether to bring the tables up to this release first; None takes them as they are, for whoever looks
            after them.

    Raises:
        StoreUnavailable: when the file cannot be opened, or is no SQLite database.
        SchemaMismatch: when the tables are not those of this release.
        UnsafeStore: when the SQLite library has the WAL-reset bug, the file is on a network file system, or it was
            open when this process was forked.
    """

    def __init__(self, path: Path, *, migrate: bool | None = True) -> None:
        self.path = path
        self.url = f"sqlite:///{path}"
        self.pid = os.getpid()
        self._is_closed = False
        self._readers: list[apsw.Connection] = []
        self._heads = Heads()
        self._tasks = SqliteTasks(self)
        self._group = GroupCommit(self._commit_group, interrupted=_unknown, requests_max=limits.GROUP_REQUESTS_MAX)
        require_safe_library(apsw.sqlite_lib_version())
        _require_local(path)
        _require_not_inherited(path)
        if not migrate and not path.exists():
            raise StoreUnavailable(f"{path} does not exist: make it with `runfold db migrate --url {self.url}`.")
        if migrate:
            _make_folder(path)
        self._writer: apsw.Connection | None = self._connect_writer()
        self.file = _identity_of(path)
        _stores.add(self)
        try:
            missing = pending(load_migrations("sqlite"), self._applied(self._writer))
            if missing and migrate:
                self.migrate()
            elif migrate is not None:
                require_none_pending(missing, url=self.url)
        except BaseException:
            self.close()
            raise

    # --- Store ----------------------------------------------------------------------------------------------

    def append(self, request: AppendRequest) -> Appended:
        self._require_usable()
        _waits.since = monotonic()
        return self._group.submit(request)

    def append_all(self, requests: Sequence[AppendRequest]) -> list[Appended | Exception]:
        self._require_usable()
        _waits.since = monotonic()
        return self._group.submit_all(requests)

    @contextmanager
    def in_turn(self, run_id: RunId) -> Iterator["SqliteTurn"]:
        with self.turn() as (_, turn):
            yield turn

    @contextmanager
    def turn(self) -> Iterator[tuple[apsw.Connection, "SqliteTurn"]]:
        """Give a transaction in which one may append to any stream; it commits when the block ends."""
        with self.writing() as connection:
            turn = SqliteTurn(connection)
            yield connection, turn
        if turn.has_erased:
            self._empty_log()

    def read_run(self, run_id: RunId, *, after_version: int, limit: int) -> Page:
        with self._reader() as connection:
            return _read_run(connection, run_id, after_version=after_version, limit=limit)

    def read_log(self, *, after_position: int, limit: int, unsettled: bool = False) -> Page:
        with self._reader() as connection:
            limit = _fitting(connection, _LOG_SIZE, (after_position,), limit)
            settled = connection.execute(_HEAD).get or 0  # before the page, which then has all up to there
            joined, count, last = connection.execute(_LOG_PAGE, (after_position, limit)).get
        if not count:
            return Page((), 0, after_position, settled)
        return Page((joined,), count, last, max(settled, last), count == limit)

    def find(self, event_ids: Sequence[EventId]) -> dict[EventId, tuple[RunId, int, int]]:
        with self._reader() as connection:
            rows = [(event_id, connection.execute(_EVENT, (event_id,)).get) for event_id in event_ids]
        return {event_id: (row[0], row[1], row[2]) for event_id, row in rows if row is not None}

    def key_holder(self, *, space: str, project: str, key: str) -> RunId | None:
        with self._reader() as connection:
            held = connection.execute(_KEY, (space, project, key)).get
        return None if held is None else RunId(held[0])

    @property
    def tasks(self) -> SqliteTasks:
        return self._tasks

    @property
    def consumers(self) -> SqliteConsumers:
        return SqliteConsumers(self)

    def listen(self) -> Listener:
        self._require_usable()
        return _SqliteListener(self._connect(), self.path)

    def close(self) -> None:
        if self.pid != os.getpid():
            return  # closing a file here would drop the parent's locks
        with self._group.alone():
            self._is_closed = True
            for connection in [self._writer, *self._readers]:
                if connection is not None:
                    connection.close()
            self._writer = None
            self._readers.clear()
            _stores.discard(self)

    # --- for projections and for the command line -----------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[apsw.Connection]:
        """Give a connection inside one read transaction: everything in the block sees one moment."""
        with self._reader() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("COMMIT")

    @contextmanager
    def writing(self) -> Iterator[apsw.Connection]:
        """Give the writer's connection inside a transaction that commits when the block ends."""
        self._require_usable()
        _waits.since = monotonic()
        with self._group.alone():
            connection = self._begin()
            try:
                yield connection
            except BaseException:
                self._roll_back()
                raise
            try:
                connection.execute("COMMIT")
            except apsw.Error as exc:
                self._drop_writer()
                raise StoreUnavailable(
                    f"{self.path}: the commit failed ({exc}). Read what is there and decide anew."
                ) from exc

    def migrate(self) -> list[Migration]:
        """Apply what is missing, all or nothing, under the file's write lock.

        Returns:
            What was applied.
        """
        with self.writing() as connection:
            missing = pending(load_migrations("sqlite"), self._applied(connection))
            for migration in missing:
                self._run_statements(connection, migration)
                connection.execute(_RECORD_MIGRATION, (*_identity(migration), timestamp(utc_now())))
        return missing

    def _run_statements(self, connection: apsw.Connection, migration: Migration) -> None:
        try:
            for _ in connection.execute(migration.sql):
                pass
        except apsw.Error as exc:
            raise StoreUnavailable(
                f"{self.path}: migration {migration.number:04d}_{migration.name} failed ({exc}). All of it was taken"
                " back; the file is as it was."
            ) from exc

    def migration_status(self) -> list[MigrationStatus]:
        """Tell which migrations of this release the file has."""
        with self._reader() as connection:
            applied = {} if not _has_migrations(connection) else dict(connection.execute(_APPLIED_AT))
        return [MigrationStatus(migration, applied.get(migration.number)) for migration in load_migrations("sqlite")]

    # --- connections ----------------------------------------------------------------------------------------

    def _connect(self) -> apsw.Connection:
        try:
            connection = apsw.Connection(str(self.path))
            connection.set_busy_handler(_wait_for_turn)
            connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
            connection.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)
            connection.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 0)
            _to_wal(connection)
            for pragma in _PRAGMAS:
                connection.execute(pragma)
            mode, synchronous = connection.pragma("journal_mode"), connection.pragma("synchronous")
        except apsw.NotADBError as exc:
            raise StoreUnavailable(f"{self.path} is no SQLite database. Name another file.") from exc
        except apsw.CorruptError as exc:
            raise StoreUnavailable(f"{self.path} is damaged: {exc}. Restore it from a backup.") from exc
        except apsw.ReadOnlyError as exc:
            raise StoreUnavailable(
                f"{self.path} cannot be opened: {exc}. Readers too need files beside it (-wal and -shm): let this user"
                " write in its folder, or read while another process has it open."
            ) from exc
        except apsw.Error as exc:
            raise StoreUnavailable(f"{self.path} cannot be opened: {exc}. Check the path and its rights.") from exc
        if (mode, synchronous) != ("wal", 2):
            raise UnsafeStore(
                f"{self.path} would run with journal_mode={mode} and synchronous={synchronous}, not WAL and FULL:"
                " what it acknowledges could be lost. Put the file where WAL works."
            )
        return connection

    def _connect_writer(self) -> apsw.Connection:
        writer = self._connect()
        writer.set_busy_handler(_wait_on)
        _waits.since = monotonic()  # for what is read over it now
        return writer

    @contextmanager
    def _reader(self) -> Iterator[apsw.Connection]:
        self._require_usable()
        try:
            connection = self._readers.pop()
        except IndexError:
            connection = self._connect()
        try:
            yield connection
        except apsw.Error as exc:
            with suppress(apsw.Error):
                connection.close()
            raise StoreUnavailable(f"{self.path} cannot be read: {exc}. See `runfold db status`.") from exc
        except BaseException:
            connection.close()
            raise
        if self._is_closed:
            connection.close()
        else:
            self._readers.append(connection)

    def _require_usable(self) -> None:
        if self._is_closed:
            raise StoreUnavailable(f"the ledger on {self.path} was closed. Open it again.")
        if self.pid != os.getpid():
            raise StoreUnavailable(
                f"{self.path} was opened before a fork: SQLite's locks do not survive it. {_FORK_FIRST}"
            )

    def _applied(self, connection: apsw.Connection) -> dict[int, tuple[str, str]]:
        tables, is_ledger = connection.execute(_TABLES).get  # at once: another process may be migrating
        if not is_ledger:
            if tables:
                raise SchemaMismatch(f"{self.path} is a SQLite database of something else. Name another file.")
            return {}
        return {number: (name, checksum) for number, name, checksum in connection.execute(_APPLIED)}

    # --- committing -----------------------------------------------------------------------------------------

    def _writable(self) -> apsw.Connection:
        if self._writer is None:
            self._require_usable()
            self._writer = self._connect_writer()
        elif self._writer.in_transaction:  # its thread was interrupted between two statements
            self._roll_back()
            return self._writable()
        return self._writer

    def _begin(self) -> apsw.Connection:
        writer = self._writable()
        if writer.readonly("main"):  # where BEGIN IMMEDIATE begins to read, and says nothing
            raise self._not_permitted()
        try:
            writer.execute("BEGIN IMMEDIATE")
        except apsw.BusyError as exc:
            raise self._busy(exc) from exc
        except apsw.Error as exc:
            self._drop_writer()
            raise StoreUnavailable(f"{self.path} cannot be written: {exc}. Nothing was written.") from exc
        return writer

    def _not_permitted(self) -> NotPermitted:
        return NotPermitted(
            f"{self.path} may be read by this user and not written. Nothing was written. Ask its owner for"
            " the right to write the file and its folder."
        )

    def _busy(self, cause: apsw.BusyError) -> StoreBusy:
        error = StoreBusy(
            f"{self.path} stayed locked by another process for {limits.BUSY_TIMEOUT_S:.0f} s; nothing was written."
            " Try again, or find out who holds it."
        )
        error.__cause__ = cause
        return error

    def _roll_back(self) -> None:
        """Undo the transaction; a connection that cannot even do that is dropped, and the file undoes it."""
        if self._writer is not None:
            try:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
            except apsw.Error:
                self._drop_writer()

    def _drop_writer(self) -> None:
        if self._writer is not None:
            with suppress(apsw.Error):
                self._writer.close(True)
            self._writer = None

    def _empty_log(self) -> None:
        """Empty the write-ahead log, which has the bytes of what was erased, unless somebody uses it right now.

        Nobody is waited for: whatever writes next goes over them, and the last one to close the file takes the log
        away.
        """
        with self._group.alone(), suppress(LedgerError, apsw.Error):
            writer = self._writable()
            try:
                writer.set_busy_handler(None)
                writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                writer.set_busy_handler(_wait_on)

    def _commit_group(self, requests: Sequence[AppendRequest]) -> Sequence[Appended | Exception]:
        if len(requests) == 1:
            appended = self._append_at_once(requests[0])
            if appended is not None:
                return [appended]
        connection = self._begin()
        try:
            results = _apply(connection, requests)
        except apsw.ConstraintError:
            self._roll_back()
            if len(requests) > 1:  # one of them repeats an event id: rare, so let each stand alone
                return [result for request in requests for result in self._commit_group([request])]
            return [self._classify(requests[0])]
        except apsw.Error as exc:
            self._roll_back()
            raise StoreUnavailable(f"{self.path} cannot be written: {exc}. Nothing was written.") from exc
        except BaseException:
            self._roll_back()
            raise
        try:
            connection.execute("COMMIT")
        except apsw.Error as exc:
            self._drop_writer()
            return [_unknown(request, exc) for request in requests]
        for request, result in zip(requests, results, strict=True):
            if isinstance(result, Appended) and not result.is_duplicate:
                self._heads.learn(request, result.version)
        return results

    def _append_at_once(self, request: AppendRequest) -> Appended | Exception | None:
        """Append one event in one statement, which is its own transaction; None when that is not the way.

        It decides inside the insert; when that is refused, the long way finds out why.
        """
        run_id, condition, event = request.run_id, request.condition, request.events[0]
        if len(request.events) > 1 or request.claims:
            return None
        event_id, kind, envelope, payload, salt, closes, fence, epoch = event
        places = self._heads.places([request])
        row: tuple[str | int | bytes | None, ...]
        if places is not None:
            statement: str = _INSERT_INTO
            row = (run_id, places[0] + 1, event_id, kind, envelope, payload, salt, closes, fence, epoch)
        elif condition.rule is Rule.UNLESS_CLOSED and not closes:
            statement = _UNLESS_CLOSED
            row = (run_id, event_id, kind, envelope, payload, salt, fence, epoch, condition.fence, condition.epoch)
        elif condition.rule is Rule.EXACTLY:
            statement = _EXACTLY
            row = (run_id, event_id, kind, envelope, payload, salt, fence, epoch, condition.version, closes)
        else:
            return None
        connection = self._writable()
        try:
            version = connection.execute(statement, row).get
        except apsw.ConstraintError:
            self._heads.missed([request])
            return None
        except apsw.BusyError as exc:  # it has waited its time: the long way would wait as long again
            self._heads.missed([request])
            return self._busy(exc)
        except apsw.ReadOnlyError:
            self._heads.missed([request])
            return self._not_permitted()
        except apsw.Error as exc:
            self._heads.missed([request])
            self._drop_writer()
            return _unknown(request, exc)
        if places is not None:
            version = places[0] + 1
        else:
            self._heads.learn(request, version)
        return Appended(run_id, version, (connection.last_insert_rowid(),))

    def _classify(self, request: AppendRequest) -> Appended | Exception:
        """Tell what a constraint refused: the guard passed, so it can only be an event id."""
        connection = self._begin()
        try:
            duplicate = _duplicate(connection, request)
        except LedgerError as error:
            return error
        finally:
            self._roll_back()
        return duplicate or EventIdReused(event_id=request.events[0].event_id)


class SqliteTurn:
    """A transaction that holds the file's write lock."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self.has_erased = False

    def read_run(self, run_id: RunId, *, after_version: int, limit: int) -> Page:
        return _read_run(self._connection, run_id, after_version=after_version, limit=limit)

    def append(self, request: AppendRequest) -> Appended:
        duplicate = _duplicate(self._connection, request)
        if duplicate is not None:
            return duplicate
        try:
            result = _apply(self._connection, [request])[0]
        except apsw.ConstraintError as exc:  # the guard passed and no id is there: two of the request's own are one
            raise EventIdReused(event_id=request.events[0].event_id) from exc
        if isinstance(result, Exception):
            raise result
        return result

    def append_all(self, requests: Sequence[AppendRequest]) -> list[Appended]:
        """Append requests without keys and with new event ids, each after the version that its condition names.

        Whoever holds the lock knows that the conditions hold; the unique index would refuse, were it wrong.
        """
        position = _insert(self._connection, [(0, request, request.condition.version) for request in requests])
        places = []
        for request in requests:
            count = len(request.events)
            places.append(
                Appended(request.run_id, request.condition.version + count, range(position, position + count))
            )
            position += count
        return places

    def erase(self, run_id: RunId, *, after_version: int, up_to: int, limit: int) -> int:
        limit = min(limit, up_to - after_version)
        end = after_version + _fitting(self._connection, _RUN_SIZE, (run_id, after_version), limit)
        self._connection.execute(_ERASE, (run_id, after_version, end))
        self.has_erased = self.has_erased or self._connection.changes() > 0
        return end


_ERASE: Final = """
UPDATE events
SET payload = NULL, salt = NULL
WHERE run_id = ?
    AND version > ?
    AND version <= ?
    AND payload IS NOT NULL
"""


def _to_wal(connection: apsw.Connection) -> None:
    """Turn a new file to WAL. Of processes that do so at once all but one are told it is locked, past the handler."""
    for tries in itertools.count():
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except apsw.BusyError:
            if not _wait_for_turn(tries):
                raise
        else:
            return


_PRAGMAS: Final = (
    "PRAGMA synchronous = FULL",
    "PRAGMA secure_delete = ON",  # what a purge erases is overwritten in the file, not only forgotten
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    "PRAGMA mmap_size = 0",  # a mapped file turns a damaged log page into damage elsewhere, and made scans no faster
    "PRAGMA journal_size_limit = 67108864",
)

_TABLES: Final = "SELECT count(*), count(*) FILTER (WHERE name = 'schema_migrations') FROM sqlite_schema"
_APPLIED: Final = "SELECT number, name, checksum FROM schema_migrations"
_APPLIED_AT: Final = "SELECT number, applied_at FROM schema_migrations"
_RECORD_MIGRATION: Final = "INSERT INTO schema_migrations (number, name, checksum, applied_at) VALUES (?, ?, ?, ?)"


def _identity(migration: Migration) -> tuple[int, str, str]:
    return migration.number, migration.name, migration.checksum


def _has_migrations(connection: apsw.Connection) -> bool:
    return bool(connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'schema_migrations'").get)


_GUARD: Final = """
SELECT
    coalesce((SELECT version FROM events WHERE run_id = ?1 ORDER BY version DESC LIMIT 1), 0),
    coalesce((SELECT version FROM events WHERE run_id = ?1 AND closes = 1), 0)
"""
_EPOCH: Final = "SELECT coalesce(max(fence_epoch), 0) FROM events WHERE run_id = ? AND fence = ?"
_INSERT_INTO: Final = """
INSERT INTO events (run_id, version, event_id, type, envelope, payload, salt, closes, fence, fence_epoch)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_INSERT_ROWS: Final = {
    count: _INSERT_INTO + ", (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)" * (count - 1) for count in (64, 16, 4, 1)
}
"""Many rows a statement: each statement hands the interpreter to another thread and has to wait to get it back."""
# The version is NULL when the condition does not hold, and the column refuses that. As INSERT … SELECT the same took
# 100 us longer: reading the table that is written makes SQLite put the row into a temporary table first.
_EXACTLY: Final = """
INSERT INTO events (run_id, version, event_id, type, envelope, payload, salt, closes, fence, fence_epoch)
VALUES (
    ?1, (SELECT version + 1 FROM events WHERE run_id = ?1 AND version = ?9), ?2, ?3, ?4, ?5, ?6, ?10, ?7, ?8
)
RETURNING version
"""
_UNLESS_CLOSED: Final = """
INSERT INTO events (run_id, version, event_id, type, envelope, payload, salt, closes, fence, fence_epoch)
VALUES (
    ?1,
    (
        SELECT version + 1
        FROM events
        WHERE run_id = ?1
            AND NOT EXISTS (SELECT 1 FROM events WHERE run_id = ?1 AND closes = 1)
            AND NOT EXISTS (SELECT 1 FROM events WHERE run_id = ?1 AND fence = ?9 AND fence_epoch > ?10)
        ORDER BY version DESC
        LIMIT 1
    ),
    ?2, ?3, ?4, ?5, ?6, 0, ?7, ?8
)
RETURNING version
"""
_KEY: Final = "SELECT run_id, fingerprint FROM keys WHERE space = ? AND project = ? AND key = ?"
_CLAIM: Final = "INSERT INTO keys (space, project, key, run_id, fingerprint, until_closed) VALUES (?, ?, ?, ?, ?, ?)"


@dataclass(slots=True)
class _Head:
    """Where a stream stands inside the transaction."""

    version: int
    closed_version: int
    epochs: dict[str, int] = field(default_factory=dict)


def _apply(connection: apsw.Connection, requests: Sequence[AppendRequest]) -> list[Appended | Exception]:
    """Append requests inside the transaction, each on top of those before; a refused one is told and wrote nothing."""
    heads: dict[RunId, _Head] = {}
    accepted: list[tuple[int, AppendRequest, int]] = []
    results: list[Appended | Exception] = []
    for index, request in enumerate(requests):
        head = heads.get(request.run_id) or heads.setdefault(request.run_id, _head(connection, request.run_id))
        refusal = _refusal(connection, request, head)
        if refusal is not None:
            results.append(_repeated(connection, request, refusal))
            continue
        results.append(_PENDING)
        accepted.append((index, request, head.version))
        _advance(connection, request, head)
    position = _insert(connection, accepted)
    for index, request, version in accepted:
        count = len(request.events)
        results[index] = Appended(request.run_id, version + count, range(position, position + count))
        position += count
    return results


_PENDING: Final = InvariantBroken("an append was accepted and not written")


def _head(connection: apsw.Connection, run_id: RunId) -> _Head:
    return _Head(*connection.execute(_GUARD, (run_id,)).get)


def _advance(connection: apsw.Connection, request: AppendRequest, head: _Head) -> None:
    """Move a stream's head over an accepted append, and take keys."""
    for number, event in enumerate(request.events, head.version + 1):
        if event.closes:
            head.closed_version = number
        if event.fence is not None:
            head.epochs[event.fence] = max(
                event.fence_epoch or 0, _epoch(connection, request.run_id, event.fence, head)
            )
    head.version += len(request.events)
    for claim in request.claims:
        row = (claim.space, claim.project, claim.key, request.run_id, claim.fingerprint, claim.until_closed)
        connection.execute(_CLAIM, row)


def _epoch(connection: apsw.Connection, run_id: RunId, fence: str, head: _Head) -> int:
    if fence not in head.epochs:
        head.epochs[fence] = connection.execute(_EPOCH, (run_id, fence)).get
    return head.epochs[fence]


def _insert(connection: apsw.Connection, accepted: Sequence[tuple[int, AppendRequest, int]]) -> int:
    """Insert the events of all accepted appends in order and give the position of the first."""
    rows = [
        (request.run_id, number, event_id, kind, envelope, payload, salt, closes, fence, epoch)
        for _, request, version in accepted
        for number, (event_id, kind, envelope, payload, salt, closes, fence, epoch) in enumerate(
            request.events, version + 1
        )
    ]
    start = 0
    for size, statement in _INSERT_ROWS.items():
        while len(rows) - start >= size:
            chunk = rows[start : start + size]
            connection.execute(statement, chunk[0] if size == 1 else [*chain.from_iterable(chunk)])
            start += size
    return connection.last_insert_rowid() - len(rows) + 1


def _refusal(connection: apsw.Connection, request: AppendRequest, head: _Head) -> LedgerError | None:
    run_id, condition, version = request.run_id, request.condition, head.version
    rule = condition.rule
    if rule is Rule.UNLESS_CLOSED or rule is Rule.EXISTS:
        if version == 0:
            return RunNotFound(run_id)
    elif rule is not Rule.ANY:
        expected = condition.version if rule is Rule.EXACTLY else 0
        if version != expected:
            return VersionConflict(run_id=run_id, expected_version=expected, version=version)
    if head.closed_version and (rule is Rule.UNLESS_CLOSED or any(event.closes for event in request.events)):
        return RunClosed(run_id=run_id, closed_version=head.closed_version)
    if rule is Rule.EXISTS and _epoch(connection, run_id, PURGE_FENCE, head):
        return RunPurged(run_id=run_id)
    if condition.fence is not None:
        newest = _epoch(connection, run_id, condition.fence, head)
        if newest > condition.epoch:
            return ShardSuperseded(run_id=run_id, fence=condition.fence, attempt=condition.epoch, newest_attempt=newest)
    return _taken(connection, request)


def _repeated(connection: apsw.Connection, request: AppendRequest, refusal: LedgerError) -> Appended | Exception:
    """Give the first places of a refused append if it only repeats one; else the refusal."""
    try:
        return _duplicate(connection, request) or refusal
    except EventIdReused as error:
        return error


def _taken(connection: apsw.Connection, request: AppendRequest) -> KeyTaken | None:
    for claim in request.claims:
        held = connection.execute(_KEY, (claim.space, claim.project, claim.key)).get
        if held is not None:
            return KeyTaken(claim=claim, run_id=held[0], fingerprint=held[1])
    return None


_EVENT: Final = "SELECT run_id, version, position, type, payload FROM events WHERE event_id = ?"


def _duplicate(connection: apsw.Connection, request: AppendRequest) -> Appended | None:
    """Give the first places of an append that is repeated; None when none of its ids is in the log.

    Raises:
        EventIdReused: when only some are, or they stand for something else.
    """
    rows = [connection.execute(_EVENT, (event.event_id,)).get for event in request.events]
    found = [row for row in rows if row is not None]
    if not found:
        return None
    first_version = found[0][1]
    for index, (row, event) in enumerate(zip(rows, request.events, strict=True)):
        is_same = (
            row is not None
            and row[0] == request.run_id
            and row[1] == first_version + index
            and row[3] == event.type
            and (row[4] is None or row[4] == event.payload)  # an erased payload cannot be compared any more
        )
        if not is_same:
            raise EventIdReused(event_id=event.event_id)
    return Appended(request.run_id, rows[-1][1], [row[2] for row in rows], True)


# A page is joined to one JSON array by the database: measured 1.4 times as fast as handing over row by row.
_LOG_PAGE: Final = """
SELECT
    CAST('[' || group_concat(
        '[' || position || ',' || version || ',' || CAST(envelope AS TEXT) || ','
        || coalesce(CAST(payload AS TEXT), 'null') || ']',
        ','
    ) || ']' AS BLOB),
    count(*),
    max(position)
FROM (
    SELECT position, version, envelope, payload
    FROM events
    WHERE position > ?
    ORDER BY position
    LIMIT ?
)
"""
_RUN_PAGE: Final = """
SELECT
    CAST('[' || group_concat(
        '[' || position || ',' || version || ',' || CAST(envelope AS TEXT) || ','
        || coalesce(CAST(payload AS TEXT), 'null') || ']',
        ','
    ) || ']' AS BLOB),
    count(*),
    max(position)
FROM (
    SELECT position, version, envelope, payload
    FROM events
    WHERE run_id = ? AND version > ?
    ORDER BY version
    LIMIT ?
)
"""
_LOG_SIZE: Final = """
SELECT sum(length(envelope) + coalesce(length(payload), 0))
FROM (SELECT envelope, payload FROM events WHERE position > ? ORDER BY position LIMIT ?)
"""
_RUN_SIZE: Final = """
SELECT sum(length(envelope) + coalesce(length(payload), 0))
FROM (SELECT envelope, payload FROM events WHERE run_id = ? AND version > ? ORDER BY version LIMIT ?)
"""
_HEAD: Final = "SELECT max(position) FROM events"


def _read_run(connection: apsw.Connection, run_id: RunId, *, after_version: int, limit: int) -> Page:
    limit = _fitting(connection, _RUN_SIZE, (run_id, after_version), limit)
    joined, count, last = connection.execute(_RUN_PAGE, (run_id, after_version, limit)).get
    return Page((joined,), count, last, more=count == limit) if count else Page((), 0, 0)


def _fitting(connection: apsw.Connection, sizes: str, after: tuple[int | str, ...], limit: int) -> int:
    """Give how many events fit into a page: lengths stand in the rows' heads, so adding them up reads no payload."""
    while limit > 1 and (connection.execute(sizes, (*after, limit)).get or 0) > limits.PAGE_BYTES_MAX:
        limit //= 2
    return limit


def _unknown(request: AppendRequest, cause: BaseException) -> OutcomeUnknown:
    error = OutcomeUnknown(event_ids=[event.event_id for event in request.events], request=request)
    error.__cause__ = cause
    return error


def require_safe_library(version: str) -> None:
    """Refuse a SQLite library that can lose commits when a checkpoint meets a writer.

    Args:
        version: Of the library, such as `3.54.1`.

    Raises:
        UnsafeStore: when it has the WAL-reset bug.

    Source: the change log of SQLite 3.51.3, 2026-03-13; 3.50.7 and 3.44.6 carry the fix, 3.52.0 was withdrawn.
    """
    major, minor, patch = (int(part) for part in (*version.split("."), "0", "0")[:3])
    is_safe = {(3, 44): patch >= 6, (3, 50): patch >= 7, (3, 51): patch >= 3, (3, 52): patch >= 1}.get(
        (major, minor), (major, minor) > (3, 52)
    )
    if not is_safe:
        raise UnsafeStore(
            f"SQLite {version} has the WAL-reset bug, which can lose committed events. Upgrade apsw: its wheel brings"
            " a SQLite of 3.51.3 or newer."
        )


_stores: "weakref.WeakSet[SqliteStore]" = weakref.WeakSet()
"""Open ones: what SQLite itself keeps for the whole process, and a fork copies."""
_FORK_FIRST: Final = "Fork before the ledger is opened, or close it first and open it in each process."


def _require_not_inherited(path: Path) -> None:
    inherited = {store.file for store in _stores if store.pid != os.getpid()}
    if inherited and path.exists() and _identity_of(path) in inherited:
        raise UnsafeStore(
            f"{path} was open when this process was forked, and SQLite would take the parent's locks for its own: what"
            f" is written here could be lost. {_FORK_FIRST}"
        )


def _identity_of(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _make_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise StoreUnavailable(f"{path} cannot be made: {exc}. Check the path and its rights.") from exc


_MOUNTS: Final = Path("/proc/self/mountinfo")


def _require_local(path: Path) -> None:
    """Refuse a file on a network file system: WAL needs memory that its processes share."""
    if not _MOUNTS.exists():
        return
    kind = file_system_of(path.absolute().parent.resolve(), mounts=_MOUNTS.read_text(errors="replace"))
    if kind in _NETWORK_FILE_SYSTEMS:
        raise UnsafeStore(
            f"{path} is on a network file system ({kind}), where SQLite loses data. Use a local folder, or PostgreSQL."
        )


def file_system_of(folder: Path, *, mounts: str) -> str:
    """Tell what kind of file system a folder is on; empty when no mount has it.

    Args:
        folder: Absolute, without links; it need not be there yet.
        mounts: What Linux has in /proc/self/mountinfo.

    Source: proc_pid_mountinfo(5); of mounts at one place, the last one covers the others.
    """
    kind, depth = "", 0
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        mount = Path(_ESCAPED.sub(lambda escaped: chr(int(escaped[1], 8)), before.split(" ")[4]))
        if len(mount.parts) >= depth and folder.is_relative_to(mount):
            kind, depth = after.split(" ")[0], len(mount.parts)
    return kind


_ESCAPED: Final = re.compile(r"\\([0-7]{3})")
"""How mountinfo writes what would end a field: blanks, tabs, line ends and backslashes."""


_waits = threading.local()


def _wait_for_turn(tries: int) -> bool:
    """Sleep a short random while before trying for a lock again; give up after the busy timeout."""
    if tries == 0:
        _waits.since = monotonic()
    return _wait_on(tries)


def _wait_on(tries: int) -> bool:
    """Likewise for a writer, whose time began when it asked.

    It may have waited behind other threads, who waited for the same lock: were each to wait its whole time after that,
    the last of thirty would be told after a quarter of an hour.
    """
    if monotonic() - _waits.since > limits.BUSY_TIMEOUT_S:
        return False
    time.sleep(random.uniform(0.0001, min(0.0005 * (tries + 1), 0.005)))
    return True


class _SqliteListener:
    """Wakes when another connection committed.

    `data_version` changes with every commit of another connection and costs one look at shared memory. On Linux,
    inotify tells when the write-ahead log is written, so that nothing has to look while nothing happens; the commit can
    be seen once that write is flushed, so it looks every millisecond for a while. Elsewhere it always looks every few.
    """

    def __init__(self, connection: apsw.Connection, path: Path) -> None:
        self._connection = connection
        self._connection.execute("SELECT count(*) FROM sqlite_schema").get  # noqa: B018 - makes the files exist
        self._seen = self._data_version()
        self._waker, self._wake_end = os.pipe()
        self._poll = select.poll()
        self._poll.register(self._waker, select.POLLIN)
        self._notifier = _watch(path)
        if self._notifier is not None:
            self._poll.register(self._notifier, select.POLLIN)
        self._commit_due_at = 0.0
        self._is_closed = False
        self._lock = threading.Lock()

    def wait(self, timeout_s: float) -> bool:
        deadline = monotonic() + timeout_s
        while not self._has_changed():
            left_s = deadline - monotonic()
            if left_s <= 0:
                return False
            self._sleep(left_s)
        return True

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            os.write(self._wake_end, b"x")
            with self._lock:  # the waiter is out of its sleep
                self._connection.close()
                os.close(self._waker)
                os.close(self._wake_end)
                if self._notifier is not None:
                    os.close(self._notifier)

    def _has_changed(self) -> bool:
        with self._lock:
            if self._is_closed:
                return True
            version = self._data_version()
        if version == self._seen:
            return False
        self._seen = version
        return True

    def _data_version(self) -> int:
        return int(self._connection.pragma("data_version"))

    def _sleep(self, left_s: float) -> None:
        """Sleep until it is time to look again, or to stop."""
        with self._lock:
            if self._is_closed:
                return
            if self._notifier is None:
                self._poll.poll(min(left_s, _LOOK_S) * 1000)
                return
            is_commit_due = monotonic() < self._commit_due_at
            ready = self._poll.poll((min(left_s, _LOOK_SOON_S) if is_commit_due else left_s) * 1000)
            if ready and not self._is_closed:
                os.read(self._notifier, 65_536)
                self._commit_due_at = monotonic() + _COMMIT_S


_LOOK_S: Final = 0.005
_LOOK_SOON_S: Final = 0.001
_COMMIT_S: Final = 0.05
"""How long after a write its commit is looked for in short order; a flush takes that long on a slow disk."""


def _watch(path: Path) -> int | None:
    """Watch a database's write-ahead log; None where the system cannot, or will not."""
    if sys.platform != "linux":
        return None
    try:
        from inotify_simple import INotify, flags

        notifier = INotify(nonblocking=True)
        notifier.add_watch(f"{path}-wal", flags.MODIFY)
    except OSError:
        return None  # out of watches: looking by turns still works
    descriptor = os.dup(notifier.fileno())
    notifier.close()
    return descriptor
