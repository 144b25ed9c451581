"""Runs that are asked for together share a commit, and nothing else."""

import ledger
from ledger.errors import InvalidInput, VersionConflict

RUN = "01a1fd75-100e-7000-98e1-7a01c6c8d887"


def test_enqueue_all_when_some_are_wrong(log: ledger.Ledger) -> None:
    """Each run is made or refused for itself, in the order they were asked for, with the error it had gotten alone."""
    log.enqueue("test", run_id=RUN)

    first, bad, taken, last = log.enqueue_all(
        [
            {"kind": "test", "project": "web", "input": {"n": 1}, "labels": {"a": "b"}, "shard_count": 2},
            {"kind": "test", "input": {"n": float("nan")}},
            {"kind": "test", "run_id": RUN},
            {"kind": "build"},
        ]
    )

    assert isinstance(first, ledger.RunHandle)
    assert isinstance(last, ledger.RunHandle)
    assert isinstance(bad, InvalidInput)
    assert isinstance(taken, VersionConflict)
    assert 3 == len(list(log.read_all()))
    made, alone = log.state(first.id), log.state(log.enqueue("test", project="web", shard_count=2).id)
    assert ("web", {"a": "b"}, 2, "queued") == (made.project, made.labels, made.shard_count, made.status)
    assert (made.attempts_max, made.policy, made.total) == (alone.attempts_max, alone.policy, alone.total)


def test_enqueue_all_when_each_is_asked_for_by_another(log: ledger.Ledger) -> None:
    """Every run carries the name of who asked for it."""
    names = ["ada", "bob"]

    handles = log.enqueue_all([{"kind": "test"}] * 2, by=[log.bind(actor=name) for name in names])

    made = [handle.id for handle in handles if isinstance(handle, ledger.RunHandle)]
    assert names == [next(log.read(run_id)).actor for run_id in made]


def test_enqueue_all_when_one_has_a_key(log: ledger.Ledger) -> None:
    """A key is no matter of many: it is refused, and the others are made."""
    refused, made = log.enqueue_all([{"kind": "test", "idempotency_key": "k"}, {"kind": "test"}])

    assert isinstance(refused, InvalidInput)
    assert isinstance(made, ledger.RunHandle)
    assert log.enqueue("test", idempotency_key="k").is_new


def test_enqueue_all_when_there_is_none(log: ledger.Ledger) -> None:
    """Nothing is asked for, and nothing is made."""
    assert [] == log.enqueue_all([])


def test_enqueue_all_when_claimed(log: ledger.Ledger) -> None:
    """What was asked for together is there to be claimed, one by one."""
    handles = log.enqueue_all([{"kind": "test"} for _ in range(3)])

    assert {handle.id for handle in handles if isinstance(handle, ledger.RunHandle)} == {
        lease.run_id for lease in log.claim("w1", limit=3)
    }
