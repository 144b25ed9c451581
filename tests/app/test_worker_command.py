"""`runfold worker`: any command as a worker, as a user starts it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import RUNFOLD, environment

import ledger
from ledger import Kind, Ledger

TELL = "echo $RUNFOLD_RUN_ID $RUNFOLD_SHARD_INDEX $RUNFOLD_SHARD_COUNT $RUNFOLD_ATTEMPT {shard1}/{shards}"
FAMILY = "sleep 1000 & echo $$ $! >pids; wait"
"""A command with a child of its own, which tells both process ids."""


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Ledger]:
    """The ledger that commands in `tmp_path` find by themselves."""
    kinds = [Kind(name="test", attempts_max=3)]
    with ledger.open(f"sqlite:///{tmp_path / '.runfold' / 'runs.db'}", kinds=kinds) as opened:
        yield opened


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts workers in the background, and ends them with the test."""
    started: list[subprocess.Popen[str]] = []

    def start_worker(*args: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [RUNFOLD, "worker", "--kind", "test", *args],
            cwd=tmp_path,
            env=environment(tmp_path),
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        started.append(process)
        return process

    yield start_worker
    for process in started:
        process.kill()
        process.communicate()


def work(folder: Path, *args: str) -> "subprocess.CompletedProcess[str]":
    """Let a worker do all there is."""
    return subprocess.run(
        [RUNFOLD, "worker", "--kind", "test", "--until-idle", *args],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def until(is_so: Callable[[], object], *, timeout_s: float = 30) -> float:
    """Wait until a function says so, and give how long that took in seconds."""
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() - began < timeout_s
        time.sleep(0.02)
    return time.monotonic() - began


def is_alive(process_id: int) -> bool:
    try:
        status = Path(f"/proc/{process_id}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def lines(log: Ledger, run_id: str) -> list[str]:
    return [line for event in log.read(run_id) if event.type == "log_appended" for line in event.data.lines]


def test_python_worker_when_it_is_asked_to_end(tmp_path: Path) -> None:
    """The worker of the page on workers stops from a signal handler: at SIGTERM it hands its work back."""
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "workers.md").read_text()
    (program,) = [text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "signal.signal" in text]
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    with ledger.open(url) as log:
        run = log.enqueue("sync").id
        process = subprocess.Popen([sys.executable, "-c", program.replace("postgresql://runfold@db/runs", url)])
        try:
            until(lambda: log.state(run).status == "running")
            process.send_signal(signal.SIGTERM)

            assert 0 == process.wait(30)
            assert "queued" == log.state(run).status
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize(("command", "code"), [("./no-such.sh", 127), ("./notes.txt", 126)])
def test_worker_when_there_is_no_command(tmp_path: Path, log: Ledger, command: str, code: int) -> None:
    """A worker without a command claims nothing, says so, and ends as shells do."""
    (tmp_path / "notes.txt").write_text("no program")
    run = log.enqueue("test").id

    done = work(tmp_path, "--", command)

    assert (code, "queued") == (done.returncode, log.state(run).status)
    assert f"the command '{command}'" in done.stderr
    assert "Traceback" not in done.stderr


def test_worker_when_its_pytest_has_no_plugin(tmp_path: Path, log: Ledger) -> None:
    """A shard whose pytest never reported fails its run at once: a further attempt would be no better."""
    (tmp_path / "test_a.py").write_text("def test_a(): pass\n")
    run = log.enqueue("test", shard_count=2).id

    work(tmp_path, "--split-pytest", "--", sys.executable, "-m", "pytest", "-q", "-p", "no:runfold")

    state = log.state(run)
    assert ("failed", "plugin_missing", 1) == (state.status, state.error_category, state.attempt)


def test_worker_when_commands_succeed_and_fail(tmp_path: Path, log: Ledger) -> None:
    """An exit code of 0 completes the run; another fails the attempt, until none is left."""
    good, bad = log.enqueue("test", input={"code": 0}).id, log.enqueue("test", input={"code": 3}).id
    script = "import json, os, sys; sys.exit(json.load(open(os.environ['RUNFOLD_INPUT']))['code'])"

    done = work(tmp_path, "--", sys.executable, "-c", script)

    assert 0 == done.returncode, done.stderr
    assert ("completed", 1) == (log.state(good).status, log.state(good).attempt)
    assert ("failed", 3, "exit_code") == (log.state(bad).status, log.state(bad).attempt, log.state(bad).error_category)


def test_worker_when_a_run_is_cut(tmp_path: Path, log: Ledger) -> None:
    """Each shard is a command that knows its place, its input and its tests; its output is the shard's."""
    run = log.enqueue("test", shard_count=2, plan=[["a", "b"], []], input={"suite": "ä"}).id

    done = work(tmp_path, "-n", "2", "--", "sh", "-c", f"{TELL}; cat $RUNFOLD_PLAN $RUNFOLD_INPUT")

    assert 0 == done.returncode, done.stderr
    said = {0: [f"{run} 0 2 1 1/2", "a", "b", '{"suite":"ä"}'], 1: [f"{run} 1 2 1 2/2", '{"suite":"ä"}']}
    events = [event.data for event in log.read(run) if event.type == "log_appended"]
    assert said == {shard: [line for e in events if e.shard == shard for line in e.lines] for shard in (0, 1)}
    assert ("completed", 2) == (log.state(run).status, log.state(run).shards_completed)


def test_worker_when_the_command_writes_result_files(tmp_path: Path, log: Ledger) -> None:
    """Results come from the files that the command writes; failed ones explain its exit code."""
    run = log.enqueue("test").id
    report = '<testsuite><testcase name="a" classname="C"/><testcase name="b"><failure/></testcase></testsuite>'

    done = work(tmp_path, "--junit", "out.xml", "--", "sh", "-c", f"echo '{report}' >out.xml; exit 1")

    assert 0 == done.returncode, done.stderr
    state = log.state(run)
    assert ("completed", "failed", 1, 1) == (state.status, state.verdict, state.passed, state.failed)


def test_worker_when_logs_are_json(tmp_path: Path, log: Ledger) -> None:
    """With `--log-format json` each line of stderr is an object that names run, attempt and worker."""
    run = log.enqueue("test").id

    done = work(tmp_path, "--log-format", "json", "--name", "w1", "--", "true")

    said = [json.loads(line) for line in done.stderr.splitlines()]
    assert {(run, 1, "w1", "test")} == {(one["run_id"], one["attempt"], one["worker"], one["kind"]) for one in said}
    assert ["claimed", "succeeded"] == [one["message"].split()[0] for one in said]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_worker_when_it_is_idle_and_asked_to_end(
    log: Ledger, start: "Callable[..., subprocess.Popen[str]]", number: int
) -> None:
    """A worker that waits for work ends soon when it is asked to, with 0."""
    worker = start("--", "true")
    first = log.enqueue("test").id
    until(lambda: log.state(first).is_terminal)
    time.sleep(0.3)  # it waits again

    worker.send_signal(number)

    assert 0 == worker.wait(timeout=5)


def test_worker_when_it_is_busy_and_asked_to_end(
    tmp_path: Path, log: Ledger, start: "Callable[..., subprocess.Popen[str]]"
) -> None:
    """What does not end within the grace time is ended and handed back, and does not count as an attempt."""
    run = log.enqueue("test").id
    worker = start("--grace", "500ms", "--", "sh", "-c", FAMILY)
    until((tmp_path / "pids").exists)
    until(lambda: (tmp_path / "pids").read_text().split()[1:])

    worker.terminate()

    assert 0 == worker.wait(timeout=20)
    assert ("queued", 1) == (log.state(run).status, log.state(run).uncounted_attempts)
    assert [] == [pid for pid in map(int, (tmp_path / "pids").read_text().split()) if is_alive(pid)]


@pytest.mark.parametrize("how", ["abort", "request_abort"])
def test_worker_when_its_run_is_aborted(
    tmp_path: Path, log: Ledger, start: "Callable[..., subprocess.Popen[str]]", how: str
) -> None:
    """The whole family of the command is ended soon, and the worker goes on with the next run."""
    run = log.enqueue("test").id
    worker = start("--", "sh", "-c", f"test -e pids && exit 0; {FAMILY}")
    until((tmp_path / "pids").exists)
    until(lambda: (tmp_path / "pids").read_text().split()[1:])
    family = [int(number) for number in (tmp_path / "pids").read_text().split()]

    getattr(log, how)(run)

    assert until(lambda: not any(map(is_alive, family))) < 2
    until(lambda: log.state(run).status == "aborted")
    following = log.enqueue("test").id
    until(lambda: log.state(following).status == "completed")
    assert worker.poll() is None


def test_worker_when_it_is_killed(tmp_path: Path, log: Ledger, start: "Callable[..., subprocess.Popen[str]]") -> None:
    """Its command's family is ended, its lease runs out, and the next worker does the work once more."""
    run = log.enqueue("test").id
    worker = start("--lease", "1s", "--", "sh", "-c", FAMILY)
    until((tmp_path / "pids").exists)
    until(lambda: (tmp_path / "pids").read_text().split()[1:])
    family = [int(number) for number in (tmp_path / "pids").read_text().split()]

    os.kill(worker.pid, signal.SIGKILL)

    until(lambda: not any(map(is_alive, family)))
    until(log.sweep)
    assert "queued" == log.state(run).status
    assert 0 == work(tmp_path, "--", "true").returncode
    assert ("completed", 2) == (log.state(run).status, log.state(run).attempt)


def test_exec_when_it_was_killed_whole(tmp_path: Path, log: Ledger) -> None:
    """An exec that died with its guardian loses its lease like any worker, and a sweep settles its run."""
    process = subprocess.Popen(
        [RUNFOLD, "exec", "test", "--", "sh", "-c", "echo $$ >pids; exec sleep 1000"],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: (tmp_path / "pids").exists() and (tmp_path / "pids").read_text().strip())
        [task] = log.tasks()
        assert task.deadline is not None
        assert [] == log.claim("w1")
        assert [] == list(log.stuck(older_than_s=0))
    finally:
        process.kill()
        process.wait()
        until(lambda: not is_alive(int((tmp_path / "pids").read_text())))


@pytest.mark.parametrize(
    "args",
    [
        ["--", "true"],
        ["--kind", "test"],
        ["--kind", "test", "-n", "0", "--", "true"],
        ["--kind", "test", "--lease", "never", "--", "true"],
        ["--kind", "test", "-n", "2", "--junit", "out.xml", "--", "true"],
    ],
)
def test_worker_when_an_option_makes_no_sense(tmp_path: Path, args: list[str]) -> None:
    """What cannot be meant is a usage error in one line, and no ledger is made."""
    done = subprocess.run(
        [RUNFOLD, "worker", *args],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (2, 1) == (done.returncode, len(done.stderr.splitlines())), done.stderr
    assert not (tmp_path / ".runfold").exists()
