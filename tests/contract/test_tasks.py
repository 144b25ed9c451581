"""Claims, leases and what becomes of work: the same on memory, SQLite and PostgreSQL."""

import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

import ledger
from ledger import Kind, Lease, LeaseLost, Ledger, Policy, Purpose, Status

KINDS = (
    Kind(name="again", attempts_max=3),
    Kind(name="hold", attempts_max=3, policy=Policy(on_lost="hold")),
    Kind(name="later", attempts_max=2, policy=Policy(retry_delay_s=3_600)),
    Kind(name="tolerant", policy=Policy(on_shard_failure="tolerate")),
    Kind(name="patient", policy=Policy(on_shard_failure="all_done")),
    Kind(name="once", attempts_max=3, policy=Policy(on_lost="fail")),
)


@pytest.fixture
def log(ledger_url: str) -> Ledger:
    with ledger.open(ledger_url, kinds=KINDS, migrate=True) as opened:
        yield opened


def types(log: Ledger, run_id: str) -> list[str]:
    return [event.type for event in log.read(run_id)]


def claim_one(log: Ledger, worker: str = "w1", **options: object) -> Lease:
    [lease] = log.claim(worker, **options)
    return lease


def lose(log: Ledger, lease: Lease) -> None:
    """Let a lease run out."""
    log.heartbeat([lease], lease_s=0.1)
    time.sleep(0.15)


def test_claim_when_a_run_waits(log: Ledger) -> None:
    """A claim starts the run for its worker, and says what is to be done."""
    run = log.enqueue("test", project="web", input={"suite": "smoke"})

    lease = claim_one(log)

    assert (run.id, "test", "web", {"suite": "smoke"}) == (lease.run_id, lease.kind, lease.project, lease.input)
    assert (Purpose.RUN, None, 1, 2) == (lease.purpose, lease.shard, lease.attempt, lease.token)
    assert ["enqueued", "started"] == types(log, run.id)
    assert (Status.RUNNING, "w1") == (log.state(run.id).status, log.state(run.id).worker)
    assert lease.deadline > datetime.now(UTC)


def test_claim_when_it_tells_how_long_it_waited(log: Ledger) -> None:
    """A first claim says since when it could be made; of what was tried before, nobody is told that."""
    before = datetime.now(UTC)
    log.enqueue("again")
    soon = datetime.now(UTC) + timedelta(milliseconds=50)
    log.enqueue("later", not_before=soon)
    log.enqueue("cut", shard_count=2)
    after = datetime.now(UTC)
    time.sleep(0.1)

    whole = claim_one(log, kinds=["again"])
    assert whole.available_at is not None
    assert before <= whole.available_at <= after
    assert soon == claim_one(log, kinds=["later"]).available_at
    shards = log.claim("w1", kinds=["cut"], limit=2)
    assert [True, True] == [each.available_at is not None and each.available_at <= after for each in shards]
    lose(log, whole)
    log.sweep()
    assert claim_one(log, kinds=["again"]).available_at is None


def test_oldest_when_tasks_wait(log: Ledger) -> None:
    """The age of the oldest that may be claimed is told for each kind, also of what came due and nobody took."""
    assert {} == log.store.tasks.oldest()
    log.enqueue("a")
    log.enqueue("b", not_before=datetime.now(UTC) + timedelta(milliseconds=100))
    log.enqueue("c", not_before=datetime.now(UTC) + timedelta(hours=1))
    log.enqueue("held")
    claim_one(log, kinds=["held"])
    time.sleep(0.3)
    log.enqueue("a")

    ages = log.store.tasks.oldest()

    assert {"a", "b"} == set(ages)
    assert 0.25 < ages["a"] < 10
    assert 0.15 < ages["b"] < ages["a"]


def test_claim_when_nothing_waits(log: Ledger) -> None:
    """There is nothing to claim when all is held, finished, of another kind, or started by name."""
    log.enqueue("other")
    held = log.enqueue("test")
    log.start(held.id, worker="by name")
    taken = log.enqueue("test", worker="w0")

    assert [] == log.claim("w1", kinds=["test"])
    assert (Status.RUNNING, "w0") == (log.state(taken.id).status, log.state(taken.id).worker)


def test_claim_takes_by_priority_then_age(log: Ledger) -> None:
    """The most urgent goes first, and among equals the oldest, over all kinds that were asked for."""
    first = log.enqueue("a")
    second = log.enqueue("b")
    urgent = log.enqueue("b", priority=5)
    log.enqueue("c", priority=9)

    leases = log.claim("w1", kinds=["b", "a"], limit=10)

    assert [urgent.id, first.id, second.id] == [lease.run_id for lease in leases]


def test_claim_when_the_run_is_not_due(log: Ledger) -> None:
    """A scheduled run waits for its time; then a claim releases and starts it."""
    now = datetime.now(UTC)
    log.enqueue("test", not_before=now + timedelta(hours=1))
    soon = log.enqueue("test", not_before=now + timedelta(seconds=2))

    assert [] == log.claim("w1")
    time.sleep(2.05)
    lease = claim_one(log)

    assert soon.id == lease.run_id
    assert ["enqueued", "released", "started"] == types(log, soon.id)


def test_heartbeat_when_held_and_when_lost(log: Ledger) -> None:
    """A heartbeat moves the deadline and tells of a requested abort; a lost lease hears that it is lost."""
    kept, lost = log.enqueue("again"), log.enqueue("again")
    leases = log.claim("w1", limit=2, lease_s=30)
    log.request_abort(kept.id, reason="enough")
    log.abort(lost.id)

    mine, gone = log.heartbeat(leases, lease_s=90)

    assert (kept.id, True, True) == (mine.run_id, mine.is_held, mine.abort_requested)
    assert mine.deadline is not None
    assert mine.deadline > leases[0].deadline + timedelta(seconds=30)
    assert (lost.id, False, None) == (gone.run_id, gone.is_held, gone.deadline)
    assert ["enqueued", "started", "abort_requested"] == types(log, kept.id)


def test_succeed_when_held(log: Ledger) -> None:
    """Success completes the run, and its task is gone."""
    run = log.enqueue("test")
    lease = claim_one(log)

    outcome = log.succeed(lease, output_ref="s3://out")

    assert outcome
    assert (Status.COMPLETED, "s3://out") == (log.state(run.id).status, log.state(run.id).output_ref)
    assert [] == list(log.tasks())


def test_succeed_when_the_run_held_an_exclusive_key(log: Ledger) -> None:
    """The key is free again as soon as whoever claimed the run says that it is done."""
    first = log.enqueue("test", project="web", exclusive_key="main")
    log.succeed(claim_one(log))

    second = log.enqueue("test", project="web", exclusive_key="main")

    assert (True, True) == (second.is_new, second.id != first.id)


def test_succeed_when_the_run_was_closed_meanwhile(log: Ledger) -> None:
    """The first closing event wins, also over a holder who knows of nothing that came after its claim."""
    run = log.enqueue("test")
    lease = claim_one(log)
    log.abort(run.id, reason="not needed")

    outcome = log.succeed(lease)

    assert (False, "aborted") == (bool(outcome), outcome.winner and outcome.winner.type)
    assert ["enqueued", "started", "aborted"] == types(log, run.id)


def test_claim_when_kinds_are_hard_to_spell(log: Ledger) -> None:
    """A kind is found whatever it is made of, and no other one with it."""
    kinds = ['a"b', "a\\b", "{a,b}", "NULL", "a,b", " a "]
    runs = [log.enqueue(kind) for kind in [*kinds, "a"]]

    leases = log.claim("w1", kinds=kinds, limit=10)

    assert [run.id for run in runs[:-1]] == [lease.run_id for lease in leases]


def test_succeed_all_when_some_are_lost(log: Ledger) -> None:
    """Many are completed at once, and each for itself."""
    runs = [log.enqueue("test") for _ in range(4)]
    leases = log.claim("w1", limit=4)
    log.append_log(runs[1].id, ["a word in between"])
    log.abort(runs[2].id, reason="no")

    outcomes = log.succeed_all(leases)

    assert [True, True, False, True] == [bool(outcome) for outcome in outcomes]
    assert "aborted" == outcomes[2].winner.type
    assert ["completed", "completed", "aborted", "completed"] == [log.state(run.id).status for run in runs]


@pytest.mark.parametrize(
    ("kind", "status", "category"),
    [
        ("test", "failed", "worker_lost"),
        ("again", "queued", "worker_lost"),
        ("hold", "interrupted", "interrupted"),
        ("once", "failed", "worker_lost"),
    ],
)
def test_sweep_when_a_lease_ran_out(log: Ledger, kind: str, status: str, category: str) -> None:
    """A lost run is interrupted, and then its kind decides; a second sweep finds nothing."""
    run = log.enqueue(kind)
    lease = claim_one(log)
    lose(log, lease)

    swept = log.sweep()

    assert [(run.id, "w1")] == [(one.run_id, one.worker) for one in swept]
    state = log.state(run.id)
    assert (status, category) == (state.status, state.error_category)
    assert "interrupted" == types(log, run.id)[2]
    assert [] == log.sweep()


def test_sweep_when_leases_are_held(log: Ledger) -> None:
    """A live lease is never touched, nor a run that somebody works on without one."""
    log.enqueue("test")
    claim_one(log)
    log.enqueue("test", worker="by name")

    assert [] == log.sweep()


def test_write_when_the_lease_went_to_another(log: Ledger) -> None:
    """Whatever a former holder writes is refused, nothing is overwritten, and its history notes it once."""
    run = log.enqueue("again")
    old = claim_one(log, "w1")
    lose(log, old)
    log.sweep()
    new = claim_one(log, "w2")
    late = log.under(old)
    as_its_child_knows_it = msgspec.structs.replace(old, deadline=datetime.now(UTC))

    for write in (
        lambda: late.append_results(run.id, [{"status": "passed"}]),
        lambda: log.under(as_its_child_knows_it).append_results(run.id, [{"status": "passed"}]),
        lambda: late.append_log(run.id, ["still here"]),
        lambda: late.record_artifact(run.id, "a", "file:///a"),
        lambda: late.increment_stats(run.id, passed=1),
        lambda: late.complete(run.id),
        lambda: log.succeed(old),
        lambda: log.give_up(old, error="oops"),
    ):
        with pytest.raises(LeaseLost):
            write()

    assert [False, True] == [answer.is_held for answer in log.heartbeat([old, new])]
    assert 1 == types(log, run.id).count("write_rejected")
    assert (2, "w2", 0) == (log.state(run.id).attempt, log.state(run.id).worker, log.state(run.id).passed)
    log.under(new).append_results(run.id, [{"status": "passed"}])
    assert log.succeed(new)
    assert 1 == log.state(run.id).passed


def test_give_up_when_retryable(log: Ledger) -> None:
    """An attempt fails back into the queue until the last, which fails the run and says why it ended."""
    run = log.enqueue("again")
    for _ in range(3):
        log.give_up(claim_one(log), error="flaky network", category="network")

    state = log.state(run.id)
    assert (Status.FAILED, 3, "network") == (state.status, state.attempt, state.error_category)
    assert "all 3 attempt(s) are used up" == list(log.read(run.id))[-1].data.retry_ended
    assert [] == log.claim("w1")


def test_give_up_when_not_retryable(log: Ledger) -> None:
    """An error that another attempt cannot mend fails the run at once."""
    run = log.enqueue("again")

    log.give_up(claim_one(log), error="no such suite", is_retryable=False)

    assert (Status.FAILED, 1) == (log.state(run.id).status, log.state(run.id).attempt)
    assert "the error is not one to retry" == list(log.read(run.id))[-1].data.retry_ended


def test_give_up_when_the_kind_waits_before_it_retries(log: Ledger) -> None:
    """The next attempt is scheduled with half to all of the delay, and nobody gets it before."""
    run = log.enqueue("later")
    before = datetime.now(UTC)

    log.give_up(claim_one(log), error="busy")

    not_before = log.state(run.id).not_before
    assert timedelta(seconds=1_800) <= not_before - before <= timedelta(seconds=3_605)
    assert [] == log.claim("w1")


def test_hand_back_when_shutting_down(log: Ledger) -> None:
    """Work that is handed back is there for others at once and does not count as an attempt."""
    run = log.enqueue("test")
    first = claim_one(log, "w1")
    log.under(first).append_results(run.id, [{"status": "failed"}])

    log.hand_back(first, reason="w1 shuts down")
    second = claim_one(log, "w2")
    log.succeed(second)

    assert (Status.COMPLETED, 2, 0) == (log.state(run.id).status, log.state(run.id).attempt, log.state(run.id).failed)


def test_shards_when_workers_take_them(log: Ledger) -> None:
    """Shards are taken one by one; when all are done, one worker finalizes, and every result counts once."""
    run = log.enqueue("test", shard_count=3, plan=[["a"], ["b"], ["c"]])
    leases = [*log.claim("w1", limit=2), *log.claim("w2", limit=5)]
    assert [0, 1, 2] == [lease.shard for lease in leases]
    assert [["a"], ["b"], ["c"]] == [lease.plan for lease in leases]

    for lease in leases:
        mine = log.under(lease)
        mine.append_results(run.id, [{"testId": lease.plan[0], "status": "passed"}])
        assert log.succeed(lease, exit_code=0)
    finalizer = claim_one(log, "w3")

    assert Purpose.FINALIZE == finalizer.purpose
    assert log.succeed(finalizer)
    state = log.state(run.id)
    assert (Status.COMPLETED, 3, 3) == (state.status, state.passed, state.shards_completed)
    assert [
        "enqueued",
        "started",
        "shard_started",
        "shard_started",
        "shard_started",
        *["shard_result_appended", "shard_completed"] * 3,
        "finalization_started",
        "completed",
    ] == types(log, run.id)


def test_shards_when_a_worker_is_lost(log: Ledger) -> None:
    """A lost shard is tried again by another worker; the results of the lost attempt do not count."""
    run = log.enqueue("again", shard_count=2)
    kept, lost = log.claim("w1"), log.claim("w2")
    log.under(lost[0]).append_results(run.id, [{"testId": "x", "status": "failed"}])
    lose(log, lost[0])
    log.sweep()
    again = claim_one(log, "w3")

    assert (1, 2) == (again.shard, again.attempt)
    with pytest.raises(LeaseLost):
        log.under(lost[0]).append_results(run.id, [{"testId": "x", "status": "failed"}])
    log.under(again).append_results(run.id, [{"testId": "x", "status": "passed"}])
    for lease in (*kept, again):
        log.succeed(lease)
    log.succeed(claim_one(log, "w1"))

    assert (Status.COMPLETED, 1, 0) == (log.state(run.id).status, log.state(run.id).passed, log.state(run.id).failed)


@pytest.mark.parametrize(
    ("kind", "status", "verdict"),
    [("test", "failed", "none"), ("patient", "failed", "failed"), ("tolerant", "completed", "failed")],
)
def test_shards_when_one_fails_for_good(log: Ledger, kind: str, status: str, verdict: str) -> None:
    """A shard without attempts left fails the run at once, at the end, or only its verdict, as the kind declares."""
    run = log.enqueue(kind, shard_count=2)
    first, second = log.claim("w1", limit=2)

    log.give_up(second, error="no display")
    assert "all 1 attempt(s) are used up" == list(log.read(run.id))[-1].data.retry_ended
    if kind == "test":
        assert not log.succeed(first)
    else:
        log.succeed(first)
        log.succeed(claim_one(log))

    state = log.state(run.id)
    assert (status, verdict) == (state.status, state.verdict)
    if status == "failed":
        assert "shard 1: no display" == state.failure_summary


@pytest.mark.parametrize(
    ("kind", "status", "retry_ended"),
    [
        ("again", "running", None),
        ("once", "failed", "work whose worker is lost is not repeated"),
        ("hold", "interrupted", None),
    ],
)
def test_sweep_when_the_lease_of_a_shard_ran_out(log: Ledger, kind: str, status: str, retry_ended: str | None) -> None:
    """What a kind declares for lost work holds for the shards of its runs too."""
    run = log.enqueue(kind, shard_count=3)
    done, lost, other = log.claim("w1", limit=3)
    log.succeed(done)
    lose(log, lost)

    [swept] = log.sweep()

    assert (run.id, 1, "w1") == (swept.run_id, swept.shard, swept.worker)
    assert status == log.state(run.id).status
    last = list(log.read(run.id))[-1].data
    assert retry_ended == getattr(last, "retry_ended", None)
    assert [status == "running"] == [answer.is_held for answer in log.heartbeat([other])]
    if status == "interrupted":
        assert log.resume(run.id, worker="ada")
        assert [(1, 2), (2, 2)] == [(lease.shard, lease.attempt) for lease in log.claim("w2", limit=3)]


def test_sweep_when_somebody_wrote_of_a_later_attempt(log: Ledger) -> None:
    """Results of an attempt that nobody began take the shard from its worker; the run goes on all the same."""
    run = log.enqueue("test", shard_count=1)
    old = claim_one(log)
    log.append_results(run.id, [{"testId": "a", "status": "failed"}], shard=0, shard_attempt=5)
    with pytest.raises(LeaseLost):
        log.succeed(old)
    lose(log, old)

    assert [("shard_retried",)] == [one.events for one in log.sweep()]
    assert [] == log.sweep()
    new = claim_one(log, "w2")

    assert (0, 6) == (new.shard, new.attempt)
    log.under(new).append_results(run.id, [{"testId": "a", "status": "passed"}])
    assert log.succeed(new)
    assert log.succeed(claim_one(log))
    assert (Status.COMPLETED, 1, 0) == (log.state(run.id).status, log.state(run.id).passed, log.state(run.id).failed)


def test_interrupt_when_workers_hold_shards(log: Ledger) -> None:
    """Whoever held a shard of an interrupted run stays refused when it goes on; what was done is done."""
    run = log.enqueue("test", shard_count=2)
    done, old = log.claim("w1", limit=2)
    log.under(done).append_results(run.id, [{"testId": "a", "status": "passed"}])
    log.succeed(done)
    log.under(old).append_results(run.id, [{"testId": "b", "status": "failed"}])
    log.interrupt(run.id, reason="the host is gone")
    log.resume(run.id, worker="ada")

    new = claim_one(log, "w2")

    assert (1, 2) == (new.shard, new.attempt)
    assert [False, True] == [answer.is_held for answer in log.heartbeat([old, new])]
    with pytest.raises(LeaseLost):
        log.under(old).append_results(run.id, [{"testId": "b", "status": "failed"}])
    with pytest.raises(LeaseLost):
        log.succeed(old)
    log.under(new).append_results(run.id, [{"testId": "b", "status": "passed"}])
    assert log.succeed(new)
    assert log.succeed(claim_one(log))
    assert (Status.COMPLETED, 2, 0) == (log.state(run.id).status, log.state(run.id).passed, log.state(run.id).failed)


def test_fail_attempt_when_shards_were_retried(log: Ledger) -> None:
    """When a cut run is tried anew, attempts of shards are numbered on: old holders are refused, new ones are not."""
    run = log.enqueue("again", shard_count=2)
    old = log.claim("w1", limit=2)
    log.give_up(old[0], error="flaky")
    old[0] = claim_one(log, "w1")
    log.fail_attempt(run.id, error="the database is away")

    new = log.claim("w2", limit=2)

    assert [(0, 3), (1, 2)] == [(lease.shard, lease.attempt) for lease in new]
    assert [False, False, True, True] == [answer.is_held for answer in log.heartbeat([*old, *new])]
    for lease in old:
        with pytest.raises(LeaseLost):
            log.under(lease).append_results(run.id, [{"testId": "x", "status": "failed"}])
    for _ in range(2):  # attempts are counted anew
        log.give_up(new[0], error="flaky")
        new[0] = claim_one(log, "w2")
    for lease in new:
        log.under(lease).append_results(run.id, [{"testId": str(lease.shard), "status": "passed"}])
        assert log.succeed(lease)
    assert log.succeed(claim_one(log))
    assert (Status.COMPLETED, 2, 2, 0) == (
        log.state(run.id).status,
        log.state(run.id).attempt,
        log.state(run.id).passed,
        log.state(run.id).failed,
    )


def test_finalization_when_the_finalizer_is_lost(log: Ledger) -> None:
    """Another worker finalizes in its place, and the first one's late success is refused."""
    run = log.enqueue("test", shard_count=1)
    log.succeed(claim_one(log))
    dead = claim_one(log, "w1")
    lose(log, dead)

    assert [()] == [one.events for one in log.sweep()]
    alive = claim_one(log, "w2")

    with pytest.raises(LeaseLost):
        log.succeed(dead)
    assert log.succeed(alive)
    assert 1 == types(log, run.id).count("completed")


def test_retry_shard_when_it_was_done(log: Ledger) -> None:
    """A done shard that is retried is there to be claimed again, and the run waits for it."""
    run = log.enqueue("again", shard_count=2)
    for lease in log.claim("w1", limit=2):
        log.succeed(lease)

    assert 2 == log.retry_shard(run.id, 0, reason="looks wrong")
    again = claim_one(log)

    assert (Purpose.SHARD, 0, 2) == (again.purpose, again.shard, again.attempt)
    assert [] == log.claim("w2")
    log.succeed(again)
    assert Purpose.FINALIZE == claim_one(log).purpose


def test_abort_when_tests_were_planned(log: Ledger) -> None:
    """An abort counts the planned tests that have no result as skipped, in the same append."""
    run = log.enqueue("again", shard_count=2, plan=[["a", "b"], ["c", "d"]])
    first, second = log.claim("w1", limit=2)
    log.under(first).append_results(run.id, [{"testId": "a", "status": "passed"}])
    log.under(second).append_results(run.id, [{"testId": "c", "status": "failed"}])
    log.retry_shard(run.id, 1)

    log.abort(run.id, reason="enough")

    event = list(log.read(run.id))[-1]
    assert ["b", "c", "d"] == [result["testId"] for result in event.data.skipped]
    assert (1, 0, 3) == (log.state(run.id).passed, log.state(run.id).failed, log.state(run.id).skipped)


def test_sweep_when_an_abort_is_overdue(log: Ledger) -> None:
    """Workers that do not stop by the deadline of a requested abort have the run ended for them."""
    run = log.enqueue("test", plan=[["a"]])
    lease = claim_one(log)
    log.request_abort(run.id, deadline=datetime.now(UTC) - timedelta(seconds=1))

    log.sweep()

    assert (Status.ABORTED, "deadline", 1) == (
        log.state(run.id).status,
        log.state(run.id).error_category,
        log.state(run.id).skipped,
    )
    assert not log.heartbeat([lease])[0].is_held


def test_under_when_the_run_is_another(log: Ledger) -> None:
    """A lease writes to its own run only."""
    log.enqueue("test")
    other = log.enqueue("other")
    mine = log.under(claim_one(log, kinds=["test"]))

    with pytest.raises(ledger.InvalidInput):
        mine.append_log(other.id, ["hello"])


@pytest.mark.parametrize(
    "ask",
    [
        lambda log: log.claim(""),
        lambda log: log.claim("w1", limit=0),
        lambda log: log.claim("w1", limit=ledger.limits.TASKS_PER_CLAIM_MAX + 1),
        lambda log: log.claim("w1", lease_s=0.09),
        lambda log: log.claim("w1", lease_s=float("nan")),
        lambda log: log.claim("w1", kinds="test"),
        lambda log: log.enqueue("test", shard_count=2, plan=[["a"]]),
        lambda log: log.enqueue("test", plan=["a"]),
        lambda log: log.enqueue("test", plan=[["a\0"]]),
    ],
)
def test_bad_input_when_working(log: Ledger, ask: Callable[[Ledger], object]) -> None:
    """What cannot be asked is refused, and nothing is written."""
    with pytest.raises(ledger.InvalidInput):
        ask(log)

    assert [] == list(log.read_all())


def test_give_up_when_the_run_is_finished(log: Ledger) -> None:
    """A worker whose run was ended meanwhile can fail neither the run nor its attempt, and learns who was first."""
    run = log.enqueue("again")
    lease = claim_one(log)
    log.abort(run.id)

    outcome = log.give_up(lease, error="boom")

    assert (False, "aborted") == (outcome.won, outcome.winner.type if outcome.winner else None)
    assert ["enqueued", "started", "aborted"] == types(log, run.id)


def test_claim_when_nothing_waits_and_somebody_listens(log: Ledger) -> None:
    """A claim that takes nothing wakes nobody; idle workers would wake each other for ever."""
    with closing(log.store.listen()) as listener:
        log.claim("w1")
        listener.wait(0.5)  # what came before is told
        begun = time.monotonic()
        log.claim("w1")
        listener.wait(1.0)

        assert time.monotonic() - begun >= 0.9


def test_claim_when_a_kind_is_named_twice(log: Ledger) -> None:
    """A run is lent once, however often its kind is asked for."""
    run_ids = [log.enqueue("test").id for _ in range(2)]

    leases = log.claim("w1", kinds=["test", "test"], limit=5)

    assert run_ids == [lease.run_id for lease in leases]
    assert [["enqueued", "started"]] * 2 == [[event.type for event in log.read(run_id)] for run_id in run_ids]


def test_hold_when_somebody_has_a_lease(log: Ledger) -> None:
    """A lease is one holder's: it is not given out again, and its deadline stays."""
    log.enqueue("test")
    (lease,) = log.claim("w1", kinds=["test"], lease_s=600)

    with pytest.raises(LeaseLost):
        log.hold(lease.run_id, lease_s=0.1)

    (task,) = log.tasks(run_id=lease.run_id)
    assert lease.deadline == task.deadline
