"""The `runs` tables in memory.

Differs from its siblings: a list looks at every row.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

from ledger.store import Store
from ledger.stores.memory import MemoryStore
from projections.queries import CountedBy, ListedRun, PageKey, RunFilter, finding, matching
from projections.runs import RUNS, RunRow, StoredRun, restore
from projections.stores.memory_tables import Generation, MemoryTables


def open_tables(store: Store) -> "MemoryRuns":
    """Give the tables beside a log in memory."""
    return MemoryRuns(cast(MemoryStore, store), RUNS, _RunRows())


class MemoryRuns(MemoryTables[RunRow, StoredRun]):
    """The tables of `runs`, and what lists ask of them."""

    def state(self, run_id: str, *, version: int) -> bytes | None:
        with self._lock:
            live = self._table.checkpoint
            row: StoredRun | None = self._table.rows(live.generation).get(run_id)
        return row.state if row is not None and live.version == version else None

    def list(
        self, generation: int, wanted: RunFilter, *, after: PageKey | None, limit: int
    ) -> Sequence[ListedRun] | None:
        with self._live(generation) as live:
            if live is None:
                return None
            rows = matching(wanted, live.values())
        return [row for row in rows if after is None or row.key < after][:limit]

    def count(self, generation: int, wanted: RunFilter) -> int | None:
        with self._live(generation) as live:
            return None if live is None else len(matching(wanted, live.values()))

    def count_by(
        self, generation: int, wanted: RunFilter, column: CountedBy, values: Sequence[str]
    ) -> Mapping[str, int] | None:
        with self._live(generation) as live:
            if live is None:
                return None
            counts = Counter(getattr(live[row.run_id], column) for row in matching(wanted, live.values()))
        return {value: counts[value] for value in values if value in counts}

    def count_by_kind(self, generation: int, *, without: Sequence[str]) -> Mapping[tuple[str, str], int] | None:
        with self._live(generation) as live:
            if live is None:
                return None
            counted = [row for row in live.values() if row.deleted_at is None and row.run_id not in without]
            return Counter((row.kind, row.status) for row in counted)

    def find(self, generation: int, prefix: str, *, project: str | None, limit: int) -> Sequence[str] | None:
        with self._live(generation) as live:
            return None if live is None else finding(prefix, live.values(), project=project)[:limit]


class _RunRows:
    """The rows of `runs`, kept as they are stored."""

    def put(self, rows: Generation, row: StoredRun) -> None:
        rows[row.run_id] = row

    def restore(self, kept: Any) -> RunRow:
        return restore(kept.state, first_recorded_at=kept.first_recorded_at, last_recorded_at=kept.last_recorded_at)

    def whole(self, kept: Any) -> StoredRun:
        return cast(StoredRun, kept)
