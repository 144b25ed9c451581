"""The `runs` tables in memory, beside a log in memory: for tests, and the plainest statement of what tables do.

Differs from its siblings: nothing is durable, a list looks at every row, and nothing is rolled back: rows that were
saved without their checkpoint are passed over when their events are read again.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

from ledger.errors import StoreBusy
from ledger.store import Store
from ledger.stores.memory import MemoryStore
from projections.projection import Checkpoint
from projections.queries import ListedRun, PageKey, RunFilter, matches
from projections.runs import RUNS, RunRow, StoredRun, decode_run, restore

Generation = dict[str, StoredRun]


@dataclass(slots=True)
class RunTable:
    """What `MemoryStore.tables` holds of `runs`.

    Attributes:
        checkpoint: Of the live generation.
        generations: Rows by run id.
        is_rebuilding: Whether a rebuild is under way.
    """

    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    generations: dict[int, Generation] = field(default_factory=dict)
    is_rebuilding: bool = False

    def rows(self, generation: int) -> Generation:
        return self.generations.get(generation, {})

    def matching(self, generation: int, wanted: RunFilter) -> list[ListedRun]:
        return [
            ListedRun(row.created_at, row.run_id, row.last_recorded_at, row.run)
            for row in self.rows(generation).values()
            if (wanted.at is None or row.first_recorded_at <= wanted.at) and matches(wanted, decode_run(row.run))
        ]


def open_tables(store: Store) -> "MemoryRuns":
    """Give the tables beside a log in memory."""
    return MemoryRuns(cast(MemoryStore, store))


class MemoryRuns:
    """The tables of `runs` in a process's memory."""

    def __init__(self, store: MemoryStore) -> None:
        self._lock = store.lock
        with self._lock:
            self._table: RunTable = store.tables.setdefault(RUNS.name, RunTable())

    def checkpoint(self) -> Checkpoint:
        with self._lock:
            return self._table.checkpoint

    @contextmanager
    def writing(self) -> Iterator["_MemoryWriting"]:
        with self._lock:
            yield _MemoryWriting(self._table)

    @contextmanager
    def rebuilding(self) -> Iterator[None]:
        with self._lock:
            if self._table.is_rebuilding:
                raise StoreBusy("a rebuild of `runs` is under way. Wait for it.")
            self._table.is_rebuilding = True
        try:
            yield
        finally:
            with self._lock:
                self._table.is_rebuilding = False

    def newest_generation(self) -> int:
        with self._lock:
            return max([self._table.checkpoint.generation, *self._table.generations])

    def discard(self, *, below: int, rows_max: int) -> int:
        with self._lock:
            old = [n for n in self._table.generations if n < below and n != self._table.checkpoint.generation]
            return sum(len(self._table.generations.pop(generation)) for generation in old)

    def load(self, generation: int, run_ids: Sequence[str]) -> dict[str, RunRow]:
        with self._lock:
            return _load(self._table.rows(generation), run_ids)

    def versions(self, generation: int, run_ids: Sequence[str]) -> dict[str, int]:
        with self._lock:
            rows = self._table.rows(generation)
            return {run_id: rows[run_id].version for run_id in run_ids if run_id in rows}

    def scan(self, generation: int, *, after_run_id: str, limit: int) -> Sequence[StoredRun]:
        with self._lock:
            rows = self._table.rows(generation)
            return [rows[run_id] for run_id in sorted(rows) if run_id > after_run_id][:limit]

    def state(self, run_id: str, *, version: int) -> bytes | None:
        with self._lock:
            live = self._table.checkpoint
            row = self._table.rows(live.generation).get(run_id)
        return row.state if row is not None and live.version == version else None

    def list(
        self, generation: int, wanted: RunFilter, *, after: PageKey | None, limit: int
    ) -> Sequence[ListedRun] | None:
        with self._lock:
            if generation != self._table.checkpoint.generation:
                return None
            rows = self._table.matching(generation, wanted)
        rows.sort(key=lambda row: row.key, reverse=True)
        return [row for row in rows if after is None or row.key < after][:limit]

    def count(self, generation: int, wanted: RunFilter) -> int | None:
        with self._lock:
            if generation != self._table.checkpoint.generation:
                return None
            return len(self._table.matching(generation, wanted))

    def find(self, generation: int, prefix: str, *, limit: int) -> Sequence[str] | None:
        with self._lock:
            if generation != self._table.checkpoint.generation:
                return None
            return sorted(run_id for run_id in self._table.rows(generation) if run_id.startswith(prefix))[:limit]


class _MemoryWriting:
    """Changes under the log's lock."""

    def __init__(self, table: RunTable) -> None:
        self._table = table
        if not table.checkpoint.generation:
            table.checkpoint = Checkpoint(max([0, *table.generations]) + 1, RUNS.version)

    @property
    def checkpoint(self) -> Checkpoint:
        return self._table.checkpoint

    def load(self, generation: int, run_ids: Sequence[str]) -> dict[str, RunRow]:
        return _load(self._table.generations.get(generation, {}), run_ids)

    def save(self, generation: int, rows: Sequence[StoredRun]) -> None:
        self._table.generations.setdefault(generation, {}).update((row.run_id, row) for row in rows)

    def add(self, generation: int, rows: Sequence[StoredRun]) -> None:
        self.save(generation, rows)

    def move(self, position: int) -> None:
        self._table.checkpoint = self._table.checkpoint._replace(position=position)

    def build(self, generation: int) -> None:
        self._table.checkpoint = self._table.checkpoint._replace(building=generation)

    def go_live(self, generation: int, *, version: int, position: int) -> None:
        self._table.checkpoint = Checkpoint(generation, version, position)


def _load(rows: Generation, run_ids: Sequence[str]) -> dict[str, RunRow]:
    found = [rows[run_id] for run_id in run_ids if run_id in rows]
    return {
        row.run_id: restore(row.state, first_recorded_at=row.first_recorded_at, last_recorded_at=row.last_recorded_at)
        for row in found
    }
