"""What projections with many rows a run share: a small header a run to fold on from, and its detail rows.

A fold only adds rows, writes one over again, or forgets a part of the run (a shard that is tried anew), so a run of
10,000 rows costs an append what the append brings: what is in the tables is never read to be folded on. Everything that
a fold must remember is in the header's state.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, Literal, LiteralString, NamedTuple, TypeVar

import msgspec

from ledger.run.codec import timestamp
from ledger.run.events import TERMINAL_EVENTS, Deleted, DocumentRecorded, Purged, Restored
from projections.decoding import Asked, FoldEvent

Value = str | int | bytes | None
Detail = tuple[int, int, *tuple[Value, ...]]
"""One row: its number within the run, the part of the run it belongs to, then the projection's own columns."""

_AFTERWARDS: Final = (DocumentRecorded, Deleted, Restored)
"""What still happens to a finished run and matters here."""
RUN_EVENTS: Final = (Asked, *TERMINAL_EVENTS, Deleted, Restored, Purged)
"""What every fold of details reads."""


class Layout(NamedTuple):
    """Where the rows are.

    Attributes:
        header: Table of the headers, one a run.
        details: Table of the details.
        columns: Its columns after generation, run_id, number and part.
    """

    header: LiteralString
    details: LiteralString
    columns: tuple[tuple[LiteralString, Literal["text", "integer", "bytes"]], ...]


class Header(NamedTuple):
    """What is kept of a run itself, in the order of the columns.

    Attributes:
        version: Up to which it is folded.
        created_at: In the ledger's text format; empty while it is not known.
        deleted_at: When it went to the recycle bin, or was purged; None for a run that is in neither.
        row_count: How many details it has.
        state: JSON, to fold on from.
    """

    run_id: str
    version: int
    kind: str
    project: str | None
    created_at: str
    deleted_at: str | None
    row_count: int
    state: bytes


class StoredDetails(NamedTuple):
    """What the tables are given of a run, and what they give back of it.

    Attributes:
        header: Its header.
        rows: Details, to be written over those of the same numbers; all of them when they come from the tables.
        forgotten: Parts whose rows go before that.
        is_emptied: Whether all of its rows go before that.
    """

    header: Header
    rows: tuple[Detail, ...] = ()
    forgotten: frozenset[int] = frozenset()
    is_emptied: bool = False

    @property
    def run_id(self) -> str:
        return self.header.run_id

    @property
    def version(self) -> int:
        return self.header.version

    @property
    def kept(self) -> object:
        return (self.header, self.rows)


class Folded(msgspec.Struct, omit_defaults=True):
    """What every state has.

    Attributes:
        is_closed: Whether the run is finished: like the run's own fold, this one ignores what cannot come then.
        is_purged: Whether its data is erased, or being erased.
    """

    is_closed: bool = False
    is_purged: bool = False


State = TypeVar("State", bound=Folded)


@dataclass(slots=True)
class DetailsRow(Generic[State]):
    """A run while it is folded.

    Attributes:
        rows: Details that are not in the tables yet, by number.
        forgotten: Parts whose rows in the tables go; `is_emptied` when all do.
    """

    run_id: str
    state: State
    version: int = 0
    kind: str = ""
    project: str | None = None
    created_at: str = ""
    deleted_at: str | None = None
    row_count: int = 0
    rows: dict[int, Detail] = field(default_factory=dict)
    forgotten: set[int] = field(default_factory=set)
    is_emptied: bool = False

    def add(self, number: int, part: int, *values: Value) -> None:
        """Add a row with a number that no row has."""
        self.rows[number] = (number, part, *values)
        self.row_count += 1

    def change(self, number: int, part: int, *values: Value) -> None:
        """Write a row again."""
        self.rows[number] = (number, part, *values)

    def forget(self, parts: Iterable[int], *, count: int) -> None:
        """Take the rows of some parts away.

        Args:
            parts: Which.
            count: How many rows they have.
        """
        gone = set(parts)
        self.forgotten |= gone
        self.rows = {number: row for number, row in self.rows.items() if row[1] not in gone}
        self.row_count -= count

    def empty(self) -> None:
        """Take all rows away."""
        self.rows.clear()
        self.is_emptied = True
        self.row_count = 0


Apply = Callable[[DetailsRow[State], FoldEvent], None]

encode_state: Final = msgspec.json.Encoder().encode


def fold_details(row: DetailsRow[State], events: Sequence[FoldEvent], apply: Apply[State]) -> None:
    """Fold the next events of a row's run.

    Args:
        row: Changed in place.
        events: Those that follow its version.
        apply: Folds one event that the projection knows, unless it can make no difference.
    """
    for event in events:
        row.version = event.version
        data = event.data
        if data is None:
            continue  # the payload of a purged run is gone, and its rows go with the event that says so
        if isinstance(data, Purged):
            _purge(row, data)
        elif not row.state.is_purged and (not row.state.is_closed or isinstance(data, _AFTERWARDS)):
            if isinstance(data, Asked):
                row.kind, row.project, row.created_at = data.kind, data.project, timestamp(data.enqueued_at)
            elif isinstance(data, Deleted):
                row.deleted_at = timestamp(data.deleted_at)
            elif isinstance(data, Restored):
                row.deleted_at = None
            apply(row, event)
            row.state.is_closed = row.state.is_closed or isinstance(data, TERMINAL_EVENTS)


def _purge(row: DetailsRow[State], event: Purged) -> None:
    """Become what the event says, so that it makes no difference what of the past is still there."""
    left = event.skeleton
    row.kind, row.project, row.deleted_at = left.kind, left.project, timestamp(left.deleted_at)
    row.created_at = "" if left.created_at is None else timestamp(left.created_at)
    row.state = type(row.state)(is_closed=True, is_purged=True)
    row.empty()


def store_details(row: DetailsRow[State]) -> StoredDetails:
    """Give what the tables keep of a row."""
    return StoredDetails(
        Header(
            row.run_id,
            row.version,
            row.kind,
            row.project,
            row.created_at,
            row.deleted_at,
            row.row_count,
            encode_state(row.state),
        ),
        tuple([row.rows[number] for number in sorted(row.rows)]),
        frozenset() if row.is_emptied else frozenset(row.forgotten),
        row.is_emptied,
    )


def restore_details(header: Header, decode: Callable[[bytes], State]) -> DetailsRow[State]:
    """Give a row back as it was when it was stored, to fold on from."""
    return DetailsRow(
        header.run_id,
        decode(header.state),
        header.version,
        header.kind,
        header.project,
        header.created_at,
        header.deleted_at,
        header.row_count,
    )
