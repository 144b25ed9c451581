"""Rows about lists: the first page and page 1,000 among very many runs, and reads beside runs of very many results.

The rows of `runs` and `results` are written straight into their tables; the log stays empty. What is measured is
`Runs.list` and its like, their look at the log and the checkpoint included.
"""

import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import timedelta

import msgspec
import psycopg

import ledger
from ledger.envelope import SALT_BYTES
from ledger.events import RunId, join_page
from ledger.ids import new_event_ids, new_salts
from ledger.run.codec import timestamp, to_new_events
from ledger.run.events import Completed, Enqueued, RunEvent, ShardResultAppended
from ledger.run.state import RunState, as_run
from ledger.run.values import JsonObject, Status
from projections import Results, Runs, catch_up
from projections.results import RESULTS
from projections.results import page_token as result_page
from projections.runs import RUNS
from projections.stores import open_result_tables, open_run_tables
from tests.benchmarks.databases import Database, connect_sqlite, vacuum
from tests.benchmarks.measure import Line, Peer, at_most, percentile, take_turns
from tests.benchmarks.session import Session
from tests.benchmarks.work import NOW

RUNS_LISTED = (100_000, 1_000_000)
PAGE_RUNS = 50
RUNS_WITH_RESULTS = 40
RESULTS_A_RUN = 10_000
FAR_PAGE = 1_000
_LOOKS = 60
_ROWS_AT_ONCE = 20_000
_encode = msgspec.json.encode

Columns = tuple[object, ...]


def list_pages(session: Session) -> Iterator[Line]:
    """Pages of 50, filtered by project and status; six of ten runs match."""
    for runs in RUNS_LISTED:
        count = session.scaled(runs)
        for database in session.databases:
            yield from _list_pages(session, database, count)


def _list_pages(session: Session, database: Database, runs: int) -> Iterator[Line]:
    url = database.new_ledger()
    _fill(url, runs)
    far_page = min(FAR_PAGE, runs * 6 // 10 // PAGE_RUNS - 1)
    with ledger.open(url) as log:
        reader = Runs(log)
        token = None
        for _ in range(far_page - 1):
            token = reader.list(limit=PAGE_RUNS, page_token=token, project="web", status="completed").next_page_token
        worst: list[float] = []

        def look(page_token: str | None) -> None:
            page = reader.list(limit=PAGE_RUNS, page_token=page_token, project="web", status="completed")
            assert PAGE_RUNS == len(page.runs)

        def rare() -> None:
            assert reader.list(limit=PAGE_RUNS, project="rare", status="failed").runs

        by_offset = _by_offset(url, (far_page - 1) * PAGE_RUNS)
        turns = take_turns(
            {
                "first": median_ms(lambda: look(None), worst),
                "far": median_ms(lambda: look(token)),
                "rare": median_ms(rare),
                "offset": median_ms(by_offset, looks=5),
            },
            rounds=session.rounds,
        )
    first, far = turns.median("first"), turns.median("far")
    p95 = percentile(worst, 50)
    name = f"page of {PAGE_RUNS} among {runs:,} runs"
    yield Line(f"{name}: first, p95", database.name, f"{p95:.2f} ms", "", p95, at_most(5, " ms"))
    yield Line(
        f"{name}: first, rare project", database.name, f"{turns.median('rare'):.2f} ms", "", turns.median("rare")
    )
    yield Line(
        f"{name}: page {far_page:,}", database.name, f"{far:.2f} ms", f"first page: {first:.2f} ms",
        turns.ratio("far", "first"), at_most(1.5),
    )  # fmt: skip
    yield Line(
        f"{name}: page {far_page:,}", database.name, f"{far:.2f} ms",
        f"OFFSET and COUNT: {turns.median('offset'):.2f} ms", turns.ratio("far", "offset"),
    )  # fmt: skip


def list_beside_results(session: Session) -> Iterator[Line]:
    """Lists and lean reads where the newest runs have 10,000 results each: they must not notice."""
    count = session.scaled(RUNS_LISTED[0])
    for database in session.databases:
        url = database.new_ledger()
        _fill(url, count)
        _fill_results(url, count, session.scaled(RESULTS_A_RUN))
        yield from _read_beside_results(session, database, url, count)


def _read_beside_results(session: Session, database: Database, url: str, runs: int) -> Iterator[Line]:
    with ledger.open(url) as log:
        reader, results = Runs(log), Results(log)
        newest = reader.list(limit=1, project="web").runs[0].run_id
        projects = ["web", "api", "rare", "none"]
        reads: dict[str, Callable[[], object]] = {
            "list, first page": lambda: reader.list(limit=PAGE_RUNS, project="web", status="completed"),
            "results of a run, first page": lambda: results.of_run(newest, limit=PAGE_RUNS),
            "results of a run, last page": lambda: results.of_run(
                newest, limit=PAGE_RUNS, page_token=result_page(newest, session.scaled(RESULTS_A_RUN) - PAGE_RUNS - 1)
            ),
            "latest result of a test": lambda: results.latest("tests/test_many.py::test_case[7]", project="web"),
        }
        slow: dict[str, Callable[[], object]] = {
            "runs by project": lambda: reader.count_by_project(projects),
            "flaky tests of 20 runs": lambda: results.tests(project="web", runs=20, limit=PAGE_RUNS),
        }
        name = f"{RUNS_WITH_RESULTS} of {runs:,} runs with {session.scaled(RESULTS_A_RUN):,} results"
        worst: dict[str, list[float]] = {read: [] for read in reads}
        peers = {read: median_ms(look, worst[read]) for read, look in reads.items()}
        turns = take_turns(
            {**peers, **{read: median_ms(look, looks=3) for read, look in slow.items()}}, rounds=session.rounds
        )
        for read in reads:
            p95 = percentile(worst[read], 50)
            yield Line(f"{name}: {read}, p95", database.name, f"{p95:.2f} ms", "", p95, at_most(10, " ms"))
        for read in slow:
            took = turns.median(read)
            yield Line(f"{name}: {read}", database.name, f"{took:.0f} ms", "", took)
        heavy, light = _peak_kib(lambda: _page_after(reader, 0)), _peak_kib(lambda: _page_after(reader, runs // 2))
        yield Line(
            f"{name}: memory of a page of {RUNS_WITH_RESULTS // 4}", database.name, f"{heavy:.0f} KiB",
            f"of runs without results: {light:.0f} KiB", heavy / light, at_most(1.5),
        )  # fmt: skip


def _page_after(reader: Runs, seconds: int) -> object:
    """Read a page of runs that are this much older than the newest."""
    newest = reader.list(limit=1).runs[0].created_at
    assert newest is not None
    before = newest - timedelta(seconds=seconds - 1)
    return reader.list(limit=RUNS_WITH_RESULTS // 4, before=before)


def _peak_kib(look: Callable[[], object]) -> float:
    look()
    tracemalloc.start()
    look()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1024


def _fill_results(url: str, runs: int, results: int) -> None:
    """Give the newest runs results, as the fold makes them of events of 500."""
    with ledger.open(url) as log:
        tables, run_tables = open_result_tables(log.store), open_run_tables(log.store)
        for number in range(runs - RUNS_WITH_RESULTS, runs):
            at = NOW + timedelta(seconds=number)
            run_id, project = RunId(_run_id(number)), _project(number)
            events: list[RunEvent] = [
                Enqueued(kind="test", project=project, enqueued_at=at, shard_count=1),
                *[
                    ShardResultAppended(results=[a_result(number, first + index) for index in range(500)], shard=0)
                    for first in range(0, results, 500)
                ],
                Completed(finished_at=at),
            ]
            new = to_new_events(
                events,
                run_id=run_id,
                recorded_at=at,
                event_ids=new_event_ids(len(events)),
                salts=new_salts(len(events), size_bytes=SALT_BYTES),
            )
            page = join_page([(version, version, it.envelope, it.payload) for version, it in enumerate(new, 1)])
            with tables.writing() as writing:
                row = RESULTS.fold(None, RESULTS.read(page))
                writing.add(writing.checkpoint.generation, [RESULTS.store(row)])
            with run_tables.writing() as writing_run:
                run = RUNS.fold(None, RUNS.read(page))
                writing_run.save(writing_run.checkpoint.generation, [RUNS.store(run)])
    vacuum(url)


def a_result(run: int, number: int) -> JsonObject:
    return {
        "testId": f"tests/test_many.py::test_case[{number}]",
        "testName": f"test_case[{number}]",
        "status": "failed" if (run * number) % 20 == 1 else "passed",
        "durationMs": number % 97 + 0.5,
    }


def median_ms(look: Callable[[], None], p95s: list[float] | None = None, *, looks: int = _LOOKS) -> Peer:
    def median_ms() -> float:
        took = []
        for _ in range(looks):
            begun = time.perf_counter()
            look()
            took.append((time.perf_counter() - begun) * 1_000)
        if p95s is not None:
            p95s.append(percentile(took, 95))
        return percentile(took, 50)

    return median_ms


def _fill(url: str, runs: int) -> None:
    with ledger.open(url) as log:
        generation = catch_up(log) or 1
    rows = (_row(generation, number) for number in range(runs))
    if url.startswith("sqlite"):
        connection = connect_sqlite(url)
        with connection:
            connection.executemany(f"INSERT INTO runs VALUES ({', '.join('?' * 15)})", rows)
            connection.execute(
                "INSERT OR REPLACE INTO projections (name, version, generation, position) VALUES (?, ?, ?, 0)",
                (RUNS.name, RUNS.version, generation),
            )
        connection.close()
    else:
        with psycopg.connect(url) as postgres:
            with postgres.cursor() as cursor, cursor.copy("COPY runfold.runs FROM STDIN (FORMAT BINARY)") as copy:
                copy.set_types(["int8", *["text"] * 8, "int8", "int8", "text", "text", "bytea", "bytea"])
                for row in rows:
                    copy.write_row(row)
            postgres.execute(
                "INSERT INTO runfold.projections (name, version, generation, position) VALUES (%s, %s, %s, 0)"
                " ON CONFLICT (name) DO UPDATE SET generation = excluded.generation",
                (RUNS.name, RUNS.version, generation),
            )
    vacuum(url)


def _run_id(number: int) -> str:
    return f"0192f3a0-0000-7000-8000-{number:012x}"


def _project(number: int) -> str:
    return "rare" if number % 1_000 == 0 else "api" if number % 4 == 0 else "web"


def _row(generation: int, number: int) -> Columns:
    at = NOW + timedelta(seconds=number)
    state = RunState(
        run_id=_run_id(number),
        kind="test",
        project=_project(number),
        status=Status.FAILED if number % 5 == 0 else Status.COMPLETED,
        attempt=1,
        passed=1_200,
        total=1_200,
        worker="w1",
        created_at=at,
        started_at=at,
        updated_at=at,
        version=20,
        position=number * 20 + 20,
    )
    recorded_at = timestamp(at)
    return (
        generation, state.run_id, state.kind, state.project, state.status.value, state.verdict.value, None,
        recorded_at, None, state.version, state.position, recorded_at, recorded_at, _encode(as_run(state)),
        _encode(state),
    )  # fmt: skip


def _by_offset(url: str, offset: int) -> Callable[[], None]:
    """The source systems' way: count them all, then pass over those of the pages before."""
    where = "FROM {0}runs WHERE project = 'web' AND status = 'completed' AND deleted_at IS NULL"
    page = f"SELECT run {where} ORDER BY created_at DESC LIMIT {PAGE_RUNS} OFFSET {offset}"
    total = f"SELECT count(*) {where}"
    if url.startswith("sqlite"):
        connection = connect_sqlite(url)
        return lambda: [connection.execute(q.format("")).fetchall() for q in (total, page)] and None
    postgres = psycopg.connect(url, autocommit=True)
    return lambda: (
        [postgres.execute(q.format("runfold.").encode(), prepare=True).fetchall() for q in (total, page)] and None
    )
