"""The log in one SQLite file, shared by the processes of one machine.

How it keeps the store's promises:
- Durable: WAL with synchronous=FULL; a commit that returned survives power loss. Read back at every connection.
- Order: there is one writer at a time (BEGIN IMMEDIATE), so positions are given in the order of commits, a rollback
  burns none, and whatever is visible is settled.
- Outcome: what fails before COMMIT was not written. An I/O error of COMMIT itself is `OutcomeUnknown`: measured, such
  an event can appear when the file is opened again. The connection is dropped then, never used again.
- Threads share commits (`GroupCommit`); processes take turns, with short sleeps of random length: SQLite's own busy
  handler sleeps up to 100 ms and starved single writers for 0.9 to 1.5 s where this waited 4 ms.

Differs from PostgreSQL: one machine only (a network file system is refused), every writer waits for every other, and
positions have no holes.
"""

import os
import random
import select
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import apsw

from ledger import limits
from ledger.clock import monotonic, utc_now
from ledger.errors import (
    EventIdReused,
    LedgerError,
    OutcomeUnknown,
    RunClosed,
    RunNotFound,
    SchemaMismatch,
    ShardSuperseded,
    StoreBusy,
    StoreUnavailable,
    UnsafeStore,
    VersionConflict,
)
from ledger.events import EventId, Page, RunId
from ledger.run.codec import timestamp
from ledger.store import Appended, AppendRequest, KeyTaken, Listener, Rule
from ledger.stores.group_commit import GroupCommit
from ledger.stores.migrations import (
    Migration,
    MigrationStatus,
    load_migrations,
    pending,
    require_none_pending,
)

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
        UnsafeStore: when the SQLite library has the WAL-reset bug, or the file is on a network file system.
    """

    def __init__(self, path: Path, *, migrate: bool | None = True) -> None:
        self.path = path
        self.url = f"sqlite:///{path}"
        self._pid = os.getpid()
        self._is_closed = False
        self._readers: list[apsw.Connection] = []
        self._group = GroupCommit(self._commit_group, interrupted=_unknown, requests_max=limits.GROUP_REQUESTS_MAX)
        require_safe_library(apsw.sqlite_lib_version())
        _require_local(path)
        if not migrate and not path.exists():
            raise StoreUnavailable(f"{path} does not exist: make it with `runfold db migrate --url {self.url}`.")
        if migrate:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._writer: apsw.Connection | None = self._connect()
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
        return self._group.submit(request)

    @contextmanager
    def in_turn(self, run_id: RunId) -> Iterator["_SqliteTurn"]:
        with self.writing() as connection:
            yield _SqliteTurn(connection)

    def read_run(self, run_id: RunId, *, after_version: int, limit: int) -> Page:
        with self._reader() as connection:
            return _read_run(connection, run_id, after_version=after_version, limit=limit)

    def read_log(self, *, after_position: int, limit: int, unsettled: bool = False) -> Page:
        with self._reader() as connection:
            limit = _fitting(connection, _LOG_SIZE, (after_position,), limit)
            joined, count, last = connection.execute(_LOG_PAGE, (after_position, limit)).get
            settled = connection.execute(_HEAD).get or 0
        if not count:
            return Page(b"[]", 0, after_position, settled)
        return Page(joined, count, last, settled, count == limit)

    def find(self, event_ids: Sequence[EventId]) -> dict[EventId, tuple[RunId, int, int]]:
        with self._reader() as connection:
            rows = [(event_id, connection.execute(_EVENT, (event_id,)).get) for event_id in event_ids]
        return {event_id: (row[0], row[1], row[2]) for event_id, row in rows if row is not None}

    def listen(self) -> Listener:
        return _SqliteListener(self._connect(), Path(f"{self.path}-wal"))

    def close(self) -> None:
        if self._pid != os.getpid():
            return  # closing a file here would drop the parent's locks
        with self._group.alone():
            self._is_closed = True
            for connection in [self._writer, *self._readers]:
                if connection is not None:
                    connection.close()
            self._writer = None
            self._readers.clear()

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
                for _ in connection.execute(migration.sql):
                    pass
                connection.execute(_RECORD_MIGRATION, (*_identity(migration), timestamp(utc_now())))
        return missing

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
            for pragma in _PRAGMAS:
                connection.execute(pragma)
            mode, synchronous = connection.pragma("journal_mode"), connection.pragma("synchronous")
        except apsw.NotADBError as exc:
            raise StoreUnavailable(f"{self.path} is no SQLite database. Name another file.") from exc
        except apsw.Error as exc:
            raise StoreUnavailable(f"{self.path} cannot be opened: {exc}. Check the path and its rights.") from exc
        if (mode, synchronous) != ("wal", 2):
            raise UnsafeStore(
                f"{self.path} would run with journal_mode={mode} and synchronous={synchronous}, not WAL and FULL:"
                " what it acknowledges could be lost. Put the file where WAL works."
            )
        return connection

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
        if self._pid != os.getpid():
            raise StoreUnavailable(
                f"{self.path} was opened before a fork: SQLite's locks do not survive it. Open the ledger in the child."
            )

    def _applied(self, connection: apsw.Connection) -> dict[int, tuple[str, str]]:
        if not _has_migrations(connection):
            if connection.execute("SELECT count(*) FROM sqlite_schema").get:
                raise SchemaMismatch(f"{self.path} is a SQLite database of something else. Name another file.")
            return {}
        return {number: (name, checksum) for number, name, checksum in connection.execute(_APPLIED)}

    # --- committing -----------------------------------------------------------------------------------------

    def _begin(self) -> apsw.Connection:
        if self._writer is None:
            self._require_usable()
            self._writer = self._connect()
        try:
            if self._writer.in_transaction:  # its thread was interrupted between two statements
                self._writer.execute("ROLLBACK")
            self._writer.execute("BEGIN IMMEDIATE")
        except apsw.BusyError as exc:
            raise StoreBusy(
                f"{self.path} stayed locked by another process for {limits.BUSY_TIMEOUT_S:.0f} s; nothing was written."
                " Try again, or find out who holds it."
            ) from exc
        except apsw.Error as exc:
            self._drop_writer()
            raise StoreUnavailable(f"{self.path} cannot be written: {exc}. Nothing was written.") from exc
        return self._writer

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

    def _commit_group(self, requests: Sequence[AppendRequest]) -> Sequence[Appended | Exception]:
        connection = self._begin()
        try:
            results = [_apply(connection, request) for request in requests]
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
        return results

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


class _SqliteTurn:
    """A transaction that holds the file's write lock."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def read_run(self, run_id: RunId, *, after_version: int, limit: int) -> Page:
        return _read_run(self._connection, run_id, after_version=after_version, limit=limit)

    def append(self, request: AppendRequest) -> Appended:
        result = _apply(self._connection, request)
        if isinstance(result, Exception):
            raise result
        return result


_PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    "PRAGMA mmap_size = 0",  # a mapped file turns a damaged log page into damage elsewhere, and made scans no faster
    "PRAGMA journal_size_limit = 67108864",
)

_APPLIED: Final = "SELECT number, name, checksum FROM schema_migrations"
_APPLIED_AT: Final = "SELECT number, applied_at FROM schema_migrations"
_RECORD_MIGRATION: Final = "INSERT INTO schema_migrations (number, name, checksum, applied_at) VALUES (?, ?, ?, ?)"


def _identity(migration: Migration) -> tuple[int, str, str]:
    return migration.number, migration.name, migration.checksum


def _has_migrations(connection: apsw.Connection) -> bool:
    return bool(connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'schema_migrations'").get)


_GUARD: Final = """
SELECT
    coalesce((SELECT max(version) FROM events WHERE run_id = ?1), 0),
    coalesce((SELECT version FROM events WHERE run_id = ?1 AND closes = 1), 0),
    coalesce((SELECT max(fence_epoch) FROM events WHERE run_id = ?1 AND fence = ?2), 0)
"""
_INSERT: Final = """
INSERT INTO events (run_id, version, event_id, type, envelope, payload, salt, closes, fence, fence_epoch)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_KEY: Final = "SELECT run_id, fingerprint FROM keys WHERE space = ? AND project = ? AND key = ?"
_CLAIM: Final = "INSERT INTO keys (space, project, key, run_id, fingerprint, until_closed) VALUES (?, ?, ?, ?, ?, ?)"
_GIVE_BACK: Final = "DELETE FROM keys WHERE run_id = ? AND until_closed = 1"


def _apply(connection: apsw.Connection, request: AppendRequest) -> Appended | Exception:
    """Append one request inside the transaction; a refusal is returned and wrote nothing."""
    run_id, events = request.run_id, request.events
    version, closed, epoch = connection.execute(_GUARD, (run_id, request.condition.fence)).get
    closes = any(event.closes for event in events)
    refusal = _refusal(request, version=version, closed=closed, epoch=epoch, closes=closes)
    if refusal is None and request.claims:
        refusal = _taken(connection, request)
    if refusal is not None:
        try:
            return _duplicate(connection, request) or refusal
        except EventIdReused as error:
            return error
    rows = [
        (run_id, number, event_id, kind, envelope, payload, salt, closing, fence, fence_epoch)
        for number, (event_id, kind, envelope, payload, salt, closing, fence, fence_epoch) in enumerate(
            events, version + 1
        )
    ]
    if len(rows) == 1:
        connection.execute(_INSERT, rows[0])
    else:
        connection.executemany(_INSERT, rows)
    last = connection.last_insert_rowid()
    for claim in request.claims:
        row = (claim.space, claim.project, claim.key, run_id, claim.fingerprint, claim.until_closed)
        connection.execute(_CLAIM, row)
    if closes:
        connection.execute(_GIVE_BACK, (run_id,))
    return Appended(run_id, version + len(rows), range(last - len(rows) + 1, last + 1))


def _refusal(request: AppendRequest, *, version: int, closed: int, epoch: int, closes: bool) -> LedgerError | None:
    run_id, condition = request.run_id, request.condition
    rule = condition.rule
    if rule is Rule.UNLESS_CLOSED or rule is Rule.EXISTS:
        if version == 0:
            return RunNotFound(run_id)
    elif rule is not Rule.ANY:
        expected = condition.version if rule is Rule.EXACTLY else 0
        if version != expected:
            return VersionConflict(run_id=run_id, expected_version=expected, version=version)
    if closed and (closes or rule is Rule.UNLESS_CLOSED):
        return RunClosed(run_id=run_id, closed_version=closed)
    if condition.fence is not None and epoch > condition.epoch:
        return ShardSuperseded(run_id=run_id, fence=condition.fence, attempt=condition.epoch, newest_attempt=epoch)
    return None


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
    return Page(joined, count, last, more=count == limit) if count else Page(b"[]", 0, 0)


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


def _require_local(path: Path) -> None:
    """Refuse a file on a network file system: WAL needs memory that its processes share."""
    mounts = Path("/proc/self/mountinfo")
    if not mounts.exists():
        return
    folder = path.absolute().parent.resolve()
    kind, depth = "", -1
    for line in mounts.read_text(errors="replace").splitlines():
        before, _, after = line.partition(" - ")
        mount = Path(before.split()[4].replace("\\040", " "))
        if len(mount.parts) > depth and folder.is_relative_to(mount):
            kind, depth = after.split()[0], len(mount.parts)
    if kind in _NETWORK_FILE_SYSTEMS:
        raise UnsafeStore(
            f"{path} is on a network file system ({kind}), where SQLite loses data. Use a local folder, or PostgreSQL."
        )


_waits = threading.local()


def _wait_for_turn(tries: int) -> bool:
    """Sleep a short random while before trying for the write lock again; give up after the busy timeout."""
    if tries == 0:
        _waits.since = monotonic()
    elif monotonic() - _waits.since > limits.BUSY_TIMEOUT_S:
        return False
    time.sleep(random.uniform(0.0001, min(0.0005 * (tries + 1), 0.005)))
    return True


class _SqliteListener:
    """Wakes when another connection committed.

    `data_version` changes with every commit of another connection and costs one look at shared memory. On Linux,
    inotify tells when the write-ahead log is written, so that nothing has to look while nothing happens; the write
    comes a moment before the commit is visible, so after a wake-up it looks a few times in short order. Elsewhere it
    looks every few milliseconds.
    """

    def __init__(self, connection: apsw.Connection, wal: Path) -> None:
        self._connection = connection
        self._connection.execute("SELECT count(*) FROM sqlite_schema").get  # noqa: B018 - makes the log's file exist
        self._seen = self._data_version()
        self._waker, self._wake_end = os.pipe()
        self._poll = select.poll()
        self._poll.register(self._waker, select.POLLIN)
        self._notifier = _watch(wal)
        if self._notifier is not None:
            self._poll.register(self._notifier, select.POLLIN)
        self._is_closed = False
        self._lock = threading.Lock()

    def wait(self, timeout_s: float) -> None:
        deadline = monotonic() + timeout_s
        while not self._has_changed():
            left = deadline - monotonic()
            if left <= 0 or not self._sleep(left):
                return

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

    def _sleep(self, left_s: float) -> bool:
        """Sleep until something may have happened; False when closed or the time is over."""
        with self._lock:
            if self._is_closed:
                return False
            if self._notifier is None:
                ready = self._poll.poll(min(left_s * 1000, 5))
                return not ready and left_s > 0.005
            ready = self._poll.poll(left_s * 1000)
            if self._is_closed or not ready:
                return False
            os.read(self._notifier, 65_536)
            for pause_s in (0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.005, 0.005, 0.01):
                if self._data_version() != self._seen:
                    break
                time.sleep(pause_s)
        return True


def _watch(wal: Path) -> int | None:
    """Watch a file for writes; None where the system cannot, or will not."""
    if sys.platform != "linux":
        return None
    try:
        from inotify_simple import INotify, flags

        notifier = INotify(nonblocking=True)
        notifier.add_watch(str(wal), flags.MODIFY)
    except OSError:
        return None  # out of watches: looking by turns still works
    descriptor = os.dup(notifier.fileno())
    notifier.close()
    return descriptor
