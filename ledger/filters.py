"""Filters of events: by their type, and by facts of their run's first event, which never change.

So a filter passes over the same events whether they are read as history, live, or again after a reconnection. Labels
are those that the run was enqueued with; labels that came later do not bring old events in.
"""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec


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
