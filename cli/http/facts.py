"""What a run's events are filtered by: facts of its first event, which never change.

So a filter passes over the same events whether they are read as history, live, or again after a reconnection. Labels
are those that the run was enqueued with; labels that came later do not bring old events in.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from cli.http import limits
from ledger.api import Ledger
from ledger.events import RunId
from ledger.run.codec import RecordedRunEvent, decode_page
from ledger.run.events import Enqueued
from projections.reader import Runs


class RunFacts(NamedTuple):
    """Of one run."""

    project: str | None
    kind: str
    labels: Mapping[str, str]


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which events somebody wants, and may have.

    Attributes:
        types: Of the event; empty is all.
        projects: Those that the caller may see; None is all.
        labels: A run must have them all.
    """

    types: frozenset[str] = frozenset()
    project: str | None = None
    kind: str | None = None
    labels: Mapping[str, str] = {}
    projects: frozenset[str] | None = None

    def wants(self, event_type: str, facts: RunFacts) -> bool:
        return (
            (not self.types or event_type in self.types)
            and (self.project is None or facts.project == self.project)
            and (self.kind is None or facts.kind == self.kind)
            and (self.projects is None or facts.project in self.projects)
            and all(facts.labels.get(name) == value for name, value in self.labels.items())
        )


class RunsFacts:
    """Gives the facts of runs. Safe to use from any thread; what is known is forgotten when it is too much.

    Args:
        log: The ledger.
    """

    def __init__(self, log: Ledger) -> None:
        self._log = log
        self._runs = Runs(log)
        self._known: dict[str, RunFacts] = {}

    def of_event(self, event: RecordedRunEvent) -> RunFacts:
        """Give the facts of an event's run."""
        if isinstance(event.data, Enqueued):
            return self._learn(event.run_id, _asked(event.data))
        return self.of(event.run_id)

    def of(self, run_id: RunId) -> RunFacts:
        """Give the facts of a run.

        Raises:
            RunNotFound: when there is no such run.
        """
        return self._known.get(run_id) or self._learn(run_id, self.read(run_id))

    def of_all(self, events: Sequence[RecordedRunEvent]) -> list[RunFacts]:
        return [self.of_event(event) for event in events]

    def read(self, run_id: RunId) -> RunFacts:
        """Read the facts of a run, known or not."""
        page = self._log.store.read_run(run_id, after_version=0, limit=1)
        first = decode_page(page.events)[0].data if page.count else None
        if isinstance(first, Enqueued):
            return _asked(first)
        run = self._runs.get(run_id)  # it was erased, or appended by somebody with rules of their own
        return RunFacts(run.project, run.kind, run.labels)

    def _learn(self, run_id: str, facts: RunFacts) -> RunFacts:
        if len(self._known) >= limits.FACTS_MAX:
            self._known.clear()
        self._known[run_id] = facts
        return facts


def _asked(event: Enqueued) -> RunFacts:
    return RunFacts(event.project, event.kind, event.labels)
