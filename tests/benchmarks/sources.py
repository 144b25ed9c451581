"""Rows about the source systems' own lists and lean reads, on a ledger of real histories.

Unlike the rows of `lists`, the log is as long as it would be: each of the runs has its events, the keys and labels that
the reads look for, and the projections come from folding them.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import ledger
from ledger import Ledger
from ledger.run.events import Completed, DocumentRecorded, Enqueued, RunEvent, ShardResultAppended, Started
from projections import Runs, catch_up
from projections.projector import PROJECTIONS
from projections.systems.choo import ChooRuns
from projections.systems.sando import BuildRuns
from projections.systems.sentri import SentriRuns
from projections.systems.sprongus import SprongusRuns
from tests.benchmarks.databases import Database, vacuum
from tests.benchmarks.lists import RUNS_LISTED, a_result, median_ms
from tests.benchmarks.measure import Line, at_most, percentile, take_turns
from tests.benchmarks.session import Session
from tests.benchmarks.work import NOW

PROJECTS = 10
HEAVY_RUNS = 20
RESULTS_A_RUN = 10_000
_FAR_PAGE = 50
_WRITERS = 4


def source_lists(session: Session) -> Iterator[Line]:
    """What the screens of the source systems ask for again and again, among 100,000 runs; the newest are heavy."""
    runs = session.scaled(RUNS_LISTED[0])
    for database in session.databases:
        url = database.new_ledger()
        with ledger.open(url) as log:
            _fill(log, runs, session.scaled(RESULTS_A_RUN))
            newest = log.enqueue("test_run", project="project-1", exclusive_key="active", worker="sentri").id
            for name in PROJECTIONS:
                catch_up(log, name)
        vacuum(url)
        yield from _read(session, database, url, runs, newest)


def _read(session: Session, database: Database, url: str, runs: int, newest: str) -> Iterator[Line]:
    with ledger.open(url) as log:
        sentri, choo, builds, slice_ = SentriRuns(log), ChooRuns(log), BuildRuns(log), SprongusRuns(log)
        projects = [f"project-{number}" for number in range(PROJECTS)]
        reads: dict[str, Callable[[], object]] = {
            "Sentri get_by_project_id_paged": lambda: sentri.get_by_project_id_paged("project-1")["data"],
            f"Sentri get_by_project_id_paged, page {_FAR_PAGE}": lambda: sentri.get_by_project_id_paged(
                "project-1", min(_FAR_PAGE, runs // PROJECTS // 20), 20
            )["data"],
            "Sentri find_active_by_project_id": lambda: sentri.find_active_by_project_id("project-1", ["test_run"]),
            "Sentri find_by_github_delivery_id": lambda: sentri.find_by_github_delivery_id("project-2", "d-2"),
            "Sentri find_latest_result_for_test": lambda: sentri.find_latest_result_for_test(
                "tests/test_many.py::test_case[7]"
            ),
            "Sentri count_by_project_ids": lambda: sentri.count_by_project_ids(projects),
            "Sentri get_latest_crawl_with_changed_pages": lambda: sentri.get_latest_crawl_with_changed_pages(
                "project-3"
            ),
            "choo list_incomplete_runs": lambda: choo.list_incomplete_runs() or True,
            "Sando latest_summary": lambda: builds.latest_summary() or True,
            "Sprongus list": lambda: slice_.list(project_id="project-1").runs,
            "count of all": lambda: Runs(log).count(),
            "run by id": lambda: Runs(log).get(newest),
        }
        worst: dict[str, list[float]] = {read: [] for read in reads}
        peers = {read: median_ms(_found(look), worst[read]) for read, look in reads.items()}
        turns = take_turns(peers, rounds=session.rounds)
        for read in reads:
            p95 = percentile(worst[read], 50)
            name = f"among {runs:,} runs of real histories: {read}, p95"
            goal = None if str(_FAR_PAGE) in read else at_most(10, " ms")
            yield Line(name, database.name, f"median {turns.median(read):.2f} ms", "", p95, goal)


def _found(look: Callable[[], object]) -> Callable[[], None]:
    def found() -> None:
        assert look()

    return found


def _fill(log: Ledger, runs: int, results: int) -> None:
    with ThreadPoolExecutor(_WRITERS) as pool:
        for _ in pool.map(
            lambda number: _write(log, number, results if number >= runs - HEAVY_RUNS else 1), range(runs)
        ):
            pass


def _write(log: Ledger, number: int, results: int) -> None:
    at = NOW + timedelta(seconds=number)
    rows = [a_result(number, index) for index in range(results)]
    events: list[RunEvent] = [
        Enqueued(
            kind="crawl" if number % 7 == 3 else "test_run",
            project=f"project-{number % PROJECTS}",
            enqueued_at=at,
            shard_count=1,
            labels={"deliveryId": f"d-{number}", "browser": "chromium"},
        ),
        Started(attempt=1, worker="sentri", started_at=at),
        *[ShardResultAppended(results=rows[first : first + 500], shard=0) for first in range(0, results, 500)],
    ]
    if number % 1_000 == 3:
        events.append(DocumentRecorded(name="changedPages", document=[f"/page/{number}"]))
    events.append(Completed(finished_at=at))
    log.append(f"0192f3a0-0000-7000-8000-{number:012x}", events, recorded_at=[at] * len(events))
