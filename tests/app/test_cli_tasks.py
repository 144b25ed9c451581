"""`runfold stuck`, `sweep`, `retry` and `enqueue --tests`, as a user types them."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import runfold, runfold_on_terminal

import ledger
from ledger.run.events import Enqueued


@pytest.fixture
def log(tmp_path: Path) -> Iterator[ledger.Ledger]:
    """The ledger that commands in `tmp_path` find by themselves."""
    with ledger.open(f"sqlite:///{tmp_path / '.runfold' / 'runs.db'}") as opened:
        yield opened


def plan(log: ledger.Ledger, run_id: str) -> list[list[str]]:
    first = next(log.read(run_id)).data
    assert isinstance(first, Enqueued)
    return first.plan


def test_stuck_when_a_worker_is_gone(tmp_path: Path, log: ledger.Ledger) -> None:
    """A lease that is over is told in a row, as JSON with what it waits for, and in words; a sweep settles it."""
    run = log.enqueue("test", attempts_max=2).id
    log.claim("dead", lease_s=0.1)
    time.sleep(0.15)

    piped = runfold("stuck", folder=tmp_path)
    as_json = json.loads(runfold("stuck", "--json", folder=tmp_path).out)
    shown = runfold_on_terminal("stuck", folder=tmp_path, columns=200)
    swept = runfold("sweep", folder=tmp_path)
    again = runfold("sweep", folder=tmp_path)

    assert [[run, "lease_over", "test", "", "", "dead"]] == [row[:6] for row in piped.rows]
    assert (run, "lease_over", "a sweep: any worker, or `runfold sweep`") == (
        as_json[0]["run_id"],
        as_json[0]["why"],
        as_json[0]["waits_for"],
    )
    assert "a sweep: any worker" in shown.out
    assert [[run, "", "dead", "interrupted,attempt_failed"]] == swept.rows
    assert (0, "") == (again.code, again.out)
    assert "queued" == log.state(run).status


def test_stuck_when_all_is_well(tmp_path: Path, log: ledger.Ledger) -> None:
    """What was just asked for is not stuck, until the user says how long is long."""
    run = log.enqueue("test").id

    assert (0, "") == runfold("stuck", folder=tmp_path)[:2]
    assert [[run, "unclaimed"]] == [row[:2] for row in runfold("stuck", "--older-than", "0s", folder=tmp_path).rows]


@pytest.mark.parametrize("command", ["stuck", "sweep", "retry"])
def test_tasks_when_there_is_no_ledger(tmp_path: Path, command: str) -> None:
    """Nothing is made where there is nothing."""
    done = runfold(command, *(["@last"] if command == "retry" else []), folder=tmp_path)

    assert 7 == done.code
    assert not (tmp_path / ".runfold").exists()


def test_retry_when_a_run_failed(tmp_path: Path, log: ledger.Ledger) -> None:
    """The whole of it, or one shard, becomes a new run that names the old one."""
    old = log.enqueue("test", shard_count=2, plan=[["a"], ["b"]]).id
    log.fail(old, error="boom")

    whole = runfold("retry", "@last-failed", folder=tmp_path).rows
    shard = runfold("retry", old, "--shard", "1", "--idempotency-key", "k", folder=tmp_path).rows
    again = runfold("retry", old, "--shard", "1", "--idempotency-key", "k", folder=tmp_path).rows

    assert ["enqueued", "enqueued", "existing"] == [rows[0][3] for rows in (whole, shard, again)]
    assert shard[0][0] == again[0][0]
    assert [old, old] == [log.state(rows[0][0]).retry_of for rows in (whole, shard)]
    assert ([["a"], ["b"]], [["b"]]) == (plan(log, whole[0][0]), plan(log, shard[0][0]))


def test_retry_when_it_cannot_be(tmp_path: Path, log: ledger.Ledger) -> None:
    """An active run is refused, and so is a shard that is not there, each in a line."""
    active, done = log.enqueue("test").id, log.enqueue("test", shard_count=2).id
    log.abort(done)

    refusals = [runfold("retry", *args, folder=tmp_path) for args in ([active], [done, "--shard", "2"], ["@nobody"])]

    assert [(5, 1), (2, 1), (2, 1)] == [(one.code, len(one.err.splitlines())) for one in refusals]


def test_enqueue_when_tests_are_planned(tmp_path: Path, log: ledger.Ledger) -> None:
    """Tests are cut into shards in their order; each counts once, and as many results are expected."""
    (tmp_path / "tests.txt").write_text("c\na\n\n  b  \na\nd\ne\n")

    cut = runfold("enqueue", "test", "--tests", "tests.txt", "--shards", "2", folder=tmp_path).rows[0][0]
    whole = runfold("enqueue", "test", "--tests", "-", "--total", "9", folder=tmp_path, stdin="x\ny").rows[0][0]

    assert ([["c", "a", "b"], ["d", "e"]], 5) == (plan(log, cut), log.state(cut).total)
    assert ([["x", "y"]], 9) == (plan(log, whole), log.state(whole).total)


def test_enqueue_when_shards_are_balanced(tmp_path: Path, log: ledger.Ledger) -> None:
    """Shards take equally long by what the newest runs took, of this kind and project; skips tell nothing."""
    for number, slow in enumerate(("a", "d")):
        run = log.enqueue("test", project="web", worker="w").id
        took = {test_id: 1_000 if test_id == slow else 10 for test_id in "abcd"}
        took |= {"b": 99_999} if number else {}
        log.append_results(
            run,
            [
                {"testId": test_id, "status": "skipped" if ms > 9_000 else "passed", "durationMs": ms}
                for test_id, ms in took.items()
            ],
        )
        log.complete(run)
    other = log.enqueue("test", project="other", worker="w").id
    log.append_results(other, [{"testId": "c", "status": "passed", "durationMs": 1e6}])
    log.complete(other)
    (tmp_path / "tests.txt").write_text("a\nb\nc\nd\n")
    command = ["enqueue", "test", "--tests", "tests.txt", "--shards", "2", "--balance", "--idempotency-key", "k"]

    first = runfold(*command, "--project", "web", folder=tmp_path)
    newer = log.enqueue("test", project="web", worker="w").id
    log.append_results(newer, [{"testId": "b", "status": "passed", "durationMs": 5_000}])
    log.complete(newer)
    again = runfold(*command, "--project", "web", folder=tmp_path)
    later = runfold(*command[:-2], "--project", "web", folder=tmp_path)

    assert [["a", "b", "c"], ["d"]] == sorted(plan(log, first.rows[0][0]))
    assert [[*first.rows[0][:3], "existing"]] == again.rows
    assert [["a", "c", "d"], ["b"]] == sorted(plan(log, later.rows[0][0]))


@pytest.mark.parametrize(
    ("args", "stdin"),
    [
        (["--balance"], ""),
        (["--tests", "missing.txt"], ""),
        (["--tests", "-"], "\n \n"),
        (["--tests", "-", "--input", "-"], "a"),
        (["--tests", "-", "--shards", "0"], "a"),
    ],
)
def test_enqueue_when_tests_make_no_sense(tmp_path: Path, args: list[str], stdin: str) -> None:
    """What cannot be planned is a usage error in one line, and no ledger is made."""
    done = runfold("enqueue", "test", *args, folder=tmp_path, stdin=stdin)

    assert (2, "", 1) == (done.code, done.out, len(done.err.splitlines()))
    assert not (tmp_path / ".runfold").exists()
