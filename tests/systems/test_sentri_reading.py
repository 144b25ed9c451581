"""Sentri's lists, lean reads, bin, logs, orphans, checkpoints and resumed runs, with its numbers."""

from datetime import timedelta
from typing import Any

import pytest
from racing import in_threads

import ledger
from ledger import ExclusiveKeyTaken, IllegalTransition, InvalidInput, Ledger, RunNotFound
from ledger.clock import utc_now
from ledger.limits import LIST_ROWS_MAX
from projections import compare, verify
from projections.systems.sentri import NotResumable, SentriRuns
from projections.systems.sentri_rows import DOCUMENTS

UNKNOWN = "0192f3a0-0000-7000-8000-00000000ffff"
HEAVY = {*DOCUMENTS, "results", "logs", "tracePaths", "shardCoverageSummaries"}


@pytest.fixture
def runs(log: Ledger) -> SentriRuns:
    return SentriRuns(log)


def a_run(runs: SentriRuns, status: str = "running", *rows: dict[str, Any], **columns: Any) -> str:
    """Make a run, give it rows, and end it."""
    run = runs.create({"projectId": "P1", "type": "test_run", **columns})
    runs.append_run_results(run, list(rows))
    assert runs.update(run, {"status": status})
    return run


def a_row(test_id: str, status: str = "passed", **facts: Any) -> dict[str, Any]:
    return {"testId": test_id, "status": status, "_shardIndex": 0, **facts}


def ids(rows: Any) -> list[str]:
    return [row["id"] for row in rows]


# --- lists ----------------------------------------------------------------------------------------------------


def test_page_when_there_are_12_runs(runs: SentriRuns) -> None:
    """Pages are newest first, ten rows unless one says otherwise, and tell whether there is more."""
    made = [a_run(runs, "completed", a_row("T0")) for _ in range(12)][::-1]
    a_run(runs, "completed", projectId="P2")

    first, second = runs.get_by_project_id_paged("P1"), runs.get_by_project_id_paged("P1", "2", "10")

    assert (made[:10], made[10:]) == (ids(first["data"]), ids(second["data"]))
    assert {"total": 12, "page": 1, "pageSize": 10, "hasMore": True} == first["meta"]
    assert {"total": 12, "page": 2, "pageSize": 10, "hasMore": False} == second["meta"]
    assert made == ids(runs.get_by_project_id("P1"))


@pytest.mark.parametrize(
    ("page", "size", "meta"),
    [
        ("x", "y", (1, 10)),
        (0, 0, (1, 10)),
        (-3, None, (1, 10)),
        (1, 201, (1, 200)),
        (9, 5, (9, 5)),
        (1.5, True, (1, 10)),
    ],
)
def test_page_when_it_is_garbage(runs: SentriRuns, page: object, size: object, meta: tuple[int, int]) -> None:
    """What is no page is the first, what is no size is 10, and more than 200 are 200."""
    a_run(runs)

    found = runs.get_by_project_id_paged("P1", page, size)

    assert meta == (found["meta"]["page"], found["meta"]["pageSize"])
    assert (meta[0] == 1) == bool(found["data"])


def test_lists_when_runs_are_heavy(runs: SentriRuns) -> None:
    """No list has a heavy column: a run of 1,000 rows and a document of 500 kB is a row like any other."""
    rows = [a_row(f"T{number}", error="x" * 100) for number in range(1_000)]
    heavy = a_run(runs, "completed", *rows, promptAudit={"text": "x" * 500_000}, testQueue=[{"id": "T0"}])
    a_run(runs, "completed")

    listed = [*runs.get_by_project_id("P1"), *runs.get_by_project_id_paged("P1")["data"]]

    assert set() == HEAVY & {name for row in listed for name in row}
    assert heavy in ids(listed)
    assert max(len(str(row)) for row in listed) < 1_500
    whole = runs.get_by_id(heavy)
    assert whole is not None
    assert (1_000, 500_000) == (len(whole["results"]), len(whole["promptAudit"]["text"]))


def test_counts_by_project(runs: SentriRuns) -> None:
    """Runs of several projects are counted together, each project once, without those in the bin."""
    for project, count in (("P1", 3), ("P2", 2), ("P3", 1)):
        for _ in range(count):
            a_run(runs, "completed", projectId=project)
    runs.delete_by_project_id("P3")

    assert [5, 3, 0, 0] == [
        runs.count_by_project_ids(projects) for projects in (["P1", "P2", "P3", "P1"], ["P1"], ["P3"], [])
    ]


@pytest.mark.parametrize("more", [0, 1, LIST_ROWS_MAX + 1])
def test_counts_by_project_when_there_are_many(runs: SentriRuns, more: int) -> None:
    """More projects than one read of the ledger takes are counted as well, the last one too."""
    for project in ("P", "P999999"):
        a_run(runs, "completed", projectId=project)
    names = [f"P{number:06}" for number in range(LIST_ROWS_MAX - 2 + more)]

    assert 2 == runs.count_by_project_ids(["P", *names, "P999999"])


def test_active_when_types_are_asked_for(runs: SentriRuns) -> None:
    """A running record session is active only for who asks for it; an ended or deleted run never is."""
    record = a_run(runs, type="record")

    assert runs.find_active_by_project_id("P1") is None
    found = runs.find_active_by_project_id("P1", ["record"])
    assert found is not None
    assert record == found["id"]
    runs.abort(record)
    assert runs.find_active_by_project_id("P1", ["record"]) is None


def test_delivery_when_it_comes_again(runs: SentriRuns) -> None:
    """A delivery is found whole, in its project: the same commit in another is another run; wildcards are text."""
    first = a_run(runs, "completed", githubCheck={"deliveryId": "d_1%", "sha": "abc"})
    a_run(runs, "completed", githubCheck={"deliveryId": "d_2", "sha": "abc"})

    found = runs.find_by_github_delivery_id("P1", "d_1%")
    assert found is not None
    assert (first, "abc") == (found["id"], found["githubCheck"]["sha"])
    for project, delivery in (("P1", "dx1%"), ("P1", "%"), ("P1", "d_1"), ("P2", "d_1%"), ("P1", ""), ("P1", None)):
        assert runs.find_by_github_delivery_id(project, delivery) is None  # type: ignore[arg-type]
    runs.delete_by_project_id("P1")
    assert runs.find_by_github_delivery_id("P1", "d_1%") is None


def test_latest_result_when_ids_begin_alike(runs: SentriRuns) -> None:
    """TC-1 is found behind 25 newer runs of TC-10; the newest row of it counts, and deleted runs do not."""
    first = a_run(runs, "completed", a_row("TC-1", error="old"), a_row("TC-1", "failed", error="boom"))
    for _ in range(25):
        a_run(runs, "completed", a_row("TC-10"))

    found = runs.find_latest_result_for_test("TC-1")
    assert found is not None
    assert (first, "failed", "boom") == (found["runId"], found["status"], found["error"])
    assert runs.find_latest_result_for_test("TC") is None
    runs.delete_by_project_id("P1")
    assert runs.find_latest_result_for_test("TC-1") is None


def test_latest_result_when_other_programs_have_newer_ones(runs: SentriRuns, log: Ledger) -> None:
    """Runs of kinds that are not Sentri's are passed over; among its own, of whichever type, the newest run counts."""
    older, newer = a_run(runs, "completed", a_row("TC-1")), a_run(runs, "completed", a_row("TC-1"), type="crawl")
    a_run(runs, "completed", a_row("TC-2"))
    for test in ("TC-1", "TC-3"):
        foreign = log.enqueue("nightly", project="P1", worker="w").id
        log.append_results(foreign, [{"testId": test, "status": "failed"}])

    found = runs.find_latest_result_for_test("TC-1")

    assert found is not None
    assert (newer, "passed") == (found["runId"], found["status"])
    assert runs.find_latest_result_for_test("TC-3") is None
    log.delete(newer)
    found = runs.find_latest_result_for_test("TC-1")
    assert found is not None
    assert older == found["runId"]


def test_recent_completed_when_there_are_22(runs: SentriRuns) -> None:
    """The newest 20 completed test runs with rows; crawls, failed runs and empty ones are left out."""
    made = [a_run(runs, "completed", a_row(f"T{number}", number=number)) for number in range(22)][::-1]
    a_run(runs, "completed")
    a_run(runs, "failed", a_row("T0"))
    a_run(runs, "completed", a_row("T0"), type="crawl")

    recent = runs.get_recent_completed_with_results("P1")

    assert made[:20] == ids(recent)
    assert {"id", "type", "status", "startedAt", "results"} == set(recent[0])
    assert [a_row("T21", number=21)] == recent[0]["results"]
    assert made[:3] == ids(runs.get_recent_completed_with_results("P1", 3))


def test_github_base_when_some_have_checks(runs: SentriRuns) -> None:
    """Only completed test runs with a check, with what a comparison needs, 25 at most."""
    made = [a_run(runs, "completed", a_row("T0"), githubCheck={"sha": str(number)}) for number in range(27)][::-1]
    a_run(runs, "completed", a_row("T0"))
    a_run(runs, "failed", githubCheck={"sha": "red"})

    found = runs.get_recent_test_runs_for_github_base("P1")

    assert made[:25] == ids(found)
    assert {"id", "type", "status", "failed", "githubCheck", "results"} == set(found[0])
    assert {"sha": "26"} == found[0]["githubCheck"]


def test_crawls_when_newer_ones_found_nothing(runs: SentriRuns) -> None:
    """The newest crawl with changed pages, and the pages of the newest crawl or recording, each URL once."""
    crawl = a_run(runs, "completed", type="crawl", changedPages=[{"url": "/a"}], pages=[{"url": "/old"}])
    a_run(runs, "completed", type="record", pages=[{"url": "/b"}, {"url": "/a"}, {"url": "/b"}, {"title": "none"}])
    a_run(runs, "completed_empty", type="crawl", changedPages=[], pages=[])
    a_run(runs, "completed", changedPages=[{"url": "/test"}])

    found = runs.get_latest_crawl_with_changed_pages("P1")
    assert found is not None
    assert (crawl, [{"url": "/a"}]) == (found["id"], found["changedPages"])
    assert {"id", "startedAt", "changedPages"} == set(found)
    assert ["/b", "/a"] == runs.get_latest_discovered_page_urls("P1")
    assert runs.get_latest_crawl_with_changed_pages("P2") is None
    assert [] == runs.get_latest_discovered_page_urls("P2")


def test_coverage_when_some_runs_have_it(log: Ledger, runs: SentriRuns) -> None:
    """Runs with coverage of the last 60 days, oldest first, 200 at most."""
    made = [a_run(runs, "completed", coverageSummary={"lines": number}) for number in range(3)]
    a_run(runs, "completed")

    assert made == ids(runs.get_runs_with_coverage("P1"))
    assert [{"lines": 1}, {"lines": 2}] == [
        row["coverageSummary"] for row in runs.get_runs_with_coverage("P1", limit=2)
    ]
    assert [] == SentriRuns(log, clock=lambda: utc_now() + timedelta(days=61)).get_runs_with_coverage("P1")


def test_with_results_when_read_by_project(runs: SentriRuns) -> None:
    """Runs of all projects, or of some, with rows and feedback loop."""
    first = a_run(runs, "completed", a_row("T0"), feedbackLoop={"rounds": 2})
    second = a_run(runs, "failed", projectId="P2")

    rows = {row["id"]: (row["results"], row["feedbackLoop"]) for row in runs.get_all_with_results()}
    assert {first: ([a_row("T0")], {"rounds": 2}), second: ([], None)} == rows
    assert [second] == ids(runs.get_with_results_by_project_ids(["P2", "P2", "P9"]))


def test_compare_when_two_runs_differ(log: Ledger, runs: SentriRuns) -> None:
    """T1 failed and passed, T2 the same, T3 only in the new one, T4 only in the old one: 1, 1, 1, 1 of 4."""
    older = a_run(runs, "completed", a_row("T1", "failed"), a_row("T2"), a_row("T4"))
    newer = a_run(runs, "completed", a_row("T1"), a_row("T2"), a_row("T3"))

    found = compare(log, older, newer)

    assert (["T1"], ["T2"], ["T3"], ["T4"], 4) == (
        found.flipped,
        found.unchanged,
        found.added,
        found.removed,
        found.total,
    )
    with pytest.raises(RunNotFound):
        compare(log, older, UNKNOWN)


def test_trigger_when_ci_polls(runs: SentriRuns) -> None:
    """A trigger makes a run, the second learns which one is active, a poll has the figures; an unknown run is none."""
    run = a_run(runs, total=2)
    with pytest.raises(ExclusiveKeyTaken) as second:
        a_run(runs)
    runs.append_run_results(run, [a_row("T0"), a_row("T1", "failed")])
    runs.update(run, {"gateResult": {"passed": False, "violations": ["failed > 0"]}, "status": "completed"})

    polled = runs.get_by_id(run)
    assert polled is not None
    assert run == second.value.active_run_id
    assert ("completed", 1, 1, 2) == tuple(polled[name] for name in ("status", "passed", "failed", "total"))
    assert not polled["gateResult"]["passed"]
    assert runs.get_by_id(UNKNOWN) is None


# --- the bin --------------------------------------------------------------------------------------------------


def test_bin_when_a_run_goes_and_comes(runs: SentriRuns) -> None:
    """A deleted run is in the bin and nowhere else; restored, it is back; purged, it is gone with its log."""
    run = a_run(runs, "completed", a_row("T0"))
    runs.append_log(run, "hello")

    assert [run] == runs.delete_by_project_id("P1")
    assert [] == runs.delete_by_project_id("P1")
    assert runs.get_by_id(run) is None
    assert runs.get_by_id_include_deleted(run) is not None
    assert [[run], [run], []] == [
        ids(rows)
        for rows in (runs.get_deleted_by_project_id("P1"), runs.get_deleted_all(), runs.get_by_project_id("P1"))
    ]
    assert [True, False] == [runs.restore(run) for _ in range(2)]
    assert [[], [run]] == [ids(runs.get_deleted_all()), ids(runs.get_by_project_id("P1"))]

    assert [run] == runs.hard_delete_by_project_id("P1")
    assert [] == runs.hard_delete_by_project_id("P1")
    assert runs.get_by_id_include_deleted(run) is None
    assert ([], []) == (runs.get_logs(run), ids(runs.get_deleted_all()))
    assert not runs.restore(run)


def test_bin_when_a_run_is_active(runs: SentriRuns) -> None:
    """An active run goes neither to the bin nor away; an unknown one is nothing to do."""
    run = a_run(runs)

    assert [] == runs.delete_by_project_id("P1")
    assert [] == runs.hard_delete_by_project_id("P1")
    with pytest.raises(IllegalTransition):
        runs.hard_delete_by_id(run)
    runs.hard_delete_by_id(UNKNOWN)
    assert not runs.restore(UNKNOWN)
    assert not runs.restore("RUN-1")
    assert runs.get_by_id(run) is not None


def test_bin_when_a_project_is_restored(runs: SentriRuns, log: Ledger) -> None:
    """A cascade brings back what was deleted at its moment or later; what was deleted by itself before stays."""
    earlier = a_run(runs, "completed")
    log.delete(earlier)
    later = [a_run(runs, "completed") for _ in range(2)]
    runs.delete_by_project_id("P1")
    moment = min(log.state(run).deleted_at for run in later)  # type: ignore[type-var]
    assert moment is not None

    assert 0 == runs.restore_by_project_id_after("P2", moment)
    assert 2 == runs.restore_by_project_id_after("P1", moment.isoformat())
    assert [earlier] == ids(runs.get_deleted_all())


# --- logs -----------------------------------------------------------------------------------------------------


def test_logs_when_two_runs_write(runs: SentriRuns) -> None:
    """Lines are 1, 2, 3 in each run, in order and with their levels; a saved run never writes them back."""
    first, second = a_run(runs), a_run(runs, projectId="P2")
    for run, message, level in (
        (first, "a", "info"),
        (second, "x", "info"),
        (first, "b", "warn"),
        (first, "c", "error"),
    ):
        runs.append_log(run, message, level=level)

    lines = runs.get_logs(first)
    assert [(1, "info", "a"), (2, "warn", "b"), (3, "error", "c")] == [line[:3] for line in lines]
    assert [(1, "x")] == [(line.seq, line.message) for line in runs.get_logs(second)]
    assert [] == runs.get_logs(UNKNOWN)
    row = runs.get_by_id(first)
    assert row is not None
    assert ["a", "b", "c"] == row["logs"]
    runs.save({**row, "logs": ["forged"], "pagesFound": 1})
    assert lines == runs.get_logs(first)


# --- crashes --------------------------------------------------------------------------------------------------


def test_orphans_when_3_of_4_run(log: Ledger, runs: SentriRuns) -> None:
    """Three silent runs in three projects are interrupted, the completed one is left alone, and then there is none."""
    orphans = [a_run(runs, projectId=f"P{number}") for number in range(3)]
    control = a_run(runs, "completed", projectId="P9")
    later = SentriRuns(log, clock=lambda: utc_now() + timedelta(seconds=61))

    swept, again = later.mark_orphans_interrupted(), later.mark_orphans_interrupted()

    assert (3, set(orphans)) == (swept.count, set(swept.ids))
    assert (0, []) == (again.count, again.ids)
    row = runs.get_by_id(orphans[0])
    assert row is not None
    assert ("interrupted", "Server restarted while run was in progress", "process_crash") == tuple(
        row[name] for name in ("status", "error", "failureReason")
    )
    assert row["finishedAt"] is not None
    assert log.state(control).status == "completed"


def test_orphans_when_a_new_run_begins(log: Ledger, runs: SentriRuns) -> None:
    """An interrupted run makes room for the project's next one."""
    old = a_run(runs)
    SentriRuns(log, clock=lambda: utc_now() + timedelta(seconds=61)).mark_orphans_interrupted()

    new = a_run(runs)

    assert ("aborted", "running") == (log.state(old).status, log.state(new).status)
    assert "superseded" == log.state(old).error_category


def test_orphans_when_one_is_taken_up_meanwhile(log: Ledger, runs: SentriRuns) -> None:
    """An interrupted run that somebody resumed in place is active again: it makes room for nobody."""
    run = a_run(runs, "interrupted")
    stale = log.state(run)
    assert log.resume(run, worker="w2")

    assert not runs._give_way(stale, reason="late", mode="superseded")
    with pytest.raises(ExclusiveKeyTaken):
        a_run(runs)
    assert "running" == log.state(run).status


def test_checkpoint_when_it_is_written_again(runs: SentriRuns) -> None:
    """A second row of a test is not inserted, whatever it says, and is counted by its reason."""
    run = a_run(runs)

    outcomes = [
        runs.record_checkpoint(run, a_row("T0", error="first")),
        runs.record_checkpoint(run, a_row("T0", "failed")),
        runs.record_checkpoint(run, a_row("T0", error="first"), reason="resume_replay"),
    ]

    assert [(True, None), (False, "duplicate_dispatch"), (False, "resume_replay")] == outcomes
    assert {"duplicate_dispatch": 1, "resume_replay": 1} == runs.duplicates
    row = runs.get_by_id(run)
    assert row is not None
    assert [a_row("T0", error="first")] == row["results"]


def test_checkpoint_when_8_threads_write_it(log: Ledger, runs: SentriRuns) -> None:
    """Of eight that write one test's row at once one inserts it; iterations 0, 1, 2 are three rows."""
    run = a_run(runs)

    outcomes = in_threads(8, lambda number: runs.record_checkpoint(run, a_row("T0", durationMs=number)))
    for iteration in (0, 1, 2):
        runs.record_checkpoint(run, a_row("T1", iterationIndex=iteration))

    assert 1 == sum(outcome.inserted for outcome in outcomes)
    row = runs.get_by_id(run)
    assert row is not None
    assert ["T0", "T1", "T1", "T1"] == [result["testId"] for result in row["results"]]
    assert verify(log)


def test_checkpoint_when_it_comes_late(runs: SentriRuns) -> None:
    """A row of an attempt that was given up, and one of a finished run, is not inserted; an unknown run is an error."""
    run = a_run(runs, shardCount=2)
    runs.record_checkpoint(run, a_row("T0"))
    runs.purge_shard_results(run, 0)

    assert (False, "superseded") == runs.record_checkpoint(run, a_row("T1"))
    assert (True, None) == runs.record_checkpoint(run, a_row("T0"), shard_attempt=2)
    runs.abort(run)
    assert (False, "finished") == runs.record_checkpoint(run, a_row("T2"), shard_attempt=2)
    assert not runs.record_checkpoint(run, a_row("T0"), shard_attempt=2).inserted
    with pytest.raises(RunNotFound):
        runs.record_checkpoint(UNKNOWN, a_row("T0"))
    with pytest.raises(InvalidInput):
        runs.record_checkpoint("RUN-1", a_row("T0"))


def test_checkpoint_when_the_run_is_purged(runs: SentriRuns) -> None:
    """Five rows are gone with their run, and a second purge finds nothing."""
    run = a_run(runs)
    for number in range(5):
        runs.record_checkpoint(run, a_row(f"T{number}"))
    runs.abort(run)

    assert [[run], []] == [runs.hard_delete_by_project_id("P1") for _ in range(2)]
    assert runs.get_by_id_include_deleted(run) is None


def test_resume_when_3_of_5_tests_have_rows(log: Ledger, runs: SentriRuns) -> None:
    """Passed, failed and warning all count as done; the two that are left make a new run, once."""
    queue = [{"id": f"T{number}", "name": f"test {number}"} for number in range(5)]
    old = a_run(runs, "interrupted", a_row("T0"), a_row("T1", "failed"), a_row("T2", "warning"), testQueue=queue)

    resumed = runs.resume(old)

    assert (old, 3, 2, 5) == resumed[1:]
    new = runs.get_by_id(resumed.run_id)
    assert new is not None
    assert (queue[3:], 1, "running") == (new["testQueue"], new["shardCount"], new["status"])
    assert old == log.state(resumed.run_id).retry_of
    row = runs.get_by_id(old)
    assert row is not None
    assert ("aborted", "resumed") == (row["status"], row["failureReason"])
    with pytest.raises(NotResumable) as refusal:
        runs.resume(old)
    assert "RUN_NOT_RESUMABLE" == refusal.value.code


def test_resume_when_4_ask_at_once(shared_url: str) -> None:
    """Of four that resume a run at once one makes the new run; the others learn that it was resumed."""
    with ledger.open(shared_url, migrate=True) as log:
        runs = SentriRuns(log)
        old = a_run(runs, "interrupted", testQueue=[{"id": "T0"}])

        def resume(_: int) -> str:
            try:
                return runs.resume(old).run_id
            except NotResumable as refusal:
                return refusal.code

        outcomes = in_threads(4, resume)

        assert 3 == outcomes.count("RUN_NOT_RESUMABLE")
        assert 2 == len(list(runs.get_by_project_id("P1")))


@pytest.mark.parametrize(
    ("columns", "status", "approved", "code"),
    [
        ({"type": "crawl"}, "interrupted", None, "RUN_TYPE_NOT_RESUMABLE"),
        ({"testQueue": [{"id": "T0"}]}, "running", None, "RUN_NOT_RESUMABLE"),
        ({"testQueue": [{"id": "T0"}]}, "completed", None, "RUN_NOT_RESUMABLE"),
        ({}, "interrupted", None, "RUN_NO_QUEUE"),
        ({"testQueue": [{"id": "T1"}]}, "interrupted", None, "RUN_ALREADY_COMPLETE"),
        ({"testQueue": [{"id": "T0"}]}, "interrupted", ["T9"], "RUN_NO_REMAINING_TESTS"),
    ],
)
def test_resume_when_it_cannot(
    runs: SentriRuns, columns: dict[str, Any], status: str, approved: list[str] | None, code: str
) -> None:
    """A run that cannot be resumed says why, and stays as it is."""
    run = a_run(runs, status, a_row("T1"), **columns)
    before = runs.get_by_id(run)

    with pytest.raises(NotResumable) as refusal:
        runs.resume(run, approved=approved)
    assert code == refusal.value.code
    assert before == runs.get_by_id(run)
    with pytest.raises(RunNotFound):
        runs.resume(UNKNOWN)


def test_resume_when_another_run_was_first(runs: SentriRuns) -> None:
    """A newer run of the project takes the interrupted one's place; the old one is not resumed beside it."""
    old = a_run(runs, "interrupted", testQueue=[{"id": "T0"}])
    a_run(runs)

    with pytest.raises(NotResumable):
        runs.resume(old)
