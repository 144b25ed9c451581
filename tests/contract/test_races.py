"""Many writers at once, threads and processes, on real databases: nothing lost, nothing doubled, one winner."""

import threading
from collections import Counter

import pytest
from racing import in_threads, race

import ledger
from projections import Runs, verify

WRITER = """
import sys
import ledger

url, run_id, shard, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
with ledger.open(url) as log:
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(count):
        appended = log.append_results(run_id, [{"testId": f"{shard}-{number}", "status": "passed"}], shard=shard)
        assert 1 == appended
        assert 1 == log.increment_stats(run_id, passed=1)
"""
FINISHER = """
import sys
import ledger

url, run_id, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
with ledger.open(url, actor=f"finisher {number}") as log:
    print("ready", flush=True)
    sys.stdin.readline()
    if number % 3 == 0:
        outcome = log.complete(run_id)
    elif number % 3 == 1:
        outcome = log.fail(run_id, error=f"error of {number}")
    else:
        outcome = log.abort(run_id, reason=f"reason of {number}")
    print(outcome.won, outcome.winner.event_id)
"""


def started(log: ledger.Ledger, *, shard_count: int) -> str:
    run = log.enqueue("test", shard_count=shard_count)
    log.start(run.id, worker="w")
    return run.id


def test_append_results_when_8_processes_write_one_run(shared_url: str) -> None:
    """Eight processes append 50 results and increments each to one run: each is there once, versions are dense."""
    with ledger.open(shared_url, migrate=True) as log:
        run_id = started(log, shard_count=8)

        race(WRITER, [[shared_url, run_id, str(shard), "50"] for shard in range(8)])

        events = list(log.read(run_id))
        tests = Counter(r["testId"] for e in events if e.type == "shard_result_appended" for r in e.data.results)
        assert {f"{shard}-{number}": 1 for shard in range(8) for number in range(50)} == dict(tests)
        assert list(range(1, 2 + 1 + 2 * 400)) == [event.version for event in events]
        assert 400 == Runs(log).get(run_id).passed
        assert verify(log)


@pytest.mark.parametrize("runs", [1, 32])
def test_append_results_when_32_threads_write(shared_url: str, runs: int) -> None:
    """Thirty-two threads append to one run, or to one each: none conflicts, none is lost."""
    with ledger.open(shared_url, migrate=True) as log:
        run_ids = [started(log, shard_count=32) for _ in range(runs)]

        def write(number: int) -> int:
            result = [{"testId": str(number), "status": "passed"}]
            return sum(log.append_results(run_ids[number % runs], result, shard=number) for _ in range(40))

        assert [40] * 32 == in_threads(32, write)
        assert 32 * 40 == sum(Runs(log).get(run_id).passed for run_id in run_ids)
        for run_id in run_ids:
            versions = [event.version for event in log.read(run_id)]
            assert list(range(1, len(versions) + 1)) == versions


def test_finishing_when_32_processes_race(shared_url: str) -> None:
    """Of 32 racing complete, fail and abort one wins, all learn the same winner, and its text is whole."""
    with ledger.open(shared_url, migrate=True) as log:
        run_id = started(log, shard_count=1)

        printed = [line.split() for line in race(FINISHER, [[shared_url, run_id, str(n)] for n in range(32)])]

        terminal = [event for event in log.read(run_id) if event.type in ("completed", "failed", "aborted")]
        assert 1 == len(terminal)
        assert 1 == [won for won, _ in printed].count("True")
        assert {terminal[0].event_id} == {winner for _, winner in printed}
        number = (terminal[0].actor or "").removeprefix("finisher ")
        said = {"completed": None, "failed": f"error of {number}", "aborted": f"reason of {number}"}
        assert said[terminal[0].type] == Runs(log).get(run_id).error


def test_deciding_when_siblings_never_stop_appending(shared_url: str) -> None:
    """A decision gets in within its few tries while eight threads append as fast as they can."""
    with ledger.open(shared_url, migrate=True) as log:
        run_id = started(log, shard_count=8)
        stop = threading.Event()

        def write(shard: int) -> None:
            while not stop.is_set():
                log.append_results(run_id, [{"status": "passed"}], shard=shard)

        threads = [threading.Thread(target=write, args=(shard,)) for shard in range(8)]
        for thread in threads:
            thread.start()
        try:
            advanced = [log.complete_shard(run_id, shard).new_value for shard in range(8)]
            outcome = log.complete(run_id)
        finally:
            stop.set()
            for thread in threads:
                thread.join()

        assert list(range(1, 9)) == advanced
        assert outcome


def test_enqueue_when_16_threads_use_one_key(shared_url: str) -> None:
    """One idempotency key makes one run, however many ask at once; one exclusive key is held by one."""
    with ledger.open(shared_url, migrate=True) as log:
        handles = in_threads(16, lambda _: log.enqueue("test", project="web", idempotency_key="k"))
        holders = in_threads(16, lambda _: log.enqueue("test", exclusive_key="main", on_active="return"))

        assert 1 == len({handle.id for handle in handles})
        assert 1 == [handle.is_new for handle in handles].count(True)
        assert 1 == len({handle.id for handle in holders})
        assert 2 == Runs(log).count()
