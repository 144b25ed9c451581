"""The `runs` projection: one row a run, as lists show it.

The fold is the ledger's own (`ledger.run.state.apply_all`), so a row can never say something else than a decision sees.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from ledger.run.codec import encode_json, timestamp
from ledger.run.state import Run, RunState, apply_all, initial
from projections.decoding import FoldEvent, as_recorded, read_events


@dataclass(slots=True)
class RunRow:
    """A run while it is folded.

    Attributes:
        state: The run.
        first_recorded_at: When its first event was recorded, in the ledger's text format.
        last_recorded_at: The latest of all its events' times, which is not the last event's when clocks disagree.
        version: The state's; here too because it is asked for at every event.
    """

    state: RunState
    first_recorded_at: str
    last_recorded_at: str = ""
    version: int = 0

    @property
    def run_id(self) -> str:
        return self.state.run_id


class StoredRun(NamedTuple):
    """A row's columns, in the order of the tables, and its labels.

    Attributes:
        created_at: In the ledger's text format, as every time here; empty while it is not known.
        deleted_at: Of a run in the recycle bin; empty for a purged one, which is in no list but its own.
        run: Canonical JSON of the `Run`.
        state: JSON of the `RunState`, to fold on from; see `encode_state`.
        labels: Name and value, in the order of the names.
    """

    run_id: str
    kind: str
    project: str | None
    status: str
    verdict: str
    parent_run_id: str | None
    created_at: str
    deleted_at: str | None
    version: int
    position: int
    first_recorded_at: str
    last_recorded_at: str
    run: bytes
    state: bytes
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def kept(self) -> "StoredRun":
        return self


encode_state = msgspec.json.Encoder().encode
"""Bytes of a state. Its keys stand in the order in which the run's own events brought them, and folding on from these
bytes keeps that order, so one stream has one state in bytes. (Sorting refuses the numbers of shards as keys.)"""

decode_run = msgspec.json.Decoder(Run).decode
decode_state = msgspec.json.Decoder(RunState).decode


@dataclass(frozen=True, slots=True)
class RunsProjection:
    """Folds events into `RunRow`s. Raise `version` with every change of the fold or of what is stored."""

    name: str = "runs"
    version: int = 5

    def read(self, events: Iterable[bytes]) -> list[FoldEvent]:
        """Read a page's events, without what this fold does not look at."""
        return read_events(events)

    def weight(self, row: RunRow) -> int:
        """A run has no detail rows here."""
        return 0

    def fold(self, row: RunRow | None, events: Sequence[FoldEvent]) -> RunRow:
        """Fold the next events of the row's run and give the row: the given one, changed, or the first for None."""
        if row is None:
            first = events[0]
            row = RunRow(initial(first.run_id), first.envelope.recorded_at)
        row.last_recorded_at = max(row.last_recorded_at, *[event.envelope.recorded_at for event in events])
        state = row.state
        apply_all(state, as_recorded(events))
        row.version = state.version
        return row

    def store(self, row: RunRow) -> StoredRun:
        """Give what the tables keep of a row."""
        state = row.state
        state_bytes = encode_state(state)
        return StoredRun(
            state.run_id,
            state.kind,
            state.project,
            state.status.value,
            state.verdict.value,
            state.parent_run_id,
            created_text(state),
            deleted_text(state),
            state.version,
            state.position,
            row.first_recorded_at,
            row.last_recorded_at,
            encode_json(decode_run(state_bytes)),  # half the time of `as_run`: it is the fields that the bytes share
            state_bytes,
            tuple(state.labels.items()),
        )


RUNS: Final = RunsProjection()


def restore(state: bytes, *, first_recorded_at: str, last_recorded_at: str) -> RunRow:
    """Give a row back as it was when it was stored, to fold on from."""
    decoded = decode_state(state)
    return RunRow(decoded, first_recorded_at, last_recorded_at, decoded.version)


def deleted_text(run: Run) -> str | None:
    """Give a run's place in the bin, as text; empty when it is purged, None when it is neither."""
    if run.purged_at is not None:
        return ""
    return None if run.deleted_at is None else timestamp(run.deleted_at)


def created_text(run: Run) -> str:
    """Give a run's place in the order of lists, as text; empty while it is not known."""
    return "" if run.created_at is None else timestamp(run.created_at)
