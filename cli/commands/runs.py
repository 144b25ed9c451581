"""`runfold list`, `show` and `status`: what runs are."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from cli.config import Setting
from cli.options import (
    LABEL,
    MOMENT,
    RUN_ID,
    STATUSES,
    VERDICTS,
    VERSION_OR_MOMENT,
    JsonCommand,
    as_option,
    output_options,
    reading_ledger,
    url_option,
)
from cli.output import Cell, Column, Output, length_of, shortened

if TYPE_CHECKING:
    from ledger.api import Ledger
    from ledger.run.state import Gate, Run, RunState, Shard
    from projections.queries import RunFilters, RunPage
    from projections.reader import Runs
    from projections.results import Result
    from projections.vocabularies import Vocabulary

ROWS_DEFAULT = 30


def _run_fields() -> Sequence[str]:
    from cli.documents import RUN_FIELDS

    return RUN_FIELDS


def _state_fields() -> Sequence[str]:
    from cli.documents import STATE_FIELDS

    return (*STATE_FIELDS, "results")


# --- list ---------------------------------------------------------------------------------------------------


@click.command("list", cls=JsonCommand, short_help="List runs, newest first.")
@click.option(
    "-s",
    "--status",
    multiple=True,
    metavar="STATUS",
    shell_complete=lambda _context, _option, begun: [word for word in STATUSES if word.startswith(begun)],
    help=f"Runs in this status; repeatable: {', '.join(STATUSES)}, or the word of another system.",
)
@click.option("--verdict", type=click.Choice(VERDICTS), help="Runs with this verdict.")
@click.option("--kind", help="Runs of this kind.")
@click.option("--project", help="Runs of this project.")
@click.option("--label", "labels", multiple=True, type=LABEL, help="Runs with this label; repeatable, all must hold.")
@click.option("--since", type=MOMENT, help="Created at this time or later: 2h (ago), 2026-03-01, 2026-03-01T12:00:00Z.")
@click.option("--before", type=MOMENT, help="Created before this time.")
@click.option(
    "--deleted",
    type=click.Choice(["exclude", "only", "include", "purged"]),
    is_flag=False,
    flag_value="only",
    default="exclude",
    help="Runs in the recycle bin: alone, or `include`d among the others; or what is left of `purged` ones.",
)
@click.option("--at", type=MOMENT, help="The runs as they were at this time.")
@click.option("-L", "--limit", type=click.IntRange(1), default=ROWS_DEFAULT, show_default=True, help="The most runs.")
@click.option("--all", "wants_all", is_flag=True, help="All runs, page by page.")
@click.option("--page-token", help="Go on where a list stopped that was asked with the same filters.")
@as_option
@output_options(_run_fields)
@url_option
def list_runs(
    *,
    url: Setting,
    output: Output,
    spoken: str | None,
    status: tuple[str, ...],
    labels: tuple[tuple[str, str], ...],
    limit: int,
    wants_all: bool,
    page_token: str | None,
    **filters: Any,
) -> None:
    """List runs, newest first.

    Piped, the columns are: run id, status, verdict, kind, project, passed, failed, skipped, total, created at,
    duration in milliseconds, shards completed, shards, labels.

    \b
    Examples:
      runfold list -s failed -s running --since 2h
      runfold list --project web --label branch=main -L 100
      runfold list --all --jsonl | jq -r .run_id
      runfold list --at 2026-03-01T12:00:00Z --json run_id,status
    """
    from cli.documents import run_document
    from projections.reader import Runs
    from projections.vocabularies import statuses_of, view

    words = _vocabulary(spoken)
    statuses = [meant for word in status for meant in statuses_of(word, words)]
    wanted: RunFilters = {**filters, "status": statuses, "labels": dict(labels)}  # type: ignore[typeddict-item]
    with reading_ledger(url) as log:
        pages = _pages(Runs(log), wanted, limit=None if wants_all else limit, page_token=page_token)
        page = next(pages)
        rows = (
            output.rows(_columns(output, page.runs), run_document, member="runs")
            if words is None
            else output.rows(_view_columns(words), lambda run: view(run, words), member="runs")
        )
        rows.write(page.runs)
        for page in pages:
            rows.write(page.runs)
    rows.close(next_page_token=page.next_page_token)
    if not rows.count:
        output.tell("No runs. Record one with `runfold exec`, or ask for others; see `runfold list --help`.")
    elif page.next_page_token is not None:
        output.tell(f"There are more: -L, --all, or --page-token {page.next_page_token}")


def _pages(runs: "Runs", wanted: "RunFilters", *, limit: int | None, page_token: str | None) -> "Iterator[RunPage]":
    """Read page after page, at least one, until the limit or the end."""
    from ledger.limits import LIST_ROWS_MAX

    left = limit
    while True:
        page = runs.list(limit=min(LIST_ROWS_MAX, left or LIST_ROWS_MAX), page_token=page_token, **wanted)
        yield page
        page_token = page.next_page_token
        left = None if left is None else left - len(page.runs)
        if page_token is None or left == 0:
            return


def _vocabulary(spoken: str | None) -> "Vocabulary | None":
    if spoken is None:
        return None
    from projections.vocabularies import vocabulary

    return vocabulary(spoken)


def _view_columns(words: "Vocabulary") -> "list[Column[Run]]":
    """Give a column for each of a system's fields, under its names."""
    from projections.vocabularies import view

    def value(name: str) -> "Callable[[Run], object]":
        return lambda run: view(run, words)[name]

    return [Column(name, value(name), is_cut=True) for name in words.fields]


def _columns(output: Output, runs: "Sequence[Run]") -> "list[Column[Run]]":
    chars = shortened([run.run_id for run in runs])
    return [
        Column("ID", lambda run: run.run_id, lambda run: run.run_id[:chars]),
        Column("STATUS", lambda run: run.status, lambda run: output.word(run.status)),
        Column("VERDICT", lambda run: run.verdict, lambda run: _verdict(output, run)),
        Column("KIND", lambda run: run.kind, is_cut=True),
        Column("PROJECT", lambda run: run.project, is_cut=True),
        Column("PASSED", lambda run: run.passed, only="piped"),
        Column("FAILED", lambda run: run.failed, only="piped"),
        Column("SKIPPED", lambda run: run.skipped, only="piped"),
        Column("TOTAL", lambda run: run.total, only="piped"),
        Column("RESULTS", lambda run: run.total, _results, only="terminal"),
        Column("CREATED", lambda run: run.created_at, lambda run: output.moment(run.created_at)),
        Column("TOOK", lambda run: run.duration_ms, lambda run: length_of(run.duration_ms)),
        Column("SHARDS DONE", lambda run: run.shards_completed, only="piped"),
        Column("SHARDS", lambda run: run.shard_count, only="piped"),
        Column("LABELS", lambda run: run.labels, is_cut=True),
    ]


def _verdict(output: Output, run: "Run") -> Cell | str:
    return "" if run.verdict == "none" else output.word(run.verdict)


def _results(run: "Run") -> Cell | str:
    if not (run.passed or run.failed or run.skipped):
        return ""
    return Cell(f"{run.failed:,} of {run.total:,} failed", "red") if run.failed else f"{run.passed:,} passed"


# --- show ---------------------------------------------------------------------------------------------------


@click.command(cls=JsonCommand, short_help="Show one run, now or as it was.")
@click.argument("run_id", metavar="RUN", type=RUN_ID)
@click.option("--at", type=VERSION_OR_MOMENT, help="As of this version, or this time.")
@click.option("--shards", "with_shards", is_flag=True, help="With its shards.")
@click.option("--gates", "with_gates", is_flag=True, help="With its gates.")
@click.option("--input", "with_input", is_flag=True, help="With what it was enqueued with.")
@click.option("--results", "with_results", is_flag=True, help="With its results that count.")
@as_option
@output_options(_state_fields)
@url_option
def show(
    *,
    run_id: str,
    spoken: str | None,
    at: "int | datetime | None",
    with_shards: bool,
    with_gates: bool,
    with_input: bool,
    with_results: bool,
    url: Setting,
    output: Output,
) -> None:
    """Show one run, now or as it was.

    RUN is an id, the first characters of one, @last or @last-failed (the newest run that failed, or whose verdict
    is failed). Piped, each line is a name and a value. --json has shards, gates and input in any case,
    and results when they are asked for.

    \b
    Examples:
      runfold show @last --shards --gates
      runfold show 0199d1a2 --at 12
      runfold show @last-failed --json status,verdict,failure_summary
    """
    from cli.commands.results import result_document
    from cli.documents import input_of, state_document
    from cli.run_ids import resolve
    from projections.reader import Runs
    from projections.result_reader import Results
    from projections.vocabularies import view

    words = _vocabulary(spoken)
    reads_results = with_results or (output.fields is not None and output.wants("results"))
    if reads_results and at is not None:
        raise click.UsageError("--results and --at exclude each other: results are those that count now.")
    with reading_ledger(url) as log:
        runs = Runs(log)
        state = runs.get(resolve(runs, run_id), at=at)
        reads_input = output.wants("input") if output.is_json else with_input
        given = input_of(next(log.read(state.run_id, up_to=1))) if reads_input else None
        results = list(Results(log).all_of_run(state.run_id)) if reads_results else []
    if output.is_json:
        document = state_document(state, input=given) if words is None else view(state, words)
        output.document({**document, "results": list(map(result_document, results))} if reads_results else document)
        return
    if words is not None:
        output.facts(view(state, words).items())
    else:
        output.facts(_told(output, state) if output.is_terminal else _fields(state))
    if with_input:
        output.facts([("input", _json(given))])
    if with_shards:
        _section(output, "Shards", sorted(state.shards.items()), _shard_columns(output, state))
    if with_gates:
        _section(output, "Gates", list(state.gates.values()), _gate_columns(output))
    if with_results:
        _section(output, "Results", results, _result_columns(output))


def _fields(run: "Run") -> "Iterable[tuple[str, object]]":
    from cli.documents import RUN_FIELDS

    return [(name, getattr(run, name)) for name in RUN_FIELDS]


def _told(output: Output, run: "RunState") -> "Iterable[tuple[str, Cell | str | None]]":
    """Tell a run in the words of people; what is empty is left out."""
    from cli.execution.screen import describe_results

    return [
        ("run", Cell(run.run_id, "bold")),
        ("status", output.word(run.status)),
        ("verdict", _verdict(output, run)),
        ("kind", run.kind),
        ("project", run.project),
        ("phase", run.phase),
        ("results", describe_results(run) if run.statuses else _results(run)),
        ("shards", "" if run.shard_count is None else f"{run.shards_completed:,} of {run.shard_count:,} completed"),
        ("summary", run.failure_summary),
        ("error", run.error if run.error_category is None else f"{run.error or ''} ({run.error_category})".strip()),
        ("attempt", f"{run.attempt} of {run.attempts_max}" if run.attempts_max > 1 else ""),
        ("worker", run.worker),
        ("labels", " ".join(f"{name}={value}" for name, value in run.labels.items())),
        ("version of subject", run.resolved_version),
        ("output", run.output_ref),
        ("log lines", f"{run.log_line_count:,}" if run.log_line_count else ""),
        ("artifacts", f"{run.artifact_count:,}" if run.artifact_count else ""),
        ("created", output.moment(run.created_at)),
        ("not before", output.moment(run.not_before)),
        ("started", output.moment(run.started_at)),
        ("finished", output.moment(run.finished_at)),
        ("took", length_of(run.duration_ms)),
        ("updated", output.moment(run.updated_at)),
        ("abort requested", output.moment(run.abort_requested_at)),
        ("deleted", output.moment(run.deleted_at)),
        ("purged", output.moment(run.purged_at) or _erased(run)),
        ("idempotency key", run.idempotency_key),
        ("exclusive key", run.exclusive_key),
        ("part of", run.parent_run_id),
        ("retry of", run.retry_of),
        ("version", f"{run.version:,}"),
    ]


def _erased(run: "Run") -> str:
    """Say what is not to be seen of a run any more, or not for long."""
    if not run.purged_version:
        return ""
    if run.version < run.purged_version:
        return f"data of this time was erased, see version {run.purged_version:,}"
    return f"its data is being erased; go on with `runfold purge {run.run_id}`"


def _json(value: object) -> str | None:
    import msgspec

    return None if value is None else msgspec.json.encode(value).decode()


def _section(output: Output, title: str, items: "Sequence[Any]", columns: "list[Column[Any]]") -> None:
    """Print a table below the facts; piped, its rows begin with the name of the section."""
    if output.is_terminal:
        output.line(f"\n{output.paint(title, 'bold')}")
    output.rows(columns, lambda _: {}).write(items)


def _shard_columns(output: Output, run: "RunState") -> "list[Column[tuple[int, Shard]]]":
    from cli.documents import shard_document

    def field(name: str) -> "Callable[[tuple[int, Shard]], object]":
        return lambda item: shard_document(*item)[name]

    return [
        Column("", lambda item: "shard", only="piped"),
        Column("SHARD", lambda item: item[0]),
        Column("ATTEMPT", field("attempt")),
        Column(
            "DONE",
            field("is_completed"),
            lambda item: output.word("completed" if item[1].is_completed else run.status),
        ),
        Column("EXIT", field("exit_code")),
        Column("PASSED", field("passed")),
        Column("FAILED", field("failed")),
        Column("SKIPPED", field("skipped")),
        Column("RESULTS", field("statuses"), is_cut=True),
    ]


def _gate_columns(output: Output) -> "list[Column[Gate]]":
    return [
        Column("", lambda gate: "gate", only="piped"),
        Column("GATE", lambda gate: gate.gate),
        Column("OUTCOME", lambda gate: gate.outcome, lambda gate: output.word(gate.outcome)),
        Column("VERSION", lambda gate: gate.version),
        Column("SUMMARY", lambda gate: gate.summary, is_cut=True),
        Column("LOG", lambda gate: gate.log_ref, is_cut=True),
    ]


def _result_columns(output: Output) -> "list[Column[Result]]":
    return [
        Column("", lambda result: "result", only="piped"),
        Column("TEST", lambda result: result.test_id, is_cut=True),
        Column("STATUS", lambda result: result.status, lambda result: output.word(result.status)),
        Column("TOOK", lambda result: result.duration_ms, lambda result: _took(result.duration_ms)),
        Column("SHARD", lambda result: result.shard),
        Column("ERROR", lambda result: result.error, is_cut=True),
    ]


def _took(duration_ms: float | None) -> str:
    return length_of(None if duration_ms is None else round(duration_ms))


# --- status -------------------------------------------------------------------------------------------------


@click.command(cls=JsonCommand, short_help="Tell the status of runs, one line each.")
@click.argument("run_ids", metavar="RUN…", nargs=-1, required=True, type=RUN_ID)
@output_options(_run_fields)
@url_option
def status(*, run_ids: tuple[str, ...], url: Setting, output: Output) -> None:
    """Tell the status of runs, one line each: run id, status, verdict, passed, failed, total, version.

    A RUN is an id, the first characters of one, @last or @last-failed; - reads them from stdin. Runs that are there
    are told even when others are not; the exit code is then that of the first that is not.

    \b
    Examples:
      runfold status @last
      runfold status 0199d1a2 0199d1b7
      runfold list -s running | runfold status -
    """
    from cli.documents import run_document
    from cli.run_ids import read_ids

    with reading_ledger(url) as log:
        rows = output.rows(_status_columns(output), run_document, is_live=True)
        try:
            each_run(log, read_ids(run_ids), lambda state: rows.write([state]))
        finally:
            rows.close()


def each_run(log: "Ledger", given: Sequence[str], do: "Callable[[RunState], None]") -> None:
    """Do something with each of the runs that are named, whatever becomes of the others.

    Args:
        log: The ledger.
        given: What the user wrote.
        do: Is given each run that there is.

    Raises:
        Exception: after all have had their turn, the error that one of them met; an `ExceptionGroup` of several.
    """
    from cli.run_ids import resolve
    from ledger.errors import LedgerError
    from projections.reader import Runs

    runs = Runs(log)
    errors: list[Exception] = []
    for word in given:
        try:
            do(runs.get(resolve(runs, word)))
        except (LedgerError, click.ClickException) as error:
            errors.append(error)
    if len(errors) > 1:
        raise ExceptionGroup(f"{len(errors)} of {len(given)} runs", errors)
    if errors:
        raise errors[0]


def _status_columns(output: Output) -> "list[Column[Run]]":
    return [
        Column("ID", lambda run: run.run_id, width=36),
        Column("STATUS", lambda run: run.status, lambda run: output.word(run.status), width=13),
        Column("VERDICT", lambda run: run.verdict, lambda run: _verdict(output, run), width=9),
        Column("PASSED", lambda run: run.passed),
        Column("FAILED", lambda run: run.failed),
        Column("TOTAL", lambda run: run.total),
        Column("VERSION", lambda run: run.version),
    ]
