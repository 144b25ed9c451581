"""Counting runs by project and by status at once."""

import random
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

import ledger
from ledger import InvalidInput, Ledger, Status, limits
from projections import Runs, catch_up, rebuild

NOON = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def test_count_by_project_when_some_have_none(log: Ledger) -> None:
    """Each project that was asked for is told, 0 included; others and deleted runs are left out."""
    for project, runs in (("web", 3), ("api", 1), ("other", 2), (None, 1)):
        for _ in range(runs):
            log.enqueue("test", project=project)
    gone = log.enqueue("test", project="api").id
    log.abort(gone)
    log.delete(gone)
    runs = Runs(log)

    assert {"web": 3, "api": 1, "none": 0} == runs.count_by_project(["web", "api", "none"])
    assert {"web": 0, "api": 1} == runs.count_by_project(["web", "api"], deleted="only")
    assert {"web": 3} == runs.count_by_project(["web", "web"], status="queued", kind="test")
    assert {"web": 0} == runs.count_by_project(["web"], project="api")
    assert {} == runs.count_by_project([])


def test_count_by_status_when_some_have_none(log: Ledger) -> None:
    """Every status is told, or those asked for; other filters hold as in lists."""
    made = [log.enqueue("test", project="web", labels={"n": str(number)}).id for number in range(4)]
    log.start(made[0], worker="w1")
    log.start(made[1], worker="w1")
    log.complete(made[1])
    runs = Runs(log)

    everything = runs.count_by_status(project="web")

    assert set(Status) == set(everything)
    assert {Status.RUNNING: 1, Status.COMPLETED: 1, Status.QUEUED: 2} == {k: n for k, n in everything.items() if n}
    assert {Status.FAILED: 0, Status.QUEUED: 2} == runs.count_by_status(status=["queued", "failed"])
    assert {Status.RUNNING: 1} == runs.count_by_status(status="running", labels={"n": "0"})


def test_count_by_kind_when_runs_move_on(log: Ledger) -> None:
    """Each kind and status that any run has is told; what is in the bin is not."""
    made = [log.enqueue(kind).id for kind in ("test", "test", "test", "deploy")]
    log.abort(made[0])
    log.abort(made[1])
    runs = Runs(log)
    assert {("test", "aborted"): 2, ("test", "queued"): 1, ("deploy", "queued"): 1} == runs.count_by_kind()

    log.delete(made[0])
    log.abort(made[3])

    assert {("test", "aborted"): 1, ("test", "queued"): 1, ("deploy", "aborted"): 1} == runs.count_by_kind()


def test_counts_when_asked_as_of_a_moment(ledger_url: str) -> None:
    """Runs are counted as they were then."""
    now = [NOON]
    with ledger.open(ledger_url, clock=lambda: now[0], migrate=True) as log:
        run = log.enqueue("test", project="web").id
        now[0] += timedelta(minutes=1)
        log.start(run, worker="w1")
        log.enqueue("test", project="web")
        runs, at = Runs(log), NOON + timedelta(seconds=1)

        assert {"web": 1} == runs.count_by_project(["web"], at=at)
        assert {Status.QUEUED: 1, Status.RUNNING: 0} == runs.count_by_status(status=["queued", "running"], at=at)


@pytest.mark.parametrize("seed", range(3))
def test_counts_when_runs_live_and_rows_are_made_anew(log: Ledger, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After every turn of many runs' lives, and whenever a rebuild ends or breaks off, counts are what lists show."""
    monkeypatch.setattr("projections.projector.ROWS_HELD_MAX", 3)
    monkeypatch.setattr("projections.projector.ROWS_WRITTEN_MAX", 2)
    chance, runs, ids = random.Random(seed), Runs(log), list[str]()

    def break_off(position: int, head: int) -> None:
        if position == head:
            raise KeyboardInterrupt

    for turn in range(40):
        ids += [log.enqueue(chance.choice(["test", "build"]), project=chance.choice(["web", None])).id]
        run = chance.choice(ids)
        move = chance.choice([log.abort, log.delete, log.restore, log.purge, lambda run: log.start(run, worker="w")])
        with suppress(ledger.IllegalTransition):
            move(run)
        if turn % 4 == 0:
            catch_up(log)
        if turn % 10 == 3:
            with pytest.raises(KeyboardInterrupt):
                rebuild(log, progress=break_off)
        if turn % 10 == 6:
            rebuild(log)
        listed = Counter([(run.kind, run.status) for run in runs.list(limit=100).runs])
        assert listed == runs.count_by_kind()
        assert listed.total() == runs.count()


def test_count_by_project_when_what_is_asked_is_none(log: Ledger) -> None:
    """Too many projects, and what is no list of names, are refused."""
    runs = Runs(log)
    names = [f"p{number}" for number in range(limits.LIST_ROWS_MAX)]

    assert limits.LIST_ROWS_MAX == len(runs.count_by_project(names))
    for asked in ([*names, "one more"], "web", ["", "web"], 7):
        with pytest.raises(InvalidInput) as refusal:
            runs.count_by_project(asked)  # type: ignore[arg-type]
        assert "project_ids" == refusal.value.field
