"""Sentri's scenarios of retries, attempts and shards, with its numbers."""

from collections.abc import Sequence
from typing import Any

import pytest
from racing import in_threads

import ledger
from ledger import Kind, Ledger, Policy
from ledger.run.shards import clamp_shard_count, partition
from projections import verify
from projections.systems.sentri import SentriRuns
from projections.systems.sentri_rows import shard_retry_survivors

OVER_BUDGET = {"testId": "TB", "status": "skipped", "skipReason": "over_budget"}
NO_IMPACT = {"testId": "TN", "status": "skipped", "skipReason": "skipped_no_impact"}


@pytest.fixture
def runs(log: Ledger) -> SentriRuns:
    return SentriRuns(log)


def a_row(test_id: str, status: str = "passed", shard: int | None = 0) -> dict[str, Any]:
    return {"testId": test_id, "status": status} | ({} if shard is None else {"_shardIndex": shard})


def a_run(runs: SentriRuns, rows: Sequence[dict[str, Any]] = (), **columns: Any) -> str:
    run = runs.create({"projectId": "P1", "type": "test_run", **columns})
    assert len(rows) == runs.append_run_results(run, list(rows))
    return run


def ids(runs: SentriRuns, run_id: str) -> list[str]:
    row = runs.get_by_id(run_id)
    assert row is not None
    return [result["testId"] for result in row["results"]]


def test_retry_when_the_run_is_not_cut(runs: SentriRuns) -> None:
    """Of two executed rows and one over budget only the skip survives, and the counts are 0."""
    rows = [a_row("T0"), a_row("T1", "failed")]
    run = a_run(runs, rows, results=[OVER_BUDGET])

    assert runs.retry_run(run, error="browser died")

    row = runs.get_by_id(run)
    assert row is not None
    assert ([OVER_BUDGET], 0, 0, "running") == (row["results"], row["passed"], row["failed"], row["status"])
    assert [OVER_BUDGET] == shard_retry_survivors([*rows, OVER_BUDGET], None)


def test_retry_when_attempts_are_used_up(runs: SentriRuns) -> None:
    """A run has two attempts; after that, and when it is finished, it is not tried again."""
    run = a_run(runs)

    assert [True, False] == [runs.retry_run(run, error="boom") for _ in range(2)]
    runs.mark_run_failed_first_writer_wins(run)
    assert not runs.retry_run(run, error="boom")


def test_retry_when_tests_were_left_out(runs: SentriRuns) -> None:
    """A retry of shard 1 keeps both kinds of dispatch skips, and drops the row of the shard."""
    rows = [a_row("T1", shard=1)]
    run = a_run(runs, rows, shardCount=2, results=[OVER_BUDGET, NO_IMPACT])

    assert (0, 0) == runs.purge_shard_results(run, 1)
    assert ["TB", "TN"] == ids(runs, run)
    assert [OVER_BUDGET, NO_IMPACT] == shard_retry_survivors([OVER_BUDGET, NO_IMPACT, *rows], 1)


def test_retry_when_a_dispatch_skip_is_stamped(runs: SentriRuns) -> None:
    """A test that was left out before dispatch survives the retry of the shard that it is stamped with."""
    run = a_run(runs, [{**OVER_BUDGET, "_shardIndex": 1}, a_row("T1", shard=1)], shardCount=2)

    runs.purge_shard_results(run, 1)
    assert ["TB"] == ids(runs, run)


def test_retry_when_four_shards_have_rows(runs: SentriRuns) -> None:
    """Retrying shard 2 of four leaves T0a, T0b, T1a and T3a: 3 passed, 1 failed."""
    rows = [
        a_row("T0a"),
        a_row("T0b", "failed"),
        a_row("T1a", shard=1),
        a_row("T2a", shard=2),
        a_row("T2b", "failed", shard=2),
        a_row("T3a", shard=3),
    ]
    run = a_run(runs, rows, shardCount=4)

    assert (3, 1) == runs.purge_shard_results(run, 2)
    assert ["T0a", "T0b", "T1a", "T3a"] == ids(runs, run)
    assert ["T0a", "T0b", "T1a", "T3a"] == [row["testId"] for row in shard_retry_survivors(rows, 2)]


def test_retry_when_a_warning_survives(runs: SentriRuns) -> None:
    """A warning counts as passed: of pass, warning and a failed shard 1, two rows are left, both passed."""
    run = a_run(runs, [a_row("T0"), a_row("T1", "warning"), a_row("T2", "failed", shard=1)], shardCount=2)

    assert (2, 0) == runs.purge_shard_results(run, 1)
    assert 2 == len(ids(runs, run))


def test_retry_when_a_row_has_no_shard(runs: SentriRuns) -> None:
    """Sentri's filter drops a row of no shard; the ledger, which knows whose attempt ended, keeps it."""
    rows = [a_row("T0", shard=None), a_row("T1", shard=1)]
    run = a_run(runs, rows, shardCount=2)

    assert [] == shard_retry_survivors(rows, 1)
    assert (1, 0) == runs.purge_shard_results(run, 1)


@pytest.mark.parametrize("rows", [None, []])
def test_retry_when_there_are_no_rows(runs: SentriRuns, rows: list[dict[str, Any]] | None) -> None:
    """Nothing survives of nothing."""
    assert [] == shard_retry_survivors(rows, 1)
    assert (0, 0) == runs.purge_shard_results(a_run(runs, shardCount=2), 1)


@pytest.mark.parametrize(("run_id", "shard"), [("RUN-1", 0), (None, 0), ("", 0)])
def test_purge_when_there_is_no_run(runs: SentriRuns, run_id: Any, shard: int) -> None:
    """An unknown run has zeros; so has a shard that a run does not have."""
    run = a_run(runs, [a_row("T0")], shardCount=2)

    assert (0, 0) == runs.purge_shard_results(run_id, shard)
    assert [(0, 0)] * 4 == [runs.purge_shard_results(run, wrong) for wrong in (2, -1, None, "0")]  # type: ignore[arg-type]
    assert ["T0"] == ids(runs, run)


def test_purge_when_finished(runs: SentriRuns) -> None:
    """Of a finished run nothing is taken away, and the gate says that the caller must stop."""
    run = a_run(runs, [a_row("T0"), a_row("T1", "failed", shard=1)], shardCount=2)
    assert runs.reset_run_for_retry_if_still_running(run)
    runs.mark_run_failed_first_writer_wins(run, error="a sibling crashed")

    assert not runs.reset_run_for_retry_if_still_running(run)
    assert (1, 1) == runs.purge_shard_results(run, 1)
    assert ["T0", "T1"] == ids(runs, run)
    assert not runs.reset_run_for_retry_if_still_running("RUN-1")


def test_purge_when_siblings_append_meanwhile(shared_url: str) -> None:
    """While shard 0 is purged five times, and appends after each, no row of its three siblings is lost."""
    with ledger.open(shared_url, migrate=True) as log:
        runs = SentriRuns(log)
        run = a_run(runs, shardCount=4)

        def work(shard: int) -> None:
            for number in range(15):
                if shard == 0 and number % 3 == 0:
                    runs.purge_shard_results(run, 0)
                assert 1 == runs.append_run_results(run, [a_row(f"T{shard}-{number}", shard=shard)])

        in_threads(4, work)

        expected = {f"T{shard}-{number}" for shard in (1, 2, 3) for number in range(15)} | {"T0-12", "T0-13", "T0-14"}
        assert sorted(expected) == sorted(ids(runs, run))
        assert verify(log)


def test_append_after_a_purge(runs: SentriRuns) -> None:
    """The shard's next attempt appends anew; a worker of the older one, which says so, appends nothing any more."""
    run = a_run(runs, [a_row("T1", "failed", shard=1)], shardCount=2)
    runs.purge_shard_results(run, 1)

    assert 0 == runs.append_run_results(run, [a_row("T1", shard=1)], shard_attempt=1)
    assert 1 == runs.append_run_results(run, [a_row("T1", shard=1)])
    assert 2 == runs.append_run_results(run, [a_row("T2", shard=1), a_row("T0", shard=0)])
    row = runs.get_by_id(run)
    assert row is not None
    assert (["T1", "T2", "T0"], 3, 0) == (ids(runs, run), row["passed"], row["failed"])


@pytest.mark.parametrize(
    ("attempts_max", "outcomes"),
    [(2, ["retry", "final"]), (1, ["final"]), (3, ["retry", "retry", "final"])],
)
def test_attempts_when_they_fail(ledger_url: str, attempts_max: int, outcomes: list[str]) -> None:
    """Every failed attempt but the last is tried again."""
    with ledger.open(ledger_url, migrate=True) as log:
        run = log.enqueue("test_run", attempts_max=attempts_max)
        seen = []
        while leases := log.claim("w1"):
            log.give_up(leases[0], error="boom")
            seen.append("final" if log.state(run.id).is_terminal else "retry")

        assert outcomes == seen


def test_attempts_when_nobody_says_how_many(runs: SentriRuns, log: Ledger) -> None:
    """A run of Sentri's has two."""
    assert 2 == log.state(a_run(runs)).attempts_max


def test_attempt_when_the_run_was_aborted(ledger_url: str) -> None:
    """A worker whose run is aborted hears of it, whatever its attempt, and can write neither a failure nor a row."""
    kind = Kind(name="test_run", attempts_max=3, policy=Policy())
    with ledger.open(ledger_url, kinds=[kind], migrate=True) as log:
        run = log.enqueue("test_run")
        [lease] = log.claim("w1")
        [before] = log.heartbeat([lease])
        log.request_abort(run.id)
        [asked] = log.heartbeat([lease])
        SentriRuns(log).abort(run.id)

        assert (False, True) == (before.abort_requested, asked.abort_requested)
        assert not log.heartbeat([lease])[0].is_held
        assert not log.give_up(lease, error="AbortError")
        assert 0 == log.under(lease).append_results(run.id, [{"status": "passed"}])
        assert "aborted" == log.state(run.id).status


@pytest.mark.parametrize(
    ("total", "shard_count", "slices"),
    [
        (4, 4, [["T0"], ["T1"], ["T2"], ["T3"]]),
        (5, 1, [["T0", "T1", "T2", "T3", "T4"]]),
        (2, 4, [["T0"], ["T1"], [], []]),
    ],
)
def test_sharding_when_the_queue_is_cut(
    runs: SentriRuns, log: Ledger, total: int, shard_count: int, slices: list[list[str]]
) -> None:
    """The slices that a run's shards get are fixed when it is made."""
    queue = [{"id": f"T{number}", "name": f"test {number}"} for number in range(total)]
    run = a_run(runs, shardCount=shard_count, testQueue=queue)

    assert slices == next(iter(log.read(run))).data.plan  # type: ignore[union-attr]
    assert queue == runs.get_by_id(run)["testQueue"]  # type: ignore[index]


def test_sharding_when_tests_were_left_out(runs: SentriRuns, log: Ledger) -> None:
    """What is over budget is in the queue and in no slice."""
    run = a_run(runs, shardCount=2, testQueue=[{"id": "T0"}, {"id": "TB"}, {"id": "T1"}], results=[OVER_BUDGET])

    assert [["T0"], ["T1"]] == next(iter(log.read(run))).data.plan  # type: ignore[union-attr]


def test_sharding_when_40_tests_are_cut_to_4() -> None:
    """T0-9 go to the first shard and T30-39 to the last; 10 in 4 are 3, 3, 2, 2; none in 3 are empty."""
    tests = [f"T{number}" for number in range(40)]

    slices = partition(tests, 4)
    assert [10] * 4 == [len(piece) for piece in slices]
    assert (tests[:10], tests[30:]) == (slices[0], slices[3])
    assert [3, 3, 2, 2] == [len(piece) for piece in partition(tests[:10], 4)]
    assert [[], [], []] == partition([], 3)


@pytest.mark.parametrize(("asked", "count"), [(None, 1), (1, 1), (3, 3), (100, 4), ("abc", 1), (-5, 1)])
def test_sharding_when_a_request_asks(asked: object, count: int) -> None:
    """With 4 workers there are 1 to 4 shards, and only `shards` says how many."""
    request = {"shards": asked, "parallelWorkers": 4}

    assert count == clamp_shard_count(request.get("shards"), at_most=4)


def test_traces_when_shards_write_theirs(runs: SentriRuns) -> None:
    """Each shard has its own slot; those that were never written are null; wrong shards and runs are passed over."""
    run = a_run(runs, shardCount=4)
    for shard in (0, 3):
        runs.set_shard_trace_path(run, shard, f"traces/{run}/s{shard}.zip")
        runs.set_shard_coverage_summary(run, shard, {"lines": shard})
    for wrong in (4, -1, None, "0"):
        runs.set_shard_trace_path(run, wrong, "lost")  # type: ignore[arg-type]
        runs.set_shard_coverage_summary(run, wrong, {"lost": True})  # type: ignore[arg-type]
    runs.set_shard_trace_path("RUN-1", 0, "lost")
    runs.set_shard_coverage_summary("RUN-1", 0, {})

    row = runs.get_by_id(run)
    assert row is not None
    assert [f"traces/{run}/s0.zip", None, None, f"traces/{run}/s3.zip"] == row["tracePaths"]
    assert [{"lines": 0}, None, None, {"lines": 3}] == row["shardCoverageSummaries"]


def test_traces_when_4_shards_write_at_once(runs: SentriRuns) -> None:
    """Four shards' traces are four distinct ones."""
    run = a_run(runs, shardCount=4)
    in_threads(4, lambda shard: runs.set_shard_trace_path(run, shard, f"s{shard}"))

    row = runs.get_by_id(run)
    assert row is not None
    assert ["s0", "s1", "s2", "s3"] == row["tracePaths"]
