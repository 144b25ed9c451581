"""The port that the tables of a projection fulfil, on every database alike.

What tables promise:

1. Rows and checkpoint change in one transaction, and such transactions come one after the other, whatever process
   they are of.
2. Rows stand in generations. One is live; `Writing.go_live` changes which, and nothing else does.
3. A read names the generation it wants and gets None when that is not the live one any more.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol

from projections.details import Detail, DetailsRow, State, StoredDetails
from projections.documents import DocumentFilter, DocumentsState
from projections.projection import Checkpoint, Miscount, Row, Stored, Stored_contra
from projections.queries import CountedBy, ListedRun, PageKey, RunFilter
from projections.results import OutcomeRow, RankedTest, RankingFilter, ResultRow, ResultsState
from projections.runs import RunRow, StoredRun
from projections.timings import TimingsState

DETAILS_SCANNED_MAX: Final = 20_000
"""Detail rows that `Tables.scan` gives at once, unless a single run has more."""


class Writing(Protocol[Row, Stored_contra]):
    """One transaction on a projection's tables, alone; it commits when its block ends."""

    @property
    def checkpoint(self) -> Checkpoint:
        """As it stands in this transaction; there is a live generation."""

    def load(self, generation: int, run_ids: Sequence[str]) -> dict[str, Row]:
        """Give those rows that are there, to fold on from."""

    def save(self, generation: int, rows: Sequence[Stored_contra]) -> None:
        """Write rows over what is there of their runs."""

    def add(self, generation: int, rows: Sequence[Stored_contra]) -> None:
        """Write rows of runs that have none: the fast way."""

    def move(self, position: int) -> None:
        """Set the checkpoint of the live generation."""

    def build(self, generation: int) -> None:
        """Note which generation is being filled."""

    def go_live(self, generation: int, *, version: int, position: int) -> None:
        """Make a generation the live one, with its checkpoint; none is being filled any more."""


class Tables(Protocol[Row, Stored]):
    """The tables of one projection."""

    def checkpoint(self) -> Checkpoint:
        """Give the checkpoint as it is now, without waiting for anybody."""

    def writing(self) -> AbstractContextManager[Writing[Row, Stored]]:
        """Wait for this projection's turn and begin a transaction."""

    def rebuilding(self) -> AbstractContextManager[None]:
        """Be the only rebuild, of all processes, until the block or the process ends.

        Raises:
            StoreBusy: when another rebuild is under way.
        """

    def newest_generation(self) -> int:
        """Give the highest generation that has a row or is live; 0 when there is none."""

    def discard(self, *, below: int, rows_max: int) -> int:
        """Delete some rows of generations before this one that are not live.

        Returns:
            How many were deleted; 0 when none is left.
        """

    def load(self, generation: int, run_ids: Sequence[str]) -> dict[str, Row]:
        """Give those rows that are there, to fold on from."""

    def versions(self, generation: int, run_ids: Sequence[str]) -> Mapping[str, int]:
        """Give the versions of those rows that are there."""

    def scan(self, generation: int, *, after_run_id: str, limit: int) -> Sequence[Stored]:
        """Give whole rows in the order of their run ids, whichever generation is live; fewer when they are long."""

    def miscounted(self, generation: int) -> Sequence[Miscount]:
        """Give the counts kept beside the rows that are not theirs, in one moment; none where no counts are kept."""


class RunQuestions(Protocol):
    """What lists ask of `runs`, each of one generation; None when that is not the live one."""

    def list(
        self, generation: int, wanted: RunFilter, *, after: PageKey | None, limit: int
    ) -> Sequence[ListedRun] | None:
        """Give the first rows after a place in the order.

        With `wanted.at`, only rows of runs that had begun by then; the other conditions hold of the rows as they are.
        """

    def count(self, generation: int, wanted: RunFilter) -> int | None:
        """Count the rows that `list` would give."""

    def count_by(
        self, generation: int, wanted: RunFilter, column: CountedBy, values: Sequence[str]
    ) -> Mapping[str, int] | None:
        """Count the rows that `list` would give, for each of these values of a column that any row has."""

    def count_by_kind(self, generation: int, *, without: Sequence[str]) -> Mapping[tuple[str, str], int] | None:
        """Count the rows that are not in the bin, nor of these runs, by kind and status, without going through all."""

    def find(self, generation: int, prefix: str, *, project: str | None, limit: int) -> Sequence[str] | None:
        """Give the first run ids that begin with a text, in their order; of one project only, where one is given."""


class RunTables(RunQuestions, Tables[RunRow, StoredRun], Protocol):
    """The tables of `runs`."""

    def state(self, run_id: str, *, version: int) -> bytes | None:
        """Give the live state of one run; None when there is no row, or a fold of another version made it."""


class DetailTables(Tables[DetailsRow[State], StoredDetails], Protocol[State]):
    """The tables of a projection with many rows a run."""

    def rows_of(self, generation: int, run_id: str, *, after: int, limit: int) -> Sequence[Detail] | None:
        """Give a run's details in the order of their numbers, after one of them; -1 is before the first."""


class ResultTables(DetailTables[ResultsState], Protocol):
    """The tables of `results`. Questions that are not about one run pass over deleted ones."""

    def of_run(self, generation: int, run_id: str, *, after: int, limit: int) -> Sequence[ResultRow] | None:
        """Give a run's results in the order in which they appeared, after a number."""

    def outcomes(self, generation: int, run_id: str, *, after: int, limit: int) -> Sequence[OutcomeRow] | None:
        """Give what `of_run` gives, without what is heavy."""

    def of_test(
        self, generation: int, test: bytes, *, project: str | None, kind: str | None, limit: int
    ) -> Sequence[ResultRow] | None:
        """Give the newest results of a test, by when their run was created, its id, and their number."""

    def ranked(self, generation: int, wanted: RankingFilter) -> Sequence[RankedTest] | None:
        """Give the first tests of a ranking, over executed results; equals stand in the order of their ids."""


class DocumentTables(DetailTables[DocumentsState], Protocol):
    """The tables of `documents`."""

    def named(self, generation: int, run_id: str, name: str) -> Sequence[bytes] | None:
        """Give a run's document of a name, if there is one."""

    def latest(self, generation: int, wanted: DocumentFilter) -> Sequence[tuple[str, bytes]] | None:
        """Give run id and document of the newest run that has one and is not deleted, if there is one."""


class TimingTables(DetailTables[TimingsState], Protocol):
    """The tables of `timings`."""
