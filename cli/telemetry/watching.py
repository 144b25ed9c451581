"""What a long process gives to see: figures on a port of its own, and telemetry where the environment asks for it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import click

from cli.telemetry.asked import telemetry
from cli.worker import Work
from ledger.api import Ledger
from ledger.queue import Swept

if TYPE_CHECKING:
    from cli.telemetry.otel import Telemetry
    from cli.telemetry.work import WorkMeasures


class Watched:
    """Passes on what happens to whoever looks: nobody, Prometheus, OpenTelemetry or both.

    Attributes:
        telemetry: None where nobody asked for it.
    """

    def __init__(self, telemetry: "Telemetry | None", measures: "WorkMeasures | None") -> None:
        self.telemetry = telemetry
        self._measures = measures

    def observe(self, event: str, work: Work, facts: Mapping[str, Any]) -> None:
        """Note what happens to work; see `cli.worker.Observer`."""
        if self._measures is not None:
            self._measures.observe(event, work, facts)
        if self.telemetry is not None:
            self.telemetry.observe(event, work, facts)

    def executing(self, work: Work) -> AbstractContextManager[None]:
        """Open what a piece of work happens within."""
        return nullcontext() if self.telemetry is None else self.telemetry.executing(work)

    def swept(self, swept: Sequence[Swept]) -> None:
        """Note what a sweep settled."""
        if self._measures is not None:
            self._measures.swept(swept)
        if self.telemetry is not None:
            self.telemetry.measures.swept(swept)


@contextmanager
def watching(log: Ledger, *, host: str, port: int | None, tells_ledger: bool) -> Iterator[Watched]:
    """Let a process be watched until the block ends.

    Args:
        log: Its ledger.
        host: Address of its figures.
        port: None serves none; 0 takes a free one and says which.
        tells_ledger: Whether it tells the ledger's own figures beside its own.

    Raises:
        click.ClickException: when the address cannot be had.
    """
    with ExitStack() as stack:
        found = stack.enter_context(telemetry())
        if found is not None and tells_ledger:
            found.watch(log)
        measures = None if port is None else _serve(stack, log if tells_ledger else None, host, port)
        yield Watched(found, measures)


def _serve(stack: ExitStack, log: Ledger | None, host: str, port: int) -> "WorkMeasures":
    from cli.telemetry.endpoint import serving_metrics
    from cli.telemetry.figures import Figures, family_lines, text
    from cli.telemetry.ledger_figures import ledger_families
    from cli.telemetry.work import SWEPT, WorkMeasures

    figures = Figures()
    figures.count(SWEPT, (), by=0)  # so that the first loss is seen as a change, not as a series that appears

    def told() -> str:
        families = [] if log is None else ledger_families(log)
        return text(figures.lines(), *[family_lines(family) for family in families])

    try:
        stack.enter_context(serving_metrics(told, host=host, port=port))
    except OSError as exc:
        raise click.ClickException(
            f"cannot serve figures on {host}:{port}: {exc}. Name another --metrics-host or --metrics-port."
        ) from exc
    return WorkMeasures([figures])
