"""Traces and measures for OpenTelemetry. The only file that imports it; nobody imports this one without need.

    telemetry = Telemetry(tracer_provider=…, meter_provider=…)
    with telemetry.asking(log, "test") as asking:
        asking.enqueue("test")
    Worker(log, handlers, observer=telemetry.observe, within=telemetry.executing)

Whoever asks for a run makes a span, whose context the run's first event keeps. Each attempt is a trace of its own that
links to it: a run may wait for days and be tried often, and a trace of all that would be one that nobody can read.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.metrics import (
    CallbackOptions,
    Counter,
    Histogram,
    Meter,
    MeterProvider,
    Observation,
    get_meter_provider,
)
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, TracerProvider, get_tracer_provider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from cli.telemetry.figures import Family, Labels, Measure
from cli.telemetry.ledger_figures import BACKLOG, CONSUMERS, DELIVERIES, OLDEST, RUNS, TASKS, ledger_families
from cli.telemetry.work import WorkMeasures
from cli.worker import Work
from ledger.api import Ledger
from ledger.clock import monotonic
from ledger.run.leases import Purpose

SCOPE: Final = "runfold"
FLUSH_S: Final = 5.0
"""How long the end of a process waits for what was not sent yet."""
KEPT_S: Final = 1.0
"""All gauges of one collection come from one read of the ledger."""
_CONTEXTS: Final = TraceContextTextMapPropagator()
_VERBS: Final = {Purpose.RUN: "run", Purpose.SHARD: "run shard of", Purpose.FINALIZE: "finalize"}


class Telemetry:
    """Makes spans and measures of asking for runs and of executing them.

    Args:
        tracer_provider: None is the process's own.
        meter_provider: Likewise.
    """

    def __init__(
        self, *, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        self._tracer = (tracer_provider or get_tracer_provider()).get_tracer(SCOPE)
        self._meter = (meter_provider or get_meter_provider()).get_meter(SCOPE)
        self._spans: dict[Work, Span] = {}
        self.measures = WorkMeasures([_Meters(self._meter)])

    # --- asking -------------------------------------------------------------------------------------------------

    @contextmanager
    def asking(self, log: Ledger, kind: str, *, project: str | None = None) -> Iterator[Ledger]:
        """Give the ledger for asking for a run: the run keeps the context of this span.

        The span is a child of the current one; where there is none, of the context that the ledger was bound to.
        """
        parent = None if trace.get_current_span().get_span_context().is_valid else _context(log.traceparent)
        facts = _present({"runfold.kind": kind, "runfold.project": project})
        span = self._tracer.start_span(f"enqueue {kind}", parent, kind=SpanKind.PRODUCER, attributes=facts)
        with trace.use_span(span, end_on_exit=True):
            yield log.bind(traceparent=_traceparent(span))

    # --- executing ----------------------------------------------------------------------------------------------

    @contextmanager
    def executing(self, work: Work) -> Iterator[None]:
        """Let a piece of work happen within a span, and write its events in that span's context."""
        lease = work.lease
        asked = trace.get_current_span(_context(lease.traceparent)).get_span_context()
        span = self._tracer.start_span(
            f"{_VERBS[lease.purpose]} {lease.kind}",
            Context(),
            kind=SpanKind.CONSUMER,
            links=[Link(asked)] if asked.is_valid else [],
            attributes=_present(
                {
                    "runfold.run_id": lease.run_id,
                    "runfold.kind": lease.kind,
                    "runfold.project": lease.project,
                    "runfold.purpose": lease.purpose.value,
                    "runfold.attempt": lease.attempt,
                    "runfold.shard": lease.shard,
                    "runfold.worker": lease.worker,
                }
            ),
        )
        work.log = work.log.bind(traceparent=_traceparent(span))
        self._spans[work] = span
        try:
            with trace.use_span(span):
                yield
        finally:
            self._end(work)

    def observe(self, event: str, work: Work, facts: Mapping[str, Any]) -> None:
        """Note what became of work; see `cli.worker.Observer`."""
        self.measures.observe(event, work, facts)
        span = self._spans.get(work)
        if event == "claimed" or span is None:
            return
        span.set_attributes(_present({"runfold.outcome": event, "error.type": facts.get("category")}))
        if event in ("failed", "lost"):
            span.set_status(Status(StatusCode.ERROR, facts.get("category") or event))
        self._end(work)

    def _end(self, work: Work) -> None:
        """End a span once: with the work's settlement, also where its handler goes on."""
        span = self._spans.pop(work, None)
        if span is not None:
            span.end()

    # --- measures -----------------------------------------------------------------------------------------------

    def watch(self, log: Ledger) -> None:
        """Let the ledger's own figures be collected too; for one process of a kind, such as the daemon."""
        figures = _Kept(log)
        for measure in (TASKS, OLDEST, RUNS, DELIVERIES, BACKLOG, CONSUMERS):
            self._meter.create_observable_gauge(
                _name(measure), [figures.callback(measure)], unit=_unit(measure), description=measure.words
            )


class _Meters:
    """A sink; see `cli.telemetry.work`."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._counters: dict[Measure, Counter] = {}
        self._histograms: dict[Measure, Histogram] = {}

    def count(self, measure: Measure, labels: Labels, *, by: float = 1) -> None:
        """Add to a counter."""
        counter = self._counters.get(measure)
        if counter is None:
            counter = self._counters[measure] = self._meter.create_counter(_name(measure), description=measure.words)
        counter.add(by, _attributes(measure, labels))

    def observe(self, measure: Measure, labels: Labels, value: float) -> None:
        """Add a value to a histogram."""
        histogram = self._histograms.get(measure)
        if histogram is None:
            histogram = self._histograms[measure] = self._meter.create_histogram(
                _name(measure),
                unit="s",
                description=measure.words,
                explicit_bucket_boundaries_advisory=list(measure.bounds_s),
            )
        histogram.record(value, _attributes(measure, labels))


class _Kept:
    """The ledger's figures, read once for all gauges of a collection."""

    def __init__(self, log: Ledger) -> None:
        self._log = log
        self._families: Sequence[Family] = ()
        self._read_at = float("-inf")

    def callback(self, measure: Measure) -> Any:
        def observe(_options: CallbackOptions) -> list[Observation]:
            if monotonic() - self._read_at > KEPT_S:
                self._families, self._read_at = ledger_families(self._log), monotonic()
            return [
                Observation(value, _attributes(measure, labels))
                for family in self._families
                if family.measure is measure
                for labels, value in family.values.items()
            ]

        return observe


@contextmanager
def exporting(environ: Mapping[str, str]) -> Iterator[Telemetry]:
    """Send by OTLP what the standard variables of OpenTelemetry ask for, until the block ends.

    Args:
        environ: Says where to; see `cli.telemetry.asked`.
    """
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.metrics import NoOpMeterProvider
    from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import NoOpTracerProvider

    from cli.telemetry.asked import is_asked_for

    is_named = "OTEL_SERVICE_NAME" in environ or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    resource = Resource.create({} if is_named else {"service.name": "runfold"})
    tracers: TracerProvider = NoOpTracerProvider()
    meters: MeterProvider = NoOpMeterProvider()
    ends: list[Callable[[], object]] = []
    if is_asked_for("TRACES", environ):
        tracers = sdk_tracers = SdkTracerProvider(resource=resource, shutdown_on_exit=False)
        sdk_tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        ends.append(sdk_tracers.shutdown)
    if is_asked_for("METRICS", environ):
        reader = PeriodicExportingMetricReader(OTLPMetricExporter())
        meters = sdk_meters = SdkMeterProvider([reader], resource=resource, shutdown_on_exit=False)
        ends.append(sdk_meters.shutdown)
    try:
        yield Telemetry(tracer_provider=tracers, meter_provider=meters)
    finally:
        _end_all(ends)


def _end_all(ends: Sequence[Callable[[], object]]) -> None:
    """Send what was not sent yet, side by side, and not for long.

    The exporters' own limits are those of each try, and add up to half a minute where nobody answers.
    """
    threads = [threading.Thread(target=end, daemon=True) for end in ends]
    for thread in threads:
        thread.start()
    give_up_at = monotonic() + FLUSH_S
    for thread in threads:
        thread.join(max(0.0, give_up_at - monotonic()))


def _context(traceparent: str | None) -> Context:
    return _CONTEXTS.extract({} if traceparent is None else {"traceparent": traceparent}, Context())


def _traceparent(span: Span) -> str | None:
    carrier: dict[str, str] = {}
    _CONTEXTS.inject(carrier, trace.set_span_in_context(span, Context()))
    return carrier.get("traceparent")


def _present(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value is not None}


def _name(measure: Measure) -> str:
    return measure.name.removesuffix("_total").replace("_", ".", 1)


def _unit(measure: Measure) -> str:
    return "s" if measure.name.endswith("_seconds") else "1"


def _attributes(measure: Measure, labels: Labels) -> dict[str, str]:
    return {f"runfold.{name}": value for name, value in zip(measure.labels, labels, strict=True)}
