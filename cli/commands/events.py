"""`runfold history`, `logs` and `watch`: what happened in runs, up to now and as it happens."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Final

import click

from cli.config import Setting
from cli.errors import RunUnsuccessful
from cli.options import DURATION, RUN_ID, JsonCommand, output_options, reading_ledger, url_option
from cli.output import Cell, Column, Output, Rows, length_of, printable, shortened, without_sequences

if TYPE_CHECKING:
    from ledger.api import Ledger
    from ledger.events import RunId
    from ledger.run.codec import RecordedRunEvent
    from ledger.run.state import RunState
    from ledger.run.values import JsonObject

ROWS_AT_ONCE: Final = 500
TAIL_MAX: Final = 1_000_000
REDRAW_S: Final = 0.1
WATCHED_LINES_MAX: Final = 20
"""Runs that are drawn with a line of their own; the others are counted."""


def _event_fields() -> Sequence[str]:
    from cli.documents import EVENT_FIELDS

    return EVENT_FIELDS


def _log_fields() -> Sequence[str]:
    from cli.documents import LOG_FIELDS

    return LOG_FIELDS


def _run_fields() -> Sequence[str]:
    from cli.documents import RUN_FIELDS

    return RUN_FIELDS


# --- history ------------------------------------------------------------------------------------------------


@click.command(cls=JsonCommand, short_help="Show the events of a run.")
@click.argument("run_id", metavar="RUN", type=RUN_ID)
@click.option("--type", "types", multiple=True, help="Only events of this type; repeatable.")
@click.option("--after", type=click.IntRange(0), default=0, help="Only events after this version.")
@click.option("--reverse", is_flag=True, help="The newest first.")
@click.option("--data", "with_data", is_flag=True, help="With each event's data, as JSON.")
@click.option("-f", "--follow", "follows", is_flag=True, help="Go on with what comes, until the run ends.")
@output_options(_event_fields)
@url_option
def history(
    *,
    run_id: str,
    types: tuple[str, ...],
    after: int,
    reverse: bool,
    with_data: bool,
    follows: bool,
    url: Setting,
    output: Output,
) -> None:
    """Show the events of a run, in the order of its versions.

    Piped, the columns are: version, position, recorded at, type, actor, event id; with --data, the data as JSON.

    \b
    Examples:
      runfold history @last
      runfold history @last --type failed --type aborted --data
      runfold history 0199d1a2 --follow
      runfold history 0199d1a2 --jsonl | jq -r .type
    """
    from cli.documents import event_document
    from ledger.events import RunId

    if reverse and follows:
        raise click.UsageError("--reverse and --follow exclude each other: what comes is newer than all there is.")
    _check_types(types)
    with reading_ledger(url) as log:
        run = RunId(_run(log, run_id).run_id)
        events = log.read(run, after_version=after)
        rows = output.rows(_event_columns(output, with_data=with_data), event_document, is_live=True)
        if follows:
            events = _read_and_follow(log, run, after_version=after)
        elif reverse:
            events = reversed(list(events))
        wanted = (event for event in events if not types or event.type in types)
        for batch in _batches(wanted, size=1 if follows else ROWS_AT_ONCE):
            rows.write(batch)
    rows.close()


def _check_types(types: Sequence[str]) -> None:
    from ledger.run.events import EVENT_TYPES, type_of

    known = sorted(type_of(event) for event in EVENT_TYPES)
    for event_type in types:
        if event_type not in known:
            raise click.UsageError(f"--type: {event_type!r} is no type of event: {', '.join(known)} are.")


def _run(log: "Ledger", given: str) -> "RunState":
    """Give the run that is meant, as it is now."""
    from cli.run_ids import resolve
    from projections.reader import Runs

    runs = Runs(log)
    return runs.get(resolve(runs, given))


def _read_and_follow(log: "Ledger", run: "RunId", *, after_version: int = 0) -> "Iterator[RecordedRunEvent]":
    """Give a run's events, then those that come, up to its terminal event or, when it has ended, its last one."""
    from cli.following import follow
    from ledger.run.events import TERMINAL_EVENTS, type_of

    terminal = {type_of(event) for event in TERMINAL_EVENTS}  # by type: the data of a purged run is erased
    # The whole stream, whatever is wanted of it: where to go on, and whether it ended, stand in its last events.
    position, has_ended = 0, False
    for event in log.read(run):
        position = event.position
        has_ended = has_ended or event.type in terminal
        if event.version > after_version:
            yield event
    if has_ended:
        return
    for new in follow(log, after=position, run_id=run):
        if new is not None:
            if new.version > after_version:
                yield new
            if new.type in terminal:
                return


def _batches(events: "Iterable[RecordedRunEvent]", *, size: int) -> "Iterator[list[RecordedRunEvent]]":
    remaining = iter(events)
    while batch := list(islice(remaining, size)):
        yield batch


def _event_columns(output: Output, *, with_data: bool) -> "list[Column[RecordedRunEvent]]":
    columns: list[Column[RecordedRunEvent]] = [
        Column("VERSION", lambda event: event.version),
        Column("POSITION", lambda event: event.position, only="piped"),
        Column(
            "RECORDED",
            lambda event: event.recorded_at,
            lambda event: output.moment(event.recorded_at),
            width=10 if output.is_relative else 27,
        ),
        Column("TYPE", lambda event: event.type, lambda event: Cell(event.type, _color(event.type)), width=21),
        Column("ACTOR", lambda event: event.actor, width=12, is_cut=True),
        Column("EVENT", lambda event: event.event_id, only="piped"),
        Column("WHAT", _told, width=200, is_cut=True, only="terminal"),
    ]
    if with_data:
        columns[-1] = Column("DATA", _data, width=200, is_cut=True)
    return columns


def _color(event_type: str) -> str | None:
    return {"completed": "green", "failed": "red", "aborted": "magenta", "attempt_failed": "red"}.get(
        event_type, "bold"
    )


def _data(event: "RecordedRunEvent") -> str:
    from cli.documents import data_document
    from ledger.run.codec import encode_json

    data = data_document(event)
    return "" if data is None else encode_json(data).decode()


def _told(event: "RecordedRunEvent") -> str:
    """Tell an event's data in a line: bulk is counted, the rest is named."""
    from cli.documents import data_document
    from ledger.run.codec import encode_json

    data = data_document(event)
    if data is None:
        return "(erased)"
    parts = []
    for name, value in data.items():
        if name == "results":
            words = [result["status"] for result in value]
            parts.append(", ".join(f"{words.count(word):,} {word}" for word in dict.fromkeys(words)))
        elif name == "lines":
            parts.append(f"{len(value):,} line{'s' if len(value) > 1 else ''}")
        elif not name.endswith("_at"):
            parts.append(f"{name}={value if isinstance(value, str) else encode_json(value).decode()}")
    return " ".join(parts)


# --- logs ---------------------------------------------------------------------------------------------------


@click.command(cls=JsonCommand, short_help="Show the output of a run.")
@click.argument("run_id", metavar="RUN", type=RUN_ID)
@click.option("--shard", type=click.IntRange(0), help="Only of this shard.")
@click.option("--source", help="Only of this source, such as stdout or stderr.")
@click.option("--tail", type=click.IntRange(0, TAIL_MAX), help="Only the last lines, this many.")
@click.option("-f", "--follow", "follows", is_flag=True, help="Go on with what comes, until the run ends.")
@output_options(_log_fields)
@url_option
def logs(
    *,
    run_id: str,
    shard: int | None,
    source: str | None,
    tail: int | None,
    follows: bool,
    url: Setting,
    output: Output,
) -> None:
    """Show the output of a run, each line behind its shard's number when the run is cut into shards.

    Colors and other escape sequences of the output are left out; --json has every line as it was recorded.

    \b
    Examples:
      runfold logs @last --shard 0 --source stderr
      runfold logs @last --tail 20 -f
      runfold logs 0199d1a2 --jsonl | jq -r .line
    """
    from cli.documents import log_documents
    from ledger.events import RunId

    def wanted(events: "Iterable[RecordedRunEvent]") -> "Iterator[JsonObject]":
        for event in events:
            for line in log_documents(event):
                if (shard is None or line["shard"] == shard) and (source is None or line["source"] == source):
                    yield line

    with reading_ledger(url) as log:
        state = _run(log, run_id)
        run, version = RunId(state.run_id), 0
        show = _line_writer(output, with_shard=shard is None and state.shards_cap > 1)
        if tail is not None:
            version = state.version
            show.write(list(deque(wanted(log.read(run, up_to=version)), maxlen=tail)))
        if follows:
            output.flush()
            for event in _read_and_follow(log, run, after_version=version):
                show.write(list(wanted([event])))
                output.flush()
        elif tail is None:
            for event in log.read(run):
                show.write(list(wanted([event])))
    show.close()


class _Lines:
    """Prints lines of output as text."""

    def __init__(self, output: Output, *, with_shard: bool) -> None:
        self._output = output
        self._with_shard = with_shard

    def write(self, lines: "Sequence[JsonObject]") -> None:
        for line in lines:
            shard = f"[{line['shard']}] " if self._with_shard and line["shard"] is not None else ""
            self._output.line(
                self._output.paint(shard, "dim") + printable(without_sequences(line["line"]).expandtabs())
            )

    def close(self) -> None:
        """Nothing is left open."""


def _line_writer(output: Output, *, with_shard: bool) -> "_Lines | Rows[JsonObject]":
    return output.rows([], dict) if output.is_json else _Lines(output, with_shard=with_shard)


# --- watch --------------------------------------------------------------------------------------------------


@click.command(cls=JsonCommand, short_help="Follow runs until they end.")
@click.argument("run_ids", metavar="RUN…", nargs=-1, required=True, type=RUN_ID)
@click.option("--exit-status", "judges", is_flag=True, help="Exit with 1 unless every run succeeded.")
@click.option("--timeout", type=DURATION, help="Stop waiting after this long, and exit with 124.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing.")
@output_options(_run_fields)
@url_option
def watch(
    *,
    run_ids: tuple[str, ...],
    judges: bool,
    timeout: timedelta | None,
    quiet: bool,
    url: Setting,
    output: Output,
) -> None:
    """Follow runs until each of them has ended; with --exit-status, tell by the exit code how.

    A run succeeds when it completes and nothing in it fails. On a terminal, each run has a line that is kept up to
    date. Piped, a line is printed at first and at each change of status, verdict, phase or completed shards: run id,
    status, verdict, phase, shards completed, shards, passed, failed, total, version. --jsonl does the same; --json
    prints the runs once they have ended.

    \b
    Examples:
      runfold watch @last
      runfold watch @last --exit-status --timeout 10m --quiet && ./deploy.sh
      runfold list -s running | runfold watch -
    """
    from cli.run_ids import read_ids, resolve
    from cli.watching import unsuccessful, wait_until_ended
    from projections.reader import Runs

    with reading_ledger(url) as log:
        runs = Runs(log)
        states = [runs.get(run) for run in dict.fromkeys(resolve(runs, word) for word in read_ids(run_ids))]
        screen = _screen(output, quiet=quiet)
        screen.begin(states)
        ended = wait_until_ended(
            log,
            states,
            timeout_s=None if timeout is None else timeout.total_seconds(),
            on_event=lambda state, _event: screen.changed(state),
            on_tick=screen.tick,
        )
        screen.end(ended)
    reasons = [reason for reason in map(unsuccessful, ended) if reason is not None]
    if judges and reasons:
        raise RunUnsuccessful(
            "" if quiet else reasons[0] if len(reasons) == 1 else f"{len(reasons)} runs: {reasons[0]}"
        )


class _Watch:
    """What a user sees while runs are watched: nothing."""

    def begin(self, states: "Sequence[RunState]") -> None:
        """Show the runs as they are found."""

    def changed(self, state: "RunState") -> None:
        """Show a run after an event."""

    def tick(self, states: "Sequence[RunState]") -> None:
        """Show that time goes by."""

    def end(self, states: "Sequence[RunState]") -> None:
        """Show the runs as they ended."""


class _ChangesWatch(_Watch):
    """A line, or a JSON object, at each change worth one."""

    def __init__(self, output: Output) -> None:
        from cli.documents import run_document

        self._rows: Rows[RunState] = output.rows(_watch_columns(), run_document, is_live=True)
        self._told: dict[str, tuple[object, ...]] = {}

    def begin(self, states: "Sequence[RunState]") -> None:
        for state in states:
            self.changed(state)

    def changed(self, state: "RunState") -> None:
        now = (state.status, state.verdict, state.phase, state.shards_completed, state.attempt)
        if self._told.get(state.run_id) != now:
            self._told[state.run_id] = now
            self._rows.write([state])


class _LastWatch(_Watch):
    """The runs as they ended, as one JSON document."""

    def __init__(self, output: Output) -> None:
        from cli.documents import run_document

        self._rows: Rows[RunState] = output.rows([], run_document, member="runs")

    def end(self, states: "Sequence[RunState]") -> None:
        self._rows.write(states)
        self._rows.close()


class _LiveWatch(_Watch):
    """A line for each run on a terminal, drawn over again and again."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._lines: list[str] = []
        self._drawn_at = 0.0

    def begin(self, states: "Sequence[RunState]") -> None:
        self._draw(states)

    def tick(self, states: "Sequence[RunState]") -> None:
        from ledger.clock import monotonic

        if monotonic() - self._drawn_at >= REDRAW_S:
            self._drawn_at = monotonic()
            self._draw(states)

    def end(self, states: "Sequence[RunState]") -> None:
        self._draw(states)

    def _draw(self, states: "Sequence[RunState]") -> None:
        chars = shortened([state.run_id for state in states])
        lines = [self._line(state, chars) for state in states[:WATCHED_LINES_MAX]]
        if len(states) > WATCHED_LINES_MAX:
            ended = sum(state.is_terminal for state in states)
            lines.append(f"… {len(states):,} runs, {ended:,} of them ended")
        if lines != self._lines:
            up = f"\x1b[{len(self._lines)}F" if self._lines else ""
            self._output.stream.write(up + "".join(f"\x1b[2K{line}\n" for line in lines))
            self._output.flush()
            self._lines = lines

    def _line(self, state: "RunState", chars: int) -> str:
        from cli.execution.screen import describe_results
        from cli.output import cut_to
        from ledger.clock import utc_now

        took = state.duration_ms
        if took is None and state.started_at is not None:
            took = max(0, (utc_now() - state.started_at) // timedelta(seconds=1) * 1_000)
        word = self._output.word(state.status)
        parts = [f"{state.run_id[:chars]}  {state.kind}"]
        parts += [state.phase] if state.phase else []
        parts += [length_of(took)] if took is not None else []
        parts += [describe_results(state)]
        parts += [f"{state.shards_completed} of {state.shard_count} shards"] if state.shard_count else []
        text = cut_to(printable("  ".join(parts)), max(10, self._output.width - 15))
        return f"{self._output.paint(word.text.ljust(13), word.style)}  {text}"


def _screen(output: Output, *, quiet: bool) -> _Watch:
    if quiet:
        return _Watch()
    if output.form == "json":
        return _LastWatch(output)
    return _LiveWatch(output) if output.is_terminal else _ChangesWatch(output)


def _watch_columns() -> "list[Column[RunState]]":
    fields: list[tuple[str, Callable[[RunState], object]]] = [
        ("ID", lambda run: run.run_id),
        ("STATUS", lambda run: run.status),
        ("VERDICT", lambda run: run.verdict),
        ("PHASE", lambda run: run.phase),
        ("DONE", lambda run: run.shards_completed),
        ("SHARDS", lambda run: run.shard_count),
        ("PASSED", lambda run: run.passed),
        ("FAILED", lambda run: run.failed),
        ("TOTAL", lambda run: run.total),
        ("VERSION", lambda run: run.version),
    ]
    return [Column(title, value) for title, value in fields]
