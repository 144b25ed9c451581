"""The tables of projections with many rows a run, in a SQLite file."""

from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, LiteralString

import apsw

from ledger.run.codec import encode_json
from ledger.stores.sqlite import SqliteStore
from projections.details import Detail, DetailsRow, Header, Layout, State, StoredDetails
from projections.projection import Named
from projections.stores.sqlite_tables import SqliteTables, discard_from, fetch, json_list
from projections.tables import DETAILS_SCANNED_MAX


class SqliteDetails(SqliteTables[DetailsRow[State], StoredDetails], Generic[State]):
    """The tables of one such projection."""

    def __init__(
        self, store: SqliteStore, projection: Named, layout: Layout, restore: Callable[[Header], DetailsRow[State]]
    ) -> None:
        self._detail_rows = DetailRows(layout, restore)
        super().__init__(store, projection, self._detail_rows)

    def rows_of(self, generation: int, run_id: str, *, after: int, limit: int) -> Sequence[Detail] | None:
        with self._live(generation) as connection:
            if connection is None:
                return None
            return self._detail_rows.rows_of(connection, generation, run_id, after=after, limit=limit)


class DetailRows(Generic[State]):
    """The rows of such a projection: a header a run, and its details."""

    def __init__(self, layout: Layout, restore: Callable[[Header], DetailsRow[State]]) -> None:
        columns = [name for name, _ in layout.columns]
        self.header: LiteralString = layout.header
        self.others: Sequence[LiteralString] = (layout.details,)
        self.discards = tuple(discard_from(table) for table in (layout.header, layout.details))
        self._restore = restore
        self._load = _LOAD.replace("{table}", layout.header)
        self._scan = _SCAN.replace("{table}", layout.header)
        self._empty = _EMPTY.replace("{table}", layout.details)
        self._forget = _FORGET.replace("{table}", layout.details)
        self._rows_of = _ROWS_OF.replace("{table}", layout.details).replace("{columns}", ", ".join(columns))
        self._add_header = _insert(layout.header, ["generation", *Header._fields])
        self._add_detail = _insert(layout.details, ["generation", "run_id", "number", "part", *columns])
        self._save_header = self._add_header + _or_update("generation, run_id", Header._fields[1:])
        self._save_detail = self._add_detail + _or_update("generation, run_id, number", ["part", *columns])

    def load(
        self, connection: apsw.Connection, generation: int, run_ids: Sequence[str]
    ) -> dict[str, DetailsRow[State]]:
        found = fetch(connection, self._load, (generation, json_list(run_ids)))
        return {row[0]: self._restore(Header._make(row)) for row in found}

    def save(self, connection: apsw.Connection, generation: int, rows: Sequence[StoredDetails]) -> None:
        for row in rows:
            if row.is_emptied:
                connection.execute(self._empty, (generation, row.run_id))
            elif row.forgotten:
                parts = encode_json(sorted(row.forgotten)).decode()
                connection.execute(self._forget, (generation, row.run_id, parts))
        connection.executemany(self._save_header, [(generation, *row.header) for row in rows])
        connection.executemany(self._save_detail, _details(generation, rows))

    def add(self, connection: apsw.Connection, generation: int, rows: Sequence[StoredDetails]) -> None:
        connection.executemany(self._add_header, [(generation, *row.header) for row in rows])
        connection.executemany(self._add_detail, _details(generation, rows))

    def scan(
        self, connection: apsw.Connection, generation: int, *, after_run_id: str, limit: int
    ) -> Sequence[StoredDetails]:
        found: list[StoredDetails] = []
        room = DETAILS_SCANNED_MAX
        for values in fetch(connection, self._scan, (generation, after_run_id, limit)):
            if found and room <= 0:
                break
            header = Header._make(values)
            rows = self.rows_of(connection, generation, header.run_id, after=-1, limit=-1)
            found.append(StoredDetails(header, tuple(rows)))
            room -= len(rows)
        return found

    def rows_of(
        self, connection: apsw.Connection, generation: int, run_id: str, *, after: int, limit: int
    ) -> list[tuple[Any, ...]]:
        return fetch(connection, self._rows_of, (generation, run_id, after, limit))


def _details(generation: int, rows: Sequence[StoredDetails]) -> list[tuple[Any, ...]]:
    return [(generation, row.run_id, *detail) for row in rows for detail in row.rows]


def _insert(table: LiteralString, columns: Sequence[str]) -> LiteralString:
    marks = ", ".join("?" * len(columns))
    return (
        _INSERT.replace("{table}", table).replace("{columns}", ", ".join(columns)).replace("{marks}", marks)  # type: ignore[return-value, unused-ignore]
    )


def _or_update(key: str, columns: Sequence[str]) -> LiteralString:
    sets = ",\n    ".join(_SET.replace("{column}", column) for column in columns)
    return _OR_UPDATE.replace("{key}", key).replace("{sets}", sets)  # type: ignore[return-value, unused-ignore]


_INSERT: Final = """
INSERT INTO {table} ({columns})
VALUES ({marks})
"""
_OR_UPDATE: Final = """
ON CONFLICT ({key}) DO UPDATE SET
    {sets}
"""
_SET: Final = "{column} = excluded.{column}"
_LOAD: Final = """
SELECT run_id, version, kind, project, created_at, deleted_at, row_count, state
FROM {table}
WHERE generation = ? AND run_id IN (SELECT value FROM json_each(?))
"""
_SCAN: Final = """
SELECT run_id, version, kind, project, created_at, deleted_at, row_count, state
FROM {table}
WHERE generation = ? AND run_id > ?
ORDER BY run_id
LIMIT ?
"""
_EMPTY: Final = "DELETE FROM {table} WHERE generation = ? AND run_id = ?"
_FORGET: Final = """
DELETE FROM {table}
WHERE generation = ? AND run_id = ? AND part IN (SELECT value FROM json_each(?))
"""
_ROWS_OF: Final = """
SELECT number, part, {columns}
FROM {table}
WHERE generation = ? AND run_id = ? AND number > ?
ORDER BY number
LIMIT ?
"""
