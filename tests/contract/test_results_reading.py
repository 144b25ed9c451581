"""What is asked of results: of one run, of one test, of the recent runs of a project. The same on every store."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import ledger
from ledger import InvalidInput, Ledger, RunNotFound, limits
from projections import Results, catch_up, compare

NOON = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


class Clock:
    """Goes on by a second each time it is asked, so that runs have an order."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


@pytest.fixture
def log(ledger_url: str) -> Iterator[Ledger]:
    with ledger.open(ledger_url, clock=Clock(), migrate=True) as opened:
        yield opened


def a_result(test_id: str, status: str = "passed", **facts: Any) -> dict[str, Any]:
    return {"testId": test_id, "status": status, **facts}


def record(log: Ledger, *results: dict[str, Any], project: str | None = "web", kind: str = "test") -> str:
    """Record a finished run with these results."""
    run = log.enqueue(kind, project=project)
    log.start(run.id, worker="w1")
    log.append_results(run.id, results)
    log.complete(run.id)
    return run.id


def test_of_run_when_read_page_by_page(log: Ledger) -> None:
    """Pages give a run's results in the order in which they appeared, with everything that was appended."""
    run = log.enqueue("test", project="web", shard_count=2)
    log.start(run.id, worker="w1")
    log.append_results(run.id, [a_result("T0", testName="zero", durationMs=12.5)], shard=1, first_sequence=0)
    log.append_results(run.id, [a_result("T1", "failed", error="boom"), a_result("T2")], shard=0)
    log.append_results(run.id, [{"status": "skipped", "extra": {"n": [1]}}])
    results = Results(log)

    pages, token = [], None
    while True:
        page = results.of_run(run.id, limit=3, page_token=token)
        pages.append(page.results)
        token = page.next_page_token
        if token is None:
            break
    first, second, third, fourth = [result for page in pages for result in page]

    assert [3, 1] == [len(page) for page in pages]
    assert ["T0", "T1", "T2", None] == [first.test_id, second.test_id, third.test_id, fourth.test_id]
    assert ("zero", 12.5, 1, 0, "passed") == (
        first.test_name, first.duration_ms, first.shard, first.sequence, first.status,
    )  # fmt: skip
    assert ("boom", 0, None) == (second.error, second.shard, second.sequence)
    assert (None, {"status": "skipped", "extra": {"n": [1]}}) == (fourth.shard, fourth.data)
    assert {(run.id, "web", "test", log.state(run.id).created_at)} == {
        (result.run_id, result.project, result.kind, result.created_at) for result in (first, second, third, fourth)
    }


def test_of_run_when_something_was_just_appended(log: Ledger) -> None:
    """A read reflects every append before it."""
    run, results = log.enqueue("test"), Results(log)

    assert [] == results.of_run(run.id).results
    for number in range(3):
        log.append_results(run.id, [a_result(f"T{number}")])
        assert number + 1 == len(results.of_run(run.id).results)


def test_of_run_when_what_is_asked_is_none(log: Ledger) -> None:
    """Unknown runs, and limits and tokens that are none, are refused."""
    run, other = record(log, a_result("T0"), a_result("T1")), record(log, a_result("T0"))
    results = Results(log)
    token = results.of_run(run, limit=1).next_page_token

    with pytest.raises(RunNotFound):
        results.of_run("0192f3a0-0000-7000-8000-00000000ffff")
    for run_id, limit, page_token, field in (
        ("x", 1, None, "run_id"),
        (run, 0, None, "limit"),
        (run, limits.LIST_ROWS_MAX + 1, None, "limit"),
        (run, 1, "nonsense!", "page_token"),
        (run, 1, 7, "page_token"),
        (other, 1, token, "page_token"),
    ):
        with pytest.raises(InvalidInput) as refusal:
            results.of_run(run_id, limit=limit, page_token=page_token)  # type: ignore[arg-type]
        assert field == refusal.value.field
    assert 2 == len(results.of_run(run, limit=limits.LIST_ROWS_MAX).results)


def test_of_run_when_a_shard_is_tried_anew(log: Ledger) -> None:
    """Shards 0(pass, fail) 1(pass) 2(pass, fail) 3(pass): retrying shard 2 leaves T0a, T0b, T1a and T3a."""
    run = log.enqueue("test", shard_count=4)
    log.start(run.id, worker="w1")
    for shard, tests in enumerate(["ab", "a", "ab", "a"]):
        log.append_results(
            run.id,
            [a_result(f"T{shard}{test}", "failed" if test == "b" else "passed") for test in tests],
            shard=shard,
        )
    results = Results(log)
    before = len(results.of_run(run.id).results)

    log.retry_shard(run.id, 2)
    left = [result.test_id for result in results.of_run(run.id).results]
    log.append_results(run.id, [a_result("T2c")], shard=2, shard_attempt=2)
    after = results.of_run(run.id).results

    assert 6 == before
    assert ["T0a", "T0b", "T1a", "T3a"] == left
    assert [("T2c", 2, 2)] == [(r.test_id, r.shard, r.shard_attempt) for r in after if r.shard == 2]
    assert log.state(run.id).statuses == {"passed": 4, "failed": 1}


def test_of_run_when_sequence_numbers_are_sent_again(log: Ledger) -> None:
    """A redelivered batch adds no row, and one that overlaps adds only what is new."""
    run = log.enqueue("test", shard_count=1)
    log.start(run.id, worker="w1")
    results = Results(log)
    for first in (0, 0, 2, 1):
        batch = [a_result(f"T{first + index}") for index in range(2)]
        log.append_results(run.id, batch, shard=0, first_sequence=first)
        results.of_run(run.id)

    rows = results.of_run(run.id).results

    assert [("T0", 0), ("T1", 1), ("T2", 2), ("T3", 3)] == [(row.test_id, row.sequence) for row in rows]


def test_latest_when_other_tests_are_named_alike(log: Ledger) -> None:
    """`TC-1` is found behind any number of runs that only have `TC-10` and the like (a source system missed it)."""
    wanted = record(log, a_result("TC-1", "failed"))
    for number in range(25):
        record(log, a_result(f"TC-1{number}"), a_result("TC-1 "), a_result("tc-1"))

    found = Results(log).latest("TC-1")

    assert found is not None
    assert (wanted, "failed") == (found.run_id, found.status)
    assert Results(log).latest("TC") is None


def test_latest_and_history_when_projects_and_kinds_share_a_test(log: Ledger) -> None:
    """The newest result of a project, or of a kind of run, is found among others'; of one run, the last one."""
    web = [record(log, a_result("T", "failed"), a_result("T", "passed")) for _ in range(2)]
    api = record(log, a_result("T", "failed"), project="api")
    nightly = record(log, a_result("T", "skipped"), project=None, kind="nightly")
    results = Results(log)

    found = {
        name: results.latest("T", **asked)  # type: ignore[arg-type]
        for name, asked in {
            "any": {},
            "web": {"project": "web"},
            "api": {"project": "api", "kind": "test"},
            "nightly": {"kind": "nightly"},
        }.items()
    }

    assert {"any": nightly, "web": web[1], "api": api, "nightly": nightly} == {
        name: result.run_id for name, result in found.items() if result is not None
    }
    assert results.latest("T", project="api", kind="nightly") is None
    assert [nightly, api, web[1], web[1], web[0], web[0]] == [result.run_id for result in results.history("T")]
    assert ["passed", "failed", "passed"] == [r.status for r in results.history("T", project="web", limit=3)]


@pytest.mark.erases
def test_latest_when_runs_are_deleted_restored_and_purged(log: Ledger) -> None:
    """Results of runs in the bin are passed over until they come back; those of purged runs are gone."""
    older, newer = record(log, a_result("T")), record(log, a_result("T"))
    results = Results(log)

    def latest() -> str | None:
        found = results.latest("T")
        return None if found is None else found.run_id

    log.delete(newer)
    deleted = latest()
    log.restore(newer)
    restored = latest()
    log.delete(newer)
    log.purge(newer)

    assert (older, newer, older) == (deleted, restored, latest())
    assert [] == results.of_run(newer).results
    assert [older] == [result.run_id for result in results.history("T")]


def test_latest_when_an_id_is_longer_than_an_index_can_hold(log: Ledger) -> None:
    """Ids of tests may have any length, and are told apart to their last character."""
    long = "ä" * 20_000
    first = record(log, a_result(long + "1"))
    record(log, a_result(long + "2"))

    found = Results(log).latest(long + "1")

    assert found is not None
    assert first == found.run_id


# --- rankings -----------------------------------------------------------------------------------------------


def test_tests_when_ranked_by_flakiness(log: Ledger) -> None:
    """The score is the share of executed results that flipped, or passed only after a retry."""
    for steady, flipping, late in (
        ("failed", "passed", "passed"),
        ("failed", "failed", "passed"),
        ("failed", "passed", "failed"),
        ("failed", "passed", "failed"),
    ):
        record(
            log,
            a_result("always-red", steady),
            a_result("flips", flipping),
            a_result("late", late),
            a_result("retried", retryCount=1),
            a_result("skipped", "skipped"),
        )

    ranked = Results(log).tests(project="web", order="flaky")

    assert [("retried", 1.0), ("flips", 0.5), ("late", 0.25)] == [(test.test_id, test.flaky_score) for test in ranked]
    assert [(4, 4, 0), (4, 3, 1), (4, 2, 2)] == [(test.executed, test.passed, test.failed) for test in ranked]
    assert ranked[2].last is not None
    assert "failed" == ranked[2].last.status


def test_tests_when_a_tear_down_always_fails(log: Ledger) -> None:
    """What a run reports of a test is one outcome, however many reports there are: one that always fails is steady."""
    for _ in range(3):
        record(log, a_result("a", durationMs=10), a_result("a", "error", durationMs=2), a_result("b"))

    results = Results(log)
    (failing,) = results.tests(project="web", order="failing")

    assert [] == results.tests(project="web", order="flaky")
    assert ("a", 3, 3, 0.0) == (failing.test_id, failing.executed, failing.failed, failing.flaky_score)
    assert (12.0, 12.0) == (failing.duration_ms, failing.duration_ms_max)


def test_tests_when_ranked_by_failures_and_by_duration(log: Ledger) -> None:
    """Failing tests stand by failures, then by their share; slow ones by the mean of what was timed."""
    record(log, a_result("a", "failed", durationMs=10), a_result("b", "failed"), a_result("c", durationMs=30.5))
    record(log, a_result("a", "error", durationMs=50), a_result("b", "passed", durationMs=20), a_result("d", "failed"))
    record(log, a_result("a", "passed"), a_result("c", "skipped", durationMs=9_999))
    results = Results(log)

    failing = results.tests(project="web", order="failing")
    slowest = results.tests(project="web", order="slowest")

    assert [("a", 2), ("d", 1), ("b", 1)] == [(test.test_id, test.failed) for test in failing]
    assert [("c", 30.5, 30.5), ("a", 30.0, 50.0), ("b", 20.0, 20.0)] == [
        (test.test_id, test.duration_ms, test.duration_ms_max) for test in slowest
    ]
    assert ["c"] == [test.test_id for test in results.tests(project="web", order="slowest", limit=1)]


def test_tests_when_only_some_runs_are_looked_at(log: Ledger) -> None:
    """Projects, times, the newest runs and the bin bound what is looked at; runs without results take no place."""
    record(log, a_result("old", "failed"))
    record(log, a_result("mine", "failed"), project=None)
    since = log.state(record(log, a_result("middle", "failed"))).created_at
    record(log, a_result("new", "failed"))
    binned = record(log, a_result("binned", "failed"))
    log.delete(binned)
    record(log)
    results = Results(log)

    def ids(**asked: Any) -> list[str]:
        return sorted(test.test_id for test in results.tests(order="failing", **{"project": "web", **asked}))

    assert ["middle", "new", "old"] == ids()
    assert ["middle", "new"] == ids(since=since)
    assert ["new"] == ids(runs=1)
    assert ["mine"] == ids(project=None)
    assert [] == ids(project="api")


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"order": "fastest"}, "order"),
        ({"limit": 0}, "limit"),
        ({"limit": limits.LIST_ROWS_MAX + 1}, "limit"),
        ({"runs": 0}, "runs"),
        ({"runs": limits.RANKED_RUNS_MAX + 1}, "runs"),
        ({"since": datetime(2026, 3, 1)}, "since"),  # noqa: DTZ001 - what is refused
        ({"project": ""}, "project"),
    ],
)
def test_tests_when_what_is_asked_is_none(asked: dict[str, Any], field: str) -> None:
    """What cannot be asked is refused, by its name."""
    with ledger.open("memory:") as log, pytest.raises(InvalidInput) as refusal:
        Results(log).tests(**{"project": "web", **asked})

    assert field == refusal.value.field


def test_every_question_when_two_stores_hold_the_same(ledger_url: str) -> None:
    """Every store gives the same answers, in the same order, ties included."""
    answers: list[Any] = []
    run_ids = [f"0192f3a0-0000-7000-8000-{number:012x}" for number in range(6)]
    for url in ("memory:", ledger_url):
        with ledger.open(url, clock=lambda: NOON, migrate=True) as log:
            for number, run_id in enumerate(run_ids):
                log.enqueue("test", project="web", run_id=run_id)
                log.append_results(
                    run_id,
                    [
                        a_result(
                            f"T{test}", "failed" if (number * test) % 3 == 1 else "passed", durationMs=test % 4 / 3
                        )
                        for test in range(12)
                    ],
                )
            results = Results(log)
            answers.append(
                [
                    *[results.tests(project="web", order=order) for order in ("flaky", "slowest", "failing")],  # type: ignore[arg-type]
                    results.history("T1"),
                    results.of_run(run_ids[3]),
                    compare(log, run_ids[1], run_ids[2]),
                ]
            )

    assert answers[0] == answers[1]


# --- comparing ----------------------------------------------------------------------------------------------


def test_compare_when_every_thing_happened(log: Ledger) -> None:
    """T1 failed and now passes, T2 is the same, T3 is only new, T4 only old: 1 of each, 4 in all."""
    older = record(log, a_result("T1", "failed"), a_result("T2"), a_result("T4"), {"status": "passed"})
    newer = record(log, a_result("T1"), a_result("T2", "warning"), a_result("T3"))

    compared = compare(log, older, newer)

    assert (["T1"], ["T3"], ["T4"], ["T2"]) == (
        compared.flipped, compared.added, compared.removed, compared.unchanged,
    )  # fmt: skip
    assert 4 == compared.total


def test_compare_when_a_test_has_several_results(log: Ledger) -> None:
    """A test of several iterations failed when one of them did; skips among them say nothing."""
    older = record(log, a_result("T", "passed"), a_result("T", "failed"), a_result("S", "skipped"), a_result("S"))
    newer = record(log, a_result("T", "failed"), a_result("T", "passed"), a_result("S"))

    assert ["S", "T"] == compare(log, older, newer).unchanged


def test_compare_when_a_run_is_unknown(log: Ledger) -> None:
    """A run that is not there cannot be compared."""
    run = record(log, a_result("T"))

    for pair in ((run, "0192f3a0-0000-7000-8000-00000000ffff"), ("0192f3a0-0000-7000-8000-00000000ffff", run)):
        with pytest.raises(RunNotFound):
            compare(log, *pair)


def test_compare_when_runs_have_more_results_than_a_page(log: Ledger) -> None:
    """Runs of any number of results are compared whole."""
    count = limits.LIST_ROWS_MAX + 1
    older = record(log, *[a_result(f"T{number}") for number in range(count)])
    newer = record(log, *[a_result(f"T{number}") for number in range(1, count + 1)])

    compared = compare(log, older, newer)

    assert (1, 1, count - 1) == (len(compared.added), len(compared.removed), len(compared.unchanged))
    assert catch_up(log, "results")
