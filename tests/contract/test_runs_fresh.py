"""A read of `runs` reflects every append that was committed before it began."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime

import pytest

import ledger
from ledger import Ledger, Status
from ledger.envelope import SALT_BYTES
from ledger.events import Page, RunId
from ledger.ids import new_event_ids, new_run_id, new_salts
from ledger.run.codec import to_new_events
from ledger.run.events import Enqueued
from ledger.store import NO_RUN, AppendRequest
from projections import Runs, catch_up, lag, verify

NOON = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def an_enqueue(run_id: RunId) -> AppendRequest:
    events = to_new_events(
        [Enqueued(kind="test", enqueued_at=NOON)],
        run_id=run_id,
        recorded_at=NOON,
        event_ids=new_event_ids(1),
        salts=new_salts(1, size_bytes=SALT_BYTES),
    )
    return AppendRequest(run_id, NO_RUN, events)


def test_every_read_when_something_was_just_appended(log: Ledger) -> None:
    """What was appended is in the next list, count, search and single read."""
    runs = Runs(log)

    for number in range(1, 4):
        run = log.enqueue("test", project="web")
        log.start(run.id, worker="w1")

        assert [run.id] == [latest.run_id for latest in runs.list(limit=1, status="running").runs]
        assert number == runs.count(project="web", status=["running", "completed"])
        assert [run.id] == list(runs.find(run.id))
        log.complete(run.id)
        assert Status.COMPLETED == runs.get(run.id).status


def test_get_when_the_rows_are_behind(log: Ledger) -> None:
    """Reading one run folds what its row lacks, and leaves the rows as they are."""
    run = log.enqueue("test")
    catch_up(log)
    before = lag(log)
    log.start(run.id, worker="w1")

    status = Runs(log).get(run.id).status

    assert Status.RUNNING == status
    assert before.checkpoint == lag(log).checkpoint
    assert 1 == lag(log).events_behind


def test_lag_when_rows_are_behind_and_after_catching_up(log: Ledger) -> None:
    """The lag counts the events after the checkpoint and tells since when; catching up ends it."""
    empty = lag(log)
    run = log.enqueue("test")
    log.start(run.id, worker="w1")
    first, second = log.read(run.id)
    behind = lag(log)
    catch_up(log)
    after = lag(log)

    assert (0, 0, 0, None) == empty[1:]
    assert (0, second.position, 2, first.recorded_at) == behind[1:]
    assert (second.position, second.position, 0, None) == after[1:]


def test_get_and_list_when_a_run_has_more_events_than_a_page(log: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run's events may spread over any number of pages."""
    for module in ("projections.projector", "projections.reader"):
        monkeypatch.setattr(f"{module}.PAGE_EVENTS", 3)
    run = log.enqueue("test")
    log.start(run.id, worker="w1")
    for _ in range(8):
        log.append_results(run.id, [{"status": "passed"}])
    runs = Runs(log)

    assert 8 == runs.get(run.id).passed
    assert [8] == [run.passed for run in runs.list().runs]
    assert verify(log)


def test_catch_up_when_many_threads_do_it_at_once(log: Ledger) -> None:
    """Readers that catch up together while others write apply each event once, and each sees what it wrote."""
    start = threading.Barrier(4)

    def write_and_list(number: int) -> list[bool]:
        runs = Runs(log)
        start.wait()
        seen = []
        for _ in range(5):
            run = log.enqueue("test", project=f"p{number}")
            log.start(run.id, worker="w1")
            log.append_results(run.id, [{"status": "passed"}])
            listed = runs.list(project=f"p{number}", limit=1).runs[0]
            seen.append((listed.run_id, listed.status, listed.passed) == (run.id, Status.RUNNING, 1))
        return seen

    with ThreadPoolExecutor(4) as pool:
        seen = [result for results in pool.map(write_and_list, range(4)) for result in results]

    assert [True] * 20 == seen
    assert 20 == Runs(log).count()
    assert verify(log)


_WRITE_AND_LIST = """
import sys
import ledger
from projections import Runs, rebuild

with ledger.open(sys.argv[1]) as log:
    for number in range(6):
        run = log.enqueue("test", project=sys.argv[2])
        log.start(run.id, worker="w1")
        newest = Runs(log).list(project=sys.argv[2], limit=1).runs[0]
        assert (newest.run_id, newest.status) == (run.id, "running"), newest
        if number == 3:
            try:
                rebuild(log)
            except ledger.StoreBusy:
                pass
"""


def test_list_when_several_processes_write_read_and_rebuild(ledger_url: str) -> None:
    """Each process sees what it wrote at once, whatever the others do to the rows in the meantime."""
    if ledger_url == "memory:":
        pytest.skip("no other process sees it")
    with ledger.open(ledger_url, migrate=True) as log:
        processes = [
            subprocess.Popen([sys.executable, "-c", _WRITE_AND_LIST, ledger_url, f"p{number}"], stderr=subprocess.PIPE)
            for number in range(3)
        ]
        errors = [process.communicate(timeout=120)[1].decode() for process in processes]

        assert ["", "", ""] == errors
        assert [0, 0, 0] == [process.returncode for process in processes]
        assert 18 == Runs(log).count(status="running")
        assert verify(log)


def test_list_when_a_slow_transaction_commits_between_two_pages(log: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that appears below a page which was just read is not passed over, though later pages are settled.

    Differs: only PostgreSQL lets others append while a transaction is open.
    """
    if not log.store.url.startswith("postgres"):
        pytest.skip("appends wait for each other here")
    monkeypatch.setattr("projections.projector.PAGE_EVENTS", 2)
    slow, runs, read_log = new_run_id(), Runs(log), log.store.read_log
    fast = [log.enqueue("test").id]
    catch_up(log)
    turns = ExitStack()
    turns.enter_context(log.store.in_turn(slow)).append(an_enqueue(slow))
    fast += [log.enqueue("test").id for _ in range(5)]

    def read_and_let_it_commit(*, after_position: int, limit: int, unsettled: bool = False) -> Page:
        page = read_log(after_position=after_position, limit=limit, unsettled=unsettled)
        turns.close()
        return page

    monkeypatch.setattr(log.store, "read_log", read_and_let_it_commit)
    first = {run.run_id for run in runs.list().runs}
    second = {run.run_id for run in runs.list().runs}

    assert set(fast) == first
    assert {slow, *fast} == second
    assert 0 == lag(log).events_behind
    assert verify(log)


def test_list_when_a_slow_transaction_holds_back_what_is_settled(log: Ledger) -> None:
    """Runs that committed after a slower append began are listed at once, and the slow one when it commits.

    Differs: only PostgreSQL lets others append while a transaction is open.
    """
    if not log.store.url.startswith("postgres"):
        pytest.skip("appends wait for each other here")
    slow, runs = new_run_id(), Runs(log)
    first = log.enqueue("test")
    catch_up(log)
    checkpoint = lag(log).checkpoint
    with log.store.in_turn(slow) as turn:
        turn.append(an_enqueue(slow))
        fast = log.enqueue("test")
        log.start(fast.id, worker="w1")

        while_open = {run.run_id: run.status for run in runs.list().runs}
        again = {run.run_id: run.status for run in runs.list().runs}
        held_back_at = lag(log).checkpoint
    at_last = {run.run_id: run.status for run in runs.list().runs}

    assert {first.id: Status.QUEUED, fast.id: Status.RUNNING} == while_open
    assert while_open == again
    assert checkpoint == held_back_at
    assert {**while_open, slow: Status.QUEUED} == at_last
    assert 0 == lag(log).events_behind
    assert verify(log)
