"""What every projection's tables do in memory, beside a log in memory: for tests, and the plainest statement of it.

Differs from its siblings: nothing is durable, and nothing is rolled back: rows that were saved without their checkpoint
are passed over when their events are read again.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, Protocol

from ledger.errors import StoreBusy
from ledger.stores.memory import MemoryStore
from projections.projection import Checkpoint, Miscount, Named, Row, Row_co, Stored

Generation = dict[str, Any]


class MemoryRows(Protocol[Row_co, Stored]):
    """What one projection's rows need beyond that."""

    def put(self, rows: Generation, row: Stored) -> None:
        """Write a row over what is there of its run."""

    def restore(self, kept: Any) -> Row_co:
        """Give what is kept of a run as a row to fold on from."""

    def whole(self, kept: Any) -> Stored:
        """Give what is kept of a run as it would be stored at once."""


@dataclass(slots=True)
class MemoryTable:
    """What `MemoryStore.tables` holds of one projection.

    Attributes:
        checkpoint: Of the live generation.
        generations: What is kept of each run, by its id.
        is_rebuilding: Whether a rebuild is under way.
    """

    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    generations: dict[int, Generation] = field(default_factory=dict)
    is_rebuilding: bool = False

    def rows(self, generation: int) -> Generation:
        return self.generations.get(generation, {})


class MemoryTables(Generic[Row, Stored]):
    """The tables of one projection in a process's memory."""

    def __init__(self, store: MemoryStore, projection: Named, rows: MemoryRows[Row, Stored]) -> None:
        self._lock = store.lock
        self._projection = projection
        self._rows = rows
        with self._lock:
            self._table: MemoryTable = store.tables.setdefault(projection.name, MemoryTable())

    def checkpoint(self) -> Checkpoint:
        with self._lock:
            return self._table.checkpoint

    @contextmanager
    def writing(self) -> Iterator["MemoryWriting[Row, Stored]"]:
        with self._lock:
            yield MemoryWriting(self._table, self._projection, self._rows)

    @contextmanager
    def rebuilding(self) -> Iterator[None]:
        with self._lock:
            if self._table.is_rebuilding:
                raise StoreBusy(f"a rebuild of `{self._projection.name}` is under way. Wait for it.")
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

    def load(self, generation: int, run_ids: Sequence[str]) -> dict[str, Row]:
        with self._lock:
            return _load(self._table.rows(generation), run_ids, self._rows)

    def versions(self, generation: int, run_ids: Sequence[str]) -> Mapping[str, int]:
        with self._lock:
            rows = self._table.rows(generation)
            return {run_id: rows[run_id].version for run_id in run_ids if run_id in rows}

    def scan(self, generation: int, *, after_run_id: str, limit: int) -> Sequence[Stored]:
        with self._lock:
            rows = self._table.rows(generation)
            following = (run_id for run_id in sorted(rows) if run_id > after_run_id)
            return [self._rows.whole(rows[run_id]) for run_id in islice(following, limit)]

    def miscounted(self, generation: int) -> Sequence[Miscount]:
        return ()

    @contextmanager
    def _live(self, generation: int) -> Iterator[Generation | None]:
        """Give the rows of a generation while nobody changes them; None when it is not the live one."""
        with self._lock:
            is_live = generation == self._table.checkpoint.generation
            yield self._table.rows(generation) if is_live else None


class MemoryWriting(Generic[Row, Stored]):
    """Changes under the log's lock."""

    def __init__(self, table: MemoryTable, projection: Named, rows: MemoryRows[Row, Stored]) -> None:
        self._table = table
        self._rows = rows
        if not table.checkpoint.generation:
            table.checkpoint = Checkpoint(max([0, *table.generations]) + 1, projection.version)

    @property
    def checkpoint(self) -> Checkpoint:
        return self._table.checkpoint

    def load(self, generation: int, run_ids: Sequence[str]) -> dict[str, Row]:
        return _load(self._table.rows(generation), run_ids, self._rows)

    def save(self, generation: int, rows: Sequence[Stored]) -> None:
        kept = self._table.generations.setdefault(generation, {})
        for row in rows:
            self._rows.put(kept, row)

    def add(self, generation: int, rows: Sequence[Stored]) -> None:
        self.save(generation, rows)

    def move(self, position: int) -> None:
        self._table.checkpoint = self._table.checkpoint._replace(position=position)

    def build(self, generation: int) -> None:
        self._table.checkpoint = self._table.checkpoint._replace(building=generation)

    def go_live(self, generation: int, *, version: int, position: int) -> None:
        self._table.checkpoint = Checkpoint(generation, version, position)


def _load(kept: Generation, run_ids: Sequence[str], rows: MemoryRows[Row, Stored]) -> dict[str, Row]:
    return {run_id: rows.restore(kept[run_id]) for run_id in run_ids if run_id in kept}
