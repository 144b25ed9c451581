"""`runfold history`, `logs` and `watch`: what happened, and what happens."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from command_line import RUNFOLD, environment, runfold, runfold_on_terminal

import ledger


@pytest.fixture
def log(tmp_path: Path) -> Iterator[ledger.Ledger]:
    with ledger.open(f"sqlite:///{tmp_path / '.runfold' / 'runs.db'}") as opened:
        yield opened


def a_running_run(log: ledger.Ledger, *, shard_count: int | None = None) -> str:
    run = log.enqueue("test", shard_count=shard_count).id
    log.start(run, worker="w1")
    return run


def begin(folder: Path, *args: str) -> "subprocess.Popen[str]":
    """Start a command that goes on."""
    return subprocess.Popen(
        [RUNFOLD, *args], cwd=folder, env=environment(folder), stdout=-1, stderr=-1, stdin=subprocess.DEVNULL, text=True
    )


def read_line(process: "subprocess.Popen[str]") -> list[str]:
    """Read the next row of a command that goes on: it must have been printed at once, not kept in a buffer."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n").split("\t")


def rest_of(process: "subprocess.Popen[str]") -> tuple[int, list[list[str]], str]:
    out, err = process.communicate(timeout=30)
    return process.returncode, [line.split("\t") for line in out.splitlines()], err


def column(rows: Sequence[Sequence[str]], number: int) -> list[str]:
    return [row[number] for row in rows]


# --- history ------------------------------------------------------------------------------------------------


def test_history_when_piped(tmp_path: Path, log: ledger.Ledger) -> None:
    """Piped, each event is a row: version, position, time, type, actor and id."""
    run = a_running_run(log)
    log.bind(actor="ada").complete(run)

    rows = runfold("history", run, folder=tmp_path).rows

    events = list(log.read(run))
    assert rows == [
        [str(e.version), str(e.position), e.envelope.recorded_at, e.type, e.actor or "", e.event_id] for e in events
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--reverse"], ["3", "2", "1"]),
        (["--after", "1"], ["2", "3"]),
        (["--type", "started"], ["2"]),
        (["--type", "started", "--type", "enqueued"], ["1", "2"]),
        (["--after", "9"], []),
    ],
)
def test_history_when_narrowed(tmp_path: Path, log: ledger.Ledger, options: list[str], expected: list[str]) -> None:
    """Order, beginning and types of a history can be chosen."""
    run = a_running_run(log)
    log.complete(run)

    done = runfold("history", run, *options, folder=tmp_path)

    assert (0, expected) == (done.code, column(done.rows, 0))


def test_history_when_data_is_wanted(tmp_path: Path, log: ledger.Ledger) -> None:
    """`--data` adds each event's data as JSON, and `--jsonl` has all of the event."""
    run = a_running_run(log)

    rows = runfold("history", run, "--data", folder=tmp_path).rows
    events = [json.loads(line) for line in runfold("history", run, "--jsonl", folder=tmp_path).out.splitlines()]

    assert "w1" == json.loads(rows[1][6])["worker"]
    assert ["enqueued", "started"] == [event["type"] for event in events]
    assert [event.event_id for event in log.read(run)] == [event["event_id"] for event in events]
    assert json.loads(rows[1][6]) == events[1]["data"]


@pytest.mark.parametrize("options", [["--type", "exploded"], ["--reverse", "--follow"], ["--after", "-1"]])
def test_history_when_options_make_no_sense(tmp_path: Path, log: ledger.Ledger, options: list[str]) -> None:
    """A type that no event has, and what excludes each other, are usage errors."""
    run = a_running_run(log)

    done = runfold("history", run, *options, folder=tmp_path)

    assert (2, "") == (done.code, done.out)


def test_history_when_followed(tmp_path: Path, log: ledger.Ledger) -> None:
    """`--follow` gives what is there, then what comes at once, and ends with the run."""
    run = a_running_run(log)
    process = begin(tmp_path, "history", run, "--follow")
    there = [read_line(process)[3] for _ in range(2)]

    log.enter_phase(run, "build")
    came = read_line(process)[3]
    log.complete(run)
    code, rest, err = rest_of(process)

    assert (["enqueued", "started"], "phase_entered") == (there, came)
    assert (0, ["completed"], "") == (code, column(rest, 3), err)


def test_history_when_on_a_terminal(tmp_path: Path, log: ledger.Ledger) -> None:
    """On a terminal bulk is counted, and no line is wider than the terminal."""
    run = a_running_run(log)
    log.append_results(run, [{"status": "passed", "testId": "x" * 500}] * 3 + [{"status": "failed"}])

    lines = runfold_on_terminal("history", run, folder=tmp_path, columns=80, env={"NO_COLOR": "1"}).out.splitlines()

    assert "3 passed, 1 failed" in lines[3]
    assert max(map(len, lines)) <= 80


# --- logs ---------------------------------------------------------------------------------------------------


def test_logs_when_the_run_has_shards(tmp_path: Path, log: ledger.Ledger) -> None:
    """Each line has its shard in front; a shard and a source can be chosen."""
    run = a_running_run(log, shard_count=2)
    log.append_log(run, ["zero"], shard=0)
    log.append_log(run, ["one", "two"], shard=1)
    log.append_log(run, ["bad"], shard=1, source="stderr")

    shown = [
        runfold("logs", run, *options, folder=tmp_path).out.splitlines()
        for options in ([], ["--shard", "1"], ["--source", "stderr"], ["--tail", "2"], ["--tail", "0"])
    ]

    assert ["[0] zero", "[1] one", "[1] two", "[1] bad"] == shown[0]
    assert ["one", "two", "bad"] == shown[1]
    assert ["[1] bad"] == shown[2]
    assert ["[1] two", "[1] bad"] == shown[3]
    assert [] == shown[4]


def test_logs_when_the_output_would_steer_a_terminal(tmp_path: Path, log: ledger.Ledger) -> None:
    """Escape sequences are left out and control characters shown; the JSON has the line as it was recorded."""
    run = a_running_run(log)
    line = "\x1b[31mred\x1b[0m \x1b]0;title\x07\ttab\rover\x9b2J \u202etxt"
    log.append_log(run, [line])

    shown = runfold("logs", run, folder=tmp_path).out
    document = json.loads(runfold("logs", run, "--jsonl", folder=tmp_path).out)

    assert "red     tab\\rover\\x9b2J \\u202etxt\n" == shown
    assert line == document["line"]


def test_logs_when_json_is_wanted(tmp_path: Path, log: ledger.Ledger) -> None:
    """The JSON of a line says where it comes from, and escapes what a terminal would obey."""
    run = a_running_run(log)
    log.append_log(run, ["a\x9b", "b"], source="stderr", level="warn")

    out = runfold("logs", run, "--json", folder=tmp_path).out

    assert "\x9b" not in out
    assert [("a\x9b", "stderr", "warn", 3), ("b", "stderr", "warn", 3)] == [
        (line["line"], line["source"], line["level"], line["version"]) for line in json.loads(out)
    ]


def test_logs_when_followed(tmp_path: Path, log: ledger.Ledger) -> None:
    """`-f` gives the last lines, then each line as it comes, none twice, and ends with the run."""
    run = a_running_run(log)
    log.append_log(run, ["one", "two", "three"])
    process = begin(tmp_path, "logs", run, "--tail", "2", "-f")
    there = [read_line(process) for _ in range(2)]

    log.append_log(run, ["four"])
    came = read_line(process)
    log.append_log(run, ["five"])
    log.complete(run)
    code, rest, _ = rest_of(process)

    assert ([["two"], ["three"]], ["four"]) == (there, came)
    assert (0, [["five"]]) == (code, rest)


def test_logs_when_the_run_does_not_exist(tmp_path: Path, log: ledger.Ledger) -> None:
    """A run that is not there is not found, rather than silent."""
    assert 3 == runfold("logs", "0199d1a2-0000-7000-8000-00000000000a", folder=tmp_path).code


# --- watch --------------------------------------------------------------------------------------------------


def test_watch_when_the_run_goes_on(tmp_path: Path, log: ledger.Ledger) -> None:
    """Watching tells a run as it is, then each change, and ends with it."""
    run = log.enqueue("test", shard_count=2).id
    process = begin(tmp_path, "watch", run)
    first = read_line(process)

    log.start(run, worker="w1")
    started = read_line(process)
    log.append_results(run, [{"status": "failed"}], shard=0)
    judged = read_line(process)
    log.append_results(run, [{"status": "failed"}], shard=0)  # no change worth a line
    log.complete_shard(run, 0)
    log.complete(run)
    code, rest, _ = rest_of(process)

    assert [run, "queued", "none", "", "0", "2", "0", "0", "0", "1"] == first
    assert ("running", "failed") == (started[1], judged[2])
    assert (0, ["running", "completed"]) == (code, column(rest, 1))
    assert ["1", "2"] == [rest[0][4], rest[1][7]]


def test_watch_when_runs_are_several(tmp_path: Path, log: ledger.Ledger) -> None:
    """Several runs are watched until the last of them has ended; those that had ended are told once."""
    ended, going = a_running_run(log), a_running_run(log)
    log.complete(ended)
    process = begin(tmp_path, "watch", ended, going, ended)
    first = [read_line(process)[:2] for _ in range(2)]

    log.fail(going, error="boom")
    code, rest, _ = rest_of(process)

    assert [[ended, "completed"], [going, "running"]] == first
    assert (0, [[going, "failed"]]) == (code, [row[:2] for row in rest])


@pytest.mark.parametrize(("results", "code"), [(["passed"], 0), ([], 0), (["failed"], 1)])
def test_watch_when_the_exit_status_is_wanted(
    tmp_path: Path, log: ledger.Ledger, results: list[str], code: int
) -> None:
    """With `--exit-status` a completed run is a success unless something in it failed."""
    run = a_running_run(log)
    log.append_results(run, [{"status": status} for status in results])
    log.complete(run)

    judged = runfold("watch", run, "--exit-status", folder=tmp_path)
    quiet = runfold("watch", run, "--exit-status", "--quiet", folder=tmp_path)
    unjudged = runfold("watch", run, folder=tmp_path)

    assert (code, code, 0) == (judged.code, quiet.code, unjudged.code)
    assert bool(code) == ("1 of 1 results failed" in judged.err)
    assert ("", "") == (quiet.out, quiet.err)


@pytest.mark.parametrize("end", ["fail", "abort"])
def test_watch_when_the_run_failed_or_was_aborted(tmp_path: Path, log: ledger.Ledger, end: str) -> None:
    """With `--exit-status` a run that failed or was aborted is no success, and the reason is told."""
    run = a_running_run(log)
    if end == "fail":
        log.fail(run, error="disk full")
    else:
        log.abort(run, reason="disk full")

    done = runfold("watch", run, "--exit-status", folder=tmp_path)

    assert 1 == done.code
    assert "disk full" in done.err


def test_watch_when_the_time_is_over(tmp_path: Path, log: ledger.Ledger) -> None:
    """A run that has not ended in time is told with its status, and the exit code is 124."""
    run = a_running_run(log)

    began = time.monotonic()
    done = runfold("watch", run, "--timeout", "500ms", folder=tmp_path)

    assert 124 == done.code
    assert f"{run}, which is running" in done.err
    assert 0.5 <= time.monotonic() - began < 20


def test_watch_when_json_is_wanted(tmp_path: Path, log: ledger.Ledger) -> None:
    """The JSON of a watch is the runs as they ended."""
    run = a_running_run(log)
    process = begin(tmp_path, "watch", run, "--json")
    time.sleep(1.0)
    log.complete(run)

    out, _ = process.communicate(timeout=30)

    assert [(run, "completed")] == [(each["run_id"], each["status"]) for each in json.loads(out)["runs"]]


def test_watch_when_on_a_terminal(tmp_path: Path, log: ledger.Ledger) -> None:
    """On a terminal a run has one line, drawn over, that says where it stands."""
    run = a_running_run(log, shard_count=2)
    log.append_results(run, [{"status": "passed"}], shard=0)
    log.complete(run)

    shown = runfold_on_terminal("watch", run, folder=tmp_path).out

    assert 1 == shown.count("\n")
    assert "✓ completed" in shown
    assert "1 passed  0 of 2 shards" in shown


def test_watch_when_interrupted(tmp_path: Path, log: ledger.Ledger) -> None:
    """The first Ctrl-C ends a watch at once, without a word, and leaves the run alone."""
    run = a_running_run(log)
    process = begin(tmp_path, "watch", run)
    read_line(process)

    os.kill(process.pid, signal.SIGINT)
    code, rest, err = rest_of(process)

    assert (130, [], "") == (code, rest, err)
    assert "running" == log.state(run).status


# --- enqueue --wait -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("end", "code"), [("complete", 0), ("fail", 1)])
def test_enqueue_when_it_waits(tmp_path: Path, log: ledger.Ledger, end: str, code: int) -> None:
    """`enqueue --wait` tells the run at once and ends with it, as it ended."""
    process = begin(tmp_path, "enqueue", "test", "--wait")
    run = read_line(process)[0]

    log.start(run, worker="w1")
    if end == "complete":
        log.complete(run)
    else:
        log.fail(run, error="boom")

    assert code == rest_of(process)[0]


def test_enqueue_when_it_waits_too_long(tmp_path: Path, log: ledger.Ledger) -> None:
    """`enqueue --wait --timeout` gives up with 124, and the run goes on."""
    done = runfold("enqueue", "test", "--wait", "--timeout", "300ms", folder=tmp_path)

    assert 124 == done.code
    assert "queued" == log.state(done.rows[0][0]).status


def test_watch_when_the_ledger_is_on_any_database(tmp_path: Path, shared_url: str) -> None:
    """A run is watched across processes on SQLite and PostgreSQL alike."""
    with ledger.open(shared_url, migrate=True) as log:
        run = a_running_run(log)
        process = begin(tmp_path, "watch", run, "--url", shared_url, "--exit-status")
        first = read_line(process)
        log.complete(run)
        code, rest, _ = rest_of(process)

    assert ("running", 0, ["completed"]) == (first[1], code, column(rest, 1))
