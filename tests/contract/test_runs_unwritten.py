"""Lists put together from stored rows and newer ones are what lists are once the rows are written."""

from collections import Counter
from random import Random
from typing import Any

import pytest
from postgres_server import Logins

import ledger
from ledger import Ledger
from ledger.errors import NotPermitted, StoreBusy
from projections import Results, Runs, projector
from projections.projector import fold_aside
from projections.queries import run_filter
from projections.stores import open_run_tables
from projections.unwritten import UnwrittenRuns

KINDS, PROJECTS, BRANCHES = ("test", "build"), ("web", "api", None), ("main", "topic")

FILTERS: tuple[dict[str, Any], ...] = (
    {},
    {"project": "web"},
    {"kind": "build", "status": "completed"},
    {"status": ["running", "completed", "aborted"]},
    {"labels": {"branch": "main"}},
    {"verdict": "failed"},
    {"deleted": "only"},
    {"deleted": "include", "project": "api"},
)


class Writer:
    """Does to runs what users do, as a seed says."""

    def __init__(self, log: Ledger, seed: int) -> None:
        self._log = log
        self._random = Random(seed)
        self.run_ids: list[str] = []

    def work(self, steps: int) -> None:
        for _ in range(steps):
            self._random.choice((self._enqueue, self._enqueue, self._start, self._end, self._end, self._bin))()

    def _enqueue(self) -> None:
        pick = self._random.choice
        run = self._log.enqueue(pick(KINDS), project=pick(PROJECTS), labels={"branch": pick(BRANCHES)})
        self.run_ids.append(run.id)

    def _start(self) -> None:
        run_id = self._pick("queued")
        if run_id is not None:
            self._log.start(run_id, worker="w")
            self._log.append_results(run_id, [{"status": self._random.choice(("passed", "failed"))}])

    def _end(self) -> None:
        run_id = self._pick("running")
        if run_id is not None:
            self._random.choice((self._log.complete, self._log.abort))(run_id)

    def _bin(self) -> None:
        run_id = self._pick("completed", "aborted")
        if run_id is not None:
            self._random.choice((self._log.delete, self._log.restore))(run_id)

    def _pick(self, *status: str) -> str | None:
        found = [run_id for run_id in self.run_ids if self._log.state(run_id).status in status]
        return self._random.choice(found) if found else None


def answers(tables: Any, generation: int) -> list[Any]:
    """Ask what lists ask: every page, count and search."""
    told: list[Any] = []
    for filters in FILTERS:
        wanted = run_filter(**filters)
        after, page = None, None
        while page is None or len(page) == 3:
            page = tables.list(generation, wanted, after=after, limit=3)
            told += page
            after = page[-1].key if page else None
        told.append(tables.count(generation, wanted))
        told.append(Counter(tables.count_by(generation, wanted, "project", ["web", "api"])))
        told.append(Counter(tables.count_by(generation, wanted, "status", ["queued", "completed"])))
    told.append(Counter(tables.count_by_kind(generation, without=())))
    told += [tables.find(generation, "0", project=project, limit=5) for project in (None, "web", "none")]
    return told


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("is_live", [True, False])
def test_lists_when_rows_are_not_written_yet(log: Ledger, seed: int, is_live: bool) -> None:
    """Pages, counts and searches say the same before the newest rows are written as afterwards."""
    writer = Writer(log, seed)
    writer.work(40)
    if is_live:
        Runs(log).count()
        writer.work(25)
    tables = open_run_tables(log.store)

    generation, rows = fold_aside(log)
    before = answers(UnwrittenRuns(tables, rows), generation)

    assert rows
    assert generation == tables.checkpoint().generation
    Runs(log).count()
    assert answers(tables, tables.checkpoint().generation) == before


def test_lists_when_somebody_writes_the_rows_meanwhile(log: Ledger) -> None:
    """A run whose row comes in between is counted and listed once."""
    first = log.enqueue("test").id
    Runs(log).count()
    log.start(first, worker="w")
    log.enqueue("test")
    tables = open_run_tables(log.store)

    generation, rows = fold_aside(log)
    Runs(log).count()
    runs = UnwrittenRuns(tables, rows)

    assert 2 == runs.count(generation, run_filter())
    assert 2 == len(runs.list(generation, run_filter(), after=None, limit=10) or ())


def test_lists_when_more_is_unwritten_than_is_folded(log: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit the events are folded; one more, and it is said who can help."""
    monkeypatch.setattr(projector, "UNWRITTEN_EVENTS_MAX", 3)
    monkeypatch.setattr(projector, "PAGE_EVENTS", 2)
    for _ in range(3):
        log.enqueue("test")
    assert 3 == len(fold_aside(log)[1])
    log.enqueue("test")

    with pytest.raises(StoreBusy, match=r"lack more than 3 events .* `runfold daemon`"):
        fold_aside(log)


def test_read_models_when_nobody_writes_their_rows(
    postgres_url: str, owner_url: str, logins: Logins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may not write reads what is written; what is not, he waits for in vain, and is told whom he needs."""
    monkeypatch.setattr(projector, "FOLLOWED_S", 0.2)
    with ledger.open(postgres_url) as log, ledger.open(logins.url(owner_url, "reader")) as looking:
        run_id = log.enqueue("test", project="web").id
        log.start(run_id, worker="w")
        log.append_results(run_id, [{"testId": "a", "status": "passed"}])
        with pytest.raises(StoreBusy, match=r"nobody did within 0.2 s.*`runfold projection rebuild results`"):
            Results(looking).of_run(run_id)
        with pytest.raises(NotPermitted, match="does not let this user do that"):
            projector.catch_up(looking, "results")
        assert 1 == len(Results(log).of_run(run_id).results)

        assert ["a"] == [result.test_id for result in Results(looking).of_run(run_id).results]
