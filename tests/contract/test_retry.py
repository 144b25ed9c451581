"""A finished run, or one shard of it, is repeated as a new run: the same on memory, SQLite and PostgreSQL."""

import pytest

import ledger
from ledger import IllegalTransition, InvalidInput, Kind, Ledger, Policy, RunPurged
from ledger.run.events import Enqueued


def asked(log: Ledger, run_id: str) -> Enqueued:
    first = next(log.read(run_id)).data
    assert isinstance(first, Enqueued)
    return first


def a_finished_run(log: Ledger, **facts: object) -> str:
    run = log.enqueue("test", project="web", input={"suite": "smoke"}, labels={"a": "b"}, **facts)  # type: ignore[arg-type]
    if facts.get("shard_count"):
        for shard, test_id in ((0, "a"), (1, "b"), (1, "c")):
            log.append_results(run.id, [{"testId": test_id, "status": "failed"}], shard=shard)
    log.abort(run.id)
    return run.id


def test_retry_when_the_run_is_finished(ledger_url: str) -> None:
    """All that was asked for and declared holds for the new run, even where nobody declares kinds any more."""
    kind = Kind(name="test", attempts_max=3, phases=("build",), policy=Policy(timeout_s=7), failed_verdict_fails=True)
    with ledger.open(ledger_url, kinds=[kind], migrate=True) as log:
        old = a_finished_run(log, shard_count=2, plan=[["a"], ["b", "c"]], exclusive_key="x", idempotency_key="once")
        undeclared = Ledger(log.store)

        new = undeclared.retry(old).id

        first, second = asked(log, old), asked(log, new)
        assert (old, None, None) == (second.retry_of, second.idempotency_key, second.not_before)
        same = set(Enqueued.__struct_fields__) - {"enqueued_at", "retry_of", "idempotency_key", "not_before"}
        assert [] == [name for name in same if getattr(first, name) != getattr(second, name)]
        assert ("queued", old) == (log.state(new).status, log.state(new).retry_of)
        with pytest.raises(ledger.ExclusiveKeyTaken):
            log.retry(old)


@pytest.mark.parametrize("plan", [[["a"], ["b", "c"]], ()])
def test_retry_when_one_shard_is_wanted(log: Ledger, plan: object) -> None:
    """Its planned tests, else those that it has results of, are a new run that is not cut."""
    old = a_finished_run(log, shard_count=2, plan=plan, total=3)

    new = log.retry(old, shard=1).id

    assert ([["b", "c"]], None, 2, old) == (
        asked(log, new).plan,
        asked(log, new).shard_count,
        asked(log, new).total,
        asked(log, new).retry_of,
    )
    [lease] = log.claim("w1")
    assert ["b", "c"] == lease.plan


def test_retry_when_the_key_was_used(log: Ledger) -> None:
    """The same key gives the same new run; another shard under it is refused."""
    old = a_finished_run(log, shard_count=2)

    first = log.retry(old, shard=0, idempotency_key="k")

    assert (first.id, False) == (log.retry(old, shard=0, idempotency_key="k").id, False)
    with pytest.raises(ledger.IdempotencyMismatch):
        log.retry(old, shard=1, idempotency_key="k")


@pytest.mark.erases
def test_retry_when_it_cannot_be(log: Ledger) -> None:
    """Active and purged runs are not repeated, and no shard that is not there or had nothing to do."""
    active, uncut = log.enqueue("test").id, a_finished_run(log)
    cut = a_finished_run(log, shard_count=3)
    purged = a_finished_run(log)
    log.delete(purged)
    log.purge(purged)
    before = len(list(log.read_all()))

    with pytest.raises(IllegalTransition):
        log.retry(active)
    with pytest.raises(ledger.RunPurged):
        log.retry(purged)
    with pytest.raises(ledger.RunNotFound):
        log.retry("0192f3a0-0000-7000-8000-00000000ffff")
    for run, shard, why in (
        (uncut, 0, "the run is not cut"),
        (cut, 2, "had no tests"),
        (cut, 3, "0 to 2 is allowed"),
        (cut, -1, "0 to 2 is allowed"),
    ):
        with pytest.raises(InvalidInput, match=why):
            log.retry(run, shard=shard)

    assert before == len(list(log.read_all()))


@pytest.mark.erases
def test_retry_when_the_original_is_purged(log: Ledger) -> None:
    """The key of a retry gives the same new run for ever; without one, there is nothing left to ask for again."""
    run_id = log.enqueue("test", worker="w1").id
    log.complete(run_id)
    again = log.retry(run_id, idempotency_key="again").id
    log.delete(run_id)
    log.purge(run_id)

    repeated = log.retry(run_id, idempotency_key="again")

    assert (again, False) == (repeated.id, repeated.is_new)
    for key in (None, "another"):
        with pytest.raises(RunPurged):
            log.retry(run_id, idempotency_key=key)
