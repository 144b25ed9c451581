"""The recycle bin on every store: delete, list, restore, purge; run by run and project by project."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

import ledger
from ledger import IllegalTransition, InvalidInput, Ledger, RunPurged
from projections import RecycleBin, Runs, verify

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(ledger_url: str, clock: Clock) -> Iterator[Ledger]:
    with ledger.open(ledger_url, migrate=True, clock=clock) as opened:
        yield opened


def a_finished_run(log: Ledger, *, project: str = "web", lines: int = 1) -> str:
    run = log.enqueue("test", project=project)
    log.start(run.id, worker="w1")
    for number in range(lines):
        log.append_log(run.id, [f"line {number}"], level=["info", "warn", "error"][number % 3])
    log.complete(run.id)
    return run.id


def listed(log: Ledger, **filters: str) -> set[str]:
    return {run.run_id for run in Runs(log).list(limit=1_000, **filters).runs}  # type: ignore[arg-type]


def lines(log: Ledger, run_id: str) -> list[tuple[str, str | None]]:
    return [
        (line, event.data.level)
        for event in log.read(run_id)
        if isinstance(event.data, ledger.run.events.LogAppended)
        for line in event.data.lines
    ]


# --- the scenarios of `recycle-bin.test.js` -----------------------------------------------------------------------


def test_bin_when_a_run_is_deleted(log: Ledger) -> None:
    """A deleted run is in the bin and hidden from lists."""
    run_id, other = a_finished_run(log), a_finished_run(log)

    log.delete(run_id)

    assert ({other}, {run_id}) == (listed(log), listed(log, deleted="only"))
    assert NOON == Runs(log).get(run_id).deleted_at


def test_bin_when_a_run_is_restored(log: Ledger) -> None:
    """A restored run is visible again, with everything it had, and not in the bin."""
    run_id = a_finished_run(log)
    before = Runs(log).get(run_id)
    log.delete(run_id)

    log.restore(run_id)

    after = Runs(log).get(run_id)
    assert ({run_id}, set()) == (listed(log), listed(log, deleted="only"))
    assert (before.status, before.log_line_count, None) == (after.status, after.log_line_count, after.deleted_at)


@pytest.mark.erases
def test_bin_when_a_run_is_purged(log: Ledger) -> None:
    """A purged run is gone from the bin, and from lists."""
    run_id = a_finished_run(log)
    log.delete(run_id)

    log.purge(run_id)

    assert (set(), set(), {run_id}) == (listed(log), listed(log, deleted="only"), listed(log, deleted="purged"))


def test_bin_when_a_live_run_is_purged(log: Ledger) -> None:
    """A run that is not in the bin is not purged from it."""
    run_id = a_finished_run(log)

    with pytest.raises(IllegalTransition, match="not in the recycle bin"):
        log.purge(run_id)

    assert {run_id} == listed(log)


def test_bin_when_it_is_asked_for_what_it_does_not_have(log: Ledger) -> None:
    """A word that names no part of the bin is refused."""
    with pytest.raises(InvalidInput, match="exclude, only, include, purged is allowed"):
        listed(log, deleted="dataset")


def test_project_when_it_is_restored(log: Ledger, clock: Clock) -> None:
    """Restoring a project leaves what was deleted by itself before, in 2020, in the bin."""
    early, first, second = (a_finished_run(log) for _ in range(3))
    other = a_finished_run(log, project="api")
    clock.now = datetime(2020, 1, 1, tzinfo=UTC)
    log.delete(early)
    clock.now = NOON + timedelta(days=1)
    log.delete(other)
    deleted = RecycleBin(log).delete_project("web")

    restored = RecycleBin(log).restore_project("web", deleted_since=clock.now)

    assert {first, second} == {event.run_id for event in deleted} == {event.run_id for event in restored}
    assert ({first, second}, {early, other}) == (listed(log), listed(log, deleted="only"))


# --- more of projects ---------------------------------------------------------------------------------------------


def test_project_when_one_run_was_deleted_at_the_very_moment(log: Ledger, clock: Clock) -> None:
    """The moment itself counts; a microsecond before does not."""
    before, at = a_finished_run(log), a_finished_run(log)
    log.delete(before)
    clock.now += timedelta(microseconds=1)
    log.delete(at)

    restored = RecycleBin(log).restore_project("web", deleted_since=clock.now)

    assert [at] == [event.run_id for event in restored]
    assert ["restored"] == [event.type for event in restored]


@pytest.mark.parametrize("status", ["queued", "running"])
def test_project_when_a_run_is_active(status: str, log: Ledger) -> None:
    """A project with an active run is not deleted, and the run is named."""
    a_finished_run(log)
    active = log.enqueue("test", project="web").id
    if status == "running":
        log.start(active, worker="w1")

    with pytest.raises(IllegalTransition, match="active run") as refusal:
        RecycleBin(log).delete_project("web")

    assert (active, set()) == (refusal.value.run_id, listed(log, deleted="only"))


def test_project_when_deleted_twice(log: Ledger) -> None:
    """Deleting again deletes what came since, and says only that."""
    first = a_finished_run(log)
    RecycleBin(log).delete_project("web", reason="old")
    second = a_finished_run(log)

    again = RecycleBin(log).delete_project("web")

    assert [second] == [event.run_id for event in again]
    assert {first, second} == listed(log, deleted="only")


@pytest.mark.erases
def test_project_when_purged(log: Ledger) -> None:
    """Purging a project takes what it has in the bin, and nothing else."""
    binned, live, other = a_finished_run(log), a_finished_run(log), a_finished_run(log, project="api")
    log.delete(binned)
    log.delete(other)

    purged = RecycleBin(log).purge_project("web", reason="closed")

    assert [binned] == [event.run_id for event in purged]
    assert ({live}, {other}, {binned}) == (listed(log), listed(log, deleted="only"), listed(log, deleted="purged"))


@pytest.mark.erases
def test_project_when_restored_after_a_purge(log: Ledger) -> None:
    """A purged run does not come back with its project."""
    purged, kept = a_finished_run(log), a_finished_run(log)
    RecycleBin(log).delete_project("web")
    log.purge(purged)

    restored = RecycleBin(log).restore_project("web", deleted_since=NOON)

    assert [kept] == [event.run_id for event in restored]
    with pytest.raises(RunPurged):
        log.restore(purged)


def test_project_when_it_has_more_runs_than_a_page(log: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Page by page, every run of a project is deleted and restored."""
    monkeypatch.setattr("ledger.limits.LIST_ROWS_MAX", 3)
    made = {a_finished_run(log) for _ in range(10)}

    deleted = RecycleBin(log).delete_project("web")
    restored = RecycleBin(log).restore_project("web", deleted_since=NOON)

    assert made == {event.run_id for event in deleted} == {event.run_id for event in restored}
    assert verify(log)


# --- what `run-logs.test.js` says of deleting ---------------------------------------------------------------------


@pytest.mark.erases
def test_logs_when_a_run_is_purged(log: Ledger) -> None:
    """The logs of a purged run are gone, those of others stay, in order and with their levels."""
    first, second = a_finished_run(log, lines=3), a_finished_run(log, lines=3)
    log.delete(first)
    in_bin = lines(log, first)

    log.purge(first)

    whole = [("line 0", "info"), ("line 1", "warn"), ("line 2", "error")]
    assert (whole, [], whole) == (in_bin, lines(log, first), lines(log, second))


@pytest.mark.erases
def test_logs_when_a_project_is_purged(log: Ledger) -> None:
    """Purging the runs of a project removes the logs of every one of them, and of no other project."""
    made = [a_finished_run(log, lines=2) for _ in range(3)]
    other = a_finished_run(log, project="api", lines=2)
    RecycleBin(log).delete_project("web")

    RecycleBin(log).purge_project("web")

    assert [[], [], []] == [lines(log, run_id) for run_id in made]
    assert 2 == len(lines(log, other))
