"""Sando's own scenarios, with its numbers, on every store."""

from datetime import UTC, datetime

import pytest

from ledger import InvalidInput, Ledger
from ledger.run.state import Run
from projections.systems.sando import BuildRuns
from projections.vocabularies import elapsed_s


@pytest.fixture
def builds(log: Ledger) -> BuildRuns:
    return BuildRuns(log)


def test_create_then_get(builds: BuildRuns) -> None:
    """A new run is building and queued, with no version, no gates and no summary."""
    shown = builds.get(builds.create("abc1234"))

    assert shown is not None
    assert ("abc1234", "building", "queued", None) == (shown["sha"], shown["result"], shown["phase"], shown["version"])
    assert ([], None, None) == (shown["gates"], shown["failure_summary"], shown["finished_at"])
    assert shown["started_at"]


def test_phase_and_version_then_pass(builds: BuildRuns) -> None:
    """A run with a phase and a version passes: done, with its version and an end."""
    run = builds.create("abc1234")
    builds.set_phase(run, "compiling")
    builds.set_version(run, "0.10.2")

    assert builds.mark_passed(run)

    shown = builds.get(run)
    assert shown is not None
    assert ("passed", "done", "0.10.2") == (shown["result"], shown["phase"], shown["version"])
    assert shown["finished_at"] is not None


def test_first_terminal_write_wins(builds: BuildRuns) -> None:
    """After a failure, neither a pass nor a second failure changes its text."""
    run = builds.create("abc1234")
    told = "error[E0063]: missing field user_pages_host"

    assert builds.mark_failed(run, told)
    assert not builds.mark_passed(run)
    assert not builds.mark_failed(run, "something else")

    shown = builds.get(run)
    assert shown is not None
    assert ("failed", told) == (shown["result"], shown["failure_summary"])


def test_phase_after_the_end_does_nothing(builds: BuildRuns) -> None:
    """A late phase, version or gate does not move a finished run."""
    run = builds.create("abc1234")
    builds.mark_passed(run)
    builds.set_phase(run, "gating")
    builds.set_version(run, "9.9.9")

    shown = builds.get(run)
    assert shown is not None
    assert ("done", None) == (shown["phase"], shown["version"])


def test_phases_in_any_order(builds: BuildRuns) -> None:
    """Sando keeps no order of phases; a word that is no phase is refused."""
    run = builds.create("abc1234")
    builds.set_phase(run, "gating")
    builds.set_phase(run, "fetching")

    shown = builds.get(run)
    assert shown is not None
    assert "fetching" == shown["phase"]
    with pytest.raises(InvalidInput):
        builds.set_phase(run, "baking")  # type: ignore[arg-type]


def test_elapsed_seconds() -> None:
    """From 00:00:00 to 00:02:05 are 125 seconds; a run that has not begun took 0."""
    started, finished = datetime(2026, 6, 13, tzinfo=UTC), datetime(2026, 6, 13, 0, 2, 5, tzinfo=UTC)
    now = datetime(2026, 6, 14, tzinfo=UTC)

    assert 125 == elapsed_s(Run(run_id="r", started_at=started, finished_at=finished), now=now)
    assert 0 == elapsed_s(Run(run_id="r", started_at=now), now=started)
    assert 0 == elapsed_s(Run(run_id="r"), now=now)


def test_latest_summary_of_two_runs(builds: BuildRuns) -> None:
    """There is none before the first run; of two, the newer is told, with its phase."""
    assert builds.latest_summary() is None
    builds.create("old1234")
    new = builds.create("new5678")
    builds.set_phase(new, "compiling")

    summary = builds.latest_summary()

    assert summary is not None
    assert (new, "new5678", "compiling", "building") == tuple(
        summary[name] for name in ("run_id", "sha", "phase", "result")
    )
    assert 0 <= summary["elapsed_s"] <= 60


def test_get_unknown_run(builds: BuildRuns) -> None:
    """An unknown run is none, whatever form its id has, and settling it changes nothing."""
    unknown = "0192f3a0-0000-7000-8000-0000000003e7"

    assert builds.get("999") is None
    assert builds.get(unknown) is None
    assert not builds.mark_passed(unknown)
    builds.set_phase(unknown, "gating")


def test_failure_summary_is_bounded(builds: BuildRuns) -> None:
    """Of 5,000 characters, 600 at most are the summary."""
    run = builds.create("abc1234")
    builds.mark_failed(run, "x" * 5_000)

    shown = builds.get(run)
    assert shown is not None
    assert 600 >= len(shown["failure_summary"]) > 0


def test_rebuild_supersedes(builds: BuildRuns) -> None:
    """A new rebuild settles the older one as superseded; a failure that comes late does not change that."""
    old = builds.rebuild("old1234")
    new = builds.rebuild("new5678")

    assert not builds.mark_failed(old, "killed")

    shown, newest = builds.get(old), builds.get(new)
    assert shown is not None
    assert newest is not None
    assert ("aborted", "superseded by a newer /rebuild") == (shown["result"], shown["failure_summary"])
    assert "building" == newest["result"]


def test_gates_are_the_runs_own(builds: BuildRuns) -> None:
    """Two builds of one version share no gate: a red gate of the older is not the headline of the newer."""
    old, new = builds.create("abc1234"), builds.create("abc1234")
    for run in (old, new):
        builds.set_version(run, "0.10.2")
    builds.finish_gate(old, "tests", "failed", summary="3 failed", log_ref="host/tests.log")
    builds.finish_gate(old, "lint", "failed", summary="1 warning")
    builds.finish_gate(old, "audit", "blocked")
    builds.finish_gate(new, "lint", "passed")

    shown = builds.get(old)
    assert shown is not None
    assert [("audit", "blocked"), ("lint", "failed"), ("tests", "failed")] == [
        (gate["kind"], gate["status"]) for gate in shown["gates"]
    ]
    assert "tests: 3 failed" == builds.first_failed_gate_summary(old)
    assert builds.first_failed_gate_summary(new) is None


def test_headline_when_the_gate_says_nothing(builds: BuildRuns) -> None:
    """A red gate without a summary still makes a headline."""
    run = builds.create("abc1234")
    builds.finish_gate(run, "tests", "failed")

    assert "tests: gate failed" == builds.first_failed_gate_summary(run)
