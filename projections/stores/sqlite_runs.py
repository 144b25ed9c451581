"""The `runs` tables in a SQLite file.

Differs from PostgreSQL: `run_counts` is kept in step here, not by triggers; see the migration that makes it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, LiteralString, NamedTuple, cast

import apsw
import msgspec

from ledger.store import Store
from ledger.stores.sqlite import SqliteStore
from projections.projection import Miscount
from projections.queries import CountedBy, ListedRun, PageKey, RunFilter, is_counted
from projections.runs import RUNS, RunRow, StoredRun, restore
from projections.stores.sqlite_tables import SqliteTables, discard_from, fetch, json_list


def open_tables(store: Store) -> "SqliteRuns":
    """Give the tables in the log's file."""
    return SqliteRuns(cast(SqliteStore, store), RUNS, _RunRows())


class SqliteRuns(SqliteTables[RunRow, StoredRun]):
    """The tables of `runs`, and what lists ask of them."""

    def state(self, run_id: str, *, version: int) -> bytes | None:
        with self._store.reading() as connection:
            return cast("bytes | None", connection.execute(_STATE, (RUNS.name, version, run_id)).get)

    def list(
        self, generation: int, wanted: RunFilter, *, after: PageKey | None, limit: int
    ) -> Sequence[ListedRun] | None:
        arms = [_select(generation, part, after) for part in _parts(wanted)]
        params = [value for arm in arms for value in (*arm.params, limit)]
        with self._live(generation) as connection:
            if connection is None:
                return None
            if len(arms) == 1:
                rows = fetch(connection, _PAGE + arms[0].sql + _ORDER[bool(wanted.labels)], params)
            else:
                sql = "\nUNION ALL\n".join([_ARM + arm.sql + _ORDER[False] + ")" for arm in arms])
                rows = fetch(connection, sql + _MERGED_ORDER, [*params, limit])
        return [ListedRun(*row) for row in rows]

    def count(self, generation: int, wanted: RunFilter) -> int | None:
        selected = _select(generation, wanted, None, from_counts=is_counted(wanted))
        with self._live(generation) as connection:
            if connection is None:
                return None
            return cast(int, connection.execute(_COUNT[is_counted(wanted)] + selected.sql, selected.params).get)

    def count_by(
        self, generation: int, wanted: RunFilter, column: CountedBy, values: Sequence[str]
    ) -> Mapping[str, int] | None:
        selected = _select(generation, wanted, None, from_counts=is_counted(wanted))
        sql = "".join([_COUNT_BY[column, is_counted(wanted)], selected.sql, _AMONG[column]])
        with self._live(generation) as connection:
            if connection is None:
                return None
            return dict(fetch(connection, sql, [*selected.params, json_list(values)]))

    def count_by_kind(self, generation: int, *, without: Sequence[str]) -> Mapping[tuple[str, str], int] | None:
        with self._live(generation) as connection:
            if connection is None:
                return None
            rows = fetch(connection, _COUNT_BY_KIND, (generation, generation, json_list(without)))
            return {(kind, status): count for kind, status, count in rows}

    def find(self, generation: int, prefix: str, *, project: str | None, limit: int) -> Sequence[str] | None:
        with self._live(generation) as connection:
            if connection is None:
                return None
            found = fetch(connection, _FIND, (generation, prefix, prefix + "~", project, limit))
        return [run_id for (run_id,) in found]

    def miscounted(self, generation: int) -> Sequence[Miscount]:
        with self._store.reading() as connection:
            return [Miscount(*row) for row in fetch(connection, _MISCOUNTED, (generation, generation))]


class _RunRows:
    """The rows of `runs`: one a run, and one a label."""

    header: LiteralString = "runs"
    others: Sequence[LiteralString] = ("run_labels", "run_counts")

    @property
    def discards(self) -> Sequence[LiteralString]:
        return (discard_from(self.header), _DISCARD_LABELS, discard_from("run_counts"))

    def load(self, connection: apsw.Connection, generation: int, run_ids: Sequence[str]) -> dict[str, RunRow]:
        return {
            run_id: restore(state, first_recorded_at=first, last_recorded_at=last)
            for run_id, state, first, last in connection.execute(_LOAD, (generation, json_list(run_ids)))
        }

    def save(self, connection: apsw.Connection, generation: int, rows: Sequence[StoredRun]) -> None:
        connection.execute(_UNCOUNT, (generation, json_list([row.run_id for row in rows])))
        connection.executemany(_SAVE, [(generation, *row[:-1]) for row in rows])
        _count(connection, generation, rows)
        connection.executemany(_FORGET_LABELS, [(generation, row.run_id) for row in rows])
        connection.executemany(_ADD_LABEL, _label_rows(generation, rows))

    def add(self, connection: apsw.Connection, generation: int, rows: Sequence[StoredRun]) -> None:
        connection.executemany(_ADD, [(generation, *row[:-1]) for row in rows])
        _count(connection, generation, rows)
        connection.executemany(_ADD_LABEL, _label_rows(generation, rows))

    def scan(
        self, connection: apsw.Connection, generation: int, *, after_run_id: str, limit: int
    ) -> Sequence[StoredRun]:
        rows = fetch(connection, _SCAN, (generation, after_run_id, limit))
        return [StoredRun._make((*row[:-1], _labels(row[-1]))) for row in rows]


def _count(connection: apsw.Connection, generation: int, rows: Sequence[StoredRun]) -> None:
    added = Counter([(row.project, row.kind, row.status) for row in rows if row.deleted_at is None])
    connection.executemany(_COUNT_ADDED, [(generation, *key, count) for key, count in added.items()])


_COUNT_ADDED: Final = """
INSERT INTO run_counts (generation, project, kind, status, count)
VALUES (?, ?, ?, ?, ?)
ON CONFLICT (generation, coalesce(project, ''), kind, status) DO UPDATE SET count = count + excluded.count
"""
_UNCOUNT: Final = """
INSERT INTO run_counts (generation, project, kind, status, count)
SELECT generation, project, kind, status, -count(*)
FROM runs
WHERE generation = ? AND run_id IN (SELECT value FROM json_each(?)) AND deleted_at IS NULL
GROUP BY project, kind, status
ON CONFLICT (generation, coalesce(project, ''), kind, status) DO UPDATE SET count = count + excluded.count
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
_LOAD: Final = """
SELECT run_id, state, first_recorded_at, last_recorded_at
FROM runs
WHERE generation = ? AND run_id IN (SELECT value FROM json_each(?))
"""
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
_FIND: Final = """
SELECT run_id
FROM runs
WHERE generation = ?1 AND run_id >= ?2 AND run_id < ?3 AND (?4 IS NULL OR project = ?4)
ORDER BY run_id
LIMIT ?5
"""

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


def _select(generation: int, wanted: RunFilter, after: PageKey | None, *, from_counts: bool = False) -> _Selected:
    """Put a query together from the fragments below; what a caller said is only ever a parameter."""
    conditions: list[tuple[LiteralString, Sequence[str | int]]] = [("runs.generation = ?", [generation])]
    source: LiteralString = _FROM_COUNTS if from_counts else "FROM runs"
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
        conditions.append(("runs.status IN (SELECT value FROM json_each(?))", [json_list(wanted.status)]))
    if wanted.without:
        conditions.append(("runs.run_id NOT IN (SELECT value FROM json_each(?))", [json_list(wanted.without)]))
    if wanted.deleted != "include" and not from_counts:
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
_FROM_COUNTS: Final = "FROM run_counts AS runs"
_COUNT: Final[tuple[LiteralString, LiteralString]] = (
    "SELECT count(*)\n",
    "SELECT coalesce(sum(runs.count), 0)\n",
)
_COUNT_BY: Final[dict[tuple[CountedBy, bool], LiteralString]] = {
    ("project", False): "SELECT runs.project, count(*)\n",
    ("project", True): "SELECT runs.project, sum(runs.count)\n",
    ("status", False): "SELECT runs.status, count(*)\n",
    ("status", True): "SELECT runs.status, sum(runs.count)\n",
}
_COUNT_BY_KIND: Final = """
SELECT kind, status, sum(count)
FROM (
    SELECT kind, status, count
    FROM run_counts
    WHERE generation = ?
    UNION ALL
    SELECT kind, status, -1
    FROM runs
    WHERE generation = ?
        AND deleted_at IS NULL
        AND run_id IN (SELECT value FROM json_each(?))
)
GROUP BY kind, status
HAVING sum(count) > 0
"""
_MISCOUNTED: Final = """
SELECT project, kind, status, sum(counted), sum(there)
FROM (
    SELECT project, kind, status, count AS counted, 0 AS there
    FROM run_counts
    WHERE generation = ?
    UNION ALL
    SELECT project, kind, status, 0, count(*)
    FROM runs
    WHERE generation = ? AND deleted_at IS NULL
    GROUP BY project, kind, status
)
GROUP BY project, kind, status
HAVING sum(counted) <> sum(there)
ORDER BY coalesce(project, ''), kind, status
"""
_AMONG: Final[dict[CountedBy, LiteralString]] = {
    "project": "\n    AND runs.project IN (SELECT value FROM json_each(?))\nGROUP BY runs.project",
    "status": "\n    AND runs.status IN (SELECT value FROM json_each(?))\nGROUP BY runs.status",
}
