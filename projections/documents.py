"""The `documents` projection: the latest document of each name, beside its run."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from projections.decoding import DocumentInBytes, FoldEvent, reader_of
from projections.details import (
    RUN_EVENTS,
    DetailsRow,
    Folded,
    Header,
    Layout,
    StoredDetails,
    fold_details,
    restore_details,
    store_details,
)


class DocumentsState(Folded, omit_defaults=True):
    """What folding on needs.

    Attributes:
        numbers: Of each document's row, by name.
    """

    numbers: dict[str, int] = msgspec.field(default_factory=dict)


class DocumentFilter(NamedTuple):
    """Which document is the latest.

    Attributes:
        kinds: Runs of any of these kinds; empty is every kind.
        non_empty: Only documents that say something: neither null nor an empty list, object or text.
    """

    name: str
    project: str | None
    kinds: tuple[str, ...]
    non_empty: bool


class DocumentRow(NamedTuple):
    """The columns of a row."""

    number: int
    part: int
    kind: str
    project: str | None
    created_at: str
    name: str
    is_empty: int
    data: bytes


DocumentsRow = DetailsRow[DocumentsState]

LAYOUT: Final = Layout(
    "document_runs",
    "documents",
    (
        ("kind", "text"),
        ("project", "text"),
        ("created_at", "text"),
        ("name", "text"),
        ("is_empty", "integer"),
        ("data", "bytes"),
    ),
)


@dataclass(frozen=True, slots=True)
class DocumentsProjection:
    """Folds events into rows of documents. Raise `version` with every change of the fold or of what is stored."""

    name: str = "documents"
    version: int = 1

    def read(self, events: Iterable[bytes]) -> list[FoldEvent]:
        """Read a page's events, without what this fold does not look at."""
        return _read(events)

    def fold(self, row: DocumentsRow | None, events: Sequence[FoldEvent]) -> DocumentsRow:
        """Fold the next events of the row's run and give the row: the given one, changed, or the first for None."""
        if row is None:
            row = DetailsRow(events[0].run_id, DocumentsState())
        fold_details(row, events, _apply)
        return row

    def store(self, row: DocumentsRow) -> StoredDetails:
        """Give what the tables keep of a row."""
        return store_details(row)

    def weight(self, row: DocumentsRow) -> int:
        """Tell how many detail rows a row holds that are not in the tables yet: documents are heavy."""
        heavy_bytes = sum(len(document[-1]) for document in row.rows.values() if isinstance(document[-1], bytes))
        return len(row.rows) + heavy_bytes // 1_000


DOCUMENTS: Final = DocumentsProjection()

_read = reader_of([*RUN_EVENTS, DocumentInBytes])
_decode_state = msgspec.json.Decoder(DocumentsState).decode
_EMPTY: Final = (b"null", b"[]", b"{}", b'""')


def restore(header: Header) -> DocumentsRow:
    """Give a row back as it was when it was stored, to fold on from."""
    return restore_details(header, _decode_state)


def _apply(row: DocumentsRow, event: FoldEvent) -> None:
    data: object = event.data
    if not isinstance(data, DocumentInBytes):
        return
    document, numbers = bytes(data.document), row.state.numbers
    write = row.change if data.name in numbers else row.add
    number = numbers.setdefault(data.name, len(numbers))
    is_empty = int(document in _EMPTY)
    write(number, 0, row.kind, row.project, row.created_at, data.name, is_empty, document)
