"""Documents that are carried beside runs: recorded at any time, the latest of a name counts."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import ledger
from ledger import InvalidInput, Ledger, RunNotFound
from projections import Documents, Runs

NOON = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def log(ledger_url: str) -> Iterator[Ledger]:
    now = [NOON]

    def clock() -> datetime:
        now[0] += timedelta(seconds=1)
        return now[0]

    with ledger.open(ledger_url, clock=clock, migrate=True) as opened:
        yield opened


def a_run(log: Ledger, *, kind: str = "crawl", project: str | None = "web", **documents: Any) -> str:
    run = log.enqueue(kind, project=project)
    for name, document in documents.items():
        log.record_document(run.id, name, document)
    return run.id


def test_get_when_documents_were_recorded_in_every_status(log: Ledger) -> None:
    """A document can be recorded before, during and after a run; the latest of its name is given, whole."""
    run, documents = a_run(log, plan={"ä": [1, 2.5, None, {"b": True}]}), Documents(log)
    planned = documents.get(run, "plan")
    log.start(run, worker="w1")
    log.record_document(run, "githubCheck", {"state": "pending"})
    log.complete(run)
    log.record_document(run, "githubCheck", {"state": "done"})
    log.record_document(run, "list", ["p1"])
    log.delete(run)

    assert {"ä": [1, 2.5, None, {"b": True}]} == planned
    assert {"state": "done"} == documents.get(run, "githubCheck")
    assert documents.get(run, "nothing") is None
    assert ["plan", "githubCheck", "list"] == list(documents.of_run(run))
    assert ["p1"] == documents.of_run(run)["list"]


def test_of_run_when_there_are_more_than_are_read_at_once(log: Ledger) -> None:
    """A run has any number of documents."""
    run = a_run(log, **{f"d{number}": number for number in range(45)})

    assert {f"d{number}": number for number in range(45)} == Documents(log).of_run(run)


def test_runs_when_a_document_is_heavy(log: Ledger) -> None:
    """A run's row has the same bytes whether its documents are small or large, but for where it stands."""
    runs, sizes = Runs(log), []
    for size in (1, 900_000):
        run = a_run(log, heavy="x" * size)
        assert size == len(Documents(log).get(run, "heavy"))
        (listed,) = runs.list(limit=1).runs
        sizes.append(len(str(listed)))

    assert abs(sizes[0] - sizes[1]) < 10


def test_latest_when_some_say_nothing(log: Ledger) -> None:
    """The newest run whose document says something is found; deleted runs and other kinds and projects are not."""
    full = a_run(log, changedPages=["/a"])
    a_run(log, changedPages=[])
    a_run(log, changedPages=None)
    a_run(log, other=["/b"])
    record = a_run(log, kind="record", changedPages=["/c"])
    other = a_run(log, project="api", changedPages=["/d"])
    binned = a_run(log, changedPages=["/e"])
    log.start(binned, worker="w1")
    log.complete(binned)
    log.delete(binned)
    latest = Documents(log).latest

    assert (full, ["/a"]) == latest("changedPages", project="web", kinds=["crawl"])
    assert (record, ["/c"]) == latest("changedPages", project="web", kinds=["crawl", "record"])
    assert (record, ["/c"]) == latest("changedPages", project="web")
    assert (other, ["/d"]) == latest("changedPages")
    assert None is latest("changedPages", project="nobody")
    newest = latest("changedPages", project="web", kinds=["crawl"], non_empty=False)
    assert newest is not None
    assert newest[1] is None


def test_latest_when_a_document_was_taken_back(log: Ledger) -> None:
    """Recording null says that there is no document any more."""
    older = a_run(log, githubCheck={"id": 1})
    newer = a_run(log, githubCheck={"id": 2})
    log.record_document(newer, "githubCheck", None)
    documents = Documents(log)

    assert (older, {"id": 1}) == documents.latest("githubCheck")
    assert documents.get(newer, "githubCheck") is None


@pytest.mark.erases
def test_documents_when_a_run_is_purged(log: Ledger) -> None:
    """A purged run's documents are gone, and none can be recorded any more."""
    run = a_run(log, secretPlan={"a": 1})
    log.start(run, worker="w1")
    log.complete(run)
    before = Documents(log).of_run(run)
    log.delete(run)
    log.purge(run)

    with pytest.raises(ledger.RunPurged):
        log.record_document(run, "secretPlan", {})

    assert {"secretPlan": {"a": 1}} == before
    assert {} == Documents(log).of_run(run)


def test_documents_when_what_is_asked_is_none(log: Ledger) -> None:
    """Unknown runs and what is no name are refused."""
    documents = Documents(log)
    unknown = "0192f3a0-0000-7000-8000-00000000ffff"

    for call in (lambda: documents.get(unknown, "n"), lambda: documents.of_run(unknown)):
        with pytest.raises(RunNotFound):
            call()
    for call, field in (
        (lambda: documents.get("x", "n"), "run_id"),
        (lambda: documents.get(unknown, ""), "name"),
        (lambda: documents.latest("n", kinds="crawl"), "kinds"),
        (lambda: documents.latest("n", kinds=["k"] * 101), "kinds"),
    ):
        with pytest.raises(InvalidInput) as refusal:
            call()
        assert field == refusal.value.field
    assert documents.latest("n", kinds=["k"] * 100) is None


def test_record_document_when_sent_again(log: Ledger) -> None:
    """With an event id of its own, a repeated call is the same event."""
    run, event_id = a_run(log), "0192f3a0-0000-7000-9000-000000000001"

    first = log.record_document(run, "n", {"a": 1}, event_id=event_id)
    second = log.record_document(run, "n", {"a": 1}, event_id=event_id)

    assert first.position == second.position
    assert 2 == log.state(run).version
