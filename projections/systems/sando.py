"""Sando's build runs: one run a rebuild, with phases, a version and gates of its own.

Differs from Sando: the gates are facts of the run, not of its version, so two builds of one version share nothing; and
the settling calls tell whether they were first.
"""

from typing import Final, Literal, get_args

from ledger.api import Ledger
from ledger.clock import utc_now
from ledger.errors import InvalidInput, RunNotFound
from ledger.run.state import failure_headline
from ledger.run.values import GateOutcome, JsonObject
from projections.reader import Runs
from projections.vocabularies import SANDO, SUPERSEDED, elapsed_s, view

Phase = Literal["fetching", "compiling", "staging", "gating"]

KIND: Final = "build"
_SUMMARY_FIELDS: Final = ("run_id", "sha", "version", "phase", "result", "failure_summary")


class BuildRuns:
    """Build runs of one project.

    Args:
        log: The ledger.
        project: Whose builds; None is everybody's who names none.
        builder: Who builds: the worker that the log names.
    """

    def __init__(self, log: Ledger, *, project: str | None = None, builder: str = "sando") -> None:
        self._log = log
        self._runs = Runs(log)
        self._project = project
        self._builder = builder

    def create(self, sha: str) -> str:
        """Begin a build, beside others that may be under way, and give its run id."""
        return self._log.enqueue(
            KIND, project=self._project, input={"sha": sha}, labels={"sha": sha}, worker=self._builder
        ).id

    def rebuild(self, sha: str) -> str:
        """Begin a build in the place of the one that is under way, which is aborted as superseded."""
        return self._log.enqueue(
            KIND,
            project=self._project,
            input={"sha": sha},
            labels={"sha": sha},
            exclusive_key="rebuild",
            on_active="supersede",
            worker=self._builder,
        ).id

    def set_phase(self, run_id: str, phase: Phase) -> None:
        """Enter a phase, in any order; a late call on a settled run, or on none, does nothing.

        Raises:
            InvalidInput: when it is none of Sando's phases.
        """
        if phase not in get_args(Phase):
            raise InvalidInput("phase", f"is {phase!r}; {', '.join(get_args(Phase))} is allowed.")
        try:
            self._log.enter_phase(run_id, phase)
        except RunNotFound:
            return

    def set_version(self, run_id: str, version: str) -> None:
        """Record the version of what is built; a late call does nothing."""
        try:
            self._log.resolve_version(run_id, version)
        except RunNotFound:
            return

    def finish_gate(
        self,
        run_id: str,
        kind: str,
        status: GateOutcome | str,
        *,
        summary: str | None = None,
        log_ref: str | None = None,
    ) -> None:
        """Record a gate of this run; the latest of a kind counts."""
        self._log.finish_gate(run_id, kind, status, summary=summary, log_ref=log_ref)

    def mark_passed(self, run_id: str) -> bool:
        """Settle the run green.

        Returns:
            Whether this call settled it; False when it was settled before, or is unknown.
        """
        try:
            return bool(self._log.complete(run_id))
        except RunNotFound:
            return False

    def mark_failed(self, run_id: str, summary: str) -> bool:
        """Settle the run red; the summary is cut to 600 characters. Returns as `mark_passed`."""
        try:
            return bool(self._log.fail(run_id, error=summary, failure_summary=summary))
        except RunNotFound:
            return False

    def mark_aborted(self, run_id: str) -> bool:
        """Settle the run as superseded. Returns as `mark_passed`."""
        try:
            return bool(self._log.abort(run_id, reason=SUPERSEDED, mode="superseded"))
        except RunNotFound:
            return False

    def first_failed_gate_summary(self, run_id: str) -> str | None:
        """Give `<gate>: <summary>` of the run's gate that was red first; None when none is."""
        state = self._log.state(run_id)
        is_red = any(gate.outcome is GateOutcome.FAILED for gate in state.gates.values())
        return failure_headline(state) if is_red else None

    def get(self, run_id: str) -> JsonObject | None:
        """Give what `GET /runs/{id}` shows; None for an unknown run."""
        try:
            return view(self._runs.get(run_id), SANDO)
        except (RunNotFound, InvalidInput):
            return None

    def latest_summary(self) -> JsonObject | None:
        """Give the newest run as `/state` shows it, with its seconds so far; None before the first."""
        run = self._runs.latest(project=self._project, kind=KIND)
        if run is None:
            return None
        shown = view(run, SANDO)
        return {**{name: shown[name] for name in _SUMMARY_FIELDS}, "elapsed_s": elapsed_s(run, now=utc_now())}
