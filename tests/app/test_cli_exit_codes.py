"""Each exit code of docs/reference/exit-codes.md, from a command that really ends with it.

1 and 124 (a run that is waited for), 3, 5 and 8 in all their forms stand with their commands.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import RUNFOLD, Done, environment, runfold

import ledger
from cli.main import _COMMANDS, _Entry, main


@pytest.fixture
def log(tmp_path: Path) -> Iterator[ledger.Ledger]:
    with ledger.open(f"sqlite:///{tmp_path / '.runfold' / 'runs.db'}") as opened:
        yield opened


def failed(done: Done) -> tuple[int, str, int]:
    """Give an error's code, its first word, and how many lines it has."""
    return done.code, done.err.partition(" ")[0], len(done.err.splitlines())


def test_exit_code_when_all_is_well(tmp_path: Path, log: ledger.Ledger) -> None:
    """A command that did what it was told exits with 0 and is silent on stderr."""
    log.enqueue("test")

    done = runfold("list", folder=tmp_path)

    assert (0, "") == (done.code, done.err)


def test_exit_code_when_the_run_did_not_succeed(tmp_path: Path, log: ledger.Ledger) -> None:
    """A watched run that failed is 1."""
    log.fail(log.enqueue("test").id, error="boom")

    assert (1, "error:", 1) == failed(runfold("watch", "@last", "--exit-status", folder=tmp_path))


@pytest.mark.parametrize("args", [["list", "--limit", "none"], ["list", "extra"], ["show"], ["list", "--nope"]])
def test_exit_code_when_the_command_is_wrong(tmp_path: Path, args: list[str]) -> None:
    """A command line that cannot be understood is 2, in one line that says where help is."""
    done = runfold(*args, folder=tmp_path)

    assert (2, "error:", 1) == failed(done)
    assert f"See `runfold {args[0]} --help`." in done.err


@pytest.mark.parametrize(
    "args",
    [
        ["enqueue", "x" * 201],
        ["enqueue", "test", "--input", '{"password": "hunter2-hunter2-hunter2"}'],
        ["enqueue", "test", "--priority", "1000001"],
        ["list", "--page-token", "nonsense"],
        ["enqueue", "test", "--delay", "999999w"],
        ["daemon", "--callback-timeout", "61m"],
        ["serve", "--port", "0", "--tls-key", "notes.txt"],
        ["serve", "--port", "0", "--tls-certificate", "notes.txt"],
    ],
)
def test_exit_code_when_a_value_cannot_be_stored(tmp_path: Path, log: ledger.Ledger, args: list[str]) -> None:
    """A value that the ledger or the command refuses is 2, and nothing is written."""
    (tmp_path / "notes.txt").write_text("no certificate")

    assert (2, "error:", 1) == failed(runfold(*args, folder=tmp_path))
    assert [] == list(log.read_all())


def test_exit_code_when_the_run_is_unknown(tmp_path: Path, log: ledger.Ledger) -> None:
    """A run that is not there is 3."""
    done = runfold("history", "0199d1a2-0000-7000-8000-00000000000a", folder=tmp_path)

    assert (3, "error:", 1) == failed(done)


def test_exit_code_when_another_was_first(tmp_path: Path, log: ledger.Ledger) -> None:
    """What another writer won is 5."""
    log.abort(log.enqueue("test").id)

    assert (5, "error:", 1) == failed(runfold("abort", "@last", folder=tmp_path))


def test_exit_code_when_the_idempotency_key_means_something_else(tmp_path: Path) -> None:
    """The same key with other facts is 6, and names the run that has it."""
    run = runfold("enqueue", "test", "--idempotency-key", "k", folder=tmp_path).rows[0][0]

    done = runfold("enqueue", "deploy", "--idempotency-key", "k", folder=tmp_path)

    assert (6, "error:", 1) == failed(done)
    assert run in done.err


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///missing/runs.db",
        "sqlite:///notes.txt",
        "sqlite:///other.db",
        "postgresql://nobody@127.0.0.1:1/none",
    ],
)
def test_exit_code_when_the_store_cannot_be_used(tmp_path: Path, url: str) -> None:
    """A ledger that is missing, is no database, is that of something else or out of reach is 7."""
    (tmp_path / "notes.txt").write_text("no database\n" * 100)
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE other (id INTEGER)")
    other.commit()
    other.close()

    assert (7, "error:", 1) == failed(runfold("list", "--url", url, folder=tmp_path))


def test_exit_code_when_the_driver_is_not_installed(tmp_path: Path) -> None:
    """PostgreSQL without its driver is 7, and says what to install."""
    script = "import sys; sys.modules['psycopg'] = None; from cli.main import main; sys.exit(main(sys.argv[1:]))"

    done = subprocess.run(
        [sys.executable, "-c", script, "list", "--url", "postgresql://h/d"],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert 7 == done.returncode
    assert "pip install 'runfold[postgres]'" in done.stderr


def test_exit_code_when_a_check_finds_a_difference(tmp_path: Path, log: ledger.Ledger) -> None:
    """A projection that is not what the log says is 8."""
    log.enqueue("test")
    runfold("list", folder=tmp_path)
    connection = sqlite3.connect(tmp_path / ".runfold" / "runs.db")
    with connection:
        connection.execute("DELETE FROM runs")
    connection.close()

    assert (8, "error:", 1) == failed(runfold("projection", "verify", folder=tmp_path))


def test_exit_code_when_the_time_is_over(tmp_path: Path, log: ledger.Ledger) -> None:
    """Waiting for too long is 124."""
    log.enqueue("test")

    assert (124, "error:", 1) == failed(runfold("watch", "@last", "--timeout", "200ms", folder=tmp_path))


def test_exit_code_when_interrupted(tmp_path: Path, log: ledger.Ledger) -> None:
    """The first Ctrl-C is 130, without a traceback."""
    run = log.enqueue("test").id
    process = subprocess.Popen(
        [RUNFOLD, "history", run, "--follow"], cwd=tmp_path, env=environment(tmp_path), stdout=-1, stderr=-1, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()

    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)

    assert (130, "") == (process.returncode, err)


@pytest.mark.parametrize("args", ["list --all", "list --all --json", "list --all --jsonl", "list --help"])
def test_exit_code_when_nobody_reads_any_more(tmp_path: Path, log: ledger.Ledger, args: str) -> None:
    """A pipe that was closed ends a command silently, with 141, as it ends every other program."""
    for _ in range(300):
        log.enqueue("test", labels={"l": "x" * 200})

    done = subprocess.run(
        ["bash", "-c", f"({RUNFOLD} {args}; echo $? >&2) | true"],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert "141\n" == done.stderr


def test_exit_code_when_one_reads_the_head(tmp_path: Path, log: ledger.Ledger) -> None:
    """`runfold list | head` gives its lines and is silent."""
    for _ in range(300):
        log.enqueue("test", labels={"l": "x" * 200})

    done = subprocess.run(
        ["bash", "-c", f"{RUNFOLD} list --all | head -n 2"],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (0, 2, "") == (done.returncode, len(done.stdout.splitlines()), done.stderr)


def test_exit_code_when_nobody_foresaw_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A defect is 70, with its traceback, and never looks like a run's outcome."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(_COMMANDS, "broken", _Entry("Other", "cli.commands.db:missing", "A command with a defect."))

    code = main(["broken"])

    err = capsys.readouterr().err
    assert 70 == code
    assert "Traceback" in err
    assert "error: module 'cli.commands.db' has no attribute 'missing'" in err


def test_exit_code_when_the_output_cannot_be_written(tmp_path: Path, log: ledger.Ledger) -> None:
    """A full disk behind a redirection is told in one line, without a traceback."""
    log.enqueue("test")

    done = subprocess.run(
        ["bash", "-c", f"{RUNFOLD} list >/dev/full"],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (70, 1) == (done.returncode, len(done.stderr.splitlines()))
    assert "No space left on device" in done.stderr


def test_exit_code_when_the_working_directory_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A process whose folder was taken away is told so."""
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()

    assert 2 == main(["list"])
    assert "working directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "code", "kind"),
    [
        (["show", "@last", "--json"], 3, "no-such-run"),
        (["show", "--json"], 2, "missing-parameter"),
        (["list", "--jsonl", "--at", "then"], 2, "bad-parameter"),
        (["history", "0199d1a2-0000-7000-8000-00000000000a", "--json=version"], 3, "run-not-found"),
        (["enqueue", "x" * 201, "--json"], 2, "invalid-input"),
    ],
)
def test_problem_when_json_is_asked_for(
    tmp_path: Path, log: ledger.Ledger, args: list[str], code: int, kind: str
) -> None:
    """Under `--json` an error is one problem object on stderr, mistakes in the command line included."""
    done = runfold(*args, folder=tmp_path)

    problem = json.loads(done.err)
    assert code == done.code == problem["exit_code"]
    assert f"urn:runfold:problem:{kind}" == problem["type"]
    assert problem["detail"]
    assert "" == done.out


def test_error_when_it_repeats_what_a_run_says(tmp_path: Path, log: ledger.Ledger) -> None:
    """What a run says cannot steer the terminal of whoever reads the error, nor break its line."""
    log.fail(log.enqueue("test").id, error="\x1b[2Jgone\nsecond")

    done = runfold("watch", "@last", "--exit-status", folder=tmp_path)

    assert (1, "error:", 1) == failed(done)
    assert "\x1b" not in done.err


def test_history_when_it_is_long_and_interrupted_at_once(tmp_path: Path, log: ledger.Ledger) -> None:
    """Ctrl-C while a long history is printed ends it as it ends any other command."""
    run = log.enqueue("test").id
    for _ in range(20):
        log.append_results(run, [{"status": "passed"}] * 5_000)
    process = subprocess.Popen(
        [RUNFOLD, "history", run, "--jsonl"], cwd=tmp_path, env=environment(tmp_path), stdout=-1, stderr=-1, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()  # it stands now, since nobody reads on

    time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)

    assert (130, "") == (process.returncode, err)
