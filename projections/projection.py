"""What a projection is: a fold of each run's events into one row, and where it keeps details, into many.

Adding one takes a pure module like `runs.py` or `results.py`, its tables in the three stores and a line in the
projector's registry; catching up, rebuilding, verifying and measuring the lag come with that.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol, TypeVar

from projections.decoding import FoldEvent


class HasVersion(Protocol):
    """What every row has: whose it is, and up to which version of the run it is folded."""

    @property
    def run_id(self) -> str: ...

    @property
    def version(self) -> int: ...


class IsStored(HasVersion, Protocol):
    """What every stored row has besides: a value to compare it by."""

    @property
    def kept(self) -> object:
        """What is in the tables once it is stored; equal rows have equal ones."""


Row = TypeVar("Row", bound=HasVersion)
"""What a run is folded into: changed in place, with one owner; measured, copies would be most of the work."""
Row_co = TypeVar("Row_co", bound=HasVersion, covariant=True)

Stored = TypeVar("Stored", bound=IsStored)
"""A row as the tables keep it: the same values on every database, so equal rows are equal values."""
Stored_co = TypeVar("Stored_co", bound=IsStored, covariant=True)
Stored_contra = TypeVar("Stored_contra", bound=IsStored, contravariant=True)


class Named(Protocol):
    """What tables need to know of their projection."""

    @property
    def name(self) -> str:
        """The name it is asked for by."""

    @property
    def version(self) -> int:
        """Of the fold: a release that folds otherwise has another one, and the rows have to be rebuilt."""


class Projection(Named, Protocol[Row, Stored_co]):
    """A fold, and what is kept of it."""

    def read(self, events: Iterable[bytes]) -> list[FoldEvent]:
        """Read a page's events, without what this fold does not look at."""

    def fold(self, row: Row | None, events: Sequence[FoldEvent]) -> Row:
        """Fold the next events of the row's run and give the row: the given one, changed, or the first for None."""

    def store(self, row: Row) -> Stored_co:
        """Give what the tables keep of a row."""

    def weight(self, row: Row) -> int:
        """Tell how many detail rows a row holds that are not in the tables yet: they have to be let go in time."""


class Checkpoint(NamedTuple):
    """How far a projection has got.

    Attributes:
        generation: Which rows are live; 0 while there are none at all.
        version: Of the fold that made them.
        position: Every event up to here is in the rows. They may know later ones as well.
        building: The generation that a rebuild fills, or left behind; None when there is none.
    """

    generation: int = 0
    version: int = 0
    position: int = 0
    building: int | None = None


class Lag(NamedTuple):
    """How far a projection's rows are behind the log. A read catches up first, so no reader sees it.

    Attributes:
        name: Of the projection.
        checkpoint: Position up to which every event is in the rows.
        head: Position of the newest event.
        events_behind: How many events stand after the checkpoint. Some may be in the rows already: those that were
            read while an older transaction was still under way.
        behind_since: When the first of them was recorded; None when there is none.
    """

    name: str
    checkpoint: int
    head: int
    events_behind: int
    behind_since: datetime | None


class Miscount(NamedTuple):
    """A count that lists are answered from, and that is not what there is.

    Attributes:
        counted: What is kept.
        there: How many rows there are that are not in the bin.
    """

    project: str | None
    kind: str
    status: str
    counted: int
    there: int


class Verification(NamedTuple):
    """What comparing rows and log found; true in a condition when they are equal.

    Attributes:
        checked: How many runs' rows were compared.
        missing: Runs of the log that have no row.
        extra: Rows of runs that the log does not know.
        differing: Runs whose row is not the fold of their events.
        miscounted: Counts that are not those of the rows.
    """

    checked: int
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    differing: tuple[str, ...] = ()
    miscounted: tuple[Miscount, ...] = ()

    def __bool__(self) -> bool:
        return not (self.missing or self.extra or self.differing or self.miscounted)
