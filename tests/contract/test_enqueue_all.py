"""Runs that are asked for together share a commit, and nothing else."""

from typing import Any

import pytest

import ledger
from ledger import limits
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


WRONG: dict[str, Any] = {
    "asked[0].kind": {},
    "asked[0].worker": {"kind": "test", "worker": "w1"},
    "asked[0].exclusive_key": {"kind": "test", "exclusive_key": "k"},
    "asked[0].on_active": {"kind": "test", "on_active": "return"},
    "asked[0].colour": {"kind": "test", "colour": "red"},
    "asked[0].5": {"kind": "test", 5: "five"},
    "asked[0]": "test",
    "kind": {"kind": None},
    "plan": {"kind": "test", "plan": 5},
}


def test_enqueue_all_when_one_is_wrong(log: ledger.Ledger) -> None:
    """Whatever is wrong with one is told of that one, and the others are made."""
    for field, facts in WRONG.items():
        refused, made = log.enqueue_all([facts, {"kind": "test", "worker": None, "idempotency_key": None}])

        assert isinstance(refused, InvalidInput), field
        assert field == refused.field
        assert isinstance(made, ledger.RunHandle)
    assert len(WRONG) == len(list(log.read_all()))


def test_enqueue_all_when_there_are_too_many(log: ledger.Ledger) -> None:
    """As many as are allowed are looked at, one more is refused with all of them."""
    wrong = [{}] * limits.ENQUEUES_MAX

    assert limits.ENQUEUES_MAX == len(log.enqueue_all(wrong))
    with pytest.raises(InvalidInput, match="10,001 runs"):
        log.enqueue_all([*wrong, {"kind": "test"}])
    assert [] == list(log.read_all())


@pytest.mark.parametrize("count", [0, 1, 3])
def test_enqueue_all_when_names_are_missing(log: ledger.Ledger, count: int) -> None:
    """As many names as runs are needed, else nothing is asked for."""
    with pytest.raises(InvalidInput) as refusal:
        log.enqueue_all([{"kind": "test"}] * 2, by=[log] * count)

    assert "by" == refusal.value.field
    assert [] == list(log.read_all())


def test_enqueue_all_when_there_is_none(log: ledger.Ledger) -> None:
    """Nothing is asked for, and nothing is made."""
    assert [] == log.enqueue_all([])


def test_enqueue_all_when_claimed(log: ledger.Ledger) -> None:
    """What was asked for together is there to be claimed, one by one."""
    handles = log.enqueue_all([{"kind": "test"} for _ in range(3)])

    assert {handle.id for handle in handles if isinstance(handle, ledger.RunHandle)} == {
        lease.run_id for lease in log.claim("w1", limit=3)
    }
