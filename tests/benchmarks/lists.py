"""Rows about lists: the first page and page 1,000 among very many runs.

The rows of `runs` are written straight into its tables; the log stays empty. What is measured is `Runs.list`, its look
at the log and the checkpoint included.
"""

import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import msgspec
import psycopg

import ledger
from ledger.run.codec import timestamp
from ledger.run.state import RunState, as_run
from ledger.run.values import Status
from projections import Runs, catch_up
from projections.runs import RUNS
from tests.benchmarks.databases import Database, connect_sqlite, vacuum
from tests.benchmarks.measure import Line, Peer, at_most, percentile, take_turns
from tests.benchmarks.session import Session
from tests.benchmarks.work import NOW

RUNS_LISTED = (100_000, 1_000_000)
PAGE_RUNS = 50
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
                "first": _median_ms(lambda: look(None), worst),
                "far": _median_ms(lambda: look(token)),
                "rare": _median_ms(rare),
                "offset": _median_ms(by_offset, looks=5),
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


def _median_ms(look: Callable[[], None], p95s: list[float] | None = None, *, looks: int = _LOOKS) -> Peer:
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


def _row(generation: int, number: int) -> Columns:
    at = NOW + timedelta(seconds=number)
    state = RunState(
        run_id=f"0192f3a0-0000-7000-8000-{number:012x}",
        kind="test",
        project="rare" if number % 1_000 == 0 else "api" if number % 4 == 0 else "web",
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
