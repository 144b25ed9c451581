"""Commands that wait on a server: they end at once when they are to, and say why when they cannot begin."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import RUNFOLD, environment, runfold
from http_server import Server, serving

import ledger

AT_ONCE_S = 5.0
"""Far below the 15 seconds between two signs of life of a stream; a busy machine takes its time to end a process."""


@pytest.fixture
def server(sqlite_url: str, tmp_path: Path) -> Iterator[Server]:
    with serving(sqlite_url, tmp_path) as running:
        yield running


@pytest.fixture
def run_id(server: Server) -> str:
    run_id = server.enqueue()
    with ledger.open(server.ledger_url) as log:
        log.start(run_id, worker="w1")
        log.append_log(run_id, ["begun"])
    return run_id


@pytest.fixture
def start(server: Server, tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Starts a command that waits on the server, and gives it once it does."""
    started: list[subprocess.Popen[bytes]] = []
    host, port = server.address

    def begin(*args: str) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [RUNFOLD, *args, "--remote", f"http://{host}:{port}"],
            cwd=tmp_path,
            env=environment(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(1)  # from the first line to the stream
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


COMMANDS = pytest.mark.parametrize("args", [("watch",), ("logs", "-f"), ("history", "-f")], ids=" ".join)


@COMMANDS
def test_wait_when_interrupted(
    start: Callable[..., "subprocess.Popen[bytes]"], run_id: str, args: tuple[str, ...]
) -> None:
    """Ctrl-C ends a command that waits for a silent server's next event."""
    process = start(*args, run_id)

    began = time.monotonic()
    process.send_signal(signal.SIGINT)

    assert 130 == process.wait(30)
    assert time.monotonic() - began < AT_ONCE_S


@COMMANDS
def test_wait_when_the_run_ends(
    start: Callable[..., "subprocess.Popen[bytes]"], server: Server, run_id: str, args: tuple[str, ...]
) -> None:
    """The terminal event ends a command that follows the run."""
    process = start(*args, run_id)

    began = time.monotonic()
    with ledger.open(server.ledger_url) as log:
        log.complete(run_id)

    assert 0 == process.wait(30)
    assert time.monotonic() - began < AT_ONCE_S


@pytest.mark.parametrize("args", [("watch", "{run}"), ("enqueue", "test", "--wait")], ids=lambda args: args[0])
def test_wait_when_the_time_is_over(server: Server, run_id: str, tmp_path: Path, args: tuple[str, ...]) -> None:
    """A timeout is kept while nothing comes."""
    host, port = server.address
    given = [arg.format(run=run_id) for arg in args]

    began = time.monotonic()
    done = runfold(*given, "--timeout", "2s", "--remote", f"http://{host}:{port}", folder=tmp_path)

    assert 124 == done.code, done.err
    assert time.monotonic() - began < 2 + AT_ONCE_S


def test_list_when_there_is_no_server(tmp_path: Path) -> None:
    """Silence is explained after a second, once, while the server is looked for."""
    process = subprocess.Popen(
        [RUNFOLD, "list", "--remote", "http://127.0.0.1:9"],
        cwd=tmp_path,
        env=environment(tmp_path),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        said = process.stderr.readline()

        assert "runfold: http://127.0.0.1:9 is not reachable, trying for 30 s …\n" == said
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()
