"""Lists of runs for a connection that may not write: what is new is folded in memory, over the rows that are stored.

A list is as fresh as everybody else's. It is put together from the stored rows without those of runs that changed, and
from the changed ones: a run is in one of the two, so none is missing and none is there twice, whoever writes rows
meanwhile. It costs the events that nobody has written rows of yet, each time.

Differs from what a writer reads: `count` looks at the stored rows of all that matches.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from projections.queries import CountedBy, ListedRun, PageKey, RunFilter, finding, matching
from projections.runs import StoredRun
from projections.tables import RunQuestions


class UnwrittenRuns:
    """What lists ask, answered from stored rows and newer ones.

    Args:
        stored: The tables.
        rows: The newer rows.
    """

    def __init__(self, stored: RunQuestions, rows: Sequence[StoredRun]) -> None:
        self._stored = stored
        self._rows = {row.run_id: row for row in rows}

    def list(
        self, generation: int, wanted: RunFilter, *, after: PageKey | None, limit: int
    ) -> Sequence[ListedRun] | None:
        stored = self._stored.list(generation, self._others(wanted), after=after, limit=limit)
        if stored is None:
            return None
        newer = [row for row in matching(wanted, self._rows.values()) if after is None or row.key < after]
        return sorted([*stored, *newer], key=lambda row: row.key, reverse=True)[:limit]

    def count(self, generation: int, wanted: RunFilter) -> int | None:
        stored = self._stored.count(generation, self._others(wanted))
        return None if stored is None else stored + len(matching(wanted, self._rows.values()))

    def count_by(
        self, generation: int, wanted: RunFilter, column: CountedBy, values: Sequence[str]
    ) -> Mapping[str, int] | None:
        stored = self._stored.count_by(generation, self._others(wanted), column, values)
        if stored is None:
            return None
        found = [getattr(self._rows[row.run_id], column) for row in matching(wanted, self._rows.values())]
        return Counter(stored) + Counter(value for value in found if value in values)

    def count_by_kind(self, generation: int, *, without: Sequence[str]) -> Mapping[tuple[str, str], int] | None:
        stored = self._stored.count_by_kind(generation, without=[*without, *self._rows])
        if stored is None:
            return None
        others = [row for row in self._rows.values() if row.deleted_at is None and row.run_id not in without]
        return Counter(stored) + Counter((row.kind, row.status) for row in others)

    def find(self, generation: int, prefix: str, *, project: str | None, limit: int) -> Sequence[str] | None:
        stored = self._stored.find(generation, prefix, project=project, limit=limit)
        if stored is None:
            return None
        return sorted({*stored, *finding(prefix, self._rows.values(), project=project)})[:limit]

    def _others(self, wanted: RunFilter) -> RunFilter:
        return msgspec.structs.replace(wanted, without=tuple(self._rows))
