"""Appends what a ledger lacks of a source's runs: at once for a new run, and the rest for one that went on."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from cli.imports.source_run import Dated, Known, SourceRun, missing_events
from ledger import limits
from ledger.api import Ledger
from ledger.clock import utc_now
from ledger.errors import LedgerError
from ledger.events import RunId
from ledger.run.codec import encode_json, timestamp
from ledger.run.events import Annotated, DocumentRecorded
from ledger.run.state import apply, initial
from ledger.store import exactly

_TROUBLES_KEPT: Final = 10_000


@dataclass(slots=True)
class Report:
    """What an import did.

    Attributes:
        runs: Runs of the source.
        new_runs: Those that the ledger did not have.
        events: Events that were appended.
        repaired: What was mended: run, and what.
        skipped: What could not be brought in: run, and why.
    """

    runs: int = 0
    new_runs: int = 0
    events: int = 0
    repaired: list[tuple[str, str]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


def import_runs(
    log: Ledger, runs: Iterable[SourceRun], *, system: str, origin: str, is_dry: bool = False
) -> Iterator[Report]:
    """Bring runs in, one after the other, and give the report so far after each.

    A run that the ledger does not have is appended whole; of one that it has, what is missing. Breaking off anywhere
    loses nothing: the next import goes on.

    Args:
        log: The ledger.
        runs: Of the source.
        system: Which one; `import:<system>` is the actor.
        origin: From where, for people.
        is_dry: Only say what would be done.
    """
    importer = log.bind(actor=f"import:{system}")
    report = Report()
    for run in runs:
        report.runs += 1
        report.repaired += [(run.source_id, repair) for repair in run.repairs[:_TROUBLES_KEPT]]
        try:
            known = _known(importer, run.run_id)
            events = missing_events(run, known, worker=f"import:{system}")
            if events:
                report.new_runs += not known.state.version
                report.events += len(events) + 1
                if not is_dry:
                    _append(importer, run, known, [*events, _note(run, system, origin)])
        except LedgerError as error:
            report.skipped.append((run.source_id, str(error)))
        yield report


def _known(log: Ledger, run_id: str) -> Known:
    state = initial(RunId(run_id))
    documents: dict[str, bytes] = {}
    notes = 0
    for event in log.read(run_id):
        apply(state, event)
        if isinstance(event.data, DocumentRecorded):
            documents[event.data.name] = encode_json(event.data.document)
            notes += isinstance(event.data.document, dict) and "sequence" in event.data.document
    return Known(state, documents, notes)


def _note(run: SourceRun, system: str, origin: str) -> Dated:
    """Say from what a run was imported: the one event with the time of the import."""
    now = utc_now()
    note = f"imported from {system} {run.source_id} of {origin} at {timestamp(now)}"
    for repair in run.repairs:
        note += f"; {repair}"
    return Dated(now, Annotated(note=note[: limits.TEXT_CHARS_MAX]))


def _append(log: Ledger, run: SourceRun, known: Known, events: Sequence[Dated]) -> None:
    version = known.state.version
    for start in range(0, len(events), limits.EVENTS_PER_APPEND_MAX):
        part = events[start : start + limits.EVENTS_PER_APPEND_MAX]
        log.append(
            run.run_id,
            [event for _, event in part],
            when=exactly(version),
            recorded_at=[at for at, _ in part],
        )
        version += len(part)
