"""Sentri's scenarios of storage and finalization, with its numbers; where it speaks of concurrency, with threads and
with processes on both databases."""

from collections import Counter
from typing import Any

import pytest
from racing import in_threads, race

import ledger
from ledger import ExclusiveKeyTaken, InvalidInput, Ledger
from projections import verify
from projections.systems.sentri import SentriRuns

APPENDER = """
import sys
import ledger
from projections.systems.sentri import SentriRuns

url, run_id, shard = sys.argv[1], sys.argv[2], int(sys.argv[3])
with ledger.open(url) as log:
    runs = SentriRuns(log)
    print("ready", flush=True)
    sys.stdin.readline()
    rows = [{"testId": f"T{shard}-{n}", "status": "passed", "_shardIndex": shard} for n in range(5)]
    print(sum(runs.append_run_results(run_id, [row]) for row in rows))
"""
FINISHER = """
import sys
import ledger
from projections.systems.sentri import SentriRuns

url, run_id, passed, failed, total = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
with ledger.open(url) as log:
    runs = SentriRuns(log)
    print("ready", flush=True)
    sys.stdin.readline()
    if passed or failed or total:
        assert 1 == runs.increment_run_stats(run_id, passed_delta=passed, failed_delta=failed, total_delta=total)
    print(*runs.increment_shards_completed(run_id))
"""


@pytest.fixture
def runs(log: Ledger) -> SentriRuns:
    return SentriRuns(log)


def a_run(runs: SentriRuns, **columns: Any) -> str:
    return runs.create({"projectId": "P1", "type": "test_run", **columns})


def a_row(test_id: str, status: str = "passed", shard: int | None = 0, **facts: Any) -> dict[str, Any]:
    stamp = {} if shard is None else {"_shardIndex": shard}
    return {"testId": test_id, "status": status, **stamp, **facts}


def row_of(runs: SentriRuns, run_id: str) -> dict[str, Any]:
    row = runs.get_by_id(run_id)
    assert row is not None
    return row


def figures(runs: SentriRuns, run_id: str) -> tuple[int, int, int]:
    row = row_of(runs, run_id)
    return row["passed"], row["failed"], row["total"]


def test_create_when_it_is_read(runs: SentriRuns) -> None:
    """A run begins running, with empty lists and zeros where nobody said otherwise."""
    row = row_of(runs, a_run(runs, browser="chromium", parallelWorkers=4, unknownColumn="ignored"))

    assert ("running", "test_run", "P1", "chromium", 4) == tuple(
        row[name] for name in ("status", "type", "projectId", "browser", "parallelWorkers")
    )
    assert ([], [], [], 0, 0, 0) == tuple(
        row[name] for name in ("tests", "results", "logs", "retryCount", "failedAfterRetry", "secretScanBlocked")
    )
    assert row["finishedAt"] is row["duration"] is row["testQueue"] is row["tracePaths"] is None
    assert "unknownColumn" not in row


def test_create_when_a_run_is_active(runs: SentriRuns) -> None:
    """A project has one active run, of whatever type: the second is refused and learns which one there is."""
    first = a_run(runs, type="record")

    with pytest.raises(ExclusiveKeyTaken) as refusal:
        a_run(runs)

    assert first == refusal.value.active_run_id
    runs.abort(first)
    assert "running" == row_of(runs, a_run(runs))["status"]
    assert "running" == row_of(runs, a_run(runs, projectId="P2"))["status"]


def test_append_when_results_are_empty(runs: SentriRuns) -> None:
    """One row appended to none is the one row."""
    run = a_run(runs)

    assert 1 == runs.append_run_results(run, [a_row("T0")])
    assert ["T0"] == [row["testId"] for row in row_of(runs, run)["results"]]


def test_append_when_there_are_results(runs: SentriRuns) -> None:
    """T1 and T2 come after T0, and the error of T2 is intact."""
    run = a_run(runs)
    runs.append_run_results(run, [a_row("T0")])

    assert 2 == runs.append_run_results(run, [a_row("T1"), a_row("T2", "failed", error="boom")])
    assert [("T0", None), ("T1", None), ("T2", "boom")] == [
        (row["testId"], row.get("error")) for row in row_of(runs, run)["results"]
    ]


@pytest.mark.parametrize("nothing", [[], None, "T1", {}])
def test_append_when_there_is_nothing(runs: SentriRuns, nothing: Any) -> None:
    """An empty list, or what is none, appends 0 and writes no event."""
    run = a_run(runs)
    before = runs._log.state(run).version

    assert 0 == runs.append_run_results(run, nothing)
    assert before == runs._log.state(run).version


def test_append_when_rows_of_shards_are_mixed(runs: SentriRuns) -> None:
    """Rows of several shards arrive in order; a shard that there is not, among them, lets none arrive."""
    run = a_run(runs, shardCount=2)
    mixed = [a_row("T0", shard=0), a_row("T1", "failed", shard=1), a_row("T2", shard=0)]

    with pytest.raises(InvalidInput):
        runs.append_run_results(run, [*mixed, a_row("T3", shard=2)])
    assert [] == row_of(runs, run)["results"]
    assert 3 == runs.append_run_results(run, mixed)
    assert mixed == row_of(runs, run)["results"]
    assert (2, 1, 3) == figures(runs, run)
    runs.abort(run)
    assert 0 == runs.append_run_results(run, mixed)


def test_append_when_a_row_has_no_status(runs: SentriRuns) -> None:
    """A row that says nothing is refused with its place, and nothing is written."""
    run = a_run(runs)

    with pytest.raises(InvalidInput, match=r"results\[1\]\.status"):
        runs.append_run_results(run, [a_row("T0"), {"testId": "T1"}])
    assert [] == row_of(runs, run)["results"]


def test_append_when_8_threads_append_5_rows(runs: SentriRuns) -> None:
    """Eight concurrent appenders of five rows leave 40, five a shard."""
    run = a_run(runs, shardCount=8)

    in_threads(8, lambda shard: [runs.append_run_results(run, [a_row(f"T{shard}-{n}", shard=shard)]) for n in range(5)])

    rows = row_of(runs, run)["results"]
    assert 40 == len(rows) == len({row["testId"] for row in rows})
    assert dict.fromkeys(range(8), 5) == Counter(row["_shardIndex"] for row in rows)


def test_append_when_8_processes_append_5_rows(shared_url: str) -> None:
    """The same from eight processes."""
    with ledger.open(shared_url, migrate=True) as log:
        runs = SentriRuns(log)
        run = a_run(runs, shardCount=8)

        assert ["5\n"] * 8 == race(APPENDER, [[shared_url, run, str(shard)] for shard in range(8)])

        rows = row_of(runs, run)["results"]
        assert 40 == len(rows) == len({row["testId"] for row in rows})
        assert dict.fromkeys(range(8), 5) == Counter(row["_shardIndex"] for row in rows)
        assert verify(log)


def test_counter_when_it_is_below_the_cap(runs: SentriRuns) -> None:
    """The counter goes from 0 to 1 of 4; of a run that is not cut, to 1 and no further; of an unknown one, nowhere."""
    run = a_run(runs, shardCount=4)
    uncut = a_run(runs, projectId="P2")

    assert (1, 1) == runs.increment_shards_completed(run)
    assert [(1, 1), (0, 1)] == [runs.increment_shards_completed(uncut) for _ in range(2)]
    assert (0, 0) == runs.increment_shards_completed("RUN-1")


def test_counter_when_it_is_at_the_cap(runs: SentriRuns) -> None:
    """A counter at 2 of 2 stays there."""
    run = a_run(runs, shardCount=2)
    runs.increment_shards_completed(run)
    runs.increment_shards_completed(run)

    assert [(0, 2), (0, 2)] == [runs.increment_shards_completed(run) for _ in range(2)]
    assert 2 == row_of(runs, run)["shardsCompleted"]


@pytest.mark.parametrize("callers", [4, 8])
def test_counter_when_threads_race_to_4(runs: SentriRuns, callers: int) -> None:
    """Four or eight concurrent calls on a cap of 4 leave 4, and four of them moved it, each to another value."""
    run = a_run(runs, shardCount=4)

    outcomes = in_threads(callers, lambda _: runs.increment_shards_completed(run))

    assert 4 == row_of(runs, run)["shardsCompleted"]
    assert [1, 2, 3, 4] == sorted(outcome.new_value for outcome in outcomes if outcome.advanced)


@pytest.mark.parametrize("callers", [4, 8])
def test_counter_when_processes_race_to_4(shared_url: str, callers: int) -> None:
    """The same from four or eight processes."""
    with ledger.open(shared_url, migrate=True) as log:
        runs = SentriRuns(log)
        run = a_run(runs, shardCount=4)

        printed = [line.split() for line in race(FINISHER, [[shared_url, run, "0", "0", "0"]] * callers)]

        assert 4 == row_of(runs, run)["shardsCompleted"]
        assert ["1", "2", "3", "4"] == sorted(value for advanced, value in printed if advanced == "1")


def test_counter_when_a_shard_is_named(runs: SentriRuns) -> None:
    """A shard that says which one it is counts once, however often it is delivered."""
    run = a_run(runs, shardCount=2)

    assert [(1, 1), (0, 1), (1, 2)] == [tuple(runs.increment_shards_completed(run, shard)) for shard in (0, 0, 1)]


def test_stats_when_a_delta_is_added(runs: SentriRuns) -> None:
    """7 passed and 3 failed of 10 make 7, 3 and 10."""
    run = a_run(runs, total=10)

    assert 1 == runs.increment_run_stats(run, passed_delta=7, failed_delta=3)
    assert (7, 3, 10) == figures(runs, run)


def test_stats_when_deltas_are_empty(runs: SentriRuns) -> None:
    """Deltas of nothing, and any for a run that there is not, are 0."""
    run = a_run(runs)

    assert [0, 0, 0] == [
        runs.increment_run_stats(run),
        runs.increment_run_stats("RUN-1", passed_delta=1),
        runs.increment_run_stats("0192f3a0-0000-7000-8000-00000000ffff", passed_delta=1),
    ]


def test_stats_when_four_shards_report(runs: SentriRuns) -> None:
    """Four deltas on 40 expected, one of which expanded by 4: 42 passed, 2 failed, 44 in all."""
    run = a_run(runs, shardCount=4, total=40)

    for passed, failed, total in ((10, 0, 0), (9, 1, 0), (13, 1, 4), (10, 0, 0)):
        runs.increment_run_stats(run, passed_delta=passed, failed_delta=failed, total_delta=total)

    assert (42, 2, 44) == figures(runs, run)


def test_stats_when_8_threads_report(runs: SentriRuns) -> None:
    """Eight concurrent deltas of 5, 2 and 7 add up to 40, 16 and 56."""
    run = a_run(runs, shardCount=8, total=0)

    in_threads(8, lambda _: runs.increment_run_stats(run, passed_delta=5, failed_delta=2, total_delta=7))

    assert (40, 16, 56) == figures(runs, run)


def test_stats_when_8_processes_report(shared_url: str) -> None:
    """The same from eight processes."""
    with ledger.open(shared_url, migrate=True) as log:
        runs = SentriRuns(log)
        run = a_run(runs, shardCount=8, total=0)

        race(FINISHER, [[shared_url, run, "5", "2", "7"]] * 8)

        assert (40, 16, 56) == figures(runs, run)


def test_finalizer_when_4_threads_complete(runs: SentriRuns) -> None:
    """Of four shards that report 10 each and complete at once, four advance and one finalizes."""
    run = a_run(runs, shardCount=4, total=40)

    def work(_: int) -> tuple[int, int]:
        runs.increment_run_stats(run, passed_delta=10)
        return runs.increment_shards_completed(run)

    outcomes = in_threads(4, work)

    assert 4 == sum(advanced for advanced, _ in outcomes)
    assert 1 == sum(advanced == 1 and value >= 4 for advanced, value in outcomes)
    assert (40, 0, 40, 4) == (*figures(runs, run), row_of(runs, run)["shardsCompleted"])


def test_finalizer_when_4_processes_complete(shared_url: str) -> None:
    """The same from four processes."""
    with ledger.open(shared_url, migrate=True) as log:
        runs = SentriRuns(log)
        run = a_run(runs, shardCount=4, total=40)

        printed = race(FINISHER, [[shared_url, run, "10", "0", "0"]] * 4)

        assert ["1 1\n", "1 2\n", "1 3\n", "1 4\n"] == sorted(printed)
        assert (40, 0, 40) == figures(runs, run)


def test_finalizer_when_6_complete_on_a_cap_of_4(runs: SentriRuns) -> None:
    """Six completions of four shards: four advance, one finalizes."""
    run = a_run(runs, shardCount=4)

    outcomes = in_threads(6, lambda _: runs.increment_shards_completed(run))

    assert 4 == sum(advanced for advanced, _ in outcomes)
    assert 1 == sum(advanced == 1 and value >= 4 for advanced, value in outcomes)


def test_finalizer_when_10_shards_interleave(runs: SentriRuns) -> None:
    """Ten shards of 3 passed and 1 failed, interleaved: counter 10, 30 passed, 10 failed."""
    run = a_run(runs, shardCount=10, total=40)

    def work(shard: int) -> tuple[int, int]:
        runs.append_run_results(run, [a_row(f"T{shard}-{n}", shard=shard) for n in range(3)])
        runs.increment_run_stats(run, passed_delta=3, failed_delta=1)
        return runs.increment_shards_completed(run)

    outcomes = in_threads(10, work)

    assert 1 == sum(advanced == 1 and value >= 10 for advanced, value in outcomes)
    assert (30, 10, 40, 10) == (*figures(runs, run), row_of(runs, run)["shardsCompleted"])
