"""The `runs` tables in PostgreSQL, beside the log.

Catch-ups take turns on the projection's row in `projections`, which appends never touch, so writers wait for none.

Differs from SQLite: the new rows of a rebuild are written with COPY. One rebuild at a time is an advisory lock of a
transaction that does nothing else, which the server gives back when the process dies; it has read and written
nothing, so it holds back neither vacuum nor readers of the log.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, LiteralString, NamedTuple, cast

import msgspec
import psycopg

from ledger.errors import StoreBusy
from ledger.store import Store
from ledger.stores.postgres import PostgresStore
from projections.projection import Checkpoint
from projections.queries import ListedRun, PageKey, RunFilter
from projections.runs import RUNS, RunRow, StoredRun, restore

_Connection = psycopg.Connection[tuple[Any, ...]]
_Params = Sequence[str | int | Sequence[object] | None]


def open_tables(store: Store) -> "PostgresRuns":
    """Give the tables in the log's database."""
    return PostgresRuns(cast(PostgresStore, store))


class PostgresRuns:
    """The tables of `runs` in a PostgreSQL database."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store

    def checkpoint(self) -> Checkpoint:
        with self._store.transaction() as connection:
            return _checkpoint(connection, _CHECKPOINT) or Checkpoint()

    @contextmanager
    def writing(self) -> Iterator["_PostgresWriting"]:
        with self._store.transaction() as connection:
            yield _PostgresWriting(connection, _checkpoint(connection, _LOCK_CHECKPOINT) or _begin(connection))

    @contextmanager
    def rebuilding(self) -> Iterator[None]:
        with self._store.transaction() as connection:
            ((is_alone,),) = _rows(connection, _LOCK_REBUILD, (f"runfold rebuild {RUNS.name}",))
            if not is_alone:
                raise StoreBusy(f"a rebuild of `runs` in {self._store.url} is under way. Wait for it.")
            yield

    def newest_generation(self) -> int:
        with self._store.transaction() as connection:
            return _newest_generation(connection)

    def discard(self, *, below: int, rows_max: int) -> int:
        with self._store.transaction() as connection:
            for delete in (_DISCARD_RUNS, _DISCARD_LABELS):
                deleted = connection.execute(delete, (below, RUNS.name, rows_max)).rowcount
                if deleted:
                    return deleted
        return 0

    def load(self, generation: int, run_ids: Sequence[str]) -> dict[str, RunRow]:
        with self._store.transaction() as connection:
            return _load(connection, generation, run_ids)

    def versions(self, generation: int, run_ids: Sequence[str]) -> dict[str, int]:
        with self._store.transaction() as connection:
            return dict(_rows(connection, _VERSIONS, (generation, run_ids)))

    def scan(self, generation: int, *, after_run_id: str, limit: int) -> Sequence[StoredRun]:
        with self._store.transaction() as connection:
            rows = _rows(connection, _SCAN, (generation, after_run_id, limit))
        return [StoredRun._make((*row[:-2], tuple(zip(row[-2], row[-1], strict=True)))) for row in rows]

    def state(self, run_id: str, *, version: int) -> bytes | None:
        with self._store.transaction() as connection:
            rows = _rows(connection, _STATE, (RUNS.name, version, run_id))
        return rows[0][0] if rows else None

    def list(
        self, generation: int, wanted: RunFilter, *, after: PageKey | None, limit: int
    ) -> Sequence[ListedRun] | None:
        arms = [_select(generation, part, after) for part in _parts(wanted)]
        params = [value for arm in arms for value in (*arm.params, limit)]
        with self._store.transaction() as connection:
            if len(arms) == 1:
                rows = _rows(connection, _PAGE + arms[0].sql + _ORDER[bool(wanted.labels)], params)
            else:
                sql = "\nUNION ALL\n".join(["".join(["(", _PAGE, arm.sql, _ORDER[False], ")"]) for arm in arms])
                rows = _rows(connection, sql + _MERGED_ORDER, [*params, limit])
            return [ListedRun(*row) for row in rows] if _is_live(connection, generation) else None

    def count(self, generation: int, wanted: RunFilter) -> int | None:
        selected = _select(generation, wanted, None)
        with self._store.transaction() as connection:
            ((count,),) = _rows(connection, _COUNT + selected.sql, selected.params)
            return count if _is_live(connection, generation) else None

    def find(self, generation: int, prefix: str, *, limit: int) -> Sequence[str] | None:
        with self._store.transaction() as connection:
            found = _rows(connection, _FIND, (generation, prefix, prefix + "~", limit))
            return [run_id for (run_id,) in found] if _is_live(connection, generation) else None


class _PostgresWriting:
    """A transaction that holds the lock on the projection's row."""

    def __init__(self, connection: _Connection, checkpoint: Checkpoint) -> None:
        self._connection = connection
        self.checkpoint = checkpoint

    def load(self, generation: int, run_ids: Sequence[str]) -> dict[str, RunRow]:
        return _load(self._connection, generation, run_ids)

    def save(self, generation: int, rows: Sequence[StoredRun]) -> None:
        if rows:
            columns = zip(*[row[:-1] for row in rows], strict=True)
            self._connection.execute(_SAVE, [generation, *map(list, columns)])
            self._connection.execute(_FORGET_LABELS, [generation, [row.run_id for row in rows]])
            self._add_labels(generation, rows)

    def add(self, generation: int, rows: Sequence[StoredRun]) -> None:
        if rows:
            with self._connection.cursor() as cursor, cursor.copy(_ADD) as copy:
                copy.set_types(_TYPES)
                for row in rows:
                    copy.write_row((generation, *row[:-1]))
            self._add_labels(generation, rows)

    def move(self, position: int) -> None:
        self._connection.execute(_MOVE, (position, RUNS.name))

    def build(self, generation: int) -> None:
        self._connection.execute(_BUILD, (generation, RUNS.name))

    def go_live(self, generation: int, *, version: int, position: int) -> None:
        self._connection.execute(_GO_LIVE, (generation, version, position, RUNS.name))

    def _add_labels(self, generation: int, rows: Sequence[StoredRun]) -> None:
        labels = [(name, value, row.created_at, row.run_id) for row in rows for name, value in row.labels]
        if labels:
            self._connection.execute(_ADD_LABELS, [generation, *map(list, zip(*labels, strict=True))])


def _rows(connection: _Connection, sql: LiteralString, params: _Params) -> list[tuple[Any, ...]]:
    return connection.execute(sql, params, binary=True).fetchall()


_CHECKPOINT: Final = "SELECT generation, version, position, building FROM runfold.projections WHERE name = %s"
_LOCK_CHECKPOINT: Final = """
SELECT generation, version, position, building
FROM runfold.projections
WHERE name = %s
FOR UPDATE
"""
_GENERATION: Final = "SELECT generation FROM runfold.projections WHERE name = %s"
_LOCK_REBUILD: Final = "SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))"
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
_NEWEST_GENERATION: Final = """
SELECT greatest(
    (SELECT max(generation) FROM runfold.runs),
    (SELECT max(generation) FROM runfold.run_labels),
    (SELECT generation FROM runfold.projections WHERE name = %s),
    0
)
"""


def _checkpoint(connection: _Connection, select: LiteralString) -> Checkpoint | None:
    rows = _rows(connection, select, (RUNS.name,))
    return Checkpoint(*rows[0]) if rows else None


def _begin(connection: _Connection) -> Checkpoint:
    """Begin the first generation, or the next one when somebody threw the live one's number away.

    When two begin it at once, one waits for the other in the insert, and takes what that one wrote.
    """
    connection.execute(_BEGIN, (RUNS.name, RUNS.version, _newest_generation(connection) + 1))
    return cast(Checkpoint, _checkpoint(connection, _LOCK_CHECKPOINT))


def _newest_generation(connection: _Connection) -> int:
    ((generation,),) = _rows(connection, _NEWEST_GENERATION, (RUNS.name,))
    return cast(int, generation)


def _is_live(connection: _Connection, generation: int) -> bool:
    """Tell whether what was read just now was the live generation: its rows go only after it was replaced."""
    rows = _rows(connection, _GENERATION, (RUNS.name,))
    return (rows[0][0] if rows else 0) == generation


_DISCARD_RUNS: Final = """
DELETE FROM runfold.runs
WHERE ctid = ANY (ARRAY(
    SELECT ctid
    FROM runfold.runs
    WHERE generation < %s AND generation <> (SELECT generation FROM runfold.projections WHERE name = %s)
    LIMIT %s
))
"""
_DISCARD_LABELS: Final = """
DELETE FROM runfold.run_labels
WHERE ctid = ANY (ARRAY(
    SELECT ctid
    FROM runfold.run_labels
    WHERE generation < %s AND generation <> (SELECT generation FROM runfold.projections WHERE name = %s)
    LIMIT %s
))
"""

_VERSIONS: Final = """
SELECT run_id, version
FROM runfold.runs
WHERE generation = %s AND run_id = ANY (%s::text[])
"""
_LOAD: Final = """
SELECT run_id, state, first_recorded_at, last_recorded_at
FROM runfold.runs
WHERE generation = %s AND run_id = ANY (%s::text[])
"""


def _load(connection: _Connection, generation: int, run_ids: Sequence[str]) -> dict[str, RunRow]:
    return {
        run_id: restore(state, first_recorded_at=first, last_recorded_at=last)
        for run_id, state, first, last in _rows(connection, _LOAD, (generation, run_ids))
    }


_SCAN: Final = """
SELECT
    run_id, kind, project, status, verdict, parent_run_id, created_at, deleted_at, version, position,
    first_recorded_at, last_recorded_at, run, state,
    ARRAY(
        SELECT label.name
        FROM runfold.run_labels AS label
        WHERE label.generation = runs.generation
            AND label.run_id = runs.run_id
            AND label.created_at = runs.created_at
        ORDER BY label.name, label.value
    ),
    ARRAY(
        SELECT label.value
        FROM runfold.run_labels AS label
        WHERE label.generation = runs.generation
            AND label.run_id = runs.run_id
            AND label.created_at = runs.created_at
        ORDER BY label.name, label.value
    )
FROM runfold.runs
WHERE generation = %s AND run_id > %s
ORDER BY run_id
LIMIT %s
"""
_STATE: Final = """
SELECT runs.state
FROM runfold.projections
JOIN runfold.runs ON runs.generation = projections.generation
WHERE projections.name = %s AND projections.version = %s AND runs.run_id = %s
"""
_FIND: Final = """
SELECT run_id
FROM runfold.runs
WHERE generation = %s AND run_id >= %s AND run_id < %s
ORDER BY run_id
LIMIT %s
"""

_ADD: Final = """
COPY runfold.runs (
    generation, run_id, kind, project, status, verdict, parent_run_id, created_at, deleted_at, version, position,
    first_recorded_at, last_recorded_at, run, state
)
FROM STDIN (FORMAT BINARY)
"""
_TYPES: Final = ["int8", *["text"] * 8, "int8", "int8", "text", "text", "bytea", "bytea"]
_SAVE: Final = """
INSERT INTO runfold.runs AS old (
    generation, run_id, kind, project, status, verdict, parent_run_id, created_at, deleted_at, version, position,
    first_recorded_at, last_recorded_at, run, state
)
SELECT %s, saved.*
FROM unnest(
    %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[],
    %s::bigint[], %s::text[], %s::text[], %s::bytea[], %s::bytea[]
) AS saved
ON CONFLICT (generation, run_id) DO UPDATE SET
    kind = excluded.kind,
    project = excluded.project,
    status = excluded.status,
    verdict = excluded.verdict,
    parent_run_id = excluded.parent_run_id,
    created_at = excluded.created_at,
    deleted_at = excluded.deleted_at,
    version = excluded.version,
    position = excluded.position,
    first_recorded_at = excluded.first_recorded_at,
    last_recorded_at = excluded.last_recorded_at,
    run = excluded.run,
    state = excluded.state
"""
_FORGET_LABELS: Final = "DELETE FROM runfold.run_labels WHERE generation = %s AND run_id = ANY (%s::text[])"
_ADD_LABELS: Final = """
INSERT INTO runfold.run_labels (generation, name, value, created_at, run_id)
SELECT %s, added.*
FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[]) AS added
"""


# --- lists --------------------------------------------------------------------------------------------------


class _Selected(NamedTuple):
    """The part of a query from FROM on, and its parameters."""

    sql: LiteralString
    params: _Params


def _parts(wanted: RunFilter) -> Sequence[RunFilter]:
    """Cut a filter by status, so that each part is one scan of an index in the order of the list.

    With labels, the scan is that of the first label, and the status is looked at on the way.
    """
    if len(wanted.status) < 2 or wanted.labels:
        return [wanted]
    return [msgspec.structs.replace(wanted, status=(status,)) for status in wanted.status]


def _select(generation: int, wanted: RunFilter, after: PageKey | None) -> _Selected:
    """Put a query together from the fragments below; what a caller said is only ever a parameter."""
    conditions: list[tuple[LiteralString, _Params]] = [("runs.generation = %s", [generation])]
    source: LiteralString = "FROM runfold.runs"
    if wanted.labels:
        source = _FROM_LABEL
        conditions += [
            ("label.generation = %s AND label.name = %s AND label.value = %s", [generation, *wanted.labels[0]])
        ]
        conditions += [(_HAS_LABEL, label) for label in wanted.labels[1:]]
    conditions += [
        (fragment, [value])
        for fragment, value in (
            ("runs.project = %s", wanted.project),
            ("runs.kind = %s", wanted.kind),
            ("runs.verdict = %s", wanted.verdict),
            ("runs.parent_run_id = %s", wanted.parent_run_id),
            ("runs.created_at >= %s", wanted.since),
            ("runs.created_at < %s", wanted.before),
            ("runs.first_recorded_at <= %s", wanted.at),
        )
        if value is not None
    ]
    if len(wanted.status) == 1:
        conditions.append(("runs.status = %s", wanted.status))
    elif wanted.status:
        conditions.append(("runs.status = ANY (%s::text[])", [list(wanted.status)]))
    if wanted.deleted != "include":
        conditions.append((_DELETED[wanted.deleted], []))
    if after is not None:
        conditions.append((_AFTER[bool(wanted.labels)], after))
    where = "\n    AND ".join([fragment for fragment, _ in conditions])
    return _Selected("".join([source, "\nWHERE ", where]), [value for _, values in conditions for value in values])


_FROM_LABEL: Final = """FROM runfold.run_labels AS label
JOIN runfold.runs ON runs.generation = label.generation AND runs.run_id = label.run_id"""
_HAS_LABEL: Final = """EXISTS (
        SELECT 1
        FROM runfold.run_labels AS other
        WHERE other.generation = runs.generation
            AND other.name = %s
            AND other.value = %s
            AND other.created_at = runs.created_at
            AND other.run_id = runs.run_id
    )"""
_DELETED: Final[dict[str, LiteralString]] = {
    "exclude": "runs.deleted_at IS NULL",
    "only": "runs.deleted_at > ''",
    "purged": "runs.deleted_at = ''",
}
_AFTER: Final[tuple[LiteralString, LiteralString]] = (
    "(runs.created_at, runs.run_id) < (%s, %s)",
    "(label.created_at, label.run_id) < (%s, %s)",
)
_PAGE: Final = "SELECT runs.created_at, runs.run_id, runs.last_recorded_at, runs.run\n"
_ORDER: Final[tuple[LiteralString, LiteralString]] = (
    "\nORDER BY runs.created_at DESC, runs.run_id DESC\nLIMIT %s",
    "\nORDER BY label.created_at DESC, label.run_id DESC\nLIMIT %s",
)
_MERGED_ORDER: Final = "\nORDER BY created_at DESC, run_id DESC\nLIMIT %s"
_COUNT: Final = "SELECT count(*)\n"
