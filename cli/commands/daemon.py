"""`runfold daemon`: what goes on by itself."""

import ipaddress
import logging
import signal
import sys
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from cli.config import Setting
from cli.options import DURATION, Duration, metrics_options, url_option, writing_ledger

if TYPE_CHECKING:
    from cli.daemon import Step
    from cli.telemetry.otel import Telemetry
    from ledger.api import Ledger

    _Written = click.ParamType[Any]  # generic since click 8.3, and for type checkers only
else:
    _Written = click.ParamType


class _NetworkType(_Written):
    """An address range: `10.0.0.0/8`, `fd00::/8`, or a single address."""

    name = "network"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return ipaddress.ip_network(value) if isinstance(value, str) else value
        except ValueError as exc:
            self.fail(f"{exc}: 10.1.0.0/16, fd00::/8 or 127.0.0.1 is one.", param, ctx)


@click.command(short_help="Sweep, call back, and run schedules.")
@click.option(
    "--allow-network",
    "allowed",
    multiple=True,
    type=_NetworkType(),
    metavar="CIDR",
    help="Let callbacks go to this network, though it is not public; repeatable.",
)
@click.option(
    "--callback-timeout",
    type=Duration(timedelta(hours=1)),
    default="15s",
    show_default=True,
    help="How long one call may take.",
)
@click.option(
    "--callback-attempts", type=click.IntRange(1, 100), default=12, show_default=True, help="Then it has failed."
)
@click.option(
    "--callback-retry", type=DURATION, default="5s", show_default=True, help="Before the second; then ever longer."
)
@click.option("--callbacks", "concurrency", type=click.IntRange(1, 256), default=8, show_default=True, help="At once.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="On stderr.")
@metrics_options
@url_option
def daemon(
    *,
    allowed: tuple[Any, ...],
    callback_timeout: timedelta,
    callback_attempts: int,
    callback_retry: timedelta,
    concurrency: int,
    log_format: str,
    metrics_host: str,
    metrics_port: int | None,
    url: Setting,
) -> None:
    """Do what goes on by itself, until SIGTERM or Ctrl-C: settle leases that are over, call back
    when runs end, and enqueue what is scheduled.

    Any number of daemons may run on one ledger. Workers sweep too; callbacks and schedules need a daemon. On PostgreSQL
    it also writes the rows of read models, for users who may only read.

    \b
    Examples:
      runfold daemon
      runfold daemon --allow-network 10.20.0.0/16 --log-format json
    """
    from cli.daemon import Daemon, folding, sweeping
    from cli.outbox.outbox import Delivering, Outbox
    from cli.telemetry.watching import watching
    from cli.worker_logs import log_to_stderr

    log_to_stderr(sys.stderr, form=log_format)
    with (
        writing_ledger(url) as log,
        watching(log, host=metrics_host, port=metrics_port, tells_ledger=True) as watched,
    ):
        outbox = Outbox(
            log,
            Delivering(
                concurrency=concurrency,
                timeout_s=max(0.1, callback_timeout.total_seconds()),
                attempts_max=callback_attempts,
                retry_delay_s=callback_retry.total_seconds(),
                allowed=allowed,
            ),
        )
        steps = {
            "sweep": sweeping(log, on_swept=watched.swept),
            "callbacks": outbox.step,
            **_schedules(log, watched.telemetry),
        }
        if log.store.url.startswith("postgresql:"):  # a file has no readers that may not write
            steps["read models"] = folding(log)
        running = Daemon(log, steps)

        def stop(_number: int, _frame: FrameType | None) -> None:
            running.stop()

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, stop)
        try:
            running.run()
        finally:
            outbox.close()


def _schedules(log: "Ledger", telemetry: "Telemetry | None") -> "dict[str, Step]":
    """Give the loop of schedules where their library is installed; without it, nobody could have added one here."""
    try:
        from cli.schedules.schedules import scheduling
    except ImportError as exc:
        logging.getLogger("runfold.daemon").warning(
            "no schedules are run: %s. pip install 'runfold[daemon]' if there are any.", exc
        )
        return {}
    return {"schedules": scheduling(log, telemetry)}
