"""Sentri's scenarios of aborts: its registry of workers is the run's leases, its channel is the log."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pytest

import ledger
from ledger import InvalidInput, Ledger, RunNotFound
from projections.systems.sentri import SentriRuns

UNKNOWN = "0192f3a0-0000-7000-8000-00000000ffff"
WATCHER = """
import sys
import ledger
from projections.systems.sentri import SentriRuns

with ledger.open(sys.argv[1]) as log:
    with SentriRuns(log).subscribe_to_aborts(after=int(sys.argv[2])) as aborts:
        print("ready", flush=True)
        for event in aborts:
            print(event.run_id, event.type, flush=True)
"""


@contextmanager
def watcher(url: str, after: int = 0) -> Iterator["subprocess.Popen[str]"]:
    """A process that waits for aborts."""
    process = subprocess.Popen(
        [sys.executable, "-c", WATCHER, url, str(after)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert process.stdout is not None
        assert "ready\n" == process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def held(log: Ledger, leases: list[ledger.Lease]) -> list[bool]:
    return [beat.is_held for beat in log.heartbeat(leases)]


def test_registry_when_4_shards_run(log: Ledger) -> None:
    """Four shards of a run on one host are four entries; an abort reaches all four, and no other run's."""
    run, sibling, uncut = (
        log.enqueue("test_run", shard_count=4),
        log.enqueue("test_run", shard_count=3),
        log.enqueue("crawl"),
    )
    leases = log.claim("host-1", limit=8)
    of_run = [lease for lease in leases if lease.run_id == run.id]
    others = [lease for lease in leases if lease.run_id != run.id]

    assert [0, 1, 2, 3] == [lease.shard for lease in of_run]
    assert (4, 3, 1) == tuple(len(log.tasks(run_id=each.id)) - (each is not uncut) for each in (run, sibling, uncut))
    assert SentriRuns(log).abort(run.id)
    assert ([False] * 4, [True] * 4) == (held(log, of_run), held(log, others))
    assert [] == list(log.tasks(run_id=run.id))


def test_registry_when_the_run_is_not_cut(log: Ledger) -> None:
    """The entry of a run that is not cut is aborted as well; an unknown run has none."""
    run = log.enqueue("crawl")
    leases = log.claim("host-1")

    assert SentriRuns(log).abort(run.id)
    assert [False] == held(log, leases)
    with pytest.raises(RunNotFound):
        SentriRuns(log).abort(UNKNOWN)
    assert [] == list(log.tasks(run_id=UNKNOWN))


def test_abort_when_nobody_works_on_it(log: Ledger) -> None:
    """Without a worker anywhere the status is written all the same, and another run is untouched."""
    runs = SentriRuns(log)
    run, other = (runs.create({"projectId": project, "type": "test_run"}) for project in ("P1", "P2"))

    assert runs.abort(run)
    assert ("aborted", "running") == (log.state(run).status, log.state(other).status)


def test_channel_when_another_process_listens(shared_url: str) -> None:
    """An abort, and a failure, of this process reach two others, each once, in the order of the log."""
    with ledger.open(shared_url, migrate=True) as log, watcher(shared_url) as first, watcher(shared_url) as second:
        runs = SentriRuns(log)
        aborted, failed = (runs.create({"projectId": project, "type": "test_run"}) for project in ("P1", "P2"))
        runs.abort(aborted)
        assert not runs.abort(aborted)
        runs.mark_run_failed_first_writer_wins(failed, error="a shard crashed")

        for process in (first, second):
            assert [f"{aborted} aborted", f"{failed} failed"] == [said(process) for _ in range(2)]


def test_channel_when_a_worker_shares_the_host(shared_url: str) -> None:
    """Workers of one run in four processes hear of its abort, and of nothing of a sibling run that goes on."""
    with ledger.open(shared_url, migrate=True) as log:
        runs = SentriRuns(log)
        run, sibling = (runs.create({"projectId": project, "type": "test_run"}) for project in ("P1", "P2"))
        with watcher(shared_url) as a, watcher(shared_url) as b, watcher(shared_url) as c, watcher(shared_url) as d:
            runs.append_run_results(sibling, [{"testId": "T0", "status": "failed"}])
            runs.abort(run)

            assert [f"{run} aborted"] * 4 == [said(process) for process in (a, b, c, d)]
        assert "running" == log.state(sibling).status


def test_channel_when_it_is_ones_own(log: Ledger) -> None:
    """One's own abort is in the log like everyone's, once, with who did it: who is it may pass it over."""
    runs = SentriRuns(log.bind(actor="host-1"))
    run = runs.create({"projectId": "P1", "type": "test_run"})
    runs.abort(run)

    with runs.subscribe_to_aborts() as aborts:
        event = next(aborts)
    assert ("host-1", run, "aborted") == (event.actor, event.run_id, event.type)


@pytest.mark.parametrize("garbage", ["", None, 42, "RUN-1", "{not json"])
def test_channel_when_garbage_is_sent(log: Ledger, garbage: str) -> None:
    """What names no run is refused where it is sent, and the next good message is delivered."""
    runs = SentriRuns(log)
    run = runs.create({"projectId": "P1", "type": "test_run"})

    with pytest.raises(InvalidInput):
        runs.abort(garbage)
    runs.abort(run)
    with runs.subscribe_to_aborts() as aborts:
        assert run == next(aborts).run_id


def test_channel_when_a_handler_raises(log: Ledger) -> None:
    """A handler that fails takes nothing with it: the subscription goes on, and what was seen can be read again."""
    runs = SentriRuns(log)
    made = [runs.create({"projectId": f"P{number}", "type": "test_run"}) for number in range(3)]
    for run in made:
        runs.abort(run)
    handled = []

    with runs.subscribe_to_aborts() as aborts:
        for event in islice(aborts, 3):
            before = event.position - 1
            try:
                assert event.run_id != made[1], "this handler fails"
                handled.append(event.run_id)
            except AssertionError:
                with runs.subscribe_to_aborts(after=before) as again:
                    handled.append(next(again).run_id)

    assert made == handled
