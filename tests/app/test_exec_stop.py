"""`runfold exec` when it is to stop: from the terminal, by a supervisor, by time, from elsewhere, and by `kill -9`."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ledger
from ledger.run.state import RunState

RUNFOLD = (str(Path(sys.executable).parent / "runfold"), "exec")
FAMILY = "sleep 1000 & echo $$ $! >pids.{shard}; wait"
"""A command with a child of its own, which tells both process ids."""
STUBBORN = "trap '' TERM INT; sleep 1000 & echo $$ $! >pids.{shard}; while :; do wait; done"


@pytest.fixture
def start(tmp_path: Path) -> Iterator["Started"]:
    started = Started(tmp_path)
    yield started
    started.clean_up()


class Started:
    """An execution under way, as its own process group, which is how a shell starts it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[str] | None = None

    def __call__(self, *arguments: str, shards: int = 1) -> "subprocess.Popen[str]":
        self.process = subprocess.Popen(
            [*RUNFOLD, "test", "--shards", str(shards), *arguments],
            cwd=self.folder,
            env={**os.environ, "RUNFOLD_URL": "sqlite:///runs.db"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
            preexec_fn=as_from_a_terminal,
        )
        until(lambda: len(self.process_ids()) == 2 * shards)
        return self.process

    def process_ids(self) -> list[int]:
        return [int(number) for path in self.folder.glob("pids.*") for number in path.read_text().split()]

    def all_gone(self) -> bool:
        return not any(map(is_alive, self.process_ids()))

    def run(self) -> RunState:
        with ledger.open(f"sqlite:///{self.folder / 'runs.db'}") as log:
            return log.state(next(iter(log.read_all(types=["enqueued"]))).run_id)

    def clean_up(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for process_id in filter(is_alive, self.process_ids()):
            os.kill(process_id, signal.SIGKILL)
        if self.process is not None and self.process.stderr is not None:
            self.process.stderr.close()


def as_from_a_terminal() -> None:
    """Undo what nohup or a shell's `&` did to the tests: a signal that is ignored here is ignored by every child."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


def is_alive(process_id: int) -> bool:
    try:
        status = Path(f"/proc/{process_id}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def until(is_so: "object", *, timeout_s: float = 30) -> float:
    """Wait until a function says so, and give how long that took in seconds."""
    began = time.monotonic()
    while not is_so():  # type: ignore[operator]
        assert time.monotonic() - began < timeout_s
        time.sleep(0.02)
    return time.monotonic() - began


@pytest.mark.parametrize(
    ("number", "mode", "reason"),
    [
        (signal.SIGINT, "user", "interrupted at the terminal"),
        (signal.SIGTERM, "shutdown", "the executor was asked to end"),
        (signal.SIGHUP, "shutdown", "the executor was asked to end"),
    ],
)
def test_exec_when_a_signal_asks_it_to_stop(start: Started, number: signal.Signals, mode: str, reason: str) -> None:
    """A signal to its process group aborts the run, ends every command with its children, and exits with 130."""
    process = start("--", "sh", "-c", FAMILY, shards=3)

    os.killpg(process.pid, number)
    code = process.wait(30)

    run = start.run()
    assert (130, "aborted", mode, reason) == (code, run.status, run.error_category, run.error)
    assert 6 == len(start.process_ids())
    assert start.all_gone()


def test_exec_when_a_command_does_not_want_to_end(start: Started) -> None:
    """A command that ignores SIGTERM is killed after the grace, its children too."""
    process = start("--grace", "0.5s", "--", "sh", "-c", STUBBORN)

    process.send_signal(signal.SIGINT)
    process.wait(30)

    assert "aborted" == start.run().status
    assert start.all_gone()


def test_exec_when_the_user_insists(start: Started) -> None:
    """A second Ctrl-C does not wait for the grace to be over."""
    process = start("--grace", "10m", "--", "sh", "-c", STUBBORN)

    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    still_there = process.poll() is None
    process.send_signal(signal.SIGINT)
    code = process.wait(20)

    assert (True, 130) == (still_there, code)
    assert start.all_gone()


def test_exec_when_results_came_before_the_stop(start: Started, tmp_path: Path) -> None:
    """What was tested before Ctrl-C is recorded before the run is aborted."""
    (tmp_path / "test_it.py").write_text(
        "import os, time\n"
        "def test_quick(): pass\n"
        "def test_slow():\n"
        "    open('pids.0', 'w').write(f'{os.getpid()} {os.getppid()}')\n"
        "    time.sleep(1000)\n"
    )
    process = start("--", sys.executable, "-m", "pytest", "-p", "no:cacheprovider")

    process.send_signal(signal.SIGINT)
    process.wait(30)

    run = start.run()
    assert ("aborted", {"passed": 1}) == (run.status, run.statuses)


def test_exec_when_the_time_is_up(start: Started) -> None:
    """After its timeout the commands are ended, the run fails by that name, and exec exits with 124."""
    process = start("--timeout", "1.5s", "--", "sh", "-c", FAMILY, shards=2)

    code = process.wait(30)

    run = start.run()
    assert (124, "failed", "timeout", "timed out after 1.5 s") == (code, run.status, run.error_category, run.error)
    assert start.all_gone()


def test_exec_when_somebody_aborts_the_run_elsewhere(start: Started) -> None:
    """An abort from another process reaches the commands within about a second, and stays the run's end."""
    process = start("--", "sh", "-c", FAMILY, shards=2)
    run_id = start.run().id

    with ledger.open(f"sqlite:///{start.folder / 'runs.db'}", actor="ann") as log:
        assert log.abort(run_id, reason="not needed any more")
    took_s = until(start.all_gone)
    said = process.communicate(timeout=30)[1]

    run = start.run()
    assert (1, "aborted", "not needed any more") == (process.returncode, run.status, run.error)
    assert took_s < 1.5
    assert "aborted" in said
    with ledger.open(f"sqlite:///{start.folder / 'runs.db'}") as log:
        terminal = [event.actor for event in log.read(run_id) if event.type in ("aborted", "failed", "completed")]
    assert ["ann"] == terminal


TAKEN_BY: dict[str, Callable[[ledger.Ledger, str], object]] = {
    "interruption": lambda log, run_id: log.interrupt(run_id, reason="looked dead"),
    "another worker": lambda log, run_id: (log.interrupt(run_id, reason="x"), log.resume(run_id, worker="other")),
    "another attempt": lambda log, run_id: log.retry_shard(run_id, 1),
}


@pytest.mark.parametrize("how", TAKEN_BY)
def test_exec_when_the_run_is_taken_away(start: Started, how: str) -> None:
    """An executor whose run is with others ends its commands, leaves the run as it is, and exits with 5."""
    process = start("--", "sh", "-c", FAMILY, shards=2)
    with ledger.open(f"sqlite:///{start.folder / 'runs.db'}") as log:
        run_id = start.run().run_id
        TAKEN_BY[how](log, run_id)
        before = log.state(run_id)

    _, said = process.communicate(timeout=30)

    assert 5 == process.returncode
    assert start.all_gone()
    assert (before.status, before.version, before.worker) == (
        start.run().status,
        start.run().version,
        start.run().worker,
    )
    expected = {
        "interruption": "is interrupted (looked dead)",
        "another worker": "is with worker other since version 4",
        "another attempt": "had shard 1 handed on",
    }
    assert f"run {run_id} {expected[how]}; its commands here ended, and the run is left to others" in said


def test_exec_when_its_shard_was_handed_on_at_the_last_moment(tmp_path: Path) -> None:
    """A command that ends before its executor looks again does not complete the attempt that is somebody else's."""
    script = (
        "import ledger, os, sys\n"
        "with ledger.open(os.environ['RUNFOLD_URL']) as log: log.retry_shard(os.environ['RUNFOLD_RUN_ID'], 0)\n"
    )

    done = subprocess.run(
        [*RUNFOLD, "test", "--shards", "2", "--", sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "RUNFOLD_URL": "sqlite:///runs.db"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    with ledger.open(f"sqlite:///{tmp_path / 'runs.db'}") as log:
        (run_id,) = [event.run_id for event in log.read_all(types=["enqueued"])]
        run = log.state(run_id)
    assert (5, "running") == (done.returncode, run.status), done.stderr
    assert 0 not in {number for number, shard in run.shards.items() if shard.is_completed}


def test_exec_when_an_abort_is_requested(start: Started) -> None:
    """A request to abort is followed: the commands end, and then the run, by the one who works on it."""
    process = start("--", "sh", "-c", FAMILY)
    run_id = start.run().id

    with ledger.open(f"sqlite:///{start.folder / 'runs.db'}") as log:
        log.request_abort(run_id, reason="please")
    code = process.wait(30)

    run = start.run()
    assert (1, "aborted", "an abort was requested") == (code, run.status, run.error)
    assert start.all_gone()


@pytest.mark.parametrize("script", [FAMILY, STUBBORN])
def test_exec_when_it_is_killed(start: Started, script: str) -> None:
    """`kill -9` leaves no process behind, and the run says that nobody works on it."""
    process = start("--", "sh", "-c", script, shards=2)

    process.kill()
    process.wait()
    until(start.all_gone, timeout_s=10)
    until(lambda: start.run().status == "interrupted", timeout_s=10)

    assert 4 == len(start.process_ids())
    assert "the process that executed the run is gone; its commands were ended" == start.run().error


def test_exec_when_it_is_killed_after_the_run_was_ended(start: Started) -> None:
    """A run that somebody ended stays as it is when its executor is killed."""
    process = start("--grace", "10m", "--", "sh", "-c", STUBBORN)
    with ledger.open(f"sqlite:///{start.folder / 'runs.db'}") as log:
        log.abort(start.run().id, reason="enough")

    process.kill()
    process.wait()
    until(start.all_gone, timeout_s=10)
    time.sleep(1)

    run = start.run()
    assert ("aborted", "enough") == (run.status, run.error)


def test_exec_when_a_command_was_stopped(start: Started) -> None:
    """A command that is suspended is ended like every other."""
    process = start("--", "sh", "-c", FAMILY)
    for process_id in start.process_ids():
        os.kill(process_id, signal.SIGSTOP)

    process.send_signal(signal.SIGTERM)
    code = process.wait(4)  # well within the grace

    assert 130 == code
    assert start.all_gone()
