"""The log in PostgreSQL, shared by many machines. PostgreSQL 14 and up.

How it keeps the store's promises:
- Durable: refused unless fsync and full_page_writes are on and synchronous_commit is at least `on`; read back at
  every connection. A synchronous replication that was given up during a commit only warns: that is `OutcomeUnknown`.
- Versions are given under a lock of the run, taken in the append's one statement, so siblings never conflict.
- Order: writers of different runs never wait for each other; readers stop at the settled position. The argument
  stands in `schema/postgres/0001_log.sql`, above `mark_writer`.
- Outcome: a connection that breaks while an append is on its way leaves it unknown; any error that the server
  answered with means that nothing was written.
- Threads share commits (`GroupCommit`): one statement appends one event each for many of them, in the order of the
  runs' locks, so that two groups never wait for each other in a circle.
- Wake-ups are hints, sent from a connection of their own and only while somebody listens: NOTIFY inside the append
  takes a lock of the whole server at commit and cost half of the throughput.

Differs from SQLite: positions have holes, and events can be visible before they are settled.
"""

import os
import select
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Final, LiteralString, NoReturn, TypeVar
from uuid import UUID

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from ledger import limits
from ledger.clock import monotonic, utc_now
from ledger.errors import (
    EventIdReused,
    LedgerError,
    NotPermitted,
    OutcomeUnknown,
    RunClosed,
    RunNotFound,
    RunPurged,
    ShardSuperseded,
    StoreBusy,
    StoreReadOnly,
    StoreUnavailable,
    UnsafeStore,
    VersionConflict,
)
from ledger.events import EventId, Page, RunId, join_page
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
from ledger.stores.postgres_consumers import PostgresConsumers
from ledger.stores.postgres_roles import Duty, Grant, grants, kept_grants
from ledger.stores.postgres_tasks import PostgresTasks

_SERVER_VERSION_MIN: Final = 140_000
_CONNECTIONS_MAX: Final = 10
_CONNECT_TIMEOUT_S: Final = 10
_GROUP_REQUESTS_MAX: Final = 64
"""Each request of a group holds two locks of the server's lock table until the group's commit."""
_COPY_EVENTS_MIN: Final = 200
"""From how many events on COPY beats one INSERT of arrays."""
_KEY_RACES_MAX: Final = 10
"""How often an append whose key another transaction took in that moment looks again for who has it."""


class _Connection(psycopg.Connection[TupleRow]):
    """A connection that remembers when a commit was acknowledged without its standby."""

    has_lost_standby = False


class PostgresStore:
    """A log in a PostgreSQL database, in its schema `runfold`.

    Args:
        url: `postgresql://user@host:port/database`; everything that libpq takes goes.
        migrate: Whether to bring the tables up to this release first; None takes them as they are, for whoever looks
            after them.

    Raises:
        StoreUnavailable: when the server cannot be reached.
        SchemaMismatch: when the tables are not those of this release.
        UnsafeStore: when the server would not keep what it acknowledges, or is too old.
    """

    def __init__(self, url: str, *, migrate: bool | None = False) -> None:
        self.url = _without_password(url)
        self._pid = os.getpid()
        self._conninfo = make_conninfo(url, application_name="runfold", connect_timeout=_CONNECT_TIMEOUT_S)
        self._is_closed = False
        # one clear error now, where a pool would try on for a while
        self._kept: _Connection | None = _connect_leader(self._conninfo, self.url)
        self._pool: ConnectionPool[_Connection] = ConnectionPool(
            self._conninfo,
            connection_class=_Connection,
            kwargs={"autocommit": True},
            configure=_configure,
            min_size=1,
            max_size=_CONNECTIONS_MAX,
            timeout=_CONNECT_TIMEOUT_S,
            open=True,
            name="runfold",
        )
        self._group = GroupCommit(self._commit_group, interrupted=_unknown, requests_max=_GROUP_REQUESTS_MAX)
        self._heads = Heads()
        self._hints = _Hints(lambda: _connect(self._conninfo, self.url))
        try:
            missing = pending(load_migrations("postgres"), self._applied())
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
        if len(request.events) == 1 and not request.claims:
            appended = self._group.submit(request)
        else:
            appended = self._append_apart(request)
        self._hints.give()
        return appended

    def append_all(self, requests: Sequence[AppendRequest]) -> list[Appended | Exception]:
        self._require_usable()
        results = self._group.submit_all(requests)
        self._hints.give()
        return results

    @contextmanager
    def in_turn(self, run_id: RunId) -> Iterator["PostgresTurn"]:
        with self.turns() as (connection, turn):
            connection.execute("SELECT runfold.take_turn(%s)", (run_id,), prepare=True)
            yield turn

    def read_run(self, run_id: RunId, *, after_version: int, limit: int) -> Page:
        with self._connection() as connection:
            return _read_run(connection, run_id, after_version=after_version, limit=limit)

    def read_log(self, *, after_position: int, limit: int, unsettled: bool = False) -> Page:
        with self._connection() as connection:
            given, settled = _one(connection, _SETTLED, ())
            last = given if unsettled else settled
            if last <= after_position:
                return Page((), 0, after_position, settled)
            # a later statement, so a later snapshot than the one that the settled position was taken from
            until = 2**63 - 1 if unsettled else settled
            limit = _fitting(connection, _LOG_SIZE, (after_position, until), limit)
            rows = connection.execute(_LOG_PAGE, (after_position, until, limit), prepare=True, binary=True).fetchall()
        if not rows:
            return Page((), 0, after_position, settled)
        return Page(join_page(rows), len(rows), rows[-1][0], settled, len(rows) == limit)

    def find(self, event_ids: Sequence[EventId]) -> dict[EventId, tuple[RunId, int, int]]:
        with self._connection() as connection:
            found = _find(connection, event_ids)
        return {event_id: (RunId(row[1]), row[2], row[3]) for event_id, row in found.items()}

    def key_holder(self, *, space: str, project: str, key: str) -> RunId | None:
        with self._connection() as connection:
            held = connection.execute(_KEY, (space, project, key), prepare=True).fetchone()
        return None if held is None else RunId(held[0])

    @property
    def tasks(self) -> PostgresTasks:
        return PostgresTasks(self)

    @property
    def consumers(self) -> PostgresConsumers:
        return PostgresConsumers(self)

    def listen(self) -> Listener:
        self._require_usable()
        return _PostgresListener(lambda: _connect(self._conninfo, self.url))

    def close(self) -> None:
        if self._pid != os.getpid():
            return  # these sockets are the parent's
        with self._group.alone():
            self._is_closed = True
            if self._kept is not None:
                self._kept.close()
        self._hints.close()
        self._pool.close()

    @contextmanager
    def turns(self) -> Iterator[tuple["_Connection", "PostgresTurn"]]:
        """Give a transaction for appends whose runs' locks the block takes itself; it commits when the block ends."""
        with self._connection() as connection:
            turn = PostgresTurn(connection)
            with _committing(connection, turn.requests, self.url), connection.transaction():
                yield connection, turn
        if turn.requests:
            self._hints.give()

    @contextmanager
    def committing(self) -> Iterator[tuple["_Connection", Heads]]:
        """Give the connection of whoever commits for the group, for one statement that is its own transaction, and what
        it knows of streams."""
        self._require_usable()
        with self._group.alone(), self._leading() as connection:
            yield connection, self._heads

    def hint(self) -> None:
        """Wake those who wait for events, after the block of `committing` appended some."""
        self._hints.give()

    # --- for projections and for the command line -----------------------------------------------------------

    @contextmanager
    def session(self) -> Iterator[psycopg.Connection[TupleRow]]:
        """Give a connection outside of any transaction: for single statements, and for a lock that a session holds."""
        with self._connection() as connection:
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection[TupleRow]]:
        """Give a connection inside a READ COMMITTED transaction that commits when the block ends."""
        with self._connection() as connection:
            try:
                with connection.transaction():
                    yield connection
            except psycopg.Error as exc:
                _refuse(exc, self.url)

    def migrate(self) -> list[Migration]:
        """Apply what is missing, all or nothing; a second caller waits for the first.

        Returns:
            What was applied.
        """
        with self.transaction() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(82, 0)")
            connection.execute("CREATE SCHEMA IF NOT EXISTS runfold")
            connection.execute(_MIGRATIONS_TABLE)
            missing = pending(load_migrations("postgres"), _applied(connection))
            for migration in missing:
                connection.execute(migration.sql.encode())
                row = (migration.number, migration.name, migration.checksum, timestamp(utc_now()))
                connection.execute(_RECORD_MIGRATION, row)
            if missing:
                _execute(connection, kept_grants(connection))  # what a migration made is for the same roles
        return missing

    def grant_roles(self, names: Mapping[Duty, str], *, dry_run: bool = False) -> list[Grant]:
        """Give roles what their duties need and nothing more; see `ledger.stores.postgres_roles`.

        Args:
            names: Of the roles whose names are not to be those that they have, or the default.
            dry_run: Only tell which statements would do it.

        Raises:
            NotPermitted: when this user does not own the tables, or may not make roles.
            InvalidInput: when a name is none, or of a role that privileges do not bind.
        """
        with self.transaction() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(82, 0)")
            applied = _applied(connection) if _has_tables(connection) else {}
            require_none_pending(pending(load_migrations("postgres"), applied), url=self.url)
            found = grants(connection, names)
            if not dry_run:
                _execute(connection, found)
        return found

    def migration_status(self) -> list[MigrationStatus]:
        """Tell which migrations of this release the database has."""
        with self._connection() as connection:
            applied = {row[0]: row[1] for row in connection.execute(_APPLIED_AT)} if _has_tables(connection) else {}
        return [MigrationStatus(migration, applied.get(migration.number)) for migration in load_migrations("postgres")]

    # --- connections ----------------------------------------------------------------------------------------

    @contextmanager
    def _connection(self) -> Iterator[_Connection]:
        self._require_usable()
        try:
            connection = self._pool.getconn()
        except PoolTimeout as exc:
            raise StoreUnavailable(
                f"{self.url} gave no connection within {_CONNECT_TIMEOUT_S} s; nothing was written. Check that the"
                " server runs and has connections to spare, and try again."
            ) from exc
        except PoolClosed as exc:
            raise StoreUnavailable(f"the ledger on {self.url} was closed. Open it again.") from exc
        try:
            yield connection
        except psycopg.Error as exc:
            _refuse(exc, self.url)
        finally:
            self._pool.putconn(connection)

    @contextmanager
    def _leading(self) -> Iterator[_Connection]:
        """Give the connection of whoever commits for the group; there is one at a time, so it is kept."""
        connection, self._kept = self._kept, None
        try:
            connection = connection or _connect_leader(self._conninfo, self.url)
            yield connection
        except psycopg.Error as exc:
            _refuse(exc, self.url)
        finally:
            if connection is not None and not connection.closed:
                if connection.info.transaction_status == TransactionStatus.IDLE and not self._is_closed:
                    self._kept = connection
                else:
                    connection.close()

    def _require_usable(self) -> None:
        if self._is_closed:
            raise StoreUnavailable(f"the ledger on {self.url} was closed. Open it again.")
        if self._pid != os.getpid():
            raise StoreUnavailable(
                f"{self.url} was opened before a fork: a connection has one owner. Open the ledger in the child."
            )

    def _applied(self) -> dict[int, tuple[str, str]]:
        with self._connection() as connection:
            return _applied(connection) if _has_tables(connection) else {}

    # --- committing -----------------------------------------------------------------------------------------

    def _commit_group(self, requests: Sequence[AppendRequest]) -> Sequence[Appended | Exception]:
        """Append one event for each request, in one statement that is its own transaction."""
        order = sorted(range(len(requests)), key=lambda index: _turn(requests[index].run_id))
        ordered = [requests[index] for index in order]
        places = self._heads.places(ordered)
        try:
            if places is not None:
                straight = self._append_straight(ordered, places)
                if straight is not None:
                    return _in_order(order, straight)
            with self._leading() as connection, _committing(connection, ordered, self.url):
                if len(ordered) == 1:
                    rows = connection.execute(_APPEND_ONE, _arguments(ordered[0]), prepare=True).fetchall()
                else:
                    columns = [list(column) for column in zip(*map(_arguments, ordered), strict=True)]
                    rows = connection.execute(_APPEND_GROUP, columns, prepare=True).fetchall()
                results = [
                    _appended(request, row)
                    if row[0] == "ok"
                    else _duplicate(connection, request) or _refusal(request, row)
                    for request, row in zip(ordered, rows, strict=True)
                ]
        except psycopg.errors.UniqueViolation:
            if len(requests) > 1:  # one of them repeats an event id: rare, so let each stand alone
                return [result for request in requests for result in self._commit_group([request])]
            return [self._classify(requests[0])]
        except (OutcomeUnknown, StoreUnavailable, NotPermitted) as error:
            return [_for_request(error, request) for request in requests]
        for request, result in zip(ordered, results, strict=True):
            if isinstance(result, Appended) and not result.is_duplicate:
                self._heads.learn(request, result.version)
        return _in_order(order, results)

    def _append_straight(self, requests: Sequence[AppendRequest], places: Sequence[int]) -> list[Appended] | None:
        """Append at the versions that must be free if nobody came in between; None, and nothing written, if somebody
        did."""
        try:
            with self._leading() as connection, _committing(connection, requests, self.url):
                if len(requests) == 1:
                    rows = connection.execute(_STRAIGHT_ONE, _place(requests[0], places[0]), prepare=True).fetchall()
                else:
                    columns = [list(column) for column in zip(*map(_place, requests, places), strict=True)]
                    rows = connection.execute(_STRAIGHT_GROUP, columns, prepare=True).fetchall()
        except psycopg.errors.UniqueViolation:
            self._heads.missed(requests)
            return None
        except BaseException:
            self._heads.missed(requests)
            raise
        return [
            Appended(request.run_id, version + 1, row)
            for request, version, row in zip(requests, places, rows, strict=True)
        ]

    def _append_apart(self, request: AppendRequest) -> Appended:
        """Append several events, or one that claims keys, in a transaction of their own."""
        for _ in range(_KEY_RACES_MAX):
            try:
                with (
                    self._connection() as connection,
                    _committing(connection, [request], self.url),
                    connection.transaction(),
                ):
                    return _append(connection, request)
            except psycopg.errors.UniqueViolation as exc:
                if exc.diag.constraint_name == "keys_pkey":
                    continue  # somebody took the key since we looked; now it can be seen who
                result = self._classify(request)
                if isinstance(result, Exception):
                    raise result from None
                return result
        raise StoreBusy(f"a key of run {request.run_id} changed hands {_KEY_RACES_MAX} times; nothing was written.")

    def _classify(self, request: AppendRequest) -> Appended | Exception:
        """Tell what a unique index refused: the guard passed, so it can only be an event id."""
        try:
            with self._connection() as connection:
                duplicate = _duplicate(connection, request)
        except LedgerError as error:
            return error
        if isinstance(duplicate, Exception):
            return duplicate
        return duplicate or EventIdReused(event_id=request.events[0].event_id)


class PostgresTurn:
    """A transaction that holds the run's lock."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self.requests: list[AppendRequest] = []

    def read_run(self, run_id: RunId, *, after_version: int, limit: int) -> Page:
        return _read_run(self._connection, run_id, after_version=after_version, limit=limit)

    def append(self, request: AppendRequest) -> Appended:
        duplicate = _duplicate(self._connection, request)
        if isinstance(duplicate, Appended):
            return duplicate
        if duplicate is not None:
            raise duplicate
        self.requests.append(request)
        try:
            return _append(self._connection, request)
        except psycopg.errors.UniqueViolation as exc:  # an id came in between, or two of the request's own are one
            raise EventIdReused(event_id=request.events[0].event_id) from exc

    def append_all(self, requests: Sequence[AppendRequest]) -> list[Appended]:
        """Append to runs whose locks this transaction holds, each after the version that its condition names.

        Whoever holds the locks knows that the conditions hold; the unique index would refuse, were it wrong.
        """
        self.requests.extend(requests)
        rows = [
            (request.run_id, number, *event)
            for request in requests
            for number, event in enumerate(request.events, request.condition.version + 1)
        ]
        columns = [list(column) for column in zip(*rows, strict=True)]
        rows_made = self._connection.execute(_INSERT_MANY, columns, prepare=True).fetchall()
        positions = iter([row[0] for row in rows_made])
        return [
            Appended(
                request.run_id,
                request.condition.version + len(request.events),
                [next(positions) for _ in request.events],
            )
            for request in requests
        ]

    def erase(self, run_id: RunId, *, after_version: int, up_to: int, limit: int) -> int:
        limit = min(limit, up_to - after_version)
        end = after_version + _fitting(self._connection, _RUN_SIZE, (run_id, after_version), limit)
        self._connection.execute(_ERASE, (run_id, after_version, end), prepare=True)
        return end


_ERASE: Final = """
UPDATE runfold.events
SET payload = NULL, salt = NULL
WHERE run_id = %s
    AND version > %s
    AND version <= %s
    AND payload IS NOT NULL
"""


_MIGRATIONS_TABLE: Final = """
CREATE TABLE IF NOT EXISTS runfold.schema_migrations (
    number     integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at text NOT NULL
)
"""
_APPLIED: Final = "SELECT number, name, checksum FROM runfold.schema_migrations"
_APPLIED_AT: Final = "SELECT number, applied_at FROM runfold.schema_migrations"
_RECORD_MIGRATION: Final = """
INSERT INTO runfold.schema_migrations (number, name, checksum, applied_at)
VALUES (%s, %s, %s, %s)
"""


def _applied(connection: psycopg.Connection[TupleRow]) -> dict[int, tuple[str, str]]:
    return {row[0]: (row[1], row[2]) for row in connection.execute(_APPLIED)}


def _execute(connection: psycopg.Connection[TupleRow], found: Sequence[Grant]) -> None:
    for grant in found:
        for statement in grant.statements:
            connection.execute(statement.encode())


def _has_tables(connection: psycopg.Connection[TupleRow]) -> bool:
    return _one(connection, "SELECT to_regclass('runfold.schema_migrations') IS NOT NULL", ())[0] is True


def _one(connection: psycopg.Connection[TupleRow], query: LiteralString, arguments: Sequence[object]) -> TupleRow:
    row = connection.execute(query, arguments, prepare=True).fetchone()
    assert row is not None
    return row


_SETTLED: Final = "SELECT given, settled FROM runfold.settled()"

_APPEND_ONE: Final = """
SELECT outcome, version, newest, position
FROM runfold.append_one(
    %s::uuid, %s, %s::bigint, %s, %s::integer,
    %s::uuid, %s, %b::bytea, %b::bytea, %b::bytea,
    %s::boolean, %s, %s::integer
)
"""
_APPEND_GROUP: Final = """
SELECT a.outcome, a.version, a.newest, a.position
FROM unnest(
    %s::uuid[], %s::text[], %s::bigint[], %s::text[], %s::integer[],
    %s::uuid[], %s::text[], %b::bytea[], %b::bytea[], %b::bytea[],
    %s::boolean[], %s::text[], %s::integer[]
) WITH ORDINALITY AS r (
    run_id, rule, version, fence, epoch,
    event_id, type, envelope, payload, salt,
    closes, raises, raises_epoch, number
)
CROSS JOIN LATERAL runfold.append_one(
    r.run_id, r.rule, r.version, r.fence, r.epoch,
    r.event_id, r.type, r.envelope, r.payload, r.salt,
    r.closes, r.raises, r.raises_epoch
) AS a
ORDER BY r.number
"""


def _arguments(request: AppendRequest) -> tuple[object, ...]:
    condition, event = request.condition, request.events[0]
    return (
        request.run_id,
        condition.rule.value,
        condition.version,
        condition.fence,
        condition.epoch,
        event.event_id,
        event.type,
        event.envelope,
        event.payload,
        event.salt,
        event.closes,
        event.fence,
        event.fence_epoch,
    )


# The run's lock is taken here too: a turn that somebody has taken is not broken into.
_STRAIGHT_ONE: Final = """
INSERT INTO runfold.events (run_id, version, event_id, type, envelope, payload, salt, closes)
SELECT %s::uuid, %s::bigint, %s::uuid, %s, %b::bytea, %b::bytea, %b::bytea, %s::boolean
FROM pg_advisory_xact_lock(82, %s::integer)
RETURNING position
"""
_STRAIGHT_GROUP: Final = """
WITH e AS MATERIALIZED (
    SELECT *
    FROM unnest(
        %s::uuid[], %s::bigint[], %s::uuid[], %s::text[], %b::bytea[], %b::bytea[], %b::bytea[], %s::boolean[],
        %s::integer[]
    ) WITH ORDINALITY AS e (run_id, version, event_id, type, envelope, payload, salt, closes, turn, number)
), turns AS MATERIALIZED (
    SELECT count(pg_advisory_xact_lock(82, turn)) AS taken
    FROM (SELECT turn FROM e GROUP BY turn ORDER BY turn) AS t
)
INSERT INTO runfold.events (run_id, version, event_id, type, envelope, payload, salt, closes)
SELECT e.run_id, e.version, e.event_id, e.type, e.envelope, e.payload, e.salt, e.closes
FROM turns
CROSS JOIN e
ORDER BY e.number
RETURNING position
"""


def _place(request: AppendRequest, version: int) -> tuple[object, ...]:
    event_id, kind, envelope, payload, salt, closes, _, _ = request.events[0]
    run_id = request.run_id
    return run_id, version + 1, event_id, kind, envelope, payload, salt, closes, _turn(run_id)


def _turn(run_id: RunId) -> int:
    """Give the key of a run's lock: the last four bytes of its id, as `runfold.take_turn` reads them."""
    unsigned = int(run_id[-8:], 16)
    return unsigned - (unsigned >> 31 << 32)


_Placed = TypeVar("_Placed", bound=Appended | Exception)


def _in_order(order: Sequence[int], results: Sequence[_Placed]) -> list[_Placed]:
    """Give results in the order in which their requests came."""
    return [result for _, result in sorted(zip(order, results, strict=True), key=lambda pair: pair[0])]


_GUARD: Final = """
SELECT outcome, version, newest
FROM runfold.guard(%s::uuid, %s, %s::bigint, %s, %s::integer, %s::boolean)
"""
_INSERT: Final = """
INSERT INTO runfold.events (run_id, version, event_id, type, envelope, payload, salt, closes, fence, fence_epoch)
SELECT %s::uuid, %s::bigint + e.number, e.event_id, e.type, e.envelope, e.payload, e.salt, e.closes, e.fence, e.epoch
FROM unnest(
    %s::uuid[], %s::text[], %b::bytea[], %b::bytea[], %b::bytea[], %s::boolean[], %s::text[], %s::integer[]
) WITH ORDINALITY AS e (event_id, type, envelope, payload, salt, closes, fence, epoch, number)
ORDER BY e.number
RETURNING position
"""
_INSERT_MANY: Final = """
INSERT INTO runfold.events (run_id, version, event_id, type, envelope, payload, salt, closes, fence, fence_epoch)
SELECT e.run_id, e.version, e.event_id, e.type, e.envelope, e.payload, e.salt, e.closes, e.fence, e.epoch
FROM unnest(
    %s::uuid[], %s::bigint[], %s::uuid[], %s::text[], %b::bytea[], %b::bytea[], %b::bytea[], %s::boolean[],
    %s::text[], %s::integer[]
) WITH ORDINALITY AS e (run_id, version, event_id, type, envelope, payload, salt, closes, fence, epoch, number)
ORDER BY e.number
RETURNING position
"""
_COPY: Final = """
COPY runfold.events (run_id, version, event_id, type, envelope, payload, salt, closes, fence, fence_epoch)
FROM STDIN (FORMAT BINARY)
"""
_COPY_TYPES: Final = ("uuid", "int8", "uuid", "text", "bytea", "bytea", "bytea", "bool", "text", "int4")
_POSITIONS: Final = "SELECT position FROM runfold.events WHERE run_id = %s AND version > %s ORDER BY version"
_KEY: Final = "SELECT run_id::text, fingerprint FROM runfold.keys WHERE space = %s AND project = %s AND key = %s"
_CLAIM: Final = """
INSERT INTO runfold.keys (space, project, key, run_id, fingerprint, until_closed)
VALUES (%s, %s, %s, %s, %s, %s)
"""


def _append(connection: _Connection, request: AppendRequest) -> Appended:
    """Append inside a transaction.

    Raises:
        LedgerError: a refusal; the caller's transaction is to be rolled back.
        psycopg.errors.UniqueViolation: an event id or a key is there already.
    """
    run_id, condition, events = request.run_id, request.condition, request.events
    closes = any(event.closes for event in events)
    row = _one(
        connection,
        _GUARD,
        (run_id, condition.rule.value, condition.version, condition.fence, condition.epoch, closes),
    )
    refusal: LedgerError | None = None if row[0] == "ok" else _refusal(request, row)
    if refusal is None:
        refusal = _taken(connection, request)
    if refusal is not None:
        duplicate = _duplicate(connection, request)
        if isinstance(duplicate, Appended):
            return duplicate
        raise duplicate or refusal
    version: int = row[1]
    positions = (
        _copy(connection, request, version)
        if len(events) >= _COPY_EVENTS_MIN
        else _insert(connection, request, version)
    )
    for claim in request.claims:
        if closes and claim.until_closed:
            continue  # the closing event would have given it back
        connection.execute(
            _CLAIM, (claim.space, claim.project, claim.key, run_id, claim.fingerprint, claim.until_closed), prepare=True
        )
    return Appended(run_id, version + len(events), positions)


def _insert(connection: _Connection, request: AppendRequest, version: int) -> list[int]:
    columns = [list(column) for column in zip(*request.events, strict=True)]
    rows = connection.execute(_INSERT, (request.run_id, version, *columns), prepare=True).fetchall()
    return [row[0] for row in rows]


def _copy(connection: _Connection, request: AppendRequest, version: int) -> list[int]:
    run = UUID(request.run_id)
    with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
        copy.set_types(_COPY_TYPES)
        for number, event in enumerate(request.events, version + 1):
            event_id, kind, envelope, payload, salt, closes, fence, epoch = event
            copy.write_row((run, number, UUID(event_id), kind, envelope, payload, salt, closes, fence, epoch))
    return [row[0] for row in connection.execute(_POSITIONS, (request.run_id, version), prepare=True)]


def _taken(connection: _Connection, request: AppendRequest) -> KeyTaken | None:
    for claim in request.claims:
        held = connection.execute(_KEY, (claim.space, claim.project, claim.key), prepare=True).fetchone()
        if held is not None:
            return KeyTaken(claim=claim, run_id=held[0], fingerprint=held[1])
    return None


def _appended(request: AppendRequest, row: TupleRow) -> Appended:
    return Appended(request.run_id, row[1], (row[3],))


def _refusal(request: AppendRequest, row: TupleRow) -> LedgerError:
    run_id, condition = request.run_id, request.condition
    outcome, version, newest = row[0], row[1], row[2]
    if outcome == "not_found":
        return RunNotFound(run_id)
    if outcome == "closed":
        return RunClosed(run_id=run_id, closed_version=newest)
    if outcome == "purged":
        return RunPurged(run_id=run_id)
    if outcome == "superseded":
        return ShardSuperseded(
            run_id=run_id, fence=condition.fence or "", attempt=condition.epoch, newest_attempt=newest
        )
    expected = condition.version if condition.rule is Rule.EXACTLY else 0
    return VersionConflict(run_id=run_id, expected_version=expected, version=version)


_FIND: Final = """
SELECT event_id::text, run_id::text, version, position, type, payload
FROM runfold.events
WHERE event_id = ANY (%s::uuid[])
"""


def _find(connection: psycopg.Connection[TupleRow], event_ids: Sequence[EventId]) -> dict[EventId, TupleRow]:
    return {EventId(row[0]): row for row in connection.execute(_FIND, (list(event_ids),), prepare=True, binary=True)}


def _duplicate(connection: _Connection, request: AppendRequest) -> Appended | EventIdReused | None:
    """Give the first places of an append that is repeated; None when none of its ids is in the log, and the error
    when only some are, or they stand for something else."""
    found = _find(connection, [event.event_id for event in request.events])
    if not found:
        return None
    rows = [found.get(event.event_id) for event in request.events]
    places: list[tuple[int, int]] = []
    for row, event in zip(rows, request.events, strict=True):
        is_same = (
            row is not None
            and row[1] == request.run_id
            and (not places or row[2] == places[-1][0] + 1)
            and row[4] == event.type
            and (row[5] is None or row[5] == event.payload)  # an erased payload cannot be compared any more
        )
        if row is None or not is_same:
            return EventIdReused(event_id=event.event_id)
        places.append((row[2], row[3]))
    _wait_for_standby(connection)
    return Appended(request.run_id, places[-1][0], [position for _, position in places], True)


def _wait_for_standby(connection: _Connection) -> None:
    """Let a synchronous standby have what is about to be acknowledged again.

    The first commit may be visible because its wait was cancelled; a plain read would acknowledge it unreplicated. A
    message in the write-ahead log waits as a commit does, and costs nothing where no standby is configured.
    """
    if _one(connection, "SELECT current_setting('synchronous_standby_names') <> ''", ())[0]:
        connection.execute("SELECT pg_logical_emit_message(true, 'runfold', 'again')")


_LOG_PAGE: Final = """
SELECT position, version, envelope, payload
FROM runfold.events
WHERE position > %s AND position <= %s
ORDER BY position
LIMIT %s
"""
_LOG_SIZE: Final = """
SELECT coalesce(sum(octet_length(envelope) + coalesce(octet_length(payload), 0)), 0)::bigint
FROM (
    SELECT envelope, payload
    FROM runfold.events
    WHERE position > %s AND position <= %s
    ORDER BY position
    LIMIT %s
) AS page
"""
_RUN_PAGE: Final = """
SELECT position, version, envelope, payload
FROM runfold.events
WHERE run_id = %s AND version > %s
ORDER BY version
LIMIT %s
"""
_RUN_SIZE: Final = """
SELECT coalesce(sum(octet_length(envelope) + coalesce(octet_length(payload), 0)), 0)::bigint
FROM (
    SELECT envelope, payload
    FROM runfold.events
    WHERE run_id = %s AND version > %s
    ORDER BY version
    LIMIT %s
) AS page
"""


def _read_run(connection: _Connection, run_id: RunId, *, after_version: int, limit: int) -> Page:
    limit = _fitting(connection, _RUN_SIZE, (run_id, after_version), limit)
    rows = connection.execute(_RUN_PAGE, (run_id, after_version, limit), prepare=True, binary=True).fetchall()
    return Page(join_page(rows), len(rows), rows[-1][0] if rows else 0, more=len(rows) == limit)


def _fitting(connection: _Connection, sizes: LiteralString, after: tuple[object, ...], limit: int) -> int:
    """Give how many events fit into a page; lengths are known without reading what is stored out of line."""
    while limit > 1 and _one(connection, sizes, (*after, limit))[0] > limits.PAGE_BYTES_MAX:
        limit //= 2
    return limit


# --- errors -------------------------------------------------------------------------------------------------------


@contextmanager
def _committing(connection: _Connection, requests: Sequence[AppendRequest], url: str) -> Iterator[None]:
    """Tell what became of a commit that went wrong: nothing was written, or nobody knows."""
    connection.has_lost_standby = False
    try:
        yield
    except psycopg.errors.UniqueViolation:
        raise
    except psycopg.Error as exc:
        if requests and (
            connection.broken or isinstance(exc, psycopg.errors.AdminShutdown | psycopg.errors.CrashShutdown)
        ):
            raise _unknown(requests[-1], exc) from exc
        _refuse(exc, url)
    if connection.has_lost_standby and requests:
        raise _unknown(requests[-1], None)


def _unknown(request: AppendRequest, cause: BaseException | None) -> OutcomeUnknown:
    error = OutcomeUnknown(event_ids=[event.event_id for event in request.events], request=request)
    error.__cause__ = cause
    return error


def _for_request(error: LedgerError, request: AppendRequest) -> LedgerError:
    if not isinstance(error, OutcomeUnknown):
        return error
    return _unknown(request, error.__cause__)


def _refuse(exc: psycopg.Error, url: str) -> NoReturn:
    if isinstance(exc, psycopg.errors.UniqueViolation):
        raise exc
    if isinstance(
        exc, psycopg.errors.LockNotAvailable | psycopg.errors.QueryCanceled | psycopg.errors.DeadlockDetected
    ):
        raise StoreBusy(f"{url} was too busy: {_line(exc)}. Nothing was written; try again.") from exc
    if isinstance(exc, psycopg.errors.ReadOnlySqlTransaction):
        raise StoreReadOnly(
            f"{url} takes no writes at present: {_line(exc)}. Nothing was written. Connect to the primary, or try again"
            " once it takes writes."
        ) from exc
    if isinstance(exc, psycopg.errors.InsufficientPrivilege):
        raise NotPermitted(
            f"{url} does not let this user do that: {_line(exc)}. Nothing was written. Connect as the tables' owner, or"
            " as a member of the role for it, of those that `runfold db roles` makes."
        ) from exc
    raise StoreUnavailable(f"{url} answered with an error: {_line(exc)}. Nothing was written; try again.") from exc


def _line(exc: BaseException) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0].rstrip(".")


def _without_password(url: str) -> str:
    try:
        parts = conninfo_to_dict(url)
    except psycopg.ProgrammingError as exc:
        raise StoreUnavailable(
            f"the PostgreSQL URL cannot be read: {_line(exc)}. Write postgresql://user@host/database."
        ) from exc
    host, port = parts.get("host") or "", parts.get("port")
    user = f"{parts['user']}@" if parts.get("user") else ""
    return f"postgresql://{user}{host}{f':{port}' if port else ''}/{parts.get('dbname') or ''}"


def _connect(conninfo: str, url: str) -> _Connection:
    try:
        connection = _Connection.connect(conninfo, autocommit=True)
    except psycopg.OperationalError as exc:
        raise StoreUnavailable(
            f"{url} cannot be reached: {_line(exc)}. Check that the server runs, and the URL."
        ) from exc
    try:
        _configure(connection)
    except BaseException:
        connection.close()
        raise
    return connection


_PLANNING: Final = """
SELECT set_config(name, setting, false)
FROM (
    VALUES ('plan_cache_mode', 'force_generic_plan'), ('enable_seqscan', 'off'), ('enable_bitmapscan', 'off'),
        ('enable_sort', 'off')
) AS told (name, setting)
"""


def _connect_leader(conninfo: str, url: str) -> _Connection:
    """Connect for appends and claims, whose statements are all looked up in indexes.

    Each is planned once, for any arguments and whatever the statistics of tables that are different every second say.
    Left to itself the server planned a claim anew each time: 110 of its 330 us.
    """
    connection = _connect(conninfo, url)
    try:
        connection.execute(_PLANNING)
    except psycopg.Error as exc:
        connection.close()
        _refuse(exc, url)
    return connection


_SETTINGS: Final = """
SELECT
    current_setting('server_version_num')::integer,
    current_setting('fsync'),
    current_setting('full_page_writes'),
    current_setting('synchronous_commit'),
    pg_is_in_recovery()
"""


def _configure(connection: _Connection) -> None:
    """Check what the server promises; every connection, since a role can have settings of its own."""
    version, fsync, full_page_writes, synchronous_commit, is_standby = _one(connection, _SETTINGS, ())
    if version < _SERVER_VERSION_MIN:
        raise UnsafeStore(f"the server is PostgreSQL {version // 10_000}; 14 or newer is needed. Upgrade it.")
    if is_standby:
        raise UnsafeStore("the server is a standby, which shows less than was acknowledged. Connect to the primary.")
    if (fsync, full_page_writes) != ("on", "on") or synchronous_commit not in ("on", "remote_apply"):
        raise UnsafeStore(
            f"the server has fsync={fsync}, full_page_writes={full_page_writes},"
            f" synchronous_commit={synchronous_commit}: what it acknowledges could be lost. Set them to on."
        )

    def note(diagnostic: psycopg.errors.Diagnostic) -> None:
        if diagnostic.sqlstate == "01000" and "replication" in (diagnostic.message_primary or ""):
            connection.has_lost_standby = True

    connection.add_notice_handler(note)


# --- waking live readers ------------------------------------------------------------------------------------------

_CHANNEL: Final = "runfold_appended"
_LISTENING: Final = 83 << 55
"""Key of the lock that every listener shares, so that writers know whether anybody listens."""
_HINT_INTERVAL_S: Final = 0.001
_NOBODY_INTERVAL_S: Final = 0.25


class _Hints:
    """Tells live readers of other processes that something was appended: soon, rarely, and off the append's path."""

    def __init__(self, connect: Callable[[], _Connection]) -> None:
        self._connect = connect
        self._is_due = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def give(self) -> None:
        """Give a hint; returns at once."""
        if self._is_due.is_set():
            return
        self._is_due.set()
        if self._thread is None:
            with self._lock:
                if self._thread is None and not self._closed.is_set():
                    self._thread = threading.Thread(target=self._run, name="runfold-hints", daemon=True)
                    self._thread.start()

    def close(self) -> None:
        with self._lock:
            self._closed.set()  # also ends the sleep between two hints, so that closing waits for none
        if self._thread is not None:
            self._is_due.set()
            self._thread.join(timeout=2)

    def _connect_lightly(self) -> _Connection:
        """Connect for hints, which nobody has to keep: a NOTIFY commits, and would wait for a flush."""
        connection = self._connect()
        connection.execute("SET synchronous_commit = off")
        return connection

    def _run(self) -> None:
        connection: _Connection | None = None
        looked_at, somebody = -_NOBODY_INTERVAL_S, False
        while not (self._closed.is_set() and not self._is_due.is_set()):
            self._is_due.wait()
            try:
                connection = connection or self._connect_lightly()
                self._is_due.clear()  # what is appended from here on is due for another hint
                if monotonic() - looked_at >= _NOBODY_INTERVAL_S or self._closed.is_set():
                    looked_at, somebody = monotonic(), bool(connection.execute(_HINT_SOMEBODY, (_CHANNEL,)).rowcount)
                elif somebody:
                    connection.execute(f"NOTIFY {_CHANNEL}")
            except (psycopg.Error, LedgerError):
                self._is_due.clear()
                with suppress(psycopg.Error):
                    if connection is not None:
                        connection.close()
                connection, somebody = None, False  # a hint that is lost costs a poll interval
            if self._closed.is_set():
                break
            self._closed.wait(_HINT_INTERVAL_S if somebody else _NOBODY_INTERVAL_S)
        if connection is not None:
            connection.close()


_HINT_SOMEBODY: Final = """
SELECT pg_notify(%s, '')
WHERE EXISTS (
    SELECT 1
    FROM pg_locks
    WHERE locktype = 'advisory'
        AND objsubid = 1
        AND classid::bigint >> 23 = 83
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
)
"""


class _PostgresListener:
    """Wakes on a hint; without one, when the time is over."""

    def __init__(self, connect: Callable[[], _Connection]) -> None:
        self._connect = connect
        self._waker, self._wake_end = os.pipe()
        self._lock = threading.Lock()
        self._is_closed = False
        self._connection: _Connection | None = self._listen()

    def wait(self, timeout_s: float) -> bool:
        with self._lock:
            if self._is_closed:
                return True
            if self._connection is None:
                with suppress(LedgerError, psycopg.Error):
                    self._connection = self._listen()
                    return True  # what came while nobody listened is there to be read
            self._sleep(timeout_s)
        return True  # a hint may be lost, and whoever copies rows in gives none

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        os.write(self._wake_end, b"x")
        with self._lock:
            os.close(self._waker)
            os.close(self._wake_end)
            if self._connection is not None:
                self._connection.close()

    def _listen(self) -> _Connection:
        connection = self._connect()
        connection.execute(f"LISTEN {_CHANNEL}")
        connection.execute("SELECT pg_advisory_lock_shared(%s)", (_LISTENING,))
        return connection

    def _sleep(self, timeout_s: float) -> None:
        poll = select.poll()
        poll.register(self._waker, select.POLLIN)
        try:
            if self._connection is not None:
                # also an error: libpq forgets the socket with the server's last words, before anybody asks it again
                poll.register(self._connection.fileno(), select.POLLIN)
                if self._drain(self._connection):
                    return
            poll.poll(timeout_s * 1000)
            if self._connection is not None:
                self._drain(self._connection)
        except psycopg.Error:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    @staticmethod
    def _drain(connection: _Connection) -> bool:
        connection.pgconn.consume_input()
        has_hint = False
        while connection.pgconn.notifies() is not None:
            has_hint = True
        return has_hint
