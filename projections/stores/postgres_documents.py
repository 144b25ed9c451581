"""The tables of `documents` in PostgreSQL."""

from collections.abc import Sequence
from typing import Final, cast

from ledger.store import Store
from ledger.stores.postgres import PostgresStore
from projections.documents import DOCUMENTS, LAYOUT, DocumentFilter, DocumentsState, restore
from projections.stores.postgres_details import PostgresDetails
from projections.stores.postgres_tables import fetch


def open_tables(store: Store) -> "PostgresDocuments":
    """Give the tables in the log's database."""
    return PostgresDocuments(cast(PostgresStore, store), DOCUMENTS, LAYOUT, restore)


class PostgresDocuments(PostgresDetails[DocumentsState]):
    """The tables of `documents`, and what is asked of them."""

    def named(self, generation: int, run_id: str, name: str) -> Sequence[bytes] | None:
        with self._store.session() as connection:
            rows = [data for (data,) in fetch(connection, _NAMED, (generation, run_id, name))]
            return rows if self._is_live(connection, generation) else None

    def latest(self, generation: int, wanted: DocumentFilter) -> Sequence[tuple[str, bytes]] | None:
        conditions: list[str] = []
        params: list[str | int | list[str]] = [generation, wanted.name]
        if wanted.project is not None:
            conditions.append(_PROJECT)
            params.append(wanted.project)
        if wanted.kinds:
            conditions.append(_KINDS)
            params.append(list(wanted.kinds))
        if wanted.non_empty:
            conditions.append(_NON_EMPTY)
        with self._store.session() as connection:
            rows = fetch(connection, "".join([_LATEST, *conditions, _NEWEST]), params)
            return rows if self._is_live(connection, generation) else None


_NAMED: Final = "SELECT data FROM runfold.documents WHERE generation = %s AND run_id = %s AND name = %s"
_LATEST: Final = """
SELECT document.run_id, document.data
FROM runfold.documents AS document
JOIN runfold.document_runs AS run ON run.generation = document.generation AND run.run_id = document.run_id
WHERE document.generation = %s AND document.name = %s AND run.deleted_at IS NULL
"""
_PROJECT: Final = "    AND document.project = %s\n"
_KINDS: Final = "    AND document.kind = ANY (%s::text[])\n"
_NON_EMPTY: Final = "    AND document.is_empty = 0\n"
_NEWEST: Final = """
ORDER BY document.created_at DESC, document.run_id DESC
LIMIT 1
"""
