"""Workers killed with SIGKILL at every step, stopped with SIGSTOP, raced by others: what is done is done once."""

import ipaddress
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mortal_worker import WISHES
from webhook_receiver import receiving

import ledger
from cli.outbox.outbox import Delivering, Outbox
from cli.worker import Work, Worker
from ledger import Kind, Ledger
from ledger.ids import new_run_id
from projections import Results, verify

IS_CAMPAIGN = bool(os.environ.get("RUNFOLD_CAMPAIGN"))
ROOT = Path(__file__).parents[1]
ATTEMPTS_MAX = 500
KINDS = (
    Kind(name="cut", attempts_max=ATTEMPTS_MAX),
    Kind(name="whole", attempts_max=ATTEMPTS_MAX),
    Kind(name="test", attempts_max=3),
)
PLAN = [[f"{shard}-{number}" for number in range(4)] for shard in range(4)]


@pytest.fixture
def log(shared_url: str) -> Iterator[Ledger]:
    with ledger.open(shared_url, kinds=KINDS, migrate=True) as opened:
        yield opened


TO_LOOPBACK = Delivering(allowed=(ipaddress.ip_network("127.0.0.0/8"),), attempts_max=1)


class Supervisor:
    """Keeps worker processes alive, as an operating system's does: who dies by SIGKILL is replaced."""

    def __init__(self, url: str, folder: Path, *, workers: int) -> None:
        self._command = [sys.executable, str(ROOT / "mortal_worker.py"), url]
        self._folder = folder
        self._started = 0
        self.deaths = 0
        self.processes = [self._start() for _ in range(workers)]

    def replace_dead(self) -> None:
        for index, process in enumerate(self.processes):
            if process.poll() is not None:
                assert -signal.SIGKILL == process.returncode, f"a worker ended by itself with {process.returncode}"
                self.deaths += 1
                self.processes[index] = self._start()

    def end(self) -> list[int]:
        """Ask all to end, and give their exit codes."""
        for process in self.processes:
            process.terminate()
        return [process.wait(timeout=60) for process in self.processes]

    def _start(self) -> "subprocess.Popen[bytes]":
        self._started += 1
        return subprocess.Popen([*self._command, f"w{self._started}", str(self._folder)])


@contextmanager
def supervised(url: str, folder: Path, *, workers: int) -> Iterator[Supervisor]:
    supervisor = Supervisor(url, folder, workers=workers)
    try:
        yield supervisor
    finally:
        for process in supervisor.processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def ask_for(log: Ledger, kind: str, **facts: object) -> str:
    """Ask for a run of 16 tests, in four shards where its kind is cut."""
    plan = PLAN if kind == "cut" else [[test_id for shard in PLAN for test_id in shard]]
    return log.enqueue(kind, plan=plan, shard_count=len(PLAN) if kind == "cut" else None, **facts).id  # type: ignore[arg-type]


def wished_runs(log: Ledger, folder: Path, *, deaths: int, callback_url: str) -> dict[str, str]:
    """Ask for a run for each step at which a worker can die, which so many workers are to die at."""
    wishes: dict[str, str] = {}
    for kind, steps in WISHES.items():
        for step in steps:
            run_id = new_run_id()
            is_last = step == "completed after"  # nobody comes there again
            wanted = step.split(", ") * (1 if is_last else deaths)
            for number, one in enumerate(wanted):
                (folder / f"{run_id}.{number}").write_text(one)
            ask_for(log, kind, run_id=run_id, callback_url=callback_url)
            wishes[run_id] = f"{kind}: {step}"
    return wishes


def check_run(log: Ledger, run_id: str, what: str) -> None:
    """Check that a run was done once, whoever died meanwhile."""
    state = log.state(run_id)
    types = Counter(event.type for event in log.read(run_id))
    assert ("completed", 16, 0, f"report/{run_id}") == (state.status, state.passed, state.failed, state.output_ref), (
        what
    )
    tests = [result.test_id for result in Results(log).of_run(run_id).results]
    assert sorted(test_id for shard in PLAN for test_id in shard) == sorted(str(test_id) for test_id in tests), what
    assert 1 == types["completed"], what
    assert state.attempt <= ATTEMPTS_MAX, what
    if state.shard_count is not None:
        assert (4, 4) == (types["shard_completed"], state.shards_completed), what
        assert types["finalization_started"] >= 1 + ("finalization_started after" in what), what
        attempts = [(e.data.shard, e.data.shard_attempt) for e in log.read(run_id) if e.type == "shard_started"]
        assert len(attempts) == len(set(attempts)), what


def test_worker_when_killed_at_every_step(log: Ledger, shared_url: str, tmp_path: Path) -> None:
    """Eight workers, one of which dies before, in or after each append of a run, or of the sweep after another's death.

    Each run ends, all tests are counted once, and each is called back for once.
    """
    folder = tmp_path / "wishes"
    folder.mkdir()
    with receiving() as receiver:
        outbox = Outbox(log, TO_LOOPBACK)
        for _ in range(10 if IS_CAMPAIGN else 1):
            receiver.calls.clear()
            wishes = wished_runs(log, folder, deaths=3 if IS_CAMPAIGN else 1, callback_url=receiver.url)

            with supervised(shared_url, folder, workers=8) as workers:
                deadline = time.monotonic() + 240
                open_runs = set(wishes)
                while open_runs:
                    assert time.monotonic() < deadline, [wishes[run] for run in open_runs]
                    workers.replace_dead()
                    outbox.step()
                    time.sleep(0.1)
                    open_runs = {run for run in open_runs if not log.state(run).is_terminal}
                time.sleep(0.2)
                codes = workers.end()

            assert set(codes) <= {0, -signal.SIGTERM, -signal.SIGKILL}  # well, too young to listen, died at the end
            assert [] == [wishes[path.name.partition(".")[0]] for path in folder.glob("0*.*")]  # all came true
            assert len(list(folder.glob("died.*"))) >= len(wishes)
            for run_id, what in wishes.items():
                check_run(log, run_id, what)
            assert [] == list(log.tasks())
            outbox.step()
            receiver.wait_for(len(wishes))
        outbox.step()
        outbox.close()
        ended = sorted(list(log.read(run))[-1].event_id for run in wishes)
        assert ended == sorted(call.webhook_id for call in receiver.calls)
    assert verify(log)


def test_workers_when_killed_at_any_time(log: Ledger, shared_url: str, tmp_path: Path) -> None:
    """Eight workers, of which one after the other dies wherever it happens to be: each run ends, counted once."""
    seed = random.randrange(2**32) if IS_CAMPAIGN else 7
    chance = random.Random(seed)
    print(f"seed {seed}")  # shown when it fails
    count, deaths_max = (1_200, 300) if IS_CAMPAIGN else (40, 12)
    runs = [ask_for(log, chance.choice(["cut", "whole"]), input={"pause_s": 0.1}) for _ in range(count)]

    with supervised(shared_url, tmp_path, workers=8) as workers:
        deadline = time.monotonic() + (3_000 if IS_CAMPAIGN else 200)
        open_runs = set(runs)
        while open_runs:
            assert time.monotonic() < deadline, open_runs
            time.sleep(chance.uniform(0.1, 0.6))
            if workers.deaths < deaths_max:
                chance.choice(workers.processes).kill()
            workers.replace_dead()
            open_runs = {run for run in open_runs if not log.state(run).is_terminal}
        workers.end()

    assert workers.deaths >= deaths_max / 2
    for run_id in runs:
        check_run(log, run_id, f"{run_id}, seed {seed}")
    assert [] == list(log.tasks())
    assert verify(log)


# --- stopped ------------------------------------------------------------------------------------------------

STOPPED = """
import sys
import ledger
from cli.worker import Worker

def execute(work):
    work.append_results([{"testId": "a", "status": "failed"}])
    print("one", flush=True)
    sys.stdin.readline()
    try:
        work.append_results([{"testId": "b", "status": "failed"}])
    except ledger.LeaseLost:
        print("refused", flush=True)
        raise
    print("written", flush=True)

with ledger.open(sys.argv[1]) as log:
    Worker(log, {"test": execute}, name="late", concurrency=1, lease_s=0.5).run(until_idle=True)
"""


@pytest.mark.parametrize("shard_count", [None, 1])
def test_worker_when_it_was_stopped_and_wakes(log: Ledger, shared_url: str, shard_count: int | None) -> None:
    """A worker that was stopped for longer than its lease is refused when it wakes, and overwrites nothing."""
    run = log.enqueue("test", shard_count=shard_count, plan=[["a", "b"]]).id
    refused = threading.Event()

    def execute(work: Work) -> None:
        work.append_results([{"testId": "a", "status": "passed"}])
        assert refused.wait(30)
        work.append_results([{"testId": "b", "status": "passed"}])

    late = subprocess.Popen(
        [sys.executable, "-c", STOPPED, shared_url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT.parent,
    )
    assert late.stdin is not None
    assert late.stdout is not None
    try:
        assert "one\n" == late.stdout.readline()
        os.kill(late.pid, signal.SIGSTOP)
        until(lambda: log.sweep())
        next_one = Worker(log, {"test": execute}, name="next", concurrency=1)
        thread = threading.Thread(target=next_one.run, kwargs={"until_idle": True})
        thread.start()
        until(lambda: log.state(run).passed)
        late.stdin.write("go on\n")
        late.stdin.flush()
        os.kill(late.pid, signal.SIGCONT)

        assert "refused\n" == late.stdout.readline()
        refused.set()
        thread.join(timeout=30)
        assert 0 == late.wait(timeout=30)
    finally:
        refused.set()
        late.kill()
        late.communicate()

    state = log.state(run)
    assert ("completed", 2, 0) == (state.status, state.passed, state.failed)
    rejected = [event.data for event in log.read(run) if event.type == "write_rejected"]
    assert [("late", "shard_result_appended")] == [(event.worker, event.attempted) for event in rejected]


def until(is_so: "object", *, timeout_s: float = 30) -> None:
    """Wait until a function says so."""
    deadline = time.monotonic() + timeout_s
    while not is_so():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- aborted ------------------------------------------------------------------------------------------------

ASKED_TO_STOP = """
import sys
import time
import ledger
from cli.worker import Worker

def execute(work):
    print("began", flush=True)
    if work.wait_stopped(30):
        print(time.monotonic(), flush=True)

with ledger.open(sys.argv[1]) as log:
    Worker(log, {"test": execute}, name=sys.argv[2], concurrency=1).run(until_idle=True)
"""


@pytest.mark.parametrize("how", ["abort", "request_abort"])
def test_abort_when_three_processes_work(log: Ledger, shared_url: str, how: str) -> None:
    """Every worker process of a run hears of its abort within a second."""
    run = log.enqueue("test", shard_count=3).id
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ASKED_TO_STOP, shared_url, f"w{number}"],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT.parent,
        )
        for number in range(3)
    ]
    try:
        assert ["began\n"] * 3 == [process.stdout.readline() for process in processes if process.stdout is not None]

        asked = time.monotonic()
        getattr(log, how)(run, reason="enough")
        heard = [float(process.communicate(timeout=30)[0]) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()

    assert max(heard) - asked < 1
    assert "aborted" == log.state(run).status
    assert [0] * 3 == [process.returncode for process in processes]


# --- many -----------------------------------------------------------------------------------------------------

MANY = """
import os
import sys
from pathlib import Path
import ledger
from cli.worker import NotRetryable, Worker

busy = Path(sys.argv[3])

def say(line):
    os.write(1, f"{line}\\n".encode())  # threads say so at once, and print writes a line in pieces

def execute(work):
    mark = busy / work.run_id
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        say(f"twice at once {work.run_id}")
    try:
        number = work.input["number"]
        say(f"executed {work.run_id} {work.lease.attempt}")
        work.append_results([{"testId": str(number), "status": "passed"}])
        if number % 50 == 7:
            raise NotRetryable("hopeless")
        if number % 10 == 3 or (number % 10 == 5 and work.lease.attempt < 3):
            raise RuntimeError("again")
    finally:
        mark.unlink(missing_ok=True)

with ledger.open(sys.argv[1]) as log:
    print("ready", flush=True)
    sys.stdin.readline()
    Worker(log, {"test": execute}, name=sys.argv[2], concurrency=4).run(until_idle=True)
"""


def test_workers_when_there_are_many_runs(log: Ledger, shared_url: str, tmp_path: Path) -> None:
    """Eight processes, some of whose runs fail and are retried: none lost, none twice at once, no attempt too many."""
    count = 10_000 if IS_CAMPAIGN else 500
    busy = tmp_path / "busy"
    busy.mkdir()
    runs = [log.enqueue("test", input={"number": number}).id for number in range(count)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MANY, shared_url, f"w{number}", str(busy)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # the tracebacks of what fails on purpose
            text=True,
            cwd=ROOT.parent,
        )
        for number in range(8)
    ]
    for process in processes:
        assert process.stdout is not None
        assert "ready\n" == process.stdout.readline()

    said = [""] * 8

    def let_go(index: int) -> None:
        said[index] = processes[index].communicate("go\n", timeout=3_600 if IS_CAMPAIGN else 240)[0]

    threads = [threading.Thread(target=let_go, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    Worker(log, {"test": lambda work: pytest.fail("something was left")}).run(until_idle=True)

    lines = [line for text in said for line in text.splitlines()]
    assert [] == [line for line in lines if not line.startswith("executed ")]
    executed = Counter(line.split()[1] for line in lines)
    assert len(lines) == len(set(lines))  # no attempt twice
    for number, run in enumerate(runs):
        state = log.state(run)
        wanted = ("failed", 1) if number % 50 == 7 else ("failed", 3) if number % 10 == 3 else ("completed", 1)
        wanted = ("completed", 3) if number % 10 == 5 else wanted
        assert (*wanted, wanted[1], 1) == (state.status, state.attempt, executed[run], state.passed)
    assert [] == list(log.tasks())
    assert [0] * 8 == [process.returncode for process in processes]
    assert verify(log)
