"""`runfold worker`: any command as a worker."""

import os
import signal
import sys
from datetime import timedelta
from types import FrameType
from typing import Final

import click

from cli.commands.exec import GRACE, absolute_url, check_patterns
from cli.config import Setting
from cli.options import DURATION, metrics_options, refuse_remote, url_option, writing_ledger

_LEASE: Final = timedelta(seconds=60)


@click.command(
    "worker",
    short_help="Execute a command for each run that waits.",
    epilog="SIGTERM or Ctrl-C once: claim no more, let commands end, hand back what does not within --grace. The exit"
    " code is 0 then. It is 126 or 127 when the command cannot be executed or found; then nothing is claimed.",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
@click.option("--kind", "kinds", multiple=True, required=True, help="Execute runs of this kind; repeatable.")
@click.option(
    "-n", "--concurrency", type=click.IntRange(1, 256), default=1, show_default=True, help="Commands at once."
)
@click.option("--name", help="The worker's name, which no other process has.  [default: host and process id]")
@click.option(
    "--lease",
    type=DURATION,
    default=_LEASE,
    help="Without a heartbeat, work goes to another after this.  [default: 60s]",
)
@click.option("--grace", type=DURATION, default=GRACE, help="Between SIGTERM and SIGKILL.  [default: 5s]")
@click.option("--junit", multiple=True, metavar="GLOB", help="Read results from the JUnit XML files that it writes.")
@click.option("--reportlog", multiple=True, metavar="GLOB", help="Read results from its pytest-reportlog files.")
@click.option(
    "--split-pytest",
    "splits_pytest",
    is_flag=True,
    help="Let each shard's pytest run its share of the tests, the planned ones if they were planned.",
)
@click.option("--until-idle", is_flag=True, help="End when nothing is left to be claimed.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", help="Of what it says on stderr.")
@metrics_options
@url_option
def worker(
    command: tuple[str, ...],
    *,
    kinds: tuple[str, ...],
    concurrency: int,
    name: str | None,
    lease: timedelta,
    grace: timedelta,
    junit: tuple[str, ...],
    reportlog: tuple[str, ...],
    splits_pytest: bool,
    until_idle: bool,
    log_format: str,
    metrics_host: str,
    metrics_port: int | None,
    url: Setting,
) -> None:
    """Execute COMMAND for each run, or shard of a run, that waits; any number of workers may.

    The command knows its work from RUNFOLD_RUN_ID, RUNFOLD_SHARD_INDEX, RUNFOLD_SHARD_COUNT and RUNFOLD_ATTEMPT; the
    run's input is in the file RUNFOLD_INPUT, the ids of its planned tests in RUNFOLD_PLAN. Its output, results and exit
    code are recorded as `runfold exec` does. When a run is aborted, its commands are ended.

    \b
    Examples:
      runfold worker --kind test -n 4 -- pytest
      runfold worker --kind sync --until-idle -- ./sync.sh
    """
    check_patterns((*junit, *reportlog), is_cut=concurrency > 1)
    from dataclasses import replace

    from cli.execution.command_check import require_command
    from cli.execution.command_work import Command
    from cli.execution.guardian import Guardian
    from cli.telemetry.watching import watching
    from cli.worker import Worker
    from cli.worker_logs import log_to_stderr

    refuse_remote(url, command="worker")
    require_command(command[0], os.environ)
    log_to_stderr(sys.stderr, form=log_format)
    place = replace(url, value=absolute_url(url.value))
    with (
        writing_ledger(place) as log,
        watching(log, host=metrics_host, port=metrics_port, tells_ledger=False) as watched,
    ):
        guardian = Guardian(None, place.value)
        handler = Command(
            command=command,
            url=place.value,
            environ=os.environ,
            guardian=guardian,
            junit=junit,
            reportlog=reportlog,
            grace_s=grace.total_seconds(),
            splits_pytest=splits_pytest,
        )
        executor = Worker(
            log,
            dict.fromkeys(kinds, handler),
            finalizers=dict.fromkeys(kinds, _complete),
            name=name,
            concurrency=concurrency,
            lease_s=lease.total_seconds(),
            grace_s=grace.total_seconds(),
            observer=watched.observe,
            within=watched.executing,
            on_swept=watched.swept,
        )

        def stop(_number: int, _frame: FrameType | None) -> None:
            executor.stop()

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, stop)
        try:
            executor.run(until_idle=until_idle)
            guardian.dismiss()
        finally:
            guardian.close()


def _complete(_work: object) -> None:
    """A cut run whose shards are done is complete; what its results say is its verdict."""
