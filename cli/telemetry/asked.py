"""Whether anybody asked for telemetry. Imports nothing, so that whoever did not ask pays nothing.

OpenTelemetry's own variables decide, since whoever runs a collector sets them for all programs alike:
`OTEL_EXPORTER_OTLP_ENDPOINT`, or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` and `…_METRICS_ENDPOINT` apart.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cli.telemetry.otel import Telemetry
    from ledger.api import Ledger

logger = logging.getLogger("runfold.telemetry")


def is_asked_for(signal: Literal["TRACES", "METRICS"], environ: Mapping[str, str]) -> bool:
    """Tell whether the environment names a place to send traces or measures to."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if environ.get(f"OTEL_{signal}_EXPORTER", "otlp") == "none":
        return False
    return bool(environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or environ.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"))


@contextmanager
def telemetry(environ: Mapping[str, str] | None = None) -> "Iterator[Telemetry | None]":
    """Give what the environment asks for; None, and nothing is imported, when it asks for nothing.

    Args:
        environ: None is the process's own.
    """
    environ = os.environ if environ is None else environ
    if not (is_asked_for("TRACES", environ) or is_asked_for("METRICS", environ)):
        yield None
        return
    try:
        from cli.telemetry.otel import exporting
    except ImportError as exc:
        logger.warning("no telemetry is sent: %s. pip install 'runfold[otel]', or OTEL_SDK_DISABLED=true.", exc)
        yield None
        return
    with exporting(environ) as found:
        yield found


def asking(
    found: "Telemetry | None", log: "Ledger", kind: str, *, project: str | None = None
) -> "AbstractContextManager[Ledger]":
    """Give the ledger for asking for a run, in a span where there is telemetry."""
    return nullcontext(log) if found is None else found.asking(log, kind, project=project)
