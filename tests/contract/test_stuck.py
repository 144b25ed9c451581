"""What makes no progress is told with whom it waits for: the same on memory, SQLite and PostgreSQL."""

import time
from datetime import UTC, datetime, timedelta

import pytest

import ledger
from ledger import Kind, Ledger, Policy
from ledger.limits import DELAY_S_MAX


@pytest.fixture
def log(ledger_url: str) -> Ledger:
    kinds = [Kind(name="hold", policy=Policy(on_lost="hold"))]
    with ledger.open(ledger_url, kinds=kinds, migrate=True) as opened:
        yield opened


def told(log: Ledger, older_than_s: float = 0, ahead_s: float = 3_600) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Give why each run is stuck, and which shards, after checking that each is told once."""
    found = list(log.stuck(older_than_s=older_than_s, ahead_s=ahead_s))
    assert len(found) == len({one.run_id for one in found})
    return {one.run_id: (one.why.value, one.shards) for one in found}


def test_stuck_when_runs_wait_for_all_kinds_of_things(log: Ledger) -> None:
    """Each run is told once, with what it waits for; one whose lease is kept is not."""
    far, soon = (log.enqueue("test", not_before=datetime.now(UTC) + timedelta(hours=hours)).id for hours in (100, 0.5))
    silent = log.enqueue("test", worker="by name").id
    by_name_cut = log.enqueue("test", worker="by name", shard_count=3).id
    held = log.enqueue("held").id
    log.claim("alive", kinds=["held"])
    interrupted = log.enqueue("hold").id
    log.claim("dead", kinds=["hold"], lease_s=0.1)
    done = log.enqueue("done", shard_count=1).id
    for lease in log.claim("w1", kinds=["done"]):
        log.succeed(lease)
    asked_to_stop = log.enqueue("stop").id
    log.claim("deaf", kinds=["stop"])
    log.request_abort(asked_to_stop)
    waiting = log.enqueue("test").id
    finished = log.enqueue("test").id
    log.abort(finished)
    time.sleep(0.15)
    [swept] = [one for one in log.sweep() if one.run_id == interrupted]

    found = told(log)

    assert ("interrupted",) == swept.events
    assert {
        far: ("far_ahead", ()),
        silent: ("silent", ()),
        by_name_cut: ("silent", ()),
        interrupted: ("interrupted", ()),
        done: ("not_finalized", ()),
        asked_to_stop: ("abort_requested", ()),
        waiting: ("unclaimed", ()),
    } == found
    assert not {held, soon, finished} & set(found)


def test_stuck_when_a_live_worker_does_not_obey(log: Ledger) -> None:
    """A worker that keeps its lease is late for an abort's deadline, and not before; without one, after long."""
    given_time, late, no_deadline = (log.enqueue("test").id for _ in range(3))
    assert 3 == len(log.claim("deaf", limit=3, lease_s=1_000))
    now = datetime.now(UTC)
    log.request_abort(given_time, deadline=now + timedelta(hours=1))
    log.request_abort(late, deadline=now - timedelta(milliseconds=1))
    log.request_abort(no_deadline)

    found = {one.run_id: one for one in log.stuck(older_than_s=60)}

    assert {late: ("abort_requested", ())} == told(log, older_than_s=60)
    assert abs(found[late].since - now) < timedelta(milliseconds=50)
    assert {late, no_deadline} == set(told(log))


def test_stuck_when_a_lease_is_over(log: Ledger) -> None:
    """A lease that is over is told at once, its shards together, with who held them and since when."""
    run = log.enqueue("test", shard_count=3).id
    leases = log.claim("dead", limit=3, lease_s=0.1)
    log.heartbeat(leases[2:])
    time.sleep(0.15)

    [one] = log.stuck()

    assert (run, "lease_over", (0, 1), "dead") == (one.run_id, one.why, one.shards, one.worker)
    assert abs(one.since - leases[0].deadline) < timedelta(milliseconds=50)


def test_stuck_when_a_run_still_writes(log: Ledger) -> None:
    """A run without a lease is silent only when it has written nothing for long."""
    run = log.enqueue("test", worker="by name").id
    time.sleep(0.3)
    assert {run: ("silent", ())} == told(log, older_than_s=0.2)

    log.append_log(run, ["still here"])

    assert {} == told(log, older_than_s=0.2)
    assert {run: ("silent", ())} == told(log)


def test_stuck_when_little_time_has_passed(log: Ledger) -> None:
    """What is young is left out, and what is scheduled soon."""
    log.enqueue("test")
    log.enqueue("test", worker="by name")
    log.enqueue("test", not_before=datetime.now(UTC) + timedelta(hours=1))

    assert {} == told(log, older_than_s=60, ahead_s=7_200)
    assert 1 == len(told(log, older_than_s=60, ahead_s=60))


def test_stuck_when_there_are_many_tasks(log: Ledger) -> None:
    """More tasks than a page holds are all looked at, and the shards of a run stay together."""
    runs = {log.enqueue("test", shard_count=700).id: ("unclaimed", tuple(range(700))) for _ in range(3)}

    assert runs == told(log)


@pytest.mark.parametrize("seconds", [-1, float("nan"), DELAY_S_MAX + 1, "1", True])
def test_stuck_when_a_length_of_time_makes_no_sense(log: Ledger, seconds: float) -> None:
    """Times are 0 to the longest delay."""
    assert [] == list(log.stuck(older_than_s=DELAY_S_MAX, ahead_s=DELAY_S_MAX))
    with pytest.raises(ledger.InvalidInput):
        log.stuck(older_than_s=seconds)
    with pytest.raises(ledger.InvalidInput):
        log.stuck(ahead_s=seconds)
