"""Retention on every store: what a policy names, what it spares, and sweeping bit by bit."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import ledger
from ledger import InvalidInput, Ledger
from projections import Policy, Runs, policy, sweep, verify
from projections.retention import UNFINISHED

pytestmark = pytest.mark.erases

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(ledger_url: str, clock: Clock) -> Iterator[Ledger]:
    with ledger.open(ledger_url, migrate=True, clock=clock) as opened:
        yield opened


def a_run(log: Ledger, clock: Clock, *, age: timedelta, took: timedelta = DAY, kind: str = "test", **facts: Any) -> str:
    """Record a run that finished some time ago, after some time; `end` says how."""
    end = facts.pop("end", "completed")
    clock.now = NOW - age - took
    run = log.enqueue(kind, **{"project": "web", **facts})
    log.start(run.id, worker="w1")
    log.append_log(run.id, ["secret"])
    clock.now = NOW - age
    if end == "completed":
        log.complete(run.id)
    elif end == "failed":
        log.fail(run.id, error="boom")
    elif end == "aborted":
        log.abort(run.id)
    clock.now = NOW
    return run.id


def run_sweep(log: Ledger, *policies: Policy, **more: Any) -> list[str]:
    return [swept.run.run_id for swept in sweep(log, policies, **{"now": NOW, "pause_s": 0, **more})]


def purged(log: Ledger) -> set[str]:
    return {run.run_id for run in Runs(log).list(limit=1_000, deleted="purged").runs}


# --- what a policy names ------------------------------------------------------------------------------------------


def test_sweep_when_a_run_finished_100_days_ago(log: Ledger, clock: Clock) -> None:
    """At 90 days, a run that finished 100 days ago goes; one of 89 days, and one that runs, stay."""
    old = a_run(log, clock, age=100 * DAY)
    a_run(log, clock, age=89 * DAY)
    a_run(log, clock, age=100 * DAY, end="runs on")

    assert [old] == run_sweep(log, policy(older_than=90 * DAY))
    assert {old} == purged(log)
    assert verify(log)


def test_sweep_when_a_long_run_ended_today(log: Ledger, clock: Clock) -> None:
    """A run that was created long ago and ended today stays: age counts from its end."""
    a_run(log, clock, age=timedelta(hours=1), took=400 * DAY)

    assert [] == run_sweep(log, policy(older_than=90 * DAY))


def test_sweep_when_the_age_is_exact(log: Ledger, clock: Clock) -> None:
    """Older means older: a run that is exactly as old stays."""
    a_run(log, clock, age=90 * DAY)
    older = a_run(log, clock, age=90 * DAY + timedelta(microseconds=1))

    assert [older] == run_sweep(log, policy(older_than=90 * DAY))


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, {"completed", "failed", "aborted", "other kind", "other project", "in bin"}),
        ({"status": "completed"}, {"completed", "other kind", "other project", "in bin"}),
        ({"status": ["failed", "aborted"]}, {"failed", "aborted"}),
        ({"kind": "build"}, {"other kind"}),
        ({"project": "api"}, {"other project"}),
        ({"kind": "test", "status": "completed", "project": "web"}, {"completed", "in bin"}),
        ({"deleted": "only"}, {"in bin"}),
        ({"deleted": "exclude"}, {"completed", "failed", "aborted", "other kind", "other project"}),
        ({"kind": "none"}, set()),
    ],
)
def test_sweep_when_it_has_conditions(
    conditions: dict[str, Any], expected: set[str], log: Ledger, clock: Clock
) -> None:
    """Every condition of a policy must hold; active runs are never among them."""
    made = {end: a_run(log, clock, age=5 * DAY, end=end) for end in ("completed", "failed", "aborted", "running")}
    made["other kind"] = a_run(log, clock, age=5 * DAY, kind="build")
    made["other project"] = a_run(log, clock, age=5 * DAY, project="api")
    made["in bin"] = a_run(log, clock, age=5 * DAY)
    log.delete(made["in bin"])
    a_run(log, clock, age=DAY)

    found = run_sweep(log, policy(older_than=2 * DAY, **conditions))

    assert {made[name] for name in expected} == set(found) == purged(log)


def test_sweep_when_the_newest_are_kept(log: Ledger, clock: Clock) -> None:
    """The newest of each project and kind stay whatever their age; runs in the bin are neither kept nor counted."""
    web = [a_run(log, clock, age=number * DAY) for number in range(10, 15)]
    api = [a_run(log, clock, age=number * DAY, project="api") for number in range(10, 12)]
    build = [a_run(log, clock, age=number * DAY, kind="build") for number in range(10, 14)]
    binned = a_run(log, clock, age=9 * DAY)
    log.delete(binned)

    found = run_sweep(log, policy(older_than=2 * DAY, keep_newest=3))

    assert {*web[3:], *build[3:], binned} == set(found)
    assert {*web[:3], *api, *build[:3]} == {run.run_id for run in Runs(log).list().runs}


def test_sweep_when_there_are_several_policies(log: Ledger, clock: Clock) -> None:
    """Each run goes by the first policy that names it, and is told once."""
    test, build = a_run(log, clock, age=40 * DAY), a_run(log, clock, age=40 * DAY, kind="build")
    ancient = a_run(log, clock, age=400 * DAY, kind="deploy")
    a_run(log, clock, age=40 * DAY, kind="deploy")
    policies = [
        policy("tests", older_than=30 * DAY, kind="test"),
        policy("builds", older_than=30 * DAY, kind="build"),
        policy("rest", older_than=365 * DAY),
    ]

    found = {swept.run.run_id: swept for swept in sweep(log, policies, now=NOW)}

    assert {test: "tests", build: "builds", ancient: "rest"} == {run: swept.policy for run, swept in found.items()}
    assert "completed at 2026-01-20 12:00Z, more than 30 days ago" == found[test].why
    assert {"tests", "builds", "rest"} == {
        event.data.reason
        for event in log.read_all(types=["purged"])  # type: ignore[union-attr]
    }


@pytest.mark.parametrize(
    "conditions",
    [
        {"older_than": timedelta(seconds=-1)},
        {"older_than": "90d"},
        {"older_than": DAY, "status": "running"},
        {"older_than": DAY, "status": ["completed", "queued"]},
        {"older_than": DAY, "status": "done"},
        {"older_than": DAY, "keep_newest": -1},
        {"older_than": DAY, "keep_newest": True},
        {"older_than": DAY, "deleted": "purged"},
        {"older_than": DAY, "kind": ""},
        {"older_than": DAY, "project": "x" * 201},
    ],
)
def test_policy_when_it_says_what_cannot_be(conditions: dict[str, Any]) -> None:
    """A policy that names active runs, or nothing that a run can be, is refused."""
    with pytest.raises(InvalidInput):
        policy(**conditions)


# --- sweeping -----------------------------------------------------------------------------------------------------


def test_sweep_when_it_is_a_dry_run(log: Ledger, clock: Clock) -> None:
    """A dry run tells the same runs, and nothing happens."""
    made = {a_run(log, clock, age=number * DAY) for number in range(5, 15)}
    by_age = policy(older_than=7 * DAY, keep_newest=2)
    before = [(event.position, event.data) for event in log.read_all()]

    told = list(sweep(log, [by_age], now=NOW, dry_run=True))

    assert before == [(event.position, event.data) for event in log.read_all()]
    assert {None} == {swept.event for swept in told}
    assert made > {swept.run.run_id for swept in told}
    assert [swept.run.run_id for swept in told] == run_sweep(log, by_age)


def test_sweep_when_it_is_limited(log: Ledger, clock: Clock) -> None:
    """A limit stops a sweep; the next one goes on, and the last one finds nothing."""
    made = [a_run(log, clock, age=number * DAY) for number in range(10, 17)]
    by_age = policy(older_than=DAY)

    parts = [run_sweep(log, by_age, runs_max=3) for _ in range(4)]

    assert [3, 3, 1, 0] == [len(part) for part in parts]
    assert sorted(made) == sorted(run for part in parts for run in part)
    assert set(made) == purged(log)


def test_sweep_when_it_breaks_off(log: Ledger, clock: Clock) -> None:
    """A caller that stops in the middle leaves the rest for the next sweep."""
    made = {a_run(log, clock, age=number * DAY) for number in range(10, 15)}
    by_age = policy(older_than=DAY)
    sweeping = sweep(log, [by_age], now=NOW)
    first = next(sweeping)
    sweeping.close()

    rest = run_sweep(log, by_age)

    assert made == {first.run.run_id, *rest}
    assert first.run.run_id not in rest


def test_sweep_when_a_purge_was_begun(log: Ledger, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A purge that broke off is finished by the next sweep, whatever its policies name."""
    monkeypatch.setattr("ledger.limits.ERASE_EVENTS", 2)
    run_id = a_run(log, clock, age=DAY)
    take_turn, taken = log.store.in_turn, []

    def one_turn(run: Any) -> Any:
        if taken:
            raise ConnectionAbortedError
        taken.append(run)
        return take_turn(run)

    monkeypatch.setattr(log.store, "in_turn", one_turn)
    with pytest.raises(ConnectionAbortedError):
        log.purge(run_id, from_bin=False)
    monkeypatch.setattr(log.store, "in_turn", take_turn)
    by_age = policy(older_than=90 * DAY)

    told = list(sweep(log, [by_age], now=NOW, dry_run=True))
    found = list(sweep(log, [by_age], now=NOW))

    assert (
        [(run_id, UNFINISHED)] == [(s.run.run_id, s.policy) for s in told] == [(s.run.run_id, s.policy) for s in found]
    )
    assert {run_id} == purged(log)
    assert [] == run_sweep(log, by_age)


def test_sweep_when_it_pauses(log: Ledger, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a number of runs a sweep lets others have the database; a dry run does not wait."""
    pauses: list[float] = []
    monkeypatch.setattr("projections.retention.RUNS_AT_ONCE", 2)
    monkeypatch.setattr("projections.retention.time.sleep", pauses.append)
    for number in range(10, 15):
        a_run(log, clock, age=number * DAY)

    run_sweep(log, policy(older_than=DAY), dry_run=True)
    in_dry_run = list(pauses)
    run_sweep(log, policy(older_than=DAY), pause_s=0.25)

    assert ([], [0.25, 0.25]) == (in_dry_run, pauses)


def test_sweep_when_runs_begin_and_end_meanwhile(log: Ledger, clock: Clock) -> None:
    """What happens to other runs between two purges shifts nothing and is left alone."""
    made = {a_run(log, clock, age=number * DAY) for number in range(10, 20)}
    found, spared = set(), set()

    for swept in sweep(log, [policy(older_than=DAY)], now=NOW):
        found.add(swept.run.run_id)
        spared.add(a_run(log, clock, age=timedelta(hours=1)))

    assert (made, made) == (found, purged(log))
    assert spared == {run.run_id for run in Runs(log).list(limit=1_000).runs}


def test_sweep_when_pages_are_small(log: Ledger, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that leave the list while it is paged through make no other be passed over."""
    monkeypatch.setattr("ledger.limits.LIST_ROWS_MAX", 2)
    made = {a_run(log, clock, age=number * DAY) for number in range(10, 20)}

    assert made == set(run_sweep(log, policy(older_than=DAY)))
