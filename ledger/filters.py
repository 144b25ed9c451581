"""Filters of events: by their type, and by facts of their run's first event, which never change.

So a filter passes over the same events whether they are read as history, live, or again after a reconnection. Labels
are those that the run was enqueued with; labels that came later do not bring old events in.

Labels end with a purge, which erases them; project, kind and types stay. After it nobody can tell whether a run had
them: of its events only `purged` passes a filter by labels, and it passes every such filter, whatever the run had and
whatever a process remembers. Who kept something of the run is told that it has to go; who did not is told in vain.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

_PURGED: Final = "purged"


class RunFacts(NamedTuple):
    """Of one run."""

    project: str | None
    kind: str
    labels: Mapping[str, str]


class Filter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which events somebody wants, and may have.

    Attributes:
        types: Of the event; empty is all.
        projects: Those that the caller may see; None is all.
        labels: A run must have them all; of a purged one, `purged` is wanted without.
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
            and (event_type == _PURGED or all(facts.labels.get(name) == value for name, value in self.labels.items()))
        )
