"""The tables of `documents` in a SQLite file."""

from collections.abc import Sequence
from typing import Final, cast

from ledger.store import Store
from ledger.stores.sqlite import SqliteStore
from projections.documents import DOCUMENTS, LAYOUT, DocumentFilter, DocumentsState, restore
from projections.stores.sqlite_details import SqliteDetails
from projections.stores.sqlite_tables import fetch, json_list


def open_tables(store: Store) -> "SqliteDocuments":
    """Give the tables in the log's file."""
    return SqliteDocuments(cast(SqliteStore, store), DOCUMENTS, LAYOUT, restore)


class SqliteDocuments(SqliteDetails[DocumentsState]):
    """The tables of `documents`, and what is asked of them."""

    def named(self, generation: int, run_id: str, name: str) -> Sequence[bytes] | None:
        with self._live(generation) as connection:
            if connection is None:
                return None
            return [data for (data,) in fetch(connection, _NAMED, (generation, run_id, name))]

    def latest(self, generation: int, wanted: DocumentFilter) -> Sequence[tuple[str, bytes]] | None:
        conditions: list[str] = []
        params: list[str | int] = [generation, wanted.name]
        if wanted.project is not None:
            conditions.append(_PROJECT)
            params.append(wanted.project)
        if wanted.kinds:
            conditions.append(_KINDS)
            params.append(json_list(wanted.kinds))
        if wanted.non_empty:
            conditions.append(_NON_EMPTY)
        with self._live(generation) as connection:
            if connection is None:
                return None
            return fetch(connection, "".join([_LATEST, *conditions, _NEWEST]), params)


_NAMED: Final = "SELECT data FROM documents WHERE generation = ? AND run_id = ? AND name = ?"
_LATEST: Final = """
SELECT document.run_id, document.data
FROM documents AS document
CROSS JOIN document_runs AS run ON run.generation = document.generation AND run.run_id = document.run_id
WHERE document.generation = ? AND document.name = ? AND run.deleted_at IS NULL
"""
_PROJECT: Final = "    AND document.project = ?\n"
_KINDS: Final = "    AND document.kind IN (SELECT value FROM json_each(?))\n"
_NON_EMPTY: Final = "    AND document.is_empty = 0\n"
_NEWEST: Final = """
ORDER BY document.created_at DESC, document.run_id DESC
LIMIT 1
"""
