"""What is measured of work: how much is claimed, how long it waited, how long it took, and what became of it."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from cli.telemetry.figures import LONG_S, Labels, Measure
from cli.worker import Work
from ledger.clock import monotonic, utc_now
from ledger.queue import Swept

CLAIMED: Final = Measure("runfold_work_claimed_total", "Runs, shards and finalizations taken.", ("kind", "purpose"))
WAIT: Final = Measure(
    "runfold_work_wait_seconds", "From when it could first be claimed to when it was.", ("kind", "purpose"), LONG_S
)
WORK: Final = Measure(
    "runfold_work_seconds",
    "From a claim to what became of it: succeeded, failed, lost or handed_back.",
    ("kind", "purpose", "outcome"),
    LONG_S,
)
SWEPT: Final = Measure("runfold_leases_swept_total", "Leases of others that were over, and were settled here.")


class Sink(Protocol):
    """Where measures go: to Prometheus, who asks for them, or to OpenTelemetry, which sends them."""

    def count(self, measure: Measure, labels: Labels, *, by: float = 1) -> None:
        """Add to a counter."""

    def observe(self, measure: Measure, labels: Labels, value: float) -> None:
        """Add a value to a histogram."""


class WorkMeasures:
    """Measures what a worker or a daemon does; its methods are a worker's observers.

    Args:
        sinks: Where to.
    """

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = sinks
        self._lock = threading.Lock()
        self._active: set[Work] = set()

    def observe(self, event: str, work: Work, _facts: Mapping[str, Any]) -> None:
        """Note what happens to work; see `cli.worker.Observer`."""
        lease = work.lease
        labels = (lease.kind, lease.purpose.value)
        if event == "claimed":
            with self._lock:
                self._active.add(work)
            self._count(CLAIMED, labels)
            if lease.available_at is not None:
                self._observe(WAIT, labels, max(0.0, (utc_now() - lease.available_at).total_seconds()))
            return
        with self._lock:
            if work not in self._active:
                return  # it was settled without its handler, which ended after all
            self._active.remove(work)
        self._observe(WORK, (*labels, event), monotonic() - work.began_at)

    def swept(self, swept: Sequence[Swept]) -> None:
        """Note what a sweep settled."""
        count = sum(1 for one in swept if one.worker is not None)
        if count:
            self._count(SWEPT, (), by=count)

    def _count(self, measure: Measure, labels: Labels, *, by: float = 1) -> None:
        for sink in self._sinks:
            sink.count(measure, labels, by=by)

    def _observe(self, measure: Measure, labels: Labels, value: float) -> None:
        for sink in self._sinks:
            sink.observe(measure, labels, value)
