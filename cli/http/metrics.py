"""What a server counts of itself, beside what it is asked to tell of the ledger."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from cli.telemetry.figures import SHORT_S, Family, Figures, Measure, family_lines, text

REQUESTS: Final = Measure("runfold_http_requests_total", "Requests by operation and status.", ("operation", "status"))
SECONDS: Final = Measure(
    "runfold_http_request_seconds", "Time from a request's head to its answer.", ("operation",), SHORT_S
)
SENT: Final = Measure("runfold_events_sent_total", "Events sent to subscribers.")
CUT: Final = Measure("runfold_subscribers_cut_total", "Subscribers cut off for being slow.")


class Metrics:
    """What a server counts. The two counts of streams are to be changed from one thread."""

    def __init__(self) -> None:
        self._figures = Figures()
        self.events_sent = 0
        self.subscribers_cut = 0

    def count(self, operation: str, status: int, seconds: float) -> None:
        """Count one answer."""
        self._figures.count(REQUESTS, (operation, str(status)))
        self._figures.observe(SECONDS, (operation,), seconds)

    def text(self, gauges: Mapping[str, tuple[str, float]], ledger: Sequence[Family]) -> str:
        """Write everything.

        Args:
            gauges: Name to what it is, and its value now.
            ledger: The ledger's own figures.
        """
        families: Iterable[Family] = [
            Family(SENT, "counter", {(): self.events_sent}),
            Family(CUT, "counter", {(): self.subscribers_cut}),
            *[Family(Measure(name, words), "gauge", {(): value}) for name, (words, value) in gauges.items()],
            *ledger,
        ]
        return text(self._figures.lines(), *[family_lines(family) for family in families])
