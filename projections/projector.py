"""Keeps projections equal to the log: catch up, rebuild, verify, and how far behind they are.

Why a catch-up does not wait for slow transactions. Positions are handed out before commits, so an event can appear
below one that was read already. `read_log` gives what is committed now (`unsettled=True`) and tells up to where
nothing can appear any more. Within one stream nothing appears below what was read: version n + 1 is made after
version n has committed. So a row takes an event exactly when it is the next version of its run, whatever is missing
between other runs' events, and an event that is read again is passed over by the same rule. Only the checkpoint
waits: it stays at or below what had settled when the first unsettled event was read, so that whatever appears below
later is read by the next catch-up. The checkpoint is always the position of an event that was read, never the
settled position itself: after a crash a sequence may give positions again that nobody committed.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from time import sleep
from typing import Any, Final, TypeVar

from ledger import limits
from ledger.api import Ledger
from ledger.clock import monotonic
from ledger.errors import InvalidInput, LedgerError, NotPermitted, SchemaMismatch, StoreBusy, StoreReadOnly
from ledger.events import Page, RunId
from ledger.store import Store
from projections.decoding import FoldEvent, read_places
from projections.documents import DOCUMENTS
from projections.projection import Checkpoint, HasVersion, Lag, Projection, Verification
from projections.results import RESULTS
from projections.runs import RUNS
from projections.stores import open_document_tables, open_result_tables, open_run_tables, open_timing_tables
from projections.tables import Tables, Writing
from projections.timings import TIMINGS

_T = TypeVar("_T")

Progress = Callable[[int, int], None]
"""Is told the position that was reached and the head's."""

PAGE_EVENTS: Final = 2_000
"""Events folded in one step: bounds memory, and how long one transaction holds up others."""
ROWS_HELD_MAX: Final = 1_500
"""Rows that a rebuild holds in memory; the least recently used go to their table."""
DETAILS_HELD_MAX: Final = 20_000
"""Detail rows that a rebuild holds; with more, everything goes to the tables."""
ROWS_WRITTEN_MAX: Final = 1_000
"""Rows that a rebuild writes or deletes in one transaction."""
ROWS_VERIFIED: Final = 200
"""Rows that `verify` reads at once, fewer where runs have many details."""
UNWRITTEN_EVENTS_MAX: Final = 20_000
"""Events that a connection that may not write folds for one read, some 0.3 s; with more, somebody has to write them."""
FOLLOWED_S: Final = 5.0
"""How long such a connection waits for somebody else to write rows that it cannot put together itself."""
_LOOK_S: Final = 0.05
_COMPARISONS_MAX: Final = 3
"""How often a row must differ from its run's events to be told: a purge erases events of a row that is not yet caught
up, and a long run's purge does so twice."""


@dataclass(frozen=True, slots=True)
class _Registered:
    projection: Projection[Any, Any]
    open_tables: Callable[[Store], Tables[Any, Any]]


_REGISTRY: Final = {
    RUNS.name: _Registered(RUNS, open_run_tables),
    RESULTS.name: _Registered(RESULTS, open_result_tables),
    DOCUMENTS.name: _Registered(DOCUMENTS, open_document_tables),
    TIMINGS.name: _Registered(TIMINGS, open_timing_tables),
}

PROJECTIONS: Final = tuple(_REGISTRY)
"""The names of all projections."""


def catch_up(log: Ledger, name: str = RUNS.name) -> int:
    """Fold what is new in the log into a projection's rows.

    Args:
        log: The ledger.
        name: Which projection.

    Returns:
        The live generation; its rows hold every event that was committed before the call. 0 while there is none.

    Raises:
        InvalidInput: when there is no such projection.
        SchemaMismatch: when the rows were folded by another release; `rebuild` makes them anew.
        NotPermitted, StoreReadOnly: when something is new and this connection may not write.
    """
    projection, tables = _projection(log, name)
    while True:
        generation = _catch_up_from(log.store, projection, tables, tables.checkpoint())
        if generation is not None:
            return generation


def is_live(log: Ledger, name: str = RUNS.name) -> bool:
    """Tell whether a projection has rows; it has none before its first read.

    Raises:
        InvalidInput: when there is no such projection.
    """
    return _projection(log, name)[1].checkpoint().generation > 0


def outdated(log: Ledger) -> list[str]:
    """Name the projections whose rows an earlier release folded; `rebuild` makes them anew."""
    found = [(name, *_projection(log, name)) for name in _REGISTRY]
    checkpoints = [(name, projection, tables.checkpoint()) for name, projection, tables in found]
    return [name for name, projection, at in checkpoints if at.generation and at.version != projection.version]


def _catch_up_from(
    store: Store, projection: Projection[Any, Any], tables: Tables[Any, Any], start: Checkpoint
) -> int | None:
    """Catch up from a checkpoint; None when it is not the live one any more, to start anew."""
    if start.generation:
        _require_same_fold(projection, start)
    for events, settled_to in _tail(store, projection, start.position):
        if not start.generation or not _holds(tables, start, events, settled_to):
            with tables.writing() as writing:
                if writing.checkpoint.generation != start.generation or writing.checkpoint.position < start.position:
                    return None
                _apply(projection, writing, events, settled_to)
    return start.generation


def fold_aside(log: Ledger, name: str = RUNS.name) -> tuple[int, list[Any]]:
    """Fold what is new in the log onto copies of the rows that it changes: for a connection that may not write.

    Args:
        log: The ledger.
        name: Which projection.

    Returns:
        The live generation, 0 while there is none, and the rows that are not what its tables have.

    Raises:
        InvalidInput: when there is no such projection.
        SchemaMismatch: when the rows were folded by another release.
        StoreBusy: when more than `UNWRITTEN_EVENTS_MAX` events are not in the tables yet.
    """
    projection, tables = _projection(log, name)
    start = tables.checkpoint()
    if start.generation:
        _require_same_fold(projection, start)
    rows: dict[str, Any] = {}
    changed: dict[str, None] = {}
    for events in _unwritten(log.store, projection, start):
        streams = _by_run(events)
        rows.update(tables.load(start.generation, [run_id for run_id in streams if run_id not in rows]))
        changed.update(_fold_next(projection, rows, streams))
    return start.generation, [projection.store(rows[run_id]) for run_id in changed]


def _unwritten(store: Store, projection: Projection[Any, Any], start: Checkpoint) -> Iterator[list[FoldEvent]]:
    """Give what stands after the checkpoint, page by page.

    Raises:
        StoreBusy: when there is more than a connection that may not write is to fold for each read.
    """
    count = 0
    for events, _ in _tail(store, projection, start.position):
        count += len(events)
        if count > UNWRITTEN_EVENTS_MAX:
            raise StoreBusy(
                f"the rows of `{projection.name}` lack more than {UNWRITTEN_EVENTS_MAX:,} events of the log, and this"
                " connection may not write them. Let one that may read them once, or keep a `runfold daemon` running."
            )
        yield events


def _tail(store: Store, projection: Projection[Any, Any], position: int) -> Iterator[tuple[list[FoldEvent], int]]:
    """Read on to the end of the log: events, and up to which of them the checkpoint may move.

    Once a page held unsettled events, later pages may not move it either: what appears below them was not read.
    """
    settled_position: int | None = None
    while True:
        page = store.read_log(after_position=position, limit=PAGE_EVENTS, unsettled=True)
        if not page.count:
            return
        events = projection.read(page.events)
        if settled_position is None and page.settled_position < page.last_position:
            settled_position = page.settled_position
        if settled_position is None:
            yield events, page.last_position
        else:
            yield events, max((e.position for e in events if e.position <= settled_position), default=0)
        if not page.more:
            return
        position = page.last_position


def _holds(tables: Tables[Any, Any], start: Checkpoint, events: Sequence[FoldEvent], settled_to: int) -> bool:
    """Tell whether these events are in the rows and the checkpoint cannot move: a slow writer holds it back.

    Without looking, every read in that time would write.
    """
    if settled_to > start.position:
        return False
    streams = _by_run(events)
    versions = tables.versions(start.generation, list(streams))
    return all(max([event.version for event in streams[run_id]]) <= versions.get(run_id, 0) for run_id in streams)


def _apply(
    projection: Projection[Any, Any], writing: Writing[Any, Any], events: Sequence[FoldEvent], settled_to: int
) -> None:
    """Fold events into the live rows. Another process may have been first with some or all of them."""
    generation = writing.checkpoint.generation
    streams = _by_run(events)
    rows = writing.load(generation, list(streams))
    changed = _fold_next(projection, rows, streams)
    writing.save(generation, [projection.store(rows[run_id]) for run_id in changed])
    if settled_to > writing.checkpoint.position:
        writing.move(settled_to)


_Streams = dict[str, list[FoldEvent]]


def _by_run(events: Sequence[FoldEvent]) -> _Streams:
    """Part events by their runs, those that came first first."""
    streams: _Streams = {}
    for event in events:
        run_id = event.envelope.run_id
        if run_id in streams:
            streams[run_id].append(event)
        else:
            streams[run_id] = [event]
    return streams


def _fold_next(projection: Projection[Any, Any], rows: dict[str, Any], streams: _Streams) -> dict[str, None]:
    """Fold those events that come next in their runs; give the runs that changed."""
    changed: dict[str, None] = {}
    for run_id, stream in streams.items():
        row = rows.get(run_id)
        following = _following(stream, 0 if row is None else row.version)
        if following:
            rows[run_id] = projection.fold(row, following)
            changed[run_id] = None
    return changed


def _following(stream: Sequence[FoldEvent], version: int) -> Sequence[FoldEvent]:
    """Give the events of one run that follow a version without a gap."""
    if stream[0].version == version + 1 and stream[-1].version == version + len(stream):
        return stream
    following = []
    for event in stream:
        if event.version == version + 1:
            following.append(event)
            version = event.version
    return following


def rebuild(log: Ledger, name: str = RUNS.name, *, progress: Progress | None = None) -> int:
    """Make a projection's rows anew from the log, beside the live ones, then go over to them.

    Readers and writers go on meanwhile; memory does not grow with the log. Safe to break off at any point: what is
    left behind is cleaned away by the next rebuild.

    Args:
        log: The ledger.
        name: Which projection.
        progress: Called after each step with the position reached and the head's.

    Returns:
        The new generation.

    Raises:
        InvalidInput: when there is no such projection.
        StoreBusy: when another rebuild of it is under way, or took over.
    """
    projection, tables = _projection(log, name)
    with tables.rebuilding():
        with tables.writing() as writing:
            generation = max(tables.newest_generation(), writing.checkpoint.generation) + 1
            writing.build(generation)
        _discard(tables, below=generation)
        _Rebuild(projection, tables, generation).run(log.store, progress or _no_progress)
        _discard(tables, below=generation)
    return generation


def _settled_pages(store: Store) -> Iterator[Page]:
    """Read the settled log page by page, one ahead: while a page is folded here, the database makes the next."""

    def read(position: int) -> Page:
        return store.read_log(after_position=position, limit=PAGE_EVENTS)

    with ThreadPoolExecutor(1, "runfold-rebuild") as reader:
        page = read(0)
        while page.more:
            following = reader.submit(read, page.last_position)
            yield page
            page = following.result()
        yield page


def _discard(tables: Tables[Any, Any], *, below: int) -> None:
    while tables.discard(below=below, rows_max=ROWS_WRITTEN_MAX):
        pass


def _no_progress(position: int, head: int) -> None:
    pass


class _Rebuild:
    """One rebuild under way.

    It holds rows by run, those that were used longest ago first, and none of them is in the table as it is here:
    what is written is let go. A run that comes back is loaded again.
    """

    def __init__(self, projection: Projection[Any, Any], tables: Tables[Any, Any], generation: int) -> None:
        self._projection = projection
        self._tables = tables
        self._generation = generation
        self._rows: dict[str, Any] = {}
        self._fresh: set[str] = set()  # those of the rows that have none in the table, which are written faster
        self._details = 0  # a bound on the detail rows held; rows that were let go are still in it
        self._position = 0

    def run(self, store: Store, progress: Progress) -> None:
        """Fold the settled log, then what is left of it, and go live."""
        for page in _settled_pages(store):
            self._fold(self._projection.read(page.events))
            self._position = page.last_position
            progress(self._position, max(self._position, page.settled_position))
        for events, settled_to in _tail(store, self._projection, self._position):
            self._fold(events)
            self._position = max(self._position, settled_to)
        self._write_until(ROWS_WRITTEN_MAX)
        with self._turn() as writing:
            self._write(writing, list(self._rows))
            writing.go_live(self._generation, version=self._projection.version, position=self._position)
        progress(self._position, self._position)

    def _fold(self, events: Sequence[FoldEvent]) -> None:
        streams = _by_run(events)
        rows = self._take(streams)
        known = set(rows)
        changed = _fold_next(self._projection, rows, streams)
        self._fresh.update(run_id for run_id in changed if run_id not in known)
        self._rows.update(rows)
        self._details += sum(self._projection.weight(rows[run_id]) for run_id in changed)
        self._write_until(0 if self._details > DETAILS_HELD_MAX else ROWS_HELD_MAX)

    def _take(self, streams: _Streams) -> dict[str, Any]:
        """Take the rows that events need out of memory or the table; they go back as those used last."""
        taken = {run_id: self._rows.pop(run_id) for run_id in streams if run_id in self._rows}
        missing = [run_id for run_id, events in streams.items() if events[0].version > 1 and run_id not in taken]
        if missing:
            taken.update(self._tables.load(self._generation, missing))
        return taken

    def _write_until(self, held_max: int) -> None:
        """Write those rows that were used longest ago, until few enough are held."""
        while len(self._rows) > held_max:
            count = min(ROWS_WRITTEN_MAX, len(self._rows) - held_max)
            with self._turn() as writing:
                self._write(writing, list(islice(self._rows, count)))
        if not self._rows:
            self._details = 0

    def _write(self, writing: Writing[Any, Any], run_ids: Sequence[str]) -> None:
        rows = [self._projection.store(self._rows.pop(run_id)) for run_id in run_ids]
        writing.add(self._generation, [row for row in rows if row.run_id in self._fresh])
        writing.save(self._generation, [row for row in rows if row.run_id not in self._fresh])
        self._fresh.difference_update(run_ids)

    @contextmanager
    def _turn(self) -> Iterator[Writing[Any, Any]]:
        with self._tables.writing() as writing:
            if writing.checkpoint.building != self._generation:
                raise StoreBusy(
                    f"this rebuild of `{self._projection.name}` lost its turn to a later one, which goes on;"
                    " the live rows are as they were. Wait for the other."
                )
            yield writing


def verify(log: Ledger, name: str = RUNS.name) -> Verification:
    """Fold every run again and compare with its row; of `runs`, count the rows again as well.

    Each row is compared with its run's events up to the row's own version, and counts with the rows of one moment, so
    writers and readers may go on; memory does not grow with the log.

    Args:
        log: The ledger.
        name: Which projection.

    Returns:
        What was found; true in a condition when all is equal.

    Raises:
        InvalidInput: when there is no such projection.
        SchemaMismatch: when the rows were folded by another release.
    """
    projection, tables = _projection(log, name)
    while True:
        generation = catch_up(log, name)
        position = tables.checkpoint().position
        missing = _missing(log.store, tables, generation, up_to=position)
        checked, extra, differing = _compare(log.store, projection, tables, generation)
        for _ in range(_COMPARISONS_MAX - 1):
            if differing:  # a purge may have come in between: caught up, such a row is what the purge says
                generation = catch_up(log, name)
                again = _compare(log.store, projection, tables, generation)[2]
                differing = [run_id for run_id in differing if run_id in again]
        miscounted = tables.miscounted(generation)
        if tables.checkpoint().generation == generation:
            return Verification(checked, tuple(missing), tuple(extra), tuple(differing), tuple(miscounted))


def _missing(store: Store, tables: Tables[Any, Any], generation: int, *, up_to: int) -> Iterator[str]:
    position, more = 0, True
    while more and position < up_to:
        page = store.read_log(after_position=position, limit=limits.PAGE_EVENTS_MAX)
        begun = [place.run_id for place in read_places(page.events) if place.version == 1 and place.position <= up_to]
        known = tables.versions(generation, begun)
        yield from (run_id for run_id in begun if run_id not in known)
        position, more = page.last_position, page.more


def _compare(
    store: Store, projection: Projection[Any, Any], tables: Tables[Any, Any], generation: int
) -> tuple[int, list[str], list[str]]:
    checked, after = 0, ""
    extra: list[str] = []
    differing: list[str] = []
    while rows := tables.scan(generation, after_run_id=after, limit=ROWS_VERIFIED):
        for stored in rows:
            row = _refold(store, projection, stored)
            if row is None:
                extra.append(stored.run_id)
            elif projection.store(row).kept != stored.kept:
                differing.append(stored.run_id)
        checked += len(rows)
        after = rows[-1].run_id
    return checked, extra, differing


def _refold(store: Store, projection: Projection[Any, Any], stored: HasVersion) -> Any | None:
    """Fold a run up to the version of its row; None when it has no events."""
    row, version, more = None, 0, True
    while more and version < stored.version:
        limit = min(PAGE_EVENTS, stored.version - version)
        page = store.read_run(RunId(stored.run_id), after_version=version, limit=limit)
        events = projection.read(page.events)
        if events:
            row, version = projection.fold(row, events), events[-1].version
        more = page.more
    return row


def lag(log: Ledger, name: str = RUNS.name) -> Lag:
    """Tell how far a projection's rows are behind the log.

    Args:
        log: The ledger.
        name: Which projection.

    Raises:
        InvalidInput: when there is no such projection.
    """
    if hasattr(log, "ask"):  # behind a server, which looks
        return _remote_lag(log.ask("/v1/projections", {})["projections"], name)
    _, tables = _projection(log, name)
    checkpoint = position = tables.checkpoint().position
    count, since, more = 0, None, True
    while more:
        page = log.store.read_log(after_position=position, limit=limits.PAGE_EVENTS_MAX, unsettled=True)
        if since is None and page.count:
            since = read_places(page.events)[0].recorded_at
        position, more = page.last_position, page.more
        count += page.count
    return Lag(name, checkpoint, position, count, since)


def _remote_lag(told: Sequence[dict[str, Any]], name: str) -> Lag:
    found = next((each for each in told if each["name"] == name), None)
    if found is None:
        raise InvalidInput("name", f"{name!r} is no projection of that server.")
    since = found["behind_since"]
    return Lag(**{**found, "behind_since": None if since is None else datetime.fromisoformat(since)})


def fresh(log: Ledger, name: str, read: Callable[[int], _T | None], *, follow: bool = True) -> _T:
    """Catch up and read; again when a rebuild went live in between, since its rows may be behind for a moment.

    A connection that may not write waits until somebody else has caught up.

    Args:
        log: The ledger.
        name: Which projection.
        read: Reads from the tables, given the live generation; None when that is not the live one any more.
        follow: Whether to wait for others where this connection may not write.

    Raises:
        NotPermitted, StoreReadOnly: when it may not, and is not to wait.
        StoreBusy: when nobody caught up for `FOLLOWED_S`.
    """
    while True:
        try:
            generation = catch_up(log, name)
        except (NotPermitted, StoreReadOnly) as refusal:
            if not follow:
                raise
            generation = _followed(log, name, refusal)
        found = read(generation)
        if found is not None:
            return found


def _followed(log: Ledger, name: str, refusal: LedgerError) -> int:
    """Wait until the rows have what was committed before the call; give their generation."""
    projection, tables = _projection(log, name)
    wanted: dict[str, int] = {}
    for events in _unwritten(log.store, projection, tables.checkpoint()):
        wanted.update((event.run_id, event.version) for event in events)
    until = monotonic() + FOLLOWED_S
    while True:
        generation = tables.checkpoint().generation
        versions = tables.versions(generation, list(wanted)) if generation else {}
        if generation and all(versions.get(run_id, 0) >= version for run_id, version in wanted.items()):
            return generation
        if monotonic() >= until:
            raise StoreBusy(
                f"the rows of `{name}` are behind the log, this connection may not write them, and nobody did within"
                f" {FOLLOWED_S:g} s. Let one that may write run `runfold daemon`, and once, before the first read,"
                f" `runfold projection rebuild {name}`."
            ) from refusal
        sleep(_LOOK_S)


def _projection(log: Ledger, name: str) -> tuple[Projection[Any, Any], Tables[Any, Any]]:
    registered = _REGISTRY.get(name)
    if registered is None:
        raise InvalidInput("name", f"{name!r} is no projection: {', '.join(_REGISTRY)} is.")
    return registered.projection, registered.open_tables(log.store)


def _require_same_fold(projection: Projection[Any, Any], checkpoint: Checkpoint) -> None:
    if checkpoint.version != projection.version:
        raise SchemaMismatch(
            f"the rows of `{projection.name}` were folded by version {checkpoint.version} of the projection, this"
            f" release has version {projection.version}: make them anew with"
            f" `runfold projection rebuild {projection.name}`."
        )
