"""The tables of projections with many rows a run, in memory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic

from ledger.stores.memory import MemoryStore
from projections.details import Detail, DetailsRow, Header, Layout, State, StoredDetails
from projections.projection import Named
from projections.stores.memory_tables import Generation, MemoryTables


@dataclass(slots=True)
class KeptDetails:
    """What is kept of one run: its details by number."""

    header: Header
    rows: dict[int, Detail] = field(default_factory=dict)

    @property
    def version(self) -> int:
        return self.header.version


class MemoryDetails(MemoryTables[DetailsRow[State], StoredDetails], Generic[State]):
    """The tables of one such projection."""

    def __init__(
        self, store: MemoryStore, projection: Named, layout: Layout, restore: Callable[[Header], DetailsRow[State]]
    ) -> None:
        self._columns = ("number", "part", *[name for name, _ in layout.columns])
        super().__init__(store, projection, _DetailRows(restore))

    def rows_of(self, generation: int, run_id: str, *, after: int, limit: int) -> Sequence[Detail] | None:
        with self._live(generation) as live:
            if live is None:
                return None
            kept: KeptDetails | None = live.get(run_id)
            if kept is None:
                return []
            return list(islice((kept.rows[number] for number in sorted(kept.rows) if number > after), limit))

    def _all(self, live: Generation) -> Iterator[tuple[Header, dict[str, Any]]]:
        """Give every row of runs that are not deleted, by the names of its columns."""
        for kept in live.values():
            if kept.header.deleted_at is None:
                for row in kept.rows.values():
                    yield kept.header, dict(zip(self._columns, row, strict=True))


class _DetailRows(Generic[State]):
    def __init__(self, restore: Callable[[Header], DetailsRow[State]]) -> None:
        self._restore = restore

    def put(self, rows: Generation, row: StoredDetails) -> None:
        kept = rows.get(row.run_id)
        if kept is None or row.is_emptied:
            kept = rows[row.run_id] = KeptDetails(row.header)
        kept.header = row.header
        if row.forgotten:
            kept.rows = {number: detail for number, detail in kept.rows.items() if detail[1] not in row.forgotten}
        kept.rows.update((detail[0], detail) for detail in row.rows)

    def restore(self, kept: Any) -> DetailsRow[State]:
        return self._restore(kept.header)

    def whole(self, kept: Any) -> StoredDetails:
        return StoredDetails(kept.header, tuple(kept.rows[number] for number in sorted(kept.rows)))
