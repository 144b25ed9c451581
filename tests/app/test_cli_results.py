"""`runfold tests`, `compare`, `timings` and `show --results`, as a user types them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import runfold, runfold_on_terminal

import ledger


@pytest.fixture
def log(tmp_path: Path) -> Iterator[ledger.Ledger]:
    """The ledger that commands in `tmp_path` find by themselves."""
    with ledger.open(f"sqlite:///{tmp_path / '.runfold' / 'runs.db'}") as opened:
        yield opened


def record(log: ledger.Ledger, *, project: str | None = "web", **statuses: str) -> str:
    run = log.enqueue("test", project=project, shard_count=1)
    log.start(run.id, worker="w1")
    results: list[dict[str, Any]] = [
        {"testId": test_id, "status": status, "durationMs": 10.5 * number}
        for number, (test_id, status) in enumerate(statuses.items(), 1)
    ]
    log.append_results(run.id, results, shard=0)
    log.complete_shard(run.id, 0)
    log.complete(run.id)
    return run.id


def test_tests_when_ranked(tmp_path: Path, log: ledger.Ledger) -> None:
    """Each ranking prints whole rows when piped; --json has every field."""
    record(log, a="passed", b="failed")
    last = record(log, a="failed", b="failed")

    flaky = runfold("tests", "--project", "web", folder=tmp_path)
    failing = runfold("tests", "--failing", "--project", "web", folder=tmp_path)
    slowest = runfold("tests", "--slowest", "--project", "web", "-L", "1", "--json", folder=tmp_path)
    none = runfold("tests", folder=tmp_path)

    assert [["a", "0.5", "2", "1", "1", "10.5", "10.5", "failed", last]] == [row[:-1] for row in flaky.rows]
    assert [["b", "2"], ["a", "1"]] == [[row[0], row[4]] for row in failing.rows]
    (slow,) = json.loads(slowest.out)
    assert ("b", 21.0, 0.0, last) == (slow["test_id"], slow["duration_ms"], slow["flaky_score"], slow["last_run_id"])
    assert (0, []) == (none.code, none.rows)


def test_tests_when_one_is_named(tmp_path: Path, log: ledger.Ledger) -> None:
    """The newest results of exactly that test are told, the newest first."""
    first = record(log, a="passed")
    second = record(log, a="failed")
    record(log, a1="failed", A="failed")

    told = runfold("tests", "a", folder=tmp_path)
    limited = runfold("tests", "a", "-L", "1", "--json", "run_id,status,data", folder=tmp_path)

    assert [[second, "failed"], [first, "passed"]] == [row[:2] for row in told.rows]
    assert [
        {"run_id": second, "status": "failed", "data": {"testId": "a", "status": "failed", "durationMs": 10.5}}
    ] == json.loads(limited.out)


@pytest.mark.parametrize("option", [("--runs", "0"), ("--runs", "1001"), ("-L", "0"), ("--since", "tomorrowish")])
def test_tests_when_an_option_is_none(tmp_path: Path, log: ledger.Ledger, option: tuple[str, str]) -> None:
    """What cannot be asked is a mistake of usage."""
    record(log, a="passed")

    done = runfold("tests", *option, folder=tmp_path)

    assert 2 == done.code
    assert option[0] in done.err


def test_compare_when_piped_and_as_json(tmp_path: Path, log: ledger.Ledger) -> None:
    """Each change is a line; unchanged tests are told when asked for, and in JSON."""
    older = record(log, T1="failed", T2="passed", T4="passed")
    newer = record(log, T1="passed", T2="passed", T3="passed")

    changes = runfold("compare", older, newer, folder=tmp_path).rows
    everything = runfold("compare", older, "@last", "--unchanged", folder=tmp_path).rows
    document = json.loads(runfold("compare", older, newer, "--json", folder=tmp_path).out)

    assert [["flipped", "T1"], ["added", "T3"], ["removed", "T4"]] == changes
    assert [*changes, ["unchanged", "T2"]] == everything
    assert {
        "older": older, "newer": newer, "total": 4,
        "flipped": ["T1"], "added": ["T3"], "removed": ["T4"], "unchanged": ["T2"],
    } == document  # fmt: skip


def test_compare_when_a_run_is_unknown(tmp_path: Path, log: ledger.Ledger) -> None:
    """A run that is not there is an error with its own code."""
    run = record(log, a="passed")

    assert 3 == runfold("compare", run, "ffffffff", folder=tmp_path).code


def test_timings_when_piped_and_as_json(tmp_path: Path, log: ledger.Ledger) -> None:
    """Attempts, phases and shards are told in one table, and as lists in JSON."""
    run = log.enqueue("test", shard_count=2)
    log.start(run.id, worker="w1")
    log.enter_phase(run.id, "first")
    log.complete_shard(run.id, 1)
    log.complete(run.id)

    rows = runfold("timings", "@last", folder=tmp_path).rows
    document = json.loads(runfold("timings", run.id, "--json", folder=tmp_path).out)

    assert [["attempt", "1", "1", "w1"], ["phase", "first", "1", ""], ["shard", "1", "1", ""]] == [
        row[:4] for row in rows
    ]
    assert all(row[5].isdigit() and row[7].endswith("Z") for row in rows)
    assert (run.id, "w1", "first", 1) == (
        document["run_id"],
        document["attempts"][0]["worker"],
        document["phases"][0]["phase"],
        document["shards"][0]["shard"],
    )


def test_show_when_results_are_asked_for(tmp_path: Path, log: ledger.Ledger) -> None:
    """Results are told when they are asked for and only then; as of another time they cannot be."""
    run = record(log, a="passed", b="failed")

    piped = runfold("show", run, "--results", folder=tmp_path).rows
    document = json.loads(runfold("show", run, "--results", "--json", folder=tmp_path).out)
    named = json.loads(runfold("show", run, "--json", "results", folder=tmp_path).out)
    without = json.loads(runfold("show", run, "--json", folder=tmp_path).out)
    at = runfold("show", run, "--results", "--at", "2", folder=tmp_path)

    assert [["result", "a", "passed", "10.5", "0", ""], ["result", "b", "failed", "21.0", "0", ""]] == piped[-2:]
    assert ["a", "b"] == [result["test_id"] for result in document["results"]]
    assert {"results": document["results"]} == named
    assert "results" not in without
    assert (2, True) == (at.code, "--at" in at.err)


def test_tests_when_an_id_holds_what_steers_a_terminal(tmp_path: Path, log: ledger.Ledger) -> None:
    """A test's id cannot steer the terminal that it is shown on."""
    run = record(log, **{"evil\x1b[2J\rname": "failed"})

    for command in (["tests", "--failing", "--project", "web"], ["show", run, "--results"]):
        shown = runfold_on_terminal(*command, "--color", "never", folder=tmp_path).out
        assert "\x1b[2J" not in shown
        assert "evil" in shown
