"""`runfold consumer run`: a command for each event, whoever is killed."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import RUNFOLD, environment, runfold
from http_server import new_token, serving

import ledger

ENDS = ("--type=completed", "--type=failed", "--type=aborted")
NOTES = (
    "import json, os, sys; e = json.load(sys.stdin); print(e['id'], os.environ['RUNFOLD_RUN_ID'], file=open('n', 'a'))"
)


def ended_runs(url: str, count: int) -> list[str]:
    """End some runs, and give the ids of the events that did."""
    with ledger.open(url) as log:
        runs = [log.enqueue("test", project="web").id for _ in range(count)]
        return [log.abort(run).winner.event_id for run in runs]


def started(url: str, folder: Path, *args: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [RUNFOLD, "consumer", "run", "notes", "--url", url, *ENDS, *args], cwd=folder, env=environment(folder)
    )


def until(is_so: Callable[[], bool], *, timeout_s: float = 30) -> None:
    give_up_at = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < give_up_at
        time.sleep(0.02)


def noted(folder: Path) -> list[str]:
    file = folder / "n"
    return [line.split()[0] for line in file.read_text().splitlines()] if file.exists() else []


def test_run_when_there_is_no_command(shared_url: str, tmp_path: Path) -> None:
    """A command that is not there is told before a consumer is made."""
    done = runfold("consumer", "run", "c", "--url", shared_url, "--type=failed", "--", "nosuchcmd", folder=tmp_path)

    assert 127 == done.code
    assert "the command 'nosuchcmd' was not found" in done.err
    with ledger.open(shared_url) as log:
        assert [] == log.consumers()


def test_run_when_the_type_is_none(shared_url: str, tmp_path: Path) -> None:
    """A consumer of events that are never written is refused with the types that there are."""
    done = runfold("consumer", "run", "c", "--url", shared_url, "--type=bogus", "--", "true", folder=tmp_path)

    assert 2 == done.code
    assert "'bogus'" in done.err
    assert "shard_result_appended" in done.err
    with ledger.open(shared_url) as log:
        assert [] == log.consumers()


def test_run_when_all_goes_well(shared_url: str, tmp_path: Path) -> None:
    """Each event that is wanted comes once and in order; the next start goes on where the first ended."""
    first = ended_runs(shared_url, 5)
    args = ("consumer", "run", "notes", "--url", shared_url, *ENDS, "--until-end", "--", sys.executable, "-c", NOTES)

    codes = [runfold(*args, folder=tmp_path).code]
    codes.append(runfold(*args, folder=tmp_path).code)
    second = ended_runs(shared_url, 2)
    codes.append(runfold(*args, folder=tmp_path).code)

    assert [0, 0, 0] == codes
    assert [*first, *second] == noted(tmp_path)


def test_run_when_the_ledger_is_behind_a_server(shared_url: str, tmp_path: Path) -> None:
    """The same over HTTP; the command gets the event as a CloudEvent and what it is about in its environment."""
    (event_id,) = ended_runs(shared_url, 1)
    token = new_token(shared_url, tmp_path, "--scope", "runs:read", "--scope", "events:read", name="reader")
    with serving(shared_url, tmp_path, "--auth") as server:
        host, port = server.address
        env = {"RUNFOLD_URL": f"http://{host}:{port}", "RUNFOLD_TOKEN": token}
        done = runfold(
            "consumer", "run", "audit", *ENDS, "--until-end", "--", "tee", "-a", "said", folder=tmp_path, env=env
        )

    assert 0 == done.code, done.err
    (said,) = [json.loads(line) for line in (tmp_path / "said").read_text().splitlines()]
    assert (event_id, "io.runfold.run.aborted.v1", "/ledger/web") == (said["id"], said["type"], said["source"])


def test_run_when_the_command_fails(shared_url: str, tmp_path: Path) -> None:
    """What fails is tried again before anything that follows; after so many attempts it is passed over."""
    first, second = ended_runs(shared_url, 2)
    fails = NOTES + f"; sys.exit(e['id'] == {first!r})"

    done = runfold(
        "consumer", "run", "notes", "--url", shared_url, *ENDS, "--until-end", "--attempts-max=2", "--",
        sys.executable, "-c", fails, folder=tmp_path,
    )  # fmt: skip

    assert 0 == done.code
    assert [first, first, second] == noted(tmp_path)
    assert "passed over" in done.err


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_run_when_it_is_ended_in_the_middle(how: signal.Signals, shared_url: str, tmp_path: Path) -> None:
    """The event that was being done comes again with its id: at once when it could be given back, else by its lease."""
    ended = ended_runs(shared_url, 3)
    slow = NOTES + "\nimport time\nwhile not os.path.exists('go'): time.sleep(0.05)"
    process = started(shared_url, tmp_path, "--lease=2s", "--grace=1s", "--", sys.executable, "-c", slow)
    until(lambda: len(noted(tmp_path)) == 1)

    process.send_signal(how)
    assert (0 if how is signal.SIGTERM else -how) == process.wait(30)
    (tmp_path / "go").touch()
    other = started(shared_url, tmp_path, "--", sys.executable, "-c", slow)
    until(lambda: len(noted(tmp_path)) == 4)
    other.terminate()

    assert 0 == other.wait(30)
    assert [ended[0], *ended] == noted(tmp_path)
