"""Sentri's scenarios of how a run ends: first writer wins; and of saving a run as what differs from what is there."""

from datetime import UTC, datetime
from typing import Any

import pytest
from racing import in_threads, race

import ledger
from ledger import InvalidInput, Ledger, RunNotFound
from projections.systems.sentri import SentriRuns

UNKNOWN = "0192f3a0-0000-7000-8000-00000000ffff"
FAILER = """
import sys
import ledger
from projections.systems.sentri import SentriRuns

with ledger.open(sys.argv[1]) as log:
    runs = SentriRuns(log)
    print("ready", flush=True)
    sys.stdin.readline()
    print(runs.mark_run_failed_first_writer_wins(sys.argv[2], error=f"shard {sys.argv[3]} crashed"))
"""


@pytest.fixture
def runs(log: Ledger) -> SentriRuns:
    return SentriRuns(log)


def a_run(runs: SentriRuns, **columns: Any) -> str:
    return runs.create({"projectId": "P1", "type": "test_run", **columns})


def row_of(runs: SentriRuns, run_id: str) -> dict[str, Any]:
    row = runs.get_by_id(run_id)
    assert row is not None
    return row


def test_fail_when_first_and_second(runs: SentriRuns) -> None:
    """The first failure is kept with its category and time; the second changes nothing."""
    run = a_run(runs)

    assert runs.mark_run_failed_first_writer_wins(run, error="browser died", error_category="crash")
    before = row_of(runs, run)
    assert not runs.mark_run_failed_first_writer_wins(run, error="later", error_category="timeout")

    assert ("failed", "browser died", "crash") == (before["status"], before["error"], before["errorCategory"])
    assert before["finishedAt"] is not None
    assert before == row_of(runs, run)


def test_fail_when_nothing_is_said(runs: SentriRuns) -> None:
    """The error is `Shard failed` and its category `unknown`."""
    run = a_run(runs)

    assert runs.mark_run_failed_first_writer_wins(run)
    assert ("Shard failed", "unknown") == (row_of(runs, run)["error"], row_of(runs, run)["errorCategory"])


def test_fail_when_2_of_4_shards_are_done(runs: SentriRuns) -> None:
    """A failed run keeps how far it came: 2 of 4."""
    run = a_run(runs, shardCount=4)
    runs.increment_shards_completed(run)
    runs.increment_shards_completed(run)

    assert runs.mark_run_failed_first_writer_wins(run, error="boom")
    assert (0, 2) == runs.increment_shards_completed(run)
    row = row_of(runs, run)
    assert ("failed", 2, 4) == (row["status"], row["shardsCompleted"], row["shardCount"])


def test_fail_when_4_threads_race(runs: SentriRuns) -> None:
    """Of four concurrent failures one is true, and its whole text is kept."""
    run = a_run(runs, shardCount=4)
    texts = [f"shard {number} crashed " + str(number) * 500 for number in range(4)]

    won = in_threads(4, lambda number: runs.mark_run_failed_first_writer_wins(run, error=texts[number]))

    assert [True] == [outcome for outcome in won if outcome]
    assert texts[won.index(True)] == row_of(runs, run)["error"]


def test_fail_when_4_processes_race(shared_url: str) -> None:
    """The same from four processes."""
    with ledger.open(shared_url, migrate=True) as log:
        runs = SentriRuns(log)
        run = a_run(runs, shardCount=4)

        printed = race(FAILER, [[shared_url, run, str(number)] for number in range(4)])

        assert 1 == printed.count("True\n")
        assert f"shard {printed.index('True' + chr(10))} crashed" == row_of(runs, run)["error"]


@pytest.mark.parametrize("end", ["abort", "complete"])
def test_fail_when_finished(runs: SentriRuns, end: str) -> None:
    """A failure of an aborted or a completed run is false, and nothing changes: the reason of an abort stays."""
    run = a_run(runs)
    assert runs.abort(run, reason="wrong branch") if end == "abort" else runs.mark_run_completed_first_writer_wins(run)
    before = row_of(runs, run)

    assert not runs.mark_run_failed_first_writer_wins(run, error="late")
    assert before == row_of(runs, run)
    assert ("wrong branch" if end == "abort" else None) == before["error"]


@pytest.mark.parametrize("run_id", ["", None, UNKNOWN, "RUN-7", "x" * 36])
def test_marks_when_there_is_no_run(runs: SentriRuns, run_id: str | None) -> None:
    """An id of no run is false, without an exception."""
    assert not runs.mark_run_failed_first_writer_wins(run_id, error="boom")
    assert not runs.mark_run_completed_first_writer_wins(run_id)
    assert runs.get_by_id(run_id) is None


def test_complete_when_running(runs: SentriRuns) -> None:
    """The time and the duration that are given are stored as they are."""
    run = a_run(runs)

    assert runs.mark_run_completed_first_writer_wins(run, finished_at="2025-01-01T00:00:00.000Z", duration=12345)

    row = row_of(runs, run)
    assert ("completed", 12345) == (row["status"], row["duration"])
    assert datetime(2025, 1, 1, tzinfo=UTC) == datetime.fromisoformat(row["finishedAt"])


@pytest.mark.parametrize("end", ["abort", "fail"])
def test_complete_when_finished(runs: SentriRuns, end: str) -> None:
    """A completion of an aborted or failed run is false, and nothing changes."""
    run = a_run(runs)
    assert runs.abort(run) if end == "abort" else runs.mark_run_failed_first_writer_wins(run, error="boom")
    before = row_of(runs, run)

    assert not runs.mark_run_completed_first_writer_wins(run, duration=1, quality_analytics={"score": 1})
    assert before == row_of(runs, run)


def test_complete_when_it_has_analytics(runs: SentriRuns) -> None:
    """An object comes back as it was."""
    analytics = {"score": 0.25, "byTest": {"TC-1": [1, None, "ä"]}}
    run = a_run(runs)

    assert runs.mark_run_completed_first_writer_wins(run, quality_analytics=analytics)
    assert analytics == row_of(runs, run)["qualityAnalytics"]


@pytest.mark.parametrize(
    ("first", "then"),
    [("completed", "failed"), ("failed", "running"), ("aborted", "completed"), ("completed_empty", "aborted")],
)
def test_update_when_finished(runs: SentriRuns, first: str, then: str) -> None:
    """A status is not written over a finished run's, and it never runs again."""
    run = a_run(runs)

    assert runs.update(run, {"status": first, "error": "first" if first in ("failed", "aborted") else None})
    assert not runs.update(run, {"status": then, "error": "second"})
    row = row_of(runs, run)
    assert first == row["status"]
    assert row["error"] in (None, "first")


def test_update_when_columns_change(runs: SentriRuns) -> None:
    """Columns are replaced one by one; what is no column, and the id, is ignored."""
    run = a_run(runs, pagesFound=1)

    assert runs.update(run, {"pagesFound": 7, "rootCauses": [{"cause": "dns"}], "id": "other", "nonsense": 1})
    assert runs.update(run, {"currentStep": 3, "gateResult": {"passed": False, "violations": ["coverage < 80 %"]}})
    assert not runs.update(UNKNOWN, {"pagesFound": 7})

    row = row_of(runs, run)
    assert (run, 7, [{"cause": "dns"}], "3") == (row["id"], row["pagesFound"], row["rootCauses"], row["currentStep"])
    assert {"passed": False, "violations": ["coverage < 80 %"]} == row["gateResult"]
    assert "failed" == runs._log.state(run).verdict


def test_update_when_a_word_is_unknown(runs: SentriRuns) -> None:
    """A status that is none of Sentri's, and what is no time or too long, is refused before anything is written."""
    run = a_run(runs)
    before = row_of(runs, run)

    for fields in ({"status": "done"}, {"finishedAt": "yesterday"}, {"browser": "x" * 256}):
        with pytest.raises(InvalidInput):
            runs.update(run, {"pagesFound": 7, "rootCauses": [1], **fields})
    assert before == row_of(runs, run)


def test_save_when_a_sibling_appended_meanwhile(runs: SentriRuns) -> None:
    """Saving a run as it was read earlier adds what is new in it and takes nobody's rows or counts away."""
    run = a_run(runs, shardCount=2, total=2)
    stale = row_of(runs, run)
    runs.append_run_results(run, [{"testId": "T1", "status": "passed", "_shardIndex": 1}])
    runs.increment_run_stats(run, passed_delta=1)

    stale["results"] = [{"testId": "T0", "status": "passed", "_shardIndex": 0}]
    stale["feedbackLoop"] = {"rounds": 1}
    assert runs.save(stale)

    row = row_of(runs, run)
    assert {"T0", "T1"} == {result["testId"] for result in row["results"]}
    assert {"rounds": 1} == row["feedbackLoop"]
    assert not runs.save({"id": UNKNOWN})


def test_save_when_nothing_differs(runs: SentriRuns) -> None:
    """A run that is saved as it was read writes no event."""
    run = a_run(runs, total=3, testQueue=[{"id": "T0"}], githubCheck={"deliveryId": "d1"}, retryCount=2)
    runs.append_run_results(run, [{"testId": "T0", "status": "passed", "_shardIndex": 0}])
    version = runs._log.state(run).version

    assert runs.save(row_of(runs, run))
    assert version == runs._log.state(run).version


def test_save_when_counts_are_figures(runs: SentriRuns) -> None:
    """The figures of a whole run are reached by what is missing to them."""
    run = a_run(runs, shardCount=3, total=10)
    runs.append_run_results(run, [{"testId": "T0", "status": "failed", "_shardIndex": 0}])

    assert runs.save({"id": run, "passed": 8, "failed": 3, "total": 11, "shardsCompleted": 9})
    row = row_of(runs, run)
    assert (8, 3, 11, 3) == (row["passed"], row["failed"], row["total"], row["shardsCompleted"])


def test_abort_when_there_is_no_run(runs: SentriRuns) -> None:
    """An abort of an unknown run says so; of a finished one it is lost, and says who was first."""
    run = a_run(runs)
    runs.mark_run_completed_first_writer_wins(run)

    with pytest.raises(RunNotFound):
        runs.abort(UNKNOWN)
    outcome = runs.abort(run)
    assert (False, "completed") == (outcome.won, outcome.winner.type if outcome.winner else None)
