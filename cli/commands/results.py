"""`runfold tests`, `compare` and `timings`: what runs say of their tests, and how long things took."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click

from cli.config import Setting
from cli.options import MOMENT, RUN_ID, JsonCommand, output_options, reading_ledger, url_option
from cli.output import Column, Output, length_of, shortened

if TYPE_CHECKING:
    from projections.comparison import Comparison
    from projections.results import Result, TestSummary
    from projections.timings import RunTimings

TESTS_DEFAULT: Final = 30
TEST_FIELDS: Final = (
    "test_id",
    "flaky_score",
    "executed",
    "passed",
    "failed",
    "duration_ms",
    "duration_ms_max",
    "last_status",
    "last_run_id",
    "last_created_at",
)
RESULT_FIELDS: Final = (
    "run_id",
    "project",
    "kind",
    "test_id",
    "test_name",
    "status",
    "duration_ms",
    "error",
    "shard",
    "shard_attempt",
    "sequence",
    "created_at",
    "data",
)
COMPARE_FIELDS: Final = ("older", "newer", "total", "flipped", "added", "removed", "unchanged")
TIMING_FIELDS: Final = ("run_id", "attempts", "phases", "shards")


# --- tests --------------------------------------------------------------------------------------------------


@click.command(cls=JsonCommand, short_help="Rank tests: flaky, slow or failing; or tell the history of one.")
@click.argument("test_id", metavar="[TEST]", required=False)
@click.option("--flaky", "order", flag_value="flaky", default=True, help="The flakiest first; the default.")
@click.option("--slowest", "order", flag_value="slowest", help="The slowest first.")
@click.option("--failing", "order", flag_value="failing", help="Those that failed most often first.")
@click.option("--project", help="Of this project's runs; without it, of runs of no project.")
@click.option("--since", type=MOMENT, help="Only runs created at this time or later.")
@click.option("--runs", type=click.IntRange(1, 1_000), default=50, show_default=True, help="How many runs to look at.")
@click.option(
    "-L", "--limit", type=click.IntRange(1, 1_000), default=TESTS_DEFAULT, show_default=True, help="The most."
)
@output_options(lambda: tuple(dict.fromkeys((*TEST_FIELDS, *RESULT_FIELDS))))
@url_option
def tests(
    *,
    test_id: str | None,
    order: str,
    project: str | None,
    since: datetime | None,
    runs: int,
    limit: int,
    url: Setting,
    output: Output,
) -> None:
    """Rank the tests of a project by what its newest runs with results say; with TEST, tell that test's newest results.

    Of results that are no skips, those count as unsteady that passed only after a retry, or whose outcome is another
    than the one before. Their share is the flaky score: 0 is steady, 1 the worst.

    Piped, the columns are: test id, flaky score, executed, passed, failed, mean and longest duration in milliseconds,
    last status, its run id, when that was created. With TEST: run id, status, duration in milliseconds, created at,
    shard, error.

    \b
    Examples:
      runfold tests --project web
      runfold tests --failing --project web --since 7d
      runfold tests 'tests/test_cart.py::test_total' --project web -L 5
    """
    from projections.result_reader import Results

    with reading_ledger(url) as log:
        results = Results(log)
        if test_id is not None:
            found = results.history(test_id, project=project, limit=limit)
            history = output.rows(_history_columns(output, found), result_document)
            history.write(found)
            history.close()
            count = len(found)
        else:
            ranked = results.tests(project=project, since=since, order=order, limit=limit, runs=runs)  # type: ignore[arg-type]
            rows = output.rows(_test_columns(output), _test_document)
            rows.write(ranked)
            rows.close()
            count = len(ranked)
    if not count:
        output.tell("No such results. Name another --project, ranking or test; see `runfold tests --help`.")


def _test_columns(output: Output) -> "list[Column[TestSummary]]":
    return [
        Column("TEST", lambda test: test.test_id, is_cut=True),
        Column("FLAKY", lambda test: test.flaky_score, lambda test: f"{100 * test.flaky_score:.0f} %"),
        Column("EXECUTED", lambda test: test.executed),
        Column("PASSED", lambda test: test.passed),
        Column("FAILED", lambda test: test.failed),
        Column("MEAN", lambda test: test.duration_ms, lambda test: _length(test.duration_ms)),
        Column("LONGEST", lambda test: test.duration_ms_max, lambda test: _length(test.duration_ms_max)),
        Column(
            "LAST",
            lambda test: None if test.last is None else test.last.status,
            lambda test: "" if test.last is None else output.word(test.last.status),
        ),
        Column("LAST RUN", lambda test: None if test.last is None else test.last.run_id, only="piped"),
        Column(
            "LAST AT",
            lambda test: None if test.last is None else test.last.created_at,
            lambda test: output.moment(None if test.last is None else test.last.created_at),
        ),
    ]


def _length(duration_ms: float | None) -> str:
    return length_of(None if duration_ms is None else round(duration_ms))


def _history_columns(output: Output, found: "Sequence[Result]") -> "list[Column[Result]]":
    chars = shortened([result.run_id for result in found])
    return [
        Column("RUN", lambda result: result.run_id, lambda result: result.run_id[:chars]),
        Column("STATUS", lambda result: result.status, lambda result: output.word(result.status)),
        Column("TOOK", lambda result: result.duration_ms, lambda result: _length(result.duration_ms)),
        Column("CREATED", lambda result: result.created_at, lambda result: output.moment(result.created_at)),
        Column("SHARD", lambda result: result.shard),
        Column("ERROR", lambda result: result.error, is_cut=True),
    ]


def _test_document(test: "TestSummary") -> dict[str, Any]:
    last = test.last
    return {
        "test_id": test.test_id,
        "flaky_score": test.flaky_score,
        "executed": test.executed,
        "passed": test.passed,
        "failed": test.failed,
        "duration_ms": test.duration_ms,
        "duration_ms_max": test.duration_ms_max,
        "last_status": None if last is None else last.status,
        "last_run_id": None if last is None else last.run_id,
        "last_created_at": None if last is None else _text(last.created_at),
    }


def result_document(result: "Result") -> dict[str, Any]:
    """Give every field of a result."""
    return {name: getattr(result, name) for name in RESULT_FIELDS} | {"created_at": _text(result.created_at)}


def _text(moment: datetime | None) -> str | None:
    from ledger.run.codec import timestamp

    return None if moment is None else timestamp(moment)


# --- compare ------------------------------------------------------------------------------------------------


@click.command(cls=JsonCommand, short_help="Compare the tests of two runs.")
@click.argument("older", metavar="OLDER", type=RUN_ID)
@click.argument("newer", metavar="NEWER", type=RUN_ID)
@click.option("--unchanged", "with_unchanged", is_flag=True, help="Tell the unchanged tests too.")
@output_options(lambda: COMPARE_FIELDS)
@url_option
def compare(*, older: str, newer: str, with_unchanged: bool, url: Setting, output: Output) -> None:
    """Compare the tests of two runs: which flipped, were added, removed, or are unchanged.

    Piped, each line is `flipped`, `added`, `removed` or `unchanged` (asked for with --unchanged), and a test id.

    \b
    Examples:
      runfold compare 0199d1a2 @last
      runfold compare 0199d1a2 0199d1b7 --json total,flipped
    """
    from cli.run_ids import resolve
    from projections.comparison import compare
    from projections.reader import Runs

    with reading_ledger(url) as log:
        runs = Runs(log)
        ids = resolve(runs, older), resolve(runs, newer)
        found = compare(log, *ids)
    if output.is_json:
        output.document({"older": ids[0], "newer": ids[1], "total": found.total, **_lists(found)})
        return
    lines = [
        (change, test_id)
        for change, test_ids in _lists(found).items()
        if with_unchanged or change != "unchanged"
        for test_id in test_ids
    ]
    columns: list[Column[tuple[str, str]]] = [
        Column("CHANGE", lambda line: line[0]),
        Column("TEST", lambda line: line[1], is_cut=True),
    ]
    output.rows(columns, lambda _: {}).write(lines)
    told = ", ".join(f"{len(test_ids):,} {change}" for change, test_ids in _lists(found).items())
    output.tell(f"{found.total:,} tests: {told}")


def _lists(found: "Comparison") -> dict[str, list[str]]:
    return {
        "flipped": found.flipped,
        "added": found.added,
        "removed": found.removed,
        "unchanged": found.unchanged,
    }


# --- timings ------------------------------------------------------------------------------------------------


@click.command(cls=JsonCommand, short_help="Tell how long the attempts, phases and shards of a run took.")
@click.argument("run_id", metavar="RUN", type=RUN_ID)
@output_options(lambda: TIMING_FIELDS)
@url_option
def timings(*, run_id: str, url: Setting, output: Output) -> None:
    """Tell how long the attempts, phases and shards of a run took, and how long they waited.

    Piped, the columns are: `attempt`, `phase` or `shard`; its number or name; which attempt (of the run, or of the
    shard); worker; milliseconds waited; milliseconds taken; started at; finished at.

    \b
    Example:
      runfold timings @last
    """
    from cli.run_ids import resolve
    from projections.reader import Runs
    from projections.timing_reader import Timings

    with reading_ledger(url) as log:
        told = Timings(log).of_run(resolve(Runs(log), run_id))
    if output.is_json:
        output.document(_timings_document(told))
        return
    columns: list[Column[tuple[str, object, Any]]] = [
        Column("", lambda row: row[0]),
        Column("NAME", lambda row: row[1], is_cut=True),
        Column("ATTEMPT", lambda row: row[2].attempt),
        Column("WORKER", lambda row: getattr(row[2], "worker", None), is_cut=True),
        Column("WAITED", lambda row: _waited(row[2]), lambda row: length_of(_waited(row[2]))),
        Column("TOOK", lambda row: row[2].duration_ms, lambda row: length_of(row[2].duration_ms)),
        Column("STARTED", lambda row: row[2].started_at, lambda row: output.moment(row[2].started_at)),
        Column("FINISHED", lambda row: row[2].finished_at, lambda row: output.moment(row[2].finished_at)),
    ]
    output.rows(columns, lambda _: {}).write(list(_spans(told)))


def _spans(told: "RunTimings") -> "Iterator[tuple[str, object, Any]]":
    for attempt in told.attempts:
        yield "attempt", attempt.attempt, attempt
    for phase in told.phases:
        yield "phase", phase.phase, phase
    for shard in told.shards:
        yield "shard", shard.shard, shard


def _waited(span: Any) -> int | None:
    waited: int | None = getattr(span, "queued_ms", None)
    return waited


def _timings_document(told: "RunTimings") -> dict[str, Any]:
    import msgspec

    def document(span: msgspec.Struct) -> dict[str, Any]:
        fields = msgspec.structs.asdict(span)
        return {name: _text(value) if isinstance(value, datetime) else value for name, value in fields.items()}

    return {
        "run_id": told.run_id,
        "attempts": [document(span) for span in told.attempts],
        "phases": [document(span) for span in told.phases],
        "shards": [document(span) for span in told.shards],
    }
