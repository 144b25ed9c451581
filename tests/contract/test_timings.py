"""When attempts, phases and shards began and ended. The same on every store."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

import ledger
from ledger import InvalidInput, Ledger, RunNotFound
from projections import Timings

NOON = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(ledger_url: str, clock: Clock) -> Iterator[Ledger]:
    with ledger.open(ledger_url, clock=clock, migrate=True) as opened:
        yield opened


def test_timings_when_a_run_goes_through_phases(log: Ledger, clock: Clock) -> None:
    """A run's waiting, its attempt and each of its phases are timed; a phase lasts until the next, or the end."""
    run, timings = log.enqueue("build").id, Timings(log)
    assert ([], [], []) == (timings.of_run(run).attempts, timings.of_run(run).phases, timings.of_run(run).shards)
    clock.wait(5)
    log.start(run, worker="w1")
    clock.wait(1)
    log.enter_phase(run, "clone")
    clock.wait(2)
    under_way = timings.of_run(run)
    log.enter_phase(run, "build")
    clock.wait(3.5)
    log.complete(run)

    told = timings.of_run(run)

    assert [(1, "w1", 5_000, None)] == [(a.attempt, a.worker, a.queued_ms, a.duration_ms) for a in under_way.attempts]
    assert [("clone", None)] == [(phase.phase, phase.duration_ms) for phase in under_way.phases]
    assert [(5_000, 6_500)] == [(attempt.queued_ms, attempt.duration_ms) for attempt in told.attempts]
    assert [("clone", 1, 2_000), ("build", 1, 3_500)] == [(p.phase, p.attempt, p.duration_ms) for p in told.phases]
    assert NOON + timedelta(seconds=11.5) == told.attempts[0].finished_at


def test_timings_when_shards_are_taken_and_completed(log: Ledger, clock: Clock) -> None:
    """A shard lasts from when it was taken, or else from its run's start, to its completion."""
    run, timings = log.enqueue("test", shard_count=3).id, Timings(log)
    log.start(run, worker="w1")
    clock.wait(1)
    log.complete_shard(run, 2)
    clock.wait(1)
    log.retry_shard(run, 0, reason="lost")
    clock.wait(4)
    log.complete_shard(run, 0)
    clock.wait(1)
    log.complete_shard(run, 0)

    told = timings.of_run(run).shards

    assert [(0, 2, 4_000), (2, 1, 1_000)] == [(shard.shard, shard.attempt, shard.duration_ms) for shard in told]


def test_timings_when_workers_claim_shards(log: Ledger, clock: Clock) -> None:
    """A claimed shard is timed from its claim, and tells who took it."""
    run = log.enqueue("test", shard_count=2).id
    clock.wait(3)
    (first,) = log.claim("host-1", limit=1, lease_s=60)
    clock.wait(2)
    (second,) = log.claim("host-2", limit=1, lease_s=60)
    clock.wait(2)
    for lease in (first, second):
        assert lease.shard is not None
        log.under(lease).complete_shard(run, lease.shard)

    told = Timings(log).of_run(run).shards

    assert [(0, "host-1", 4_000), (1, "host-2", 2_000)] == [(s.shard, s.worker, s.duration_ms) for s in told]


def test_timings_when_a_run_is_tried_anew(log: Ledger, clock: Clock) -> None:
    """Each attempt has its own wait and length; shards are those of the newest attempt."""
    run, timings = log.enqueue("test", attempts_max=2, shard_count=2).id, Timings(log)
    log.start(run, worker="w1")
    log.enter_phase(run, "p")
    log.complete_shard(run, 1)
    clock.wait(2)
    log.fail_attempt(run, error="oom")
    timings.of_run(run)
    clock.wait(7)
    log.start(run, worker="w2")
    clock.wait(1)
    log.complete_shard(run, 0)
    log.abort(run)

    told = timings.of_run(run)

    assert [(1, "w1", 0, 2_000), (2, "w2", 7_000, 1_000)] == [
        (a.attempt, a.worker, a.queued_ms, a.duration_ms) for a in told.attempts
    ]
    assert [("p", 2_000)] == [(phase.phase, phase.duration_ms) for phase in told.phases]
    assert [(0, 1_000)] == [(shard.shard, shard.duration_ms) for shard in told.shards]


def test_timings_when_a_run_was_scheduled(log: Ledger, clock: Clock) -> None:
    """A run waits from when it is due, or from when somebody released it."""
    due = log.enqueue("test", not_before=NOON + timedelta(hours=1)).id
    released = log.enqueue("test", not_before=NOON + timedelta(days=1)).id
    clock.wait(60)
    log.release(released)
    clock.wait(2)
    log.start(released, worker="w1")
    clock.wait(3_600)
    log.start(due, worker="w1")
    timings = Timings(log)

    assert [2_000] == [attempt.queued_ms for attempt in timings.of_run(released).attempts]
    assert [62_000] == [attempt.queued_ms for attempt in timings.of_run(due).attempts]


@pytest.mark.erases
def test_timings_when_a_run_is_purged_or_unknown(log: Ledger) -> None:
    """Nothing is told of a purged run; one that is not there is refused."""
    run = log.enqueue("test").id
    log.start(run, worker="w1")
    log.complete(run)
    before = len(Timings(log).of_run(run).attempts)
    log.purge(run, from_bin=False)

    assert (1, []) == (before, Timings(log).of_run(run).attempts)
    with pytest.raises(RunNotFound):
        Timings(log).of_run("0192f3a0-0000-7000-8000-00000000ffff")
    with pytest.raises(InvalidInput):
        Timings(log).of_run("x")
