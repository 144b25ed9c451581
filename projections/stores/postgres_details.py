"""The tables of projections with many rows a run, in PostgreSQL."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Generic, LiteralString

from ledger.stores.postgres import PostgresStore
from projections.details import Detail, DetailsRow, Header, Layout, State, StoredDetails
from projections.projection import Named
from projections.stores.postgres_tables import Connection, PostgresTables, fetch
from projections.tables import DETAILS_SCANNED_MAX

_TYPES: Final = {"text": "text", "integer": "int8", "bytes": "bytea"}
_HEADER_TYPES: Final = ("text", "int8", "text", "text", "text", "text", "int8", "bytea")


class PostgresDetails(PostgresTables[DetailsRow[State], StoredDetails], Generic[State]):
    """The tables of one such projection."""

    def __init__(
        self, store: PostgresStore, projection: Named, layout: Layout, restore: Callable[[Header], DetailsRow[State]]
    ) -> None:
        self._detail_rows = DetailRows(layout, restore)
        super().__init__(store, projection, self._detail_rows)

    def rows_of(self, generation: int, run_id: str, *, after: int, limit: int) -> Sequence[Detail] | None:
        with self._store.transaction() as connection:
            rows = self._detail_rows.rows_of(connection, generation, run_id, after=after, limit=limit)
            return rows if self._is_live(connection, generation) else None


class DetailRows(Generic[State]):
    """The rows of such a projection: a header a run, and its details."""

    def __init__(self, layout: Layout, restore: Callable[[Header], DetailsRow[State]]) -> None:
        columns = [name for name, _ in layout.columns]
        types = [_TYPES[kind] for _, kind in layout.columns]
        self.header: LiteralString = layout.header
        self.others: Sequence[LiteralString] = (layout.details,)
        self._restore = restore
        self._load = _LOAD.replace("{table}", layout.header)
        self._scan = _SCAN.replace("{table}", layout.header)
        self._empty = _EMPTY.replace("{table}", layout.details)
        self._forget = _FORGET.replace("{table}", layout.details)
        self._rows_of = _ROWS_OF.replace("{table}", layout.details).replace("{columns}", ", ".join(columns))
        self._headers = _Target(layout.header, Header._fields, _HEADER_TYPES, "generation, run_id")
        self._details = _Target(
            layout.details,
            ("run_id", "number", "part", *columns),
            ("text", "int8", "int8", *types),
            "generation, run_id, number",
        )

    def load(self, connection: Connection, generation: int, run_ids: Sequence[str]) -> dict[str, DetailsRow[State]]:
        found = fetch(connection, self._load, (generation, run_ids))
        return {row[0]: self._restore(Header._make(row)) for row in found}

    def save(self, connection: Connection, generation: int, rows: Sequence[StoredDetails]) -> None:
        for row in rows:
            if row.is_emptied:
                connection.execute(self._empty, (generation, row.run_id))
            elif row.forgotten:
                connection.execute(self._forget, (generation, row.run_id, sorted(row.forgotten)))
        self._headers.save(connection, generation, [row.header for row in rows])
        self._details.save(connection, generation, _details(rows))

    def add(self, connection: Connection, generation: int, rows: Sequence[StoredDetails]) -> None:
        self._headers.add(connection, generation, [row.header for row in rows])
        self._details.add(connection, generation, _details(rows))

    def scan(
        self, connection: Connection, generation: int, *, after_run_id: str, limit: int
    ) -> Sequence[StoredDetails]:
        found: list[StoredDetails] = []
        room = DETAILS_SCANNED_MAX
        for values in fetch(connection, self._scan, (generation, after_run_id, limit)):
            if found and room <= 0:
                break
            header = Header._make(values)
            rows = self.rows_of(connection, generation, header.run_id, after=-1, limit=None)
            found.append(StoredDetails(header, tuple(rows)))
            room -= len(rows)
        return found

    def rows_of(
        self, connection: Connection, generation: int, run_id: str, *, after: int, limit: int | None
    ) -> list[tuple[Any, ...]]:
        return fetch(connection, self._rows_of, (generation, run_id, after, limit))


class _Target:
    """A table that rows go to: those that may be there already, and those that are not."""

    def __init__(self, table: str, columns: Sequence[str], types: Sequence[str], key: str) -> None:
        names = ", ".join(("generation", *columns))
        arrays = ", ".join(_ARRAY.replace("{type}", kind) for kind in types)
        sets = ",\n    ".join(_SET.replace("{column}", name) for name in columns if name not in key.split(", "))
        self._add = _COPY.replace("{table}", table).replace("{columns}", names)
        self._types = ["int8", *types]
        self._save = (
            _SAVE.replace("{table}", table)
            .replace("{columns}", names)
            .replace("{arrays}", arrays)
            .replace("{key}", key)
            .replace("{sets}", sets)
        )

    def save(self, connection: Connection, generation: int, rows: Iterable[Sequence[object]]) -> None:
        columns = [list(column) for column in zip(*rows, strict=True)]
        if columns:
            connection.execute(self._save.encode(), [generation, *columns])

    def add(self, connection: Connection, generation: int, rows: Iterable[Sequence[object]]) -> None:
        with connection.cursor() as cursor, cursor.copy(self._add.encode()) as copy:
            copy.set_types(self._types)
            for row in rows:
                copy.write_row((generation, *row))


def _details(rows: Sequence[StoredDetails]) -> list[tuple[Any, ...]]:
    return [(row.run_id, *detail) for row in rows for detail in row.rows]


_ARRAY: Final = "%s::{type}[]"
_SET: Final = "{column} = excluded.{column}"
_COPY: Final = "COPY runfold.{table} ({columns}) FROM STDIN (FORMAT BINARY)"
_SAVE: Final = """
INSERT INTO runfold.{table} ({columns})
SELECT %s, saved.*
FROM unnest({arrays}) AS saved
ON CONFLICT ({key}) DO UPDATE SET
    {sets}
"""
_LOAD: Final = """
SELECT run_id, version, kind, project, created_at, deleted_at, row_count, state
FROM runfold.{table}
WHERE generation = %s AND run_id = ANY (%s::text[])
"""
_SCAN: Final = """
SELECT run_id, version, kind, project, created_at, deleted_at, row_count, state
FROM runfold.{table}
WHERE generation = %s AND run_id > %s
ORDER BY run_id
LIMIT %s
"""
_EMPTY: Final = "DELETE FROM runfold.{table} WHERE generation = %s AND run_id = %s"
_FORGET: Final = "DELETE FROM runfold.{table} WHERE generation = %s AND run_id = %s AND part = ANY (%s::bigint[])"
_ROWS_OF: Final = """
SELECT number, part, {columns}
FROM runfold.{table}
WHERE generation = %s AND run_id = %s AND number > %s
ORDER BY number
LIMIT %s
"""
