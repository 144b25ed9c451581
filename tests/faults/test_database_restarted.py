"""PostgreSQL is restarted under the command line: nothing that commands said is lost, and readers go on."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import RUNFOLD, environment
from postgres_server import PostgresServer, running_server

import ledger

LINES = 20
SLOW = f"for i in $(seq {LINES}); do echo line $i; sleep 0.5; done"


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A server of the test's own, so that stopping it disturbs no other."""
    with running_server() as server:
        if not server.is_ours:
            pytest.skip("the server that RUNFOLD_TEST_POSTGRES names cannot be stopped by a test")
        yield server


def start(folder: Path, url: str, *args: str) -> "subprocess.Popen[str]":
    """Start a command with its output piped."""
    return subprocess.Popen(
        [RUNFOLD, *args],
        cwd=folder,
        env=environment(folder, RUNFOLD_URL=url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until_it_spoke(log: ledger.Ledger, run_id: str) -> None:
    deadline = time.monotonic() + 30
    while log.state(run_id).log_line_count < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def recorded_lines(log: ledger.Ledger, run_id: str) -> list[str]:
    return [line for event in log.read(run_id) if event.type == "log_appended" for line in event.data.lines]


@pytest.mark.parametrize(("mode", "down_s"), [("fast", 2.0), ("immediate", 4.0)])
def test_worker_and_readers_when_postgres_is_restarted(
    own_server: PostgresServer, tmp_path: Path, mode: str, down_s: float
) -> None:
    """Every line of a worker's command is in the log once; who follows the run sees each event once, to its end."""
    url = own_server.create_database()
    with ledger.open(url, migrate=True) as log:
        run_id = log.enqueue("slow").id
        worker = start(tmp_path, url, "worker", "--kind", "slow", "--until-idle", "--", "sh", "-c", SLOW)
        until_it_spoke(log, run_id)
        watch = start(tmp_path, url, "watch", run_id, "--exit-status")
        history = start(tmp_path, url, "history", run_id, "--follow")
        logs = start(tmp_path, url, "logs", run_id, "--follow")
        first = {process: os.read(process.stdout.fileno(), 65_536) for process in (watch, history, logs)}

        own_server.restart(mode, down_s=down_s)

        ended = {process: process.communicate(timeout=60) for process in (worker, watch, history, logs)}
    said = {process: (first.get(process, b"").decode() + out, err) for process, (out, err) in ended.items()}
    expected = [f"line {number}" for number in range(1, LINES + 1)]
    with ledger.open(url) as log:
        assert expected == recorded_lines(log, run_id)
        versions = [str(event.version) for event in log.read(run_id)]
    assert [0, 0, 0, 0] == [process.returncode for process in ended], [err for _, err in ended.values()]
    assert expected == said[logs][0].splitlines()
    assert versions == [line.split("\t")[0] for line in said[history][0].splitlines()]
    assert [run_id, "completed"] == said[watch][0].splitlines()[-1].split("\t")[:2]
    for _, err in said.values():
        assert "discarding" not in err
        assert "_Connection" not in err


def test_exec_when_postgres_is_restarted(own_server: PostgresServer, tmp_path: Path) -> None:
    """Every line is in the log once, and the user is not told of a defect."""
    url = own_server.create_database()
    ledger.open(url, migrate=True).close()
    execution = start(tmp_path, url, "exec", "slow", "--idempotency-key", "k", "--", "sh", "-c", SLOW)
    with ledger.open(url) as log:
        while (found := log.find_by_idempotency_key("k")) is None:
            assert execution.poll() is None
            time.sleep(0.1)
        run_id = found if isinstance(found, str) else found.id
        until_it_spoke(log, run_id)

        own_server.restart("immediate", down_s=6.0)

        _, said = execution.communicate(timeout=60)
    with ledger.open(url) as log:
        assert [f"line {number}" for number in range(1, LINES + 1)] == recorded_lines(log, run_id)
    assert 0 == execution.returncode, said
    assert "resolve()" not in said
    assert "discarding" not in said
