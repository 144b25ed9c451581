"""The `runs` tables in PostgreSQL."""

from collections.abc import Mapping, Sequence
from typing import Final, LiteralString, NamedTuple, cast

import msgspec

from ledger.store import Store
from ledger.stores.postgres import PostgresStore
from projections.projection import Miscount
from projections.queries import CountedBy, ListedRun, PageKey, RunFilter, is_counted
from projections.runs import RUNS, RunRow, StoredRun, restore
from projections.stores.postgres_tables import Connection, Params, PostgresTables, fetch


def open_tables(store: Store) -> "PostgresRuns":
    """Give the tables in the log's database."""
    return PostgresRuns(cast(PostgresStore, store), RUNS, _RunRows())


class PostgresRuns(PostgresTables[RunRow, StoredRun]):
    """The tables of `runs`, and what lists ask of them."""

    def state(self, run_id: str, *, version: int) -> bytes | None:
        with self._store.session() as connection:
            rows = fetch(connection, _STATE, (RUNS.name, version, run_id))
        return rows[0][0] if rows else None

    def list(
        self, generation: int, wanted: RunFilter, *, after: PageKey | None, limit: int
    ) -> Sequence[ListedRun] | None:
        arms = [_select(generation, part, after) for part in _parts(wanted)]
        params = [value for arm in arms for value in (*arm.params, limit)]
        with self._store.session() as connection:
            if len(arms) == 1:
                rows = fetch(connection, _PAGE + arms[0].sql + _ORDER[bool(wanted.labels)], params)
            else:
                sql = "\nUNION ALL\n".join(["".join(["(", _PAGE, arm.sql, _ORDER[False], ")"]) for arm in arms])
                rows = fetch(connection, sql + _MERGED_ORDER, [*params, limit])
            return [ListedRun(*row) for row in rows] if self._is_live(connection, generation) else None

    def count(self, generation: int, wanted: RunFilter) -> int | None:
        selected = _select(generation, wanted, None, from_counts=is_counted(wanted))
        with self._store.session() as connection:
            ((count,),) = fetch(connection, _COUNT[is_counted(wanted)] + selected.sql, selected.params)
            return count if self._is_live(connection, generation) else None

    def count_by(
        self, generation: int, wanted: RunFilter, column: CountedBy, values: Sequence[str]
    ) -> Mapping[str, int] | None:
        selected = _select(generation, wanted, None, from_counts=is_counted(wanted))
        sql = "".join([_COUNT_BY[column, is_counted(wanted)], selected.sql, _AMONG[column]])
        with self._store.session() as connection:
            counts = dict(fetch(connection, sql, [*selected.params, list(values)]))
            return counts if self._is_live(connection, generation) else None

    def count_by_kind(self, generation: int, *, without: Sequence[str]) -> Mapping[tuple[str, str], int] | None:
        with self._store.session() as connection:
            rows = fetch(connection, _COUNT_BY_KIND, (generation, generation, list(without)))
            counts = {(kind, status): count for kind, status, count in rows}
            return counts if self._is_live(connection, generation) else None

    def find(self, generation: int, prefix: str, *, project: str | None, limit: int) -> Sequence[str] | None:
        with self._store.session() as connection:
            found = fetch(connection, _FIND, (generation, prefix, prefix + "~", project, project, limit))
            return [run_id for (run_id,) in found] if self._is_live(connection, generation) else None

    def miscounted(self, generation: int) -> Sequence[Miscount]:
        with self._store.session() as connection:
            return [Miscount(*row) for row in fetch(connection, _MISCOUNTED, (generation, generation))]


class _RunRows:
    """The rows of `runs`: one a run, and one a label."""

    header: LiteralString = "runs"
    others: Sequence[LiteralString] = ("run_labels",)

    def load(self, connection: Connection, generation: int, run_ids: Sequence[str]) -> dict[str, RunRow]:
        return {
            run_id: restore(state, first_recorded_at=first, last_recorded_at=last)
            for run_id, state, first, last in fetch(connection, _LOAD, (generation, run_ids))
        }

    def save(self, connection: Connection, generation: int, rows: Sequence[StoredRun]) -> None:
        columns = zip(*[row[:-1] for row in rows], strict=True)
        connection.execute(_SAVE, [generation, *map(list, columns)])
        connection.execute(_FORGET_LABELS, [generation, [row.run_id for row in rows]])
        _add_labels(connection, generation, rows)

    def add(self, connection: Connection, generation: int, rows: Sequence[StoredRun]) -> None:
        with connection.cursor() as cursor, cursor.copy(_ADD) as copy:
            copy.set_types(_TYPES)
            for row in rows:
                copy.write_row((generation, *row[:-1]))
        _add_labels(connection, generation, rows)

    def scan(self, connection: Connection, generation: int, *, after_run_id: str, limit: int) -> Sequence[StoredRun]:
        rows = fetch(connection, _SCAN, (generation, after_run_id, limit))
        return [StoredRun._make((*row[:-2], tuple(zip(row[-2], row[-1], strict=True)))) for row in rows]


def _add_labels(connection: Connection, generation: int, rows: Sequence[StoredRun]) -> None:
    labels = [(name, value, row.created_at, row.run_id) for row in rows for name, value in row.labels]
    if labels:
        connection.execute(_ADD_LABELS, [generation, *map(list, zip(*labels, strict=True))])


_LOAD: Final = """
SELECT run_id, state, first_recorded_at, last_recorded_at
FROM runfold.runs
WHERE generation = %s AND run_id = ANY (%s::text[])
"""
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
WHERE generation = %s AND run_id >= %s AND run_id < %s AND (%s::text IS NULL OR project = %s)
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
    params: Params


def _parts(wanted: RunFilter) -> Sequence[RunFilter]:
    """Cut a filter by status, so that each part is one scan of an index in the order of the list.

    With labels, the scan is that of the first label, and the status is looked at on the way.
    """
    if len(wanted.status) < 2 or wanted.labels:
        return [wanted]
    return [msgspec.structs.replace(wanted, status=(status,)) for status in wanted.status]


def _select(generation: int, wanted: RunFilter, after: PageKey | None, *, from_counts: bool = False) -> _Selected:
    """Put a query together from the fragments below; what a caller said is only ever a parameter."""
    conditions: list[tuple[LiteralString, Params]] = [("runs.generation = %s", [generation])]
    source: LiteralString = _FROM_COUNTS if from_counts else "FROM runfold.runs"
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
    if wanted.without:
        conditions.append(("runs.run_id <> ALL (%s::text[])", [list(wanted.without)]))
    if wanted.deleted != "include" and not from_counts:
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
_FROM_COUNTS: Final = "FROM runfold.run_counts AS runs"
_COUNT: Final[tuple[LiteralString, LiteralString]] = (
    "SELECT count(*)\n",
    "SELECT coalesce(sum(runs.count), 0)::bigint\n",
)
_COUNT_BY: Final[dict[tuple[CountedBy, bool], LiteralString]] = {
    ("project", False): "SELECT runs.project, count(*)\n",
    ("project", True): "SELECT runs.project, sum(runs.count)::bigint\n",
    ("status", False): "SELECT runs.status, count(*)\n",
    ("status", True): "SELECT runs.status, sum(runs.count)::bigint\n",
}
_COUNT_BY_KIND: Final = """
SELECT kind, status, sum(count)::bigint
FROM (
    SELECT kind, status, count
    FROM runfold.run_counts
    WHERE generation = %s
    UNION ALL
    SELECT kind, status, -1
    FROM runfold.runs
    WHERE generation = %s
        AND deleted_at IS NULL
        AND run_id = ANY (%s::text[])
) counted
GROUP BY kind, status
HAVING sum(count) > 0
"""
_MISCOUNTED: Final = """
SELECT project, kind, status, sum(counted)::bigint, sum(there)::bigint
FROM (
    SELECT project, kind, status, count AS counted, 0 AS there
    FROM runfold.run_counts
    WHERE generation = %s
    UNION ALL
    SELECT project, kind, status, 0, count(*)
    FROM runfold.runs
    WHERE generation = %s AND deleted_at IS NULL
    GROUP BY project, kind, status
) AS both_ways
GROUP BY project, kind, status
HAVING sum(counted) <> sum(there)
ORDER BY coalesce(project, ''), kind, status
"""
_AMONG: Final[dict[CountedBy, LiteralString]] = {
    "project": "\n    AND runs.project = ANY (%s::text[])\nGROUP BY runs.project",
    "status": "\n    AND runs.status = ANY (%s::text[])\nGROUP BY runs.status",
}
