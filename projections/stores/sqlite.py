"""The `runs` tables in a SQLite file, beside the log.

Differs from PostgreSQL: a catch-up holds the file's write lock, so appends wait for it; it is kept to pages. One
rebuild at a time is a lock on a file beside the database, which the kernel gives back when the process dies.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, LiteralString, NamedTuple, cast

import apsw
import msgspec

from ledger.errors import StoreBusy
from ledger.run.codec import encode_json
from ledger.store import Store
from ledger.stores.sqlite import SqliteStore
from projections.projection import Checkpoint
from projections.queries import ListedRun, PageKey, RunFilter
from projections.runs import RUNS, RunRow, StoredRun, restore


def open_tables(store: Store) -> "SqliteRuns":
    """Give the tables in the log's file."""
    return SqliteRuns(cast(SqliteStore, store))


class SqliteRuns:
    """The tables of `runs` in a SQLite file."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    def checkpoint(self) -> Checkpoint:
        with self._store.reading() as connection:
            return _checkpoint(connection) or Checkpoint()

    @contextmanager
    def writing(self) -> Iterator["_SqliteWriting"]:
        with self._store.writing() as connection:
            yield _SqliteWriting(connection, _checkpoint(connection) or _begin(connection))

    @contextmanager
    def rebuilding(self) -> Iterator[None]:
        path = self._store.path.with_name(f"{self._store.path.name}-rebuild")
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            _lock(handle, self._store.path)
            yield
        finally:
            os.close(handle)  # the file stays: taking it away could give two rebuilds a lock each

    def newest_generation(self) -> int:
        with self._store.reading() as connection:
            return _newest_generation(connection)

    def discard(self, *, below: int, rows_max: int) -> int:
        with self._store.writing() as connection:
            for delete in (_DISCARD_RUNS, _DISCARD_LABELS):
                connection.execute(delete, (below, RUNS.name, rows_max))
                if connection.changes():
                    return connection.changes()
        return 0

    def load(self, generation: int, run_ids: Sequence[str]) -> dict[str, RunRow]:
        with self._store.reading() as connection:
            return _load(connection, generation, run_ids)

    def versions(self, generation: int, run_ids: Sequence[str]) -> dict[str, int]:
        with self._store.reading() as connection:
            return dict(_rows(connection, _VERSIONS, (generation, _json(run_ids))))

    def scan(self, generation: int, *, after_run_id: str, limit: int) -> Sequence[StoredRun]:
        with self._store.reading() as connection:
            rows = _rows(connection, _SCAN, (generation, after_run_id, limit))
        return [StoredRun._make((*row[:-1], _labels(row[-1]))) for row in rows]

    def state(self, run_id: str, *, version: int) -> bytes | None:
        with self._store.reading() as connection:
            return cast("bytes | None", connection.execute(_STATE, (RUNS.name, version, run_id)).get)

    def list(
        self, generation: int, wanted: RunFilter, *, after: PageKey | None, limit: int
    ) -> Sequence[ListedRun] | None:
        arms = [_select(generation, part, after) for part in _parts(wanted)]
        params = [value for arm in arms for value in (*arm.params, limit)]
        with self._store.reading() as connection:
            if not _is_live(connection, generation):
                return None
            if len(arms) == 1:
                rows = _rows(connection, _PAGE + arms[0].sql + _ORDER[bool(wanted.labels)], params)
            else:
                sql = "\nUNION ALL\n".join([_ARM + arm.sql + _ORDER[False] + ")" for arm in arms])
                rows = _rows(connection, sql + _MERGED_ORDER, [*params, limit])
        return [ListedRun(*row) for row in rows]

    def count(self, generation: int, wanted: RunFilter) -> int | None:
        selected = _select(generation, wanted, None)
        with self._store.reading() as connection:
            if not _is_live(connection, generation):
                return None
            return cast(int, connection.execute(_COUNT + selected.sql, selected.params).get)

    def find(self, generation: int, prefix: str, *, limit: int) -> Sequence[str] | None:
        with self._store.reading() as connection:
            if not _is_live(connection, generation):
                return None
            found = _rows(connection, _FIND, (generation, prefix, prefix + "~", limit))
        return [run_id for (run_id,) in found]


def _lock(handle: int, path: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise StoreBusy(f"a rebuild of `runs` in {path} is under way. Wait for it.") from exc


class _SqliteWriting:
    """A transaction that holds the file's write lock."""

    def __init__(self, connection: apsw.Connection, checkpoint: Checkpoint) -> None:
        self._connection = connection
        self.checkpoint = checkpoint

    def load(self, generation: int, run_ids: Sequence[str]) -> dict[str, RunRow]:
        return _load(self._connection, generation, run_ids)

    def save(self, generation: int, rows: Sequence[StoredRun]) -> None:
        self._connection.executemany(_SAVE, [(generation, *row[:-1]) for row in rows])
        self._connection.executemany(_FORGET_LABELS, [(generation, row.run_id) for row in rows])
        self._connection.executemany(_ADD_LABEL, _label_rows(generation, rows))

    def add(self, generation: int, rows: Sequence[StoredRun]) -> None:
        self._connection.executemany(_ADD, [(generation, *row[:-1]) for row in rows])
        self._connection.executemany(_ADD_LABEL, _label_rows(generation, rows))

    def move(self, position: int) -> None:
        self._connection.execute(_MOVE, (position, RUNS.name))

    def build(self, generation: int) -> None:
        self._connection.execute(_BUILD, (generation, RUNS.name))

    def go_live(self, generation: int, *, version: int, position: int) -> None:
        self._connection.execute(_GO_LIVE, (generation, version, position, RUNS.name))


def _rows(connection: apsw.Connection, sql: LiteralString, params: Sequence[str | int]) -> "list[tuple[Any, ...]]":
    return connection.execute(sql, params).fetchall()


_CHECKPOINT: Final = "SELECT generation, version, position, building FROM projections WHERE name = ?"
_GENERATION: Final = "SELECT generation FROM projections WHERE name = ?"
_MOVE: Final = "UPDATE projections SET position = ? WHERE name = ?"
_BUILD: Final = "UPDATE projections SET building = ? WHERE name = ?"
_GO_LIVE: Final = "UPDATE projections SET generation = ?, version = ?, position = ?, building = NULL WHERE name = ?"
_BEGIN: Final = "INSERT INTO projections (name, version, generation, position) VALUES (?, ?, ?, 0)"
_NEWEST_GENERATION: Final = """
SELECT max(
    coalesce((SELECT max(generation) FROM runs), 0),
    coalesce((SELECT max(generation) FROM run_labels), 0),
    coalesce((SELECT generation FROM projections WHERE name = ?), 0)
)
"""


def _checkpoint(connection: apsw.Connection) -> Checkpoint | None:
    row = connection.execute(_CHECKPOINT, (RUNS.name,)).get
    return None if row is None else Checkpoint(*row)


def _begin(connection: apsw.Connection) -> Checkpoint:
    """Begin the first generation, or the next one when somebody threw the live one's number away."""
    generation = _newest_generation(connection) + 1
    connection.execute(_BEGIN, (RUNS.name, RUNS.version, generation))
    return Checkpoint(generation, RUNS.version)


def _newest_generation(connection: apsw.Connection) -> int:
    return cast(int, connection.execute(_NEWEST_GENERATION, (RUNS.name,)).get)


def _is_live(connection: apsw.Connection, generation: int) -> bool:
    return (connection.execute(_GENERATION, (RUNS.name,)).get or 0) == generation


_DISCARD_RUNS: Final = """
DELETE FROM runs
WHERE rowid IN (
    SELECT rowid
    FROM runs
    WHERE generation < ? AND generation <> (SELECT generation FROM projections WHERE name = ?)
    LIMIT ?
)
"""
_DISCARD_LABELS: Final = """
DELETE FROM run_labels
WHERE (generation, name, value, created_at, run_id) IN (
    SELECT generation, name, value, created_at, run_id
    FROM run_labels
    WHERE generation < ? AND generation <> (SELECT generation FROM projections WHERE name = ?)
    LIMIT ?
)
"""

_VERSIONS: Final = """
SELECT run_id, version
FROM runs
WHERE generation = ? AND run_id IN (SELECT value FROM json_each(?))
"""
_LOAD: Final = """
SELECT run_id, state, first_recorded_at, last_recorded_at
FROM runs
WHERE generation = ? AND run_id IN (SELECT value FROM json_each(?))
"""


def _load(connection: apsw.Connection, generation: int, run_ids: Sequence[str]) -> dict[str, RunRow]:
    return {
        run_id: restore(state, first_recorded_at=first, last_recorded_at=last)
        for run_id, state, first, last in connection.execute(_LOAD, (generation, _json(run_ids)))
    }


def _json(run_ids: Sequence[str]) -> str:
    return encode_json(run_ids).decode()


_SCAN: Final = """
SELECT
    run_id, kind, project, status, verdict, parent_run_id, created_at, deleted_at, version, position,
    first_recorded_at, last_recorded_at, run, state,
    (
        SELECT json_group_array(json_array(name, value) ORDER BY name, value)
        FROM run_labels AS label
        WHERE label.generation = runs.generation
            AND label.run_id = runs.run_id
            AND label.created_at = runs.created_at
    )
FROM runs
WHERE generation = ? AND run_id > ?
ORDER BY run_id
LIMIT ?
"""
_STATE: Final = """
SELECT runs.state
FROM projections
JOIN runs ON runs.generation = projections.generation
WHERE projections.name = ? AND projections.version = ? AND runs.run_id = ?
"""
_FIND: Final = "SELECT run_id FROM runs WHERE generation = ? AND run_id >= ? AND run_id < ? ORDER BY run_id LIMIT ?"

_decode_labels = msgspec.json.Decoder(tuple[tuple[str, str], ...]).decode


def _labels(labels: str) -> tuple[tuple[str, str], ...]:
    return _decode_labels(labels)


_ADD: Final = """
INSERT INTO runs (
    generation, run_id, kind, project, status, verdict, parent_run_id, created_at, deleted_at, version, position,
    first_recorded_at, last_recorded_at, run, state
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_SAVE: Final = (
    _ADD
    + """
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
)
_FORGET_LABELS: Final = "DELETE FROM run_labels WHERE generation = ? AND run_id = ?"
_ADD_LABEL: Final = "INSERT INTO run_labels (generation, name, value, created_at, run_id) VALUES (?, ?, ?, ?, ?)"


def _label_rows(generation: int, rows: Sequence[StoredRun]) -> list[tuple[int, str, str, str, str]]:
    return [(generation, name, value, row.created_at, row.run_id) for row in rows for name, value in row.labels]


# --- lists --------------------------------------------------------------------------------------------------


class _Selected(NamedTuple):
    """The part of a query from FROM on, and its parameters."""

    sql: LiteralString
    params: Sequence[str | int]


def _parts(wanted: RunFilter) -> Sequence[RunFilter]:
    """Cut a filter by status, so that each part is one scan of an index in the order of the list.

    With labels, the scan is that of the first label, and the status is looked at on the way.
    """
    if len(wanted.status) < 2 or wanted.labels:
        return [wanted]
    return [msgspec.structs.replace(wanted, status=(status,)) for status in wanted.status]


def _select(generation: int, wanted: RunFilter, after: PageKey | None) -> _Selected:
    """Put a query together from the fragments below; what a caller said is only ever a parameter."""
    conditions: list[tuple[LiteralString, Sequence[str | int]]] = [("runs.generation = ?", [generation])]
    source: LiteralString = "FROM runs"
    if wanted.labels:
        source = _FROM_LABEL
        conditions += [("label.generation = ? AND label.name = ? AND label.value = ?", [generation, *wanted.labels[0]])]
        conditions += [(_HAS_LABEL, label) for label in wanted.labels[1:]]
    conditions += [
        (fragment, [value])
        for fragment, value in (
            ("runs.project = ?", wanted.project),
            ("runs.kind = ?", wanted.kind),
            ("runs.verdict = ?", wanted.verdict),
            ("runs.parent_run_id = ?", wanted.parent_run_id),
            ("runs.created_at >= ?", wanted.since),
            ("runs.created_at < ?", wanted.before),
            ("runs.first_recorded_at <= ?", wanted.at),
        )
        if value is not None
    ]
    if len(wanted.status) == 1:
        conditions.append(("runs.status = ?", wanted.status))
    elif wanted.status:
        conditions.append(("runs.status IN (SELECT value FROM json_each(?))", [_json(wanted.status)]))
    if wanted.deleted != "include":
        conditions.append((_DELETED[wanted.deleted], []))
    if after is not None:
        conditions.append((_AFTER[bool(wanted.labels)], after))
    where = "\n    AND ".join([fragment for fragment, _ in conditions])
    return _Selected("".join([source, "\nWHERE ", where]), [value for _, values in conditions for value in values])


_FROM_LABEL: Final = """FROM run_labels AS label
CROSS JOIN runs ON runs.generation = label.generation AND runs.run_id = label.run_id"""
_HAS_LABEL: Final = """EXISTS (
        SELECT 1
        FROM run_labels AS other
        WHERE other.generation = runs.generation
            AND other.name = ?
            AND other.value = ?
            AND other.created_at = runs.created_at
            AND other.run_id = runs.run_id
    )"""
_DELETED: Final[dict[str, LiteralString]] = {
    "exclude": "runs.deleted_at IS NULL",
    "only": "runs.deleted_at > ''",
    "purged": "runs.deleted_at = ''",
}
_AFTER: Final[tuple[LiteralString, LiteralString]] = (
    "(runs.created_at, runs.run_id) < (?, ?)",
    "(label.created_at, label.run_id) < (?, ?)",
)
_PAGE: Final = "SELECT runs.created_at, runs.run_id, runs.last_recorded_at, runs.run\n"
_ARM: Final = "SELECT * FROM (\nSELECT runs.created_at, runs.run_id, runs.last_recorded_at, runs.run\n"
_ORDER: Final[tuple[LiteralString, LiteralString]] = (
    "\nORDER BY runs.created_at DESC, runs.run_id DESC\nLIMIT ?",
    "\nORDER BY label.created_at DESC, label.run_id DESC\nLIMIT ?",
)
_MERGED_ORDER: Final = "\nORDER BY created_at DESC, run_id DESC\nLIMIT ?"
_COUNT: Final = "SELECT count(*)\n"
