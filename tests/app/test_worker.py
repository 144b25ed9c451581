"""`Worker`: handlers in Python, on real databases."""

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import ledger
from cli.worker import NotRetryable, Stopped, Work, Worker
from ledger import Kind, Lease, Ledger, Policy

ROOT = Path(__file__).parents[2]

KINDS = (
    Kind(name="test", attempts_max=3),
    Kind(name="slow", policy=Policy(timeout_s=1)),
    Kind(name="cut", attempts_max=2),
)


@pytest.fixture
def log(shared_url: str) -> Iterator[Ledger]:
    with ledger.open(shared_url, kinds=KINDS, migrate=True) as opened:
        yield opened


@contextmanager
def working(worker: Worker) -> Iterator[Worker]:
    """Let a worker run in the background."""
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join(timeout=30)
        assert not thread.is_alive()


def wait_for(condition: Callable[[], object], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)


def test_worker_when_handlers_succeed_and_fail(log: Ledger) -> None:
    """Each run is executed once; a failure is tried again, and one that cannot be mended is not."""
    runs = [log.enqueue("test", input={"number": number}).id for number in range(20)]
    flaky, hopeless = (log.enqueue("test", input={"how": how}).id for how in ("flaky", "hopeless"))
    executed: Counter[str] = Counter()

    def execute(work: Work) -> str:
        executed[work.run_id] += 1
        if work.input.get("how") == "flaky" and work.lease.attempt < 3:
            raise ConnectionError("no route")
        if work.input.get("how") == "hopeless":
            raise NotRetryable("no such suite")
        work.append_results([{"testId": "a", "status": "passed"}])
        return f"out/{work.run_id}"

    Worker(log, {"test": execute}, name="w1").run(until_idle=True)

    assert Counter(dict.fromkeys(runs, 1) | {flaky: 3, hopeless: 1}) == executed
    assert {("completed", 1)} == {(log.state(run).status, log.state(run).passed) for run in [*runs, flaky]}
    assert f"out/{runs[0]}" == log.state(runs[0]).output_ref
    state = log.state(hopeless)
    assert ("failed", "NotRetryable", "no such suite") == (
        state.status,
        state.error_category,
        state.failure_summary,
    )


def test_worker_when_it_works_until_idle_and_others_write(log: Ledger) -> None:
    """A claim that passes over a run to which somebody writes is no reason to leave."""
    run = log.enqueue("test").id
    worker = Worker(log, {"test": lambda work: "done"})
    thread = threading.Thread(target=lambda: worker.run(until_idle=True))

    with log.store.in_turn(run):
        thread.start()
        thread.join(timeout=0.5)
        assert thread.is_alive()
    thread.join(timeout=10)

    assert "completed" == log.state(run).status
    assert not thread.is_alive()


def test_worker_when_handlers_are_coroutines(log: Ledger) -> None:
    """A coroutine function is a handler like any other."""
    run = log.enqueue("test").id

    async def execute(work: Work) -> str:
        return "done"

    Worker(log, {"test": execute}).run(until_idle=True)

    assert ("completed", "done") == (log.state(run).status, log.state(run).output_ref)


def test_worker_when_a_run_is_cut(log: Ledger) -> None:
    """Shards go to several workers; one of them finalizes."""
    run = log.enqueue("cut", shard_count=4, plan=[["a"], ["b"], ["c"], ["d"]]).id
    finalized: list[str] = []

    def execute(work: Work) -> None:
        work.append_results([{"testId": test_id, "status": "passed"} for test_id in work.plan])

    def finalize(work: Work) -> str:
        finalized.append(work.lease.worker)
        return "report"

    workers = [Worker(log, {"cut": execute}, finalizers={"cut": finalize}, name=f"w{n}") for n in range(3)]
    threads = [threading.Thread(target=worker.run) for worker in workers]
    for thread in threads:
        thread.start()
    wait_for(lambda: log.state(run).is_terminal)
    for worker, thread in zip(workers, threads, strict=True):
        worker.stop()
        thread.join()

    assert ("completed", 4, "report", 1) == (
        log.state(run).status,
        log.state(run).passed,
        log.state(run).output_ref,
        len(finalized),
    )


@pytest.mark.parametrize("how", ["abort", "request_abort"])
def test_worker_when_a_run_is_aborted(log: Ledger, how: str) -> None:
    """The handler hears of an abort within a second, and the run ends as aborted."""
    run = log.enqueue("test").id
    heard: list[float] = []
    began = threading.Event()

    def execute(work: Work) -> None:
        began.set()
        assert work.wait_stopped(20)
        heard.append(time.monotonic())

    with working(Worker(log, {"test": execute})):
        assert began.wait(5)
        asked = time.monotonic()
        getattr(log, how)(run, reason="enough")
        wait_for(lambda: log.state(run).is_terminal and heard)

    assert heard[0] - asked < 1
    assert "aborted" == log.state(run).status


def test_worker_when_it_waits_for_work(log: Ledger) -> None:
    """An idle worker hears of new work soon, and of scheduled work when it is due."""
    done: dict[str, float] = {}

    def execute(work: Work) -> None:
        done[work.run_id] = time.monotonic()

    with working(Worker(log, {"test": execute})):
        time.sleep(0.6)
        asked = time.monotonic()
        now, later = (
            log.enqueue("test").id,
            log.enqueue("test", not_before=datetime.now(UTC) + timedelta(seconds=0.7)).id,
        )
        wait_for(lambda: {now, later} <= set(done))

    assert done[now] - asked < 0.5
    assert 0.6 <= done[later] - asked < 1.6


def test_worker_when_an_attempt_takes_too_long(log: Ledger) -> None:
    """A timeout ends the attempt, whether the handler listens or not."""
    run = log.enqueue("slow").id

    with working(Worker(log, {"slow": lambda work: work.wait_stopped(30)}, grace_s=0.2)):
        wait_for(lambda: log.state(run).is_terminal)

    assert ("failed", "timeout") == (log.state(run).status, log.state(run).error_category)


@pytest.mark.parametrize(("why", "status"), [("timeout", "failed"), ("abort", "aborted")])
def test_worker_when_a_handler_does_not_listen(log: Ledger, why: str, status: str) -> None:
    """A handler that goes on after a timeout or a requested abort keeps neither its run nor its worker from ending."""
    run = log.enqueue("slow" if why == "timeout" else "test").id
    following = log.enqueue("test").id
    may_end = threading.Event()

    def execute(work: Work) -> None:
        if work.run_id == run:
            may_end.wait(60)

    with working(Worker(log, {"slow": execute, "test": execute}, grace_s=0.2, concurrency=2)):
        wait_for(lambda: log.state(run).status == "running")
        if why == "abort":
            log.request_abort(run, reason="enough")
        wait_for(lambda: log.state(run).is_terminal)
        wait_for(lambda: log.state(following).status == "completed")

    assert status == log.state(run).status
    assert not may_end.is_set()
    may_end.set()


DEAF = """
import signal
import sys
import time
import ledger
from cli.worker import Worker

with ledger.open(sys.argv[1]) as log:
    worker = Worker(log, {"test": lambda work: time.sleep(1000)}, grace_s=0.2)
    signal.signal(signal.SIGTERM, lambda *_: worker.stop())
    worker.run()
"""


def test_worker_process_when_a_handler_does_not_listen(log: Ledger, shared_url: str) -> None:
    """A worker that is asked to end hands back what does not end, and its process ends."""
    run = log.enqueue("test").id
    process = subprocess.Popen([sys.executable, "-c", DEAF, shared_url], cwd=ROOT)
    try:
        wait_for(lambda: log.state(run).status == "running", timeout_s=30)
        process.terminate()

        assert 0 == process.wait(timeout=10)
    finally:
        process.kill()
        process.wait()
    assert ("queued", 1) == (log.state(run).status, log.state(run).uncounted_attempts)


def test_worker_when_it_holds_many_leases(log: Ledger) -> None:
    """All leases of a worker are renewed in one statement, three times within a lease's length."""
    runs = [log.enqueue("test").id for _ in range(12)]
    may_end = threading.Event()
    renewals: list[int] = []
    renew = log.heartbeat

    class Counting(Ledger):
        def heartbeat(self, leases: Sequence[Lease], **options: Any) -> Any:
            renewals.append(len(leases))
            return renew(leases, **options)

    counting = copy(log)
    counting.__class__ = Counting
    with working(Worker(counting, {"test": lambda work: may_end.wait(30)}, concurrency=12, lease_s=3.0)):
        wait_for(lambda: all(log.state(run).status == "running" for run in runs))
        renewals.clear()
        wait_for(lambda: len(renewals) >= 4)
        may_end.set()

    assert [12] * 3 == renewals[1:4]
    assert {("completed", 1)} == {(log.state(run).status, log.state(run).attempt) for run in runs}


def test_worker_when_it_shuts_down(log: Ledger) -> None:
    """What is nearly done is finished; what is not is handed back, and does not count as an attempt."""
    quick, slow = log.enqueue("test", input={"s": 0.3}).id, log.enqueue("test", input={"s": 60}).id
    began = threading.Barrier(3)
    why: list[Stopped | None] = []

    def execute(work: Work) -> None:
        began.wait(5)
        work.wait_stopped(work.input["s"])
        why.append(work.why_stopped)

    with working(Worker(log, {"test": execute}, grace_s=1)):
        began.wait(5)

    assert [None, Stopped.SHUTDOWN] == why
    assert ("completed", "queued", 1) == (
        log.state(quick).status,
        log.state(slow).status,
        log.state(slow).uncounted_attempts,
    )


def test_worker_when_another_worker_vanished(log: Ledger) -> None:
    """A worker sweeps what another left behind, and executes it."""
    run = log.enqueue("test").id
    log.claim("dead", lease_s=0.1)

    with working(Worker(log, {"test": lambda work: None}, name="alive")):
        wait_for(lambda: log.state(run).is_terminal, timeout_s=20)

    assert ("completed", 2, "alive") == (log.state(run).status, log.state(run).attempt, log.state(run).worker)


def test_worker_when_it_lost_its_lease(log: Ledger) -> None:
    """A handler whose lease went to another hears it, and what it still writes is refused."""
    run = log.enqueue("test").id
    refused: list[str] = []

    def execute(work: Work) -> None:
        if work.lease.worker == "late":
            log.fail_attempt(run, error="somebody decided so")
            wait_for(lambda: log.state(run).attempt == 2)  # were it to end before, it could claim the run again
            assert work.wait_stopped(10)
            try:
                work.append_results([{"status": "failed"}])
            except ledger.LeaseLost as error:
                refused.append(error.worker)
            return
        wait_for(lambda: refused)
        work.append_results([{"status": "passed"}])

    with working(Worker(log, {"test": execute}, name="late", concurrency=1)):
        wait_for(lambda: (log.state(run).status, log.state(run).attempt) == ("queued", 1))
        Worker(log, {"test": execute}, name="next").run(until_idle=True)

    assert ("completed", 1, 0, 2) == (
        log.state(run).status,
        log.state(run).passed,
        log.state(run).failed,
        log.state(run).attempt,
    )
