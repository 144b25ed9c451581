"""What a projection is: a fold of each run's events into one row.

Adding one takes a pure module like `runs.py`, its tables in the three stores and a line in the projector's registry;
catching up, rebuilding, verifying and measuring the lag come with that.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple, Protocol, TypeVar

from projections.decoding import FoldEvent


class HasVersion(Protocol):
    """What every row has: whose it is, and up to which version of the run it is folded."""

    @property
    def run_id(self) -> str: ...

    @property
    def version(self) -> int: ...


Row = TypeVar("Row", bound=HasVersion)
"""What a run is folded into: changed in place, with one owner; measured, copies would be most of the work."""

Stored = TypeVar("Stored", bound=HasVersion)
"""A row as the tables keep it: the same values on every database, so equal rows are equal values."""
Stored_co = TypeVar("Stored_co", bound=HasVersion, covariant=True)
Stored_contra = TypeVar("Stored_contra", bound=HasVersion, contravariant=True)


class Projection(Protocol[Row, Stored_co]):
    """A fold, and what is kept of it."""

    @property
    def name(self) -> str:
        """The name it is asked for by."""

    @property
    def version(self) -> int:
        """Of the fold: a release that folds otherwise has another one, and the rows have to be rebuilt."""

    def fold(self, row: Row | None, events: Sequence[FoldEvent]) -> Row:
        """Fold the next events of the row's run and give the row: the given one, changed, or the first for None."""

    def store(self, row: Row) -> Stored_co:
        """Give what the tables keep of a row."""


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


class Verification(NamedTuple):
    """What comparing rows and log found; true in a condition when they are equal.

    Attributes:
        checked: How many rows were compared.
        missing: Runs of the log that have no row.
        extra: Rows of runs that the log does not know.
        differing: Runs whose row is not the fold of their events.
    """

    checked: int
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    differing: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return not (self.missing or self.extra or self.differing)
