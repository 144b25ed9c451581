"""Figures in the text format of Prometheus: counters and one histogram, with no more than that needs."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """What a server counts. To be used from one thread."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, int]] = Counter()
        self._buckets: Counter[tuple[str, float]] = Counter()
        self._seconds: Counter[str] = Counter()
        self.events_sent = 0
        self.subscribers_cut = 0

    def count(self, operation: str, status: int, seconds: float) -> None:
        """Count one answer."""
        self._requests[operation, status] += 1
        self._seconds[operation] += seconds  # type: ignore[assignment]
        bucket = next((limit for limit in BUCKETS_S if seconds <= limit), float("inf"))
        self._buckets[operation, bucket] += 1

    def text(
        self,
        gauges: Mapping[str, tuple[str, float]],
        queue: Mapping[tuple[str, str], int],
        checkpoints: Mapping[str, int],
    ) -> str:
        """Write everything.

        Args:
            gauges: Name to what it is, and its value now.
            queue: Kind and state to how many tasks.
            checkpoints: Consumer to its position.
        """
        lines = [*self._request_lines(), *self._latency_lines()]
        lines += _family("runfold_events_sent_total", "counter", "Events sent to subscribers.", {"": self.events_sent})
        cut = {"": self.subscribers_cut}
        lines += _family("runfold_subscribers_cut_total", "counter", "Subscribers cut off for being slow.", cut)
        for name, (words, value) in gauges.items():
            lines += _family(name, "gauge", words, {"": value})
        tasks = {_labels(kind=kind, state=state): float(count) for (kind, state), count in sorted(queue.items())}
        lines += _family("runfold_tasks", "gauge", "Tasks by kind and state.", tasks)
        positions = {_labels(consumer=name): position for name, position in checkpoints.items()}
        lines += _family("runfold_consumer_position", "gauge", "Least checkpoint of a consumer.", positions)
        return "\n".join(lines) + "\n"

    def _request_lines(self) -> list[str]:
        values = {
            _labels(operation=name, status=str(status)): count
            for (name, status), count in sorted(self._requests.items())
        }
        return [*_family("runfold_http_requests_total", "counter", "Requests by operation and status.", values)]

    def _latency_lines(self) -> list[str]:
        name = "runfold_http_request_seconds"
        lines = [f"# HELP {name} Time from a request's head to its answer.", f"# TYPE {name} histogram"]
        for operation in sorted(self._seconds):
            total = 0
            for limit in (*BUCKETS_S, float("inf")):
                total += self._buckets[operation, limit]
                word = "+Inf" if limit == float("inf") else f"{limit:g}"
                lines.append(f"{name}_bucket{_labels(operation=operation, le=word)} {total}")
            lines.append(f"{name}_sum{_labels(operation=operation)} {self._seconds[operation]:.6f}")
            lines.append(f"{name}_count{_labels(operation=operation)} {total}")
        return lines


def _family(name: str, kind: str, words: str, values: Mapping[str, float]) -> Iterable[str]:
    yield f"# HELP {name} {words}"
    yield f"# TYPE {name} {kind}"
    for labels, value in values.items():
        yield f"{name}{labels} {value:g}" if isinstance(value, float) else f"{name}{labels} {value}"


def _labels(**labels: str) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
