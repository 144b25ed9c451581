"""What a run is after its events: every event, and every figure that several events make."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from builders import (
    ABORTED,
    BARE,
    COMPLETED,
    FAILED,
    FULL,
    LATER,
    NOON,
    OTHER_RUN,
    RUN,
    a_run,
    after,
    enqueued,
    recorded,
    results,
    started,
)

from ledger.events import join_page
from ledger.run.codec import RecordedRunEvent, decode_page
from ledger.run.events import (
    Aborted,
    AbortRequested,
    Annotated,
    AttemptFailed,
    Completed,
    Deleted,
    FinalizationStarted,
    GateFinished,
    Interrupted,
    LogAppended,
    PhaseEntered,
    Purged,
    Released,
    Restored,
    Resumed,
    RunEvent,
    ShardCompleted,
    ShardResultAppended,
    ShardRetried,
    Skeleton,
    StatsIncremented,
    VersionResolved,
)
from ledger.run.remains import remains
from ledger.run.state import Run, RunState, as_run, fold, initial, skeleton
from ledger.run.values import GateOutcome, Status, Verdict

TERMINAL = {Status.COMPLETED: COMPLETED, Status.FAILED: FAILED, Status.ABORTED: ABORTED}


def changes(before: RunState, *events: RunEvent) -> dict[str, Any]:
    """Say which fields of the small row events change, beside where the run stands in the log."""
    old, new = as_run(before), as_run(after(before, *events))
    names = set(Run.__struct_fields__) - {"version", "position", "updated_at"}
    return {name: getattr(new, name) for name in names if getattr(new, name) != getattr(old, name)}


def gate(name: str, outcome: GateOutcome, summary: str | None = None) -> GateFinished:
    return GateFinished(gate=name, outcome=outcome, summary=summary)


def figures(run: RunState) -> tuple[int, int, int, int]:
    return run.passed, run.failed, run.skipped, run.total


# --- every event ------------------------------------------------------------------------------------------------


def test_enqueued_when_folded() -> None:
    """What was asked for is what the run shows."""
    run = fold(initial(RUN), recorded([FULL["enqueued"]]))

    assert Run(
        run_id=RUN,
        kind="test",
        project="web",
        status=Status.SCHEDULED,
        attempts_max=3,
        labels={"branch": "main", "os": "linux"},
        priority=-5,
        shard_count=4,
        total=100,
        idempotency_key="delivery-1",
        exclusive_key="main@web",
        parent_run_id=OTHER_RUN,
        retry_of=OTHER_RUN,
        created_at=NOON,
        not_before=LATER,
        updated_at=NOON,
        version=1,
        position=1,
    ) == as_run(run)
    assert (["build", "test"], True) == (run.phases, run.failed_verdict_fails)


@pytest.mark.parametrize(
    ("not_before", "status"),
    [
        (None, Status.QUEUED),
        (NOON, Status.QUEUED),
        (NOON + timedelta(microseconds=1), Status.SCHEDULED),
    ],
)
def test_enqueued_when_it_may_start_later(not_before: Any, status: Status) -> None:
    """A run is scheduled when it may not start at once."""
    assert status == a_run(not_before=not_before).status


SIMPLE: dict[str, tuple[RunState, RunEvent, dict[str, Any]]] = {
    "released": (a_run(Status.SCHEDULED), Released(), {"status": Status.QUEUED}),
    "started": (
        a_run(),
        started(worker="w7"),
        {"status": Status.RUNNING, "worker": "w7", "attempt": 1, "started_at": NOON},
    ),
    "phase_entered": (a_run(Status.RUNNING), PhaseEntered(phase="build"), {"phase": "build"}),
    "version_resolved": (a_run(Status.RUNNING), VersionResolved(resolved_version="v2"), {"resolved_version": "v2"}),
    "gate_finished": (a_run(Status.RUNNING), gate("lint", GateOutcome.PASSED), {"verdict": Verdict.PASSED}),
    "shard_result_appended": (
        a_run(Status.RUNNING),
        results("passed"),
        {"passed": 1, "total": 1, "statuses": {"passed": 1}, "verdict": Verdict.PASSED},
    ),
    "stats_incremented": (
        a_run(Status.RUNNING),
        StatsIncremented(passed=2, failed=1, total=5),
        {"passed": 2, "failed": 1, "total": 5, "verdict": Verdict.FAILED},
    ),
    "shard_completed": (a_run(Status.RUNNING), ShardCompleted(shard=0), {"shards_completed": 1}),
    "shard_retried": (
        a_run(Status.RUNNING, then=[ShardCompleted(shard=0)]),
        ShardRetried(shard=0, shard_attempt=2),
        {"shards_completed": 0},
    ),
    "artifact_recorded": (a_run(), FULL["artifact_recorded"], {"artifact_count": 1}),
    "log_appended": (a_run(), LogAppended(lines=["a", "b"]), {"log_line_count": 2}),
    "annotated": (
        a_run(labels={"b": "2", "c": "3"}),
        Annotated(note="hm", labels={"a": "1", "c": None}),
        {"labels": {"a": "1", "b": "2"}},
    ),
    "attempt_failed": (
        a_run(Status.RUNNING),
        AttemptFailed(error="boom", error_category="crash"),
        {"status": Status.QUEUED, "error": "boom", "error_category": "crash", "worker": None},
    ),
    "interrupted": (
        a_run(Status.RUNNING),
        Interrupted(reason="host gone"),
        {"status": Status.INTERRUPTED, "error": "host gone", "error_category": "interrupted", "worker": None},
    ),
    "resumed": (
        a_run(Status.INTERRUPTED),
        Resumed(worker="w2"),
        {"status": Status.RUNNING, "error": None, "error_category": None, "worker": "w2"},
    ),
    "abort_requested": (a_run(Status.RUNNING), AbortRequested(), {"abort_requested_at": NOON}),
    "finalization_started": (a_run(Status.RUNNING), FinalizationStarted(worker="w2"), {}),
    "shard_started": (a_run(Status.RUNNING), FULL["shard_started"], {}),
    "write_rejected": (a_run(Status.RUNNING), FULL["write_rejected"], {}),
    "completed": (
        a_run(Status.RUNNING),
        Completed(finished_at=LATER, output_ref="s3://r"),
        {
            "status": Status.COMPLETED,
            "finished_at": LATER,
            "duration_ms": 3_600_000,
            "output_ref": "s3://r",
            "closed_version": 3,
        },
    ),
    "failed": (
        a_run(Status.RUNNING),
        FULL["failed"],
        {
            "status": Status.FAILED,
            "finished_at": LATER,
            "duration_ms": 1,
            "error": "line one\nline two",
            "error_category": "crash",
            "failure_summary": "coverage: 71 % < 80 %",
            "closed_version": 3,
        },
    ),
    "aborted": (
        a_run(),
        Aborted(finished_at=LATER, reason="no", skipped=[{"status": "skipped"}]),
        {
            "status": Status.ABORTED,
            "finished_at": LATER,
            "error": "no",
            "error_category": "user",
            "skipped": 1,
            "total": 1,
            "statuses": {"skipped": 1},
            "closed_version": 2,
        },
    ),
    "document_recorded": (a_run(Status.COMPLETED), FULL["document_recorded"], {}),
    "deleted": (a_run(Status.COMPLETED), Deleted(deleted_at=LATER), {"deleted_at": LATER}),
    "restored": (
        a_run(Status.COMPLETED, then=[Deleted(deleted_at=LATER)]),
        Restored(),
        {"deleted_at": None},
    ),
    "purged": (
        a_run(Status.COMPLETED),
        BARE["purged"],
        {
            **{"deleted_at": LATER, "purged_at": NOON, "purged_version": 4},
            **{"attempt": 0, "worker": None, "closed_version": 4},
            **{"created_at": None, "started_at": None, "finished_at": None, "duration_ms": None},
        },
    ),
}


@pytest.mark.parametrize("name", SIMPLE)
def test_event_when_folded(name: str) -> None:
    """An event changes the fields that it is about, and no other."""
    run, event, expected = SIMPLE[name]

    assert expected == changes(run, event)


def test_events_when_one_is_added() -> None:
    """The cases above know every event there is."""
    assert set(FULL) - {"enqueued"} == set(SIMPLE)


def test_version_and_position_when_folded() -> None:
    """A run knows the place of its latest event, and when it was recorded."""
    [first, second] = recorded([enqueued(), started()], at=LATER)

    run = fold(initial(RUN), [first, second])

    assert (2, 2, LATER) == (run.version, run.position, run.updated_at)


def test_event_when_its_payload_was_erased() -> None:
    """An erased event moves the version, and says nothing else any more."""
    run = a_run(Status.RUNNING)
    [stored] = recorded([COMPLETED], after=2)
    [erased] = decode_page(join_page([(3, 3, b"%b" % _envelope(stored), None)]))

    folded = fold(run, [erased])

    assert (3, Status.RUNNING, 0) == (folded.version, folded.status, folded.closed_version)


def _envelope(event: Any) -> bytes:
    from ledger.envelope import encode_envelope

    return encode_envelope(event.envelope)


# --- results ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("passed", (1, 0, 0, 1)),
        ("warning", (1, 0, 0, 1)),
        ("xpassed", (1, 0, 0, 1)),
        ("failed", (0, 1, 0, 1)),
        ("error", (0, 1, 0, 1)),
        ("timed_out", (0, 1, 0, 1)),
        ("skipped", (0, 0, 1, 1)),
        ("xfailed", (0, 0, 1, 1)),
    ],
)
def test_result_when_counted(status: str, expected: tuple[int, int, int, int]) -> None:
    """A result counts as passed, as failed or as neither, by its status."""
    assert expected == figures(a_run(Status.RUNNING, then=[results(status)]))


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({}, {"unknown": 1}),
        ({"status": None}, {"unknown": 1}),
        ({"status": ["passed"]}, {"unknown": 1}),
        ({"status": "skipped", "skipReason": {"why": "slow"}}, {"skipped": 1}),
        ({"status": "skipped", "skipReason": ["over_budget"]}, {"skipped": 1}),
    ],
)
def test_result_when_its_words_are_no_text(result: dict[str, Any], expected: dict[str, int]) -> None:
    """A result of any form is counted: the fold never raises over what got into the log."""
    run = a_run(Status.RUNNING, then=[ShardResultAppended(results=[result])])

    assert expected == run.statuses
    assert int("unknown" in expected) == run.failed


def test_results_when_shards_append_at_once() -> None:
    """Results of siblings add up, whatever order they came in."""
    parts = [results("passed", "failed", shard=shard) for shard in range(3)]

    one = a_run(Status.RUNNING, shard_count=3, then=parts)
    other = a_run(Status.RUNNING, shard_count=3, then=parts[::-1])

    assert (3, 3, 0, 6) == figures(one) == figures(other)
    assert {"passed": 3, "failed": 3} == one.statuses


def test_results_when_the_run_expects_a_total() -> None:
    """The expected total stands until deltas move it; results alone do not."""
    run = a_run(Status.RUNNING, total=10, then=[results("passed")])

    assert (10, 13) == (run.total, after(run, StatsIncremented(total=3)).total)


def test_results_when_a_newer_attempt_of_their_shard_began() -> None:
    """A newer attempt takes its shard's results away and leaves the siblings'."""
    run = a_run(Status.RUNNING, shard_count=2, then=[results("failed", shard=0), results("passed", shard=1)])

    retried = after(run, ShardRetried(shard=0, shard_attempt=2))

    assert ((1, 1, 0, 2), (1, 0, 0, 1)) == (figures(run), figures(retried))
    assert {"passed": 1} == retried.statuses


def test_results_when_their_attempt_is_old() -> None:
    """Late results of an older attempt do not count."""
    run = a_run(Status.RUNNING, shard_count=1, then=[ShardRetried(shard=0, shard_attempt=2)])

    late = after(run, results("failed", shard=0, shard_attempt=1), ShardCompleted(shard=0, shard_attempt=1))

    assert ((0, 0, 0, 0), 0) == (figures(late), late.shards_completed)


def test_results_when_their_attempt_is_newer_than_known() -> None:
    """Results of a newer attempt supersede, even if nobody said that it began."""
    run = a_run(Status.RUNNING, shard_count=1, then=[results("failed", shard=0), ShardCompleted(shard=0)])

    newer = after(run, results("passed", shard=0, shard_attempt=2))

    assert ((1, 0, 0, 1), 0) == (figures(newer), newer.shards_completed)


def test_results_when_sequence_numbers_are_seen_twice() -> None:
    """A result counts once, however its batch is cut the second time."""
    run = a_run(Status.RUNNING, then=[results("passed", "failed", "passed", shard=0, first_sequence=0)])

    again = after(run, results("failed", "passed", "skipped", shard=0, first_sequence=1))

    assert (2, 1, 1, 4) == figures(again)


def test_results_when_sequence_numbers_come_out_of_order() -> None:
    """A batch that was overtaken by a later one still counts, and counts once."""
    late = results("failed", "failed", shard=0, first_sequence=0)
    run = a_run(Status.RUNNING, then=[results("passed", shard=0, first_sequence=2), late])

    again = after(run, late, results("failed", "failed", "passed", "passed", shard=0, first_sequence=0))

    assert ((1, 2, 0, 3), (2, 2, 0, 4)) == (figures(run), figures(again))


def test_results_when_sequence_numbers_leave_gaps() -> None:
    """What fills a gap counts as far as it fills it."""
    run = a_run(
        Status.RUNNING,
        then=[
            results("passed", "passed", first_sequence=2),
            results("passed", first_sequence=6),
            results("passed", "passed", first_sequence=5),
            results("failed", "failed", "failed", "failed", "failed", first_sequence=0),
        ],
    )

    assert (4, 3, 0, 7) == figures(run)


def test_results_when_sequences_of_two_shards_meet() -> None:
    """Sequence numbers belong to one shard's attempt."""
    run = a_run(
        Status.RUNNING,
        shard_count=2,
        then=[results("passed", shard=0, first_sequence=0), results("passed", shard=1, first_sequence=0)],
    )

    retried = after(run, ShardRetried(shard=0, shard_attempt=2))
    again = after(retried, results("failed", shard=0, shard_attempt=2, first_sequence=0))

    assert ((2, 0, 0, 2), (1, 1, 0, 2)) == (figures(run), figures(again))


def test_results_when_they_have_no_sequence() -> None:
    """Without sequence numbers each result counts."""
    assert (2, 0, 0, 2) == figures(a_run(Status.RUNNING, then=[results("passed"), results("passed")]))


def test_results_when_tests_were_left_out_before_dispatch() -> None:
    """Tests that were left out stay left out through every retry; other results of no shard do not."""
    left_out = ShardResultAppended(
        results=[
            {"status": "skipped", "skipReason": "over_budget"},
            {"status": "skipped", "skipReason": "skipped_no_impact"},
            {"status": "skipped", "skipReason": "upstream_failed"},
            {"status": "passed", "skipReason": "over_budget"},
        ]
    )
    run = a_run(Status.RUNNING, attempts_max=2, then=[left_out])

    anew = after(run, AttemptFailed(error="boom"), started(2))

    assert ((1, 0, 3, 4), (0, 0, 2, 2)) == (figures(run), figures(anew))


def test_results_when_the_run_is_tried_anew() -> None:
    """A new attempt of the run begins with nothing executed and no shard done."""
    run = a_run(
        Status.RUNNING,
        attempts_max=2,
        shard_count=2,
        then=[
            results("failed", shard=0),
            results("passed"),
            ShardCompleted(shard=0),
            ShardCompleted(),
            StatsIncremented(passed=5, failed=1),
            FinalizationStarted(worker="w1"),
        ],
    )

    anew = after(run, AttemptFailed(error="boom"), started(2))

    assert ((5, 1), 2, Verdict.FAILED) == ((run.passed, run.failed), run.shards_completed, run.verdict)
    assert ((0, 0, 0, 0), 0, {}) == (figures(anew), anew.shards_completed, anew.statuses)
    assert (Verdict.NONE, None, 2) == (anew.verdict, anew.finalizer, anew.attempt)


# --- anonymous counters -----------------------------------------------------------------------------------------


def test_stats_when_used_beside_results() -> None:
    """Once the anonymous counters moved, they are the figures; the results stay countable by their status."""
    run = a_run(Status.RUNNING, then=[results("passed", "failed"), StatsIncremented(passed=7)])

    assert (7, 0, {"passed": 1, "failed": 1}) == (run.passed, run.failed, run.statuses)


def test_stats_when_only_the_total_moved() -> None:
    """A delta of the total alone does not make the anonymous counters the figures."""
    run = a_run(Status.RUNNING, then=[results("passed"), StatsIncremented(total=4)])

    assert (1, 0, 0, 5) == figures(run)


def test_stats_when_they_pass_every_integer() -> None:
    """Figures stop at the largest integer that every reader keeps, so that a row can always be written."""
    most = 2**53 - 1
    run = a_run(Status.RUNNING, then=[StatsIncremented(passed=most, failed=-most, total=most)] * 3)

    assert (most, -most, most) == (run.passed, run.failed, run.total)


def test_shards_completed_when_counted_both_ways() -> None:
    """Keyed and anonymous completions add up to the number of shards and no further."""
    run = a_run(Status.RUNNING, shard_count=2, then=[ShardCompleted(shard=0), ShardCompleted(), ShardCompleted()])

    assert 2 == run.shards_completed


def test_shard_when_completed_twice() -> None:
    """A shard counts once, with the exit code of the first time."""
    run = a_run(Status.RUNNING, shard_count=2, then=[ShardCompleted(shard=1, exit_code=0), ShardCompleted(shard=1)])

    assert (1, 0) == (run.shards_completed, run.shards[1].exit_code)


# --- verdict and gates ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("then", "verdict"),
    [
        ([], Verdict.NONE),
        ([results("skipped")], Verdict.NONE),
        ([results("passed")], Verdict.PASSED),
        ([results("passed", "failed")], Verdict.FAILED),
        ([gate("a", GateOutcome.PASSED)], Verdict.PASSED),
        ([gate("a", GateOutcome.PASSED), gate("b", GateOutcome.BLOCKED)], Verdict.BLOCKED),
        ([gate("a", GateOutcome.BLOCKED), gate("b", GateOutcome.FAILED)], Verdict.FAILED),
        ([gate("a", GateOutcome.BLOCKED), results("failed")], Verdict.FAILED),
        ([gate("a", GateOutcome.FAILED), results("passed")], Verdict.FAILED),
        ([gate("a", GateOutcome.FAILED), gate("a", GateOutcome.PASSED)], Verdict.PASSED),
        ([StatsIncremented(passed=1)], Verdict.PASSED),
        ([StatsIncremented(failed=1)], Verdict.FAILED),
    ],
)
def test_verdict_when_folded(then: list[RunEvent], verdict: Verdict) -> None:
    """The verdict is what results and the latest outcome of each gate say."""
    assert verdict == a_run(Status.RUNNING, then=then).verdict


def test_verdict_when_the_status_changes() -> None:
    """Status and verdict are apart: a completed run may have failed its tests, and an aborted one passed them."""
    failing = a_run(Status.RUNNING, then=[results("failed"), COMPLETED])
    passing = a_run(Status.RUNNING, then=[results("passed"), ABORTED])

    assert (Status.COMPLETED, Verdict.FAILED) == (failing.status, failing.verdict)
    assert (Status.ABORTED, Verdict.PASSED) == (passing.status, passing.verdict)


def test_gate_when_finished_again() -> None:
    """The latest outcome of a gate counts, and its place with it."""
    run = a_run(
        Status.RUNNING,
        then=[gate("a", GateOutcome.FAILED, "first"), gate("b", GateOutcome.FAILED), gate("a", GateOutcome.FAILED)],
    )

    assert {"a": (5, None), "b": (4, None)} == {name: (it.version, it.summary) for name, it in run.gates.items()}


# --- status -----------------------------------------------------------------------------------------------------


def test_attempt_failed_when_it_is_retried_later() -> None:
    """With a moment for the retry the run goes to the schedule."""
    run = a_run(Status.RUNNING, then=[AttemptFailed(error="boom", retry_at=LATER)])

    assert (Status.SCHEDULED, LATER, None) == (run.status, run.not_before, run.worker)


def test_started_again_when_folded() -> None:
    """A new attempt clears the old one's error and keeps the run's first start."""
    run = a_run(Status.RUNNING, attempts_max=2, then=[AttemptFailed(error="boom", error_category="oom")])

    anew = fold(run, recorded([started(2, "w9")], after=run.version, at=LATER))

    assert (Status.RUNNING, 2, "w9", None, None) == (
        anew.status,
        anew.attempt,
        anew.worker,
        anew.error,
        anew.error_category,
    )
    assert (NOON, 4) == (anew.started_at, anew.taken_version)


def test_abort_requested_when_requested_twice() -> None:
    """The first request's moment stays."""
    run = a_run(Status.RUNNING, then=[AbortRequested()])

    again = fold(run, recorded([AbortRequested()], after=run.version, at=LATER))

    assert NOON == again.abort_requested_at


def test_duration_when_the_clock_went_back() -> None:
    """A run never took less than no time."""
    run = a_run(Status.RUNNING, then=[Completed(finished_at=NOON - timedelta(hours=1))])

    assert 0 == run.duration_ms


def test_duration_when_never_started() -> None:
    """A run that never started has no duration."""
    assert a_run(Status.QUEUED, then=[ABORTED]).duration_ms is None


AFTERWARDS = {"log_appended", "artifact_recorded", "annotated", "deleted", "restored", "purged"}


@pytest.mark.parametrize("late", [*FULL.values(), *BARE.values()], ids=lambda event: type(event).__name__)
@pytest.mark.parametrize("status", TERMINAL)
def test_event_when_the_run_is_closed(status: Status, late: RunEvent) -> None:
    """A finished run stays as it is, whatever got into its stream later."""
    run = a_run(status, labels={"owner": "team-a"})

    changed = changes(run, late)

    allowed = {"labels", "artifact_count", "log_line_count", "deleted_at"}
    assert set() == set(changed) - allowed or isinstance(late, Purged)


def test_terminal_event_when_there_is_one() -> None:
    """The first of two terminal events counts."""
    run = a_run(Status.RUNNING, then=[ABORTED, COMPLETED, FAILED])

    assert (Status.ABORTED, 3, "enough") == (run.status, run.closed_version, run.error)


# --- purged -----------------------------------------------------------------------------------------------------


def erased(stored: list[RecordedRunEvent]) -> list[RecordedRunEvent]:
    return [msgspec.structs.replace(event, data=None) for event in stored]


def a_purged_run(*then: RunEvent) -> tuple[list[RecordedRunEvent], RunState]:
    """Give the stream of a run with much to erase, purged, and its state just before."""
    before = recorded(
        [
            enqueued(project="web", labels={"owner": "ada"}, idempotency_key="k", shard_count=2),
            started(),
            results("passed", "failed", "skipped", "odd", shard=0),
            ShardCompleted(shard=0),
            LogAppended(lines=["secret"]),
            FAILED,
            Annotated(note="ada was here"),
        ]
    )
    run = fold(initial(RUN), before)
    purge = Purged(skeleton=skeleton(run, deleted_at=LATER))
    return [*before, *recorded([purge, *then], after=run.version)], run


def test_purged_when_what_was_before_is_erased() -> None:
    """A purged run is the same, byte for byte, whether the past was folded before or after its erasure."""
    stream, run = a_purged_run()

    states = [
        fold(initial(RUN), stream),
        fold(run, stream[run.version :]),
        fold(initial(RUN), [*erased(stream[:-1]), stream[-1]]),
        fold(fold(initial(RUN), stream[:3]), [*erased(stream[3:-1]), stream[-1]]),
    ]

    assert 1 == len({msgspec.json.encode(state) for state in states})


def test_purged_when_lists_show_it() -> None:
    """Kind, project, status, verdict, times and counts stay; labels, keys, errors and texts are gone."""
    stream, run = a_purged_run()

    purged = fold(initial(RUN), stream)

    for name in Skeleton.__struct_fields__:
        assert name == "deleted_at" or getattr(run, name) == getattr(purged, name), name
    assert ("test", "web", Status.FAILED, Verdict.FAILED) == (
        purged.kind,
        purged.project,
        purged.status,
        purged.verdict,
    )
    assert (1, 2, 1, 4, 1, 2) == (
        *(purged.passed, purged.failed, purged.skipped, purged.total),
        *(purged.shards_completed, purged.shard_count),
    )
    text = msgspec.json.encode(purged)
    assert not [word for word in (b"ada", b"secret", b"boom", b'"k"', b"odd", b"w1") if word in text]
    assert (LATER, NOON, 8) == (purged.deleted_at, purged.purged_at, purged.purged_version)


@pytest.mark.parametrize("late", [*FULL.values(), *BARE.values()], ids=lambda event: type(event).__name__)
def test_event_when_the_run_is_purged(late: RunEvent) -> None:
    """A purged run stays as it is, whatever got into its stream later."""
    stream, _ = a_purged_run()

    changed = changes(fold(initial(RUN), stream), late)

    assert {} == changed or isinstance(late, Purged)


def test_remains_when_asked_for_a_moment_before_the_purge() -> None:
    """Of an erased past, types and times still tell the status; what never changes comes from the purge."""
    stream, run = a_purged_run()
    purge = stream[-1]

    at = {version: remains(erased(stream[:version]), purge=purge) for version in range(1, run.version + 1)}

    assert [Status.QUEUED, *[Status.RUNNING] * 4, *[Status.FAILED] * 2] == [state.status for state in at.values()]
    assert {("test", "web", NOON, None, 8)} == {
        (state.kind, state.project, state.created_at, state.purged_at, state.purged_version) for state in at.values()
    }
    assert (0, 1, 1) == (at[1].attempt, at[2].attempt, at[7].attempt)
    assert (None, LATER) == (at[5].finished_at, at[6].finished_at)
    assert list(range(1, 8)) == [state.version for state in at.values()]
