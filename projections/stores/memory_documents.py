"""The tables of `documents` in memory."""

from collections.abc import Sequence
from typing import cast

from ledger.store import Store
from ledger.stores.memory import MemoryStore
from projections.documents import DOCUMENTS, LAYOUT, DocumentFilter, DocumentsState, restore
from projections.stores.memory_details import MemoryDetails


def open_tables(store: Store) -> "MemoryDocuments":
    """Give the tables beside a log in memory."""
    return MemoryDocuments(cast(MemoryStore, store), DOCUMENTS, LAYOUT, restore)


class MemoryDocuments(MemoryDetails[DocumentsState]):
    """The tables of `documents`, and what is asked of them."""

    def named(self, generation: int, run_id: str, name: str) -> Sequence[bytes] | None:
        with self._live(generation) as live:
            if live is None:
                return None
            rows = live[run_id].rows.values() if run_id in live else ()
            return [row[-1] for row in rows if row[self._columns.index("name")] == name]

    def latest(self, generation: int, wanted: DocumentFilter) -> Sequence[tuple[str, bytes]] | None:
        with self._live(generation) as live:
            if live is None:
                return None
            found = [
                (row["created_at"], header.run_id, row["data"])
                for header, row in self._all(live)
                if row["name"] == wanted.name
                and (wanted.project is None or row["project"] == wanted.project)
                and (not wanted.kinds or row["kind"] in wanted.kinds)
                and not (wanted.non_empty and row["is_empty"])
            ]
        return [(run_id, data) for _, run_id, data in sorted(found, reverse=True)[:1]]
