"""Gives what a run's events are filtered by, from its first event."""

from collections.abc import Sequence

from ledger import limits
from ledger.decider import StateCache, load
from ledger.errors import RunNotFound
from ledger.events import RunId
from ledger.filters import RunFacts
from ledger.run.codec import RecordedRunEvent, decode_page
from ledger.run.events import Enqueued
from ledger.store import Store


class RunsFacts:
    """Gives the facts of runs. Safe to use from any thread; what is known is forgotten when it is too much.

    Args:
        store: The log.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, RunFacts] = {}

    def of_event(self, event: RecordedRunEvent) -> RunFacts:
        """Give the facts of an event's run; of an erased event without labels, also where they are remembered."""
        if isinstance(event.data, Enqueued):
            return self._learn(event.run_id, _asked(event.data))
        facts = self.of(event.run_id)
        return facts._replace(labels={}) if event.data is None else facts

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
        page = self._store.read_run(run_id, after_version=0, limit=1)
        if not page.count:
            raise RunNotFound(run_id)
        first = decode_page(page.events)[0].data
        if isinstance(first, Enqueued):
            return _asked(first)
        run = load(self._store, run_id, StateCache(1))  # erased, or appended by somebody with rules of their own
        return RunFacts(run.project, run.kind, run.labels)

    def _learn(self, run_id: str, facts: RunFacts) -> RunFacts:
        if len(self._known) >= limits.FACTS_MAX:
            self._known.clear()
        self._known[run_id] = facts
        return facts


def _asked(event: Enqueued) -> RunFacts:
    return RunFacts(event.project, event.kind, event.labels)
