"""Figures that a process keeps of itself, and the text in which Prometheus reads them.

Counters and histograms with no more than that needs: a client library would have to be installed everywhere, and keeps
state of its own for each process. What is written is read back by that library in the tests. Any thread may count.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final, Literal, NamedTuple

SHORT_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Bounds for answers and callbacks."""
LONG_S: Final = (0.01, 0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0)
"""Bounds for work, and for how long it waits."""
SERIES_MAX: Final = 1_000
"""Of one measure: further sets of labels are counted together, so that no caller's words fill the memory."""
OTHERS: Final = "(others)"
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[str, ...]


class Measure(NamedTuple):
    """What is counted or observed.

    Attributes:
        name: For Prometheus; a counter's ends in `_total`, a length of time's in `_seconds`.
        words: What it is.
        labels: Names of what tells its series apart.
        bounds_s: Of a histogram; empty for a counter.
    """

    name: str
    words: str
    labels: Labels = ()
    bounds_s: Sequence[float] = ()


class Family(NamedTuple):
    """The present values of one gauge or counter, by the values of its labels."""

    measure: Measure
    kind: Literal["gauge", "counter"]
    values: Mapping[Labels, float]


class Figures:
    """Counts and observes; every series begins with the first of its kind."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[Measure, dict[Labels, float]] = {}
        self._histograms: dict[Measure, dict[Labels, _Histogram]] = {}

    def count(self, measure: Measure, labels: Labels, *, by: float = 1) -> None:
        """Add to a counter."""
        with self._lock:
            series = self._counts.setdefault(measure, {})
            labels = _within_limit(labels, series)
            series[labels] = series.get(labels, 0) + by

    def observe(self, measure: Measure, labels: Labels, value: float) -> None:
        """Add a value to a histogram."""
        with self._lock:
            series = self._histograms.setdefault(measure, {})
            labels = _within_limit(labels, series)
            series.setdefault(labels, _Histogram(measure.bounds_s)).add(value)

    def lines(self) -> Iterator[str]:
        """Write everything."""
        with self._lock:
            counts = [Family(measure, "counter", dict(series)) for measure, series in self._counts.items()]
            histograms = [
                (measure, labels, histogram.totals(), histogram.sum)
                for measure, series in self._histograms.items()
                for labels, histogram in sorted(series.items())
            ]
        for family in counts:
            yield from _lines(family.measure, "counter", sorted(family.values.items()))
        last = None
        for measure, labels, totals, total_s in histograms:
            if measure is not last:
                yield from _head(measure, "histogram")
                last = measure
            for bound, total in zip([*(f"{bound:g}" for bound in measure.bounds_s), "+Inf"], totals, strict=True):
                yield f"{measure.name}_bucket{_labels((*measure.labels, 'le'), (*labels, bound))} {total}"
            yield f"{measure.name}_sum{_labels(measure.labels, labels)} {total_s:.6f}"
            yield f"{measure.name}_count{_labels(measure.labels, labels)} {totals[-1]}"


class _Histogram:
    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        index = next((index for index, bound in enumerate(self._bounds) if value <= bound), len(self._bounds))
        self._counts[index] += 1
        self.sum += value

    def totals(self) -> list[int]:
        return list(accumulate(self._counts))


def text(*parts: Iterable[str]) -> str:
    """Put lines together to what Prometheus reads."""
    return "".join(f"{line}\n" for part in parts for line in part)


def family_lines(family: Family) -> Iterator[str]:
    """Write one gauge or counter; what is beyond the limit of series is written as one."""
    yield from _head(family.measure, family.kind)
    values = sorted(family.values.items())
    if len(values) > SERIES_MAX:
        values[SERIES_MAX:] = [((OTHERS,) * len(family.measure.labels), sum(value for _, value in values[SERIES_MAX:]))]
    yield from _lines(family.measure, family.kind, values)


def _lines(measure: Measure, kind: str, values: Iterable[tuple[Labels, float]]) -> Iterator[str]:
    yield from _head(measure, kind)
    for labels, value in values:
        yield f"{measure.name}{_labels(measure.labels, labels)} {value:.15g}"


def _head(measure: Measure, kind: str) -> Iterator[str]:
    yield f"# HELP {measure.name} {measure.words}"
    yield f"# TYPE {measure.name} {kind}"


def _labels(names: Labels, values: Labels) -> str:
    if not names:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True)) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _within_limit(labels: Labels, series: Mapping[Labels, object]) -> Labels:
    return labels if labels in series or len(series) < SERIES_MAX else (OTHERS,) * len(labels)
