"""Many workers at once, threads and processes, on real databases: no work is done by two, and none is forgotten."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

import ledger
from ledger import Kind

ROOT = Path(__file__).parents[2]
WORKER = """
import sys
import time
import ledger

url, name = sys.argv[1:]
with ledger.open(url) as log:
    print("ready", flush=True)
    sys.stdin.readline()
    idle = 0
    while idle < 20:
        leases = log.claim(name, limit=3, lease_s=30)
        idle = 0 if leases else idle + 1
        for lease in leases:
            print(lease.run_id, lease.shard, lease.purpose, lease.attempt)
            log.succeed(lease)
        if not leases:
            time.sleep(0.02)
"""


def work(url: str, workers: int) -> list[str]:
    """Let worker processes go at once, and give what they claimed."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, url, f"w{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for number in range(workers)
    ]
    for process in processes:
        assert process.stdout is not None
        assert "ready\n" == process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    lines = [line for process in processes for line in process.communicate(timeout=120)[0].splitlines()]
    assert [0] * workers == [process.returncode for process in processes]
    return lines


def test_claim_when_eight_processes_race(shared_url: str) -> None:
    """Each run and each shard is claimed by one of eight processes, each cut run is finalized by one."""
    with ledger.open(shared_url, migrate=True) as log:
        whole = [log.enqueue("whole").id for _ in range(60)]
        cut = [log.enqueue("cut", shard_count=4).id for _ in range(15)]

        claimed = work(shared_url, 8)

        wanted = [f"{run} None run 1" for run in whole]
        wanted += [f"{run} {shard} shard 1" for run in cut for shard in range(4)]
        wanted += [f"{run} None finalize 1" for run in cut]
        assert sorted(wanted) == sorted(claimed)
        assert {"completed"} == {log.state(run).status for run in whole + cut}
        assert [] == list(log.tasks())


def test_sweep_when_many_sweep_and_hearts_beat(shared_url: str) -> None:
    """Sweepers at once settle each lost lease once, and never a lease whose heart beats meanwhile."""
    kinds = [Kind(name="test", attempts_max=5)]
    with ledger.open(shared_url, kinds=kinds, migrate=True) as log:
        for _ in range(30):
            log.enqueue("test")
        alive = log.claim("alive", limit=10, lease_s=0.4)
        lost = log.claim("lost", limit=20, lease_s=0.4)
        stop = threading.Event()
        answers: list[bool] = []
        swept: list[str] = []

        def beat() -> None:
            while not stop.wait(0.05):
                answers.extend(answer.is_held for answer in log.heartbeat(alive, lease_s=0.4))

        def sweep() -> None:
            while not stop.wait(0.01):
                swept.extend(one.run_id for one in log.sweep())

        threads = [threading.Thread(target=beat), *[threading.Thread(target=sweep) for _ in range(4)]]
        for thread in threads:
            thread.start()
        stop.wait(2)
        stop.set()
        for thread in threads:
            thread.join()

        assert answers
        assert all(answers)
        assert sorted(lease.run_id for lease in lost) == sorted(swept)
        assert {"running"} == {log.state(lease.run_id).status for lease in alive}
        assert {("queued", 1)} == {(log.state(lease.run_id).status, log.state(lease.run_id).attempt) for lease in lost}


@pytest.mark.parametrize("writers", [16])
def test_abort_when_claims_and_heartbeats_race(shared_url: str, writers: int) -> None:
    """Aborts, claims and heartbeats on the same runs at once: no deadlock, no error, and every run ends once."""
    with ledger.open(shared_url, migrate=True) as log:
        runs = [log.enqueue("cut", shard_count=3).id for _ in range(40)]
        errors: list[BaseException] = []

        def claim(name: str) -> None:
            try:
                held = []
                for _ in range(12):
                    held += log.claim(name, limit=5)
                    log.heartbeat(held)
            except BaseException as error:
                errors.append(error)

        def abort() -> None:
            try:
                for run in runs:
                    log.abort(run)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=claim, args=(f"w{number}",)) for number in range(writers - 2)]
        threads += [threading.Thread(target=abort), threading.Thread(target=abort)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert [] == errors
        assert {"aborted"} == {log.state(run).status for run in runs}
        assert [] == list(log.tasks())


def test_succeed_when_another_process_closed_the_run(shared_url: str) -> None:
    """Whoever goes straight to where its append belongs finds out that another was there."""
    with ledger.open(shared_url, migrate=True) as log, ledger.open(shared_url) as other:
        run = log.enqueue("test")
        [lease] = log.claim("w1")
        other.abort(run.id, reason="not needed")
        other.annotate(run.id, note="after the end")

        outcome = log.succeed(lease)

        assert (False, "aborted") == (bool(outcome), outcome.winner and outcome.winner.type)
        assert ["enqueued", "started", "aborted", "annotated"] == [event.type for event in log.read(run.id)]
