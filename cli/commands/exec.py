"""`runfold exec`: records any command as a run."""

import os
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import click

from cli.config import Setting
from cli.options import DURATION, LABEL, read_json_object, refuse_remote, url_option, writing_ledger

SHARDS_MAX: Final = 256
"""Processes that one machine is asked to run at once; a run itself may have more shards."""
GRACE: Final = timedelta(seconds=5)


@click.command(
    "exec",
    short_help="Record any command as a run.",
    epilog="The exit code is 0 when the run completed and nothing in it failed, 1 when not, 124 after --timeout, 126 or"
    " 127 for a command that cannot be executed or found, and 130 after Ctrl-C or SIGTERM.",
)
@click.argument("kind")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
@click.option("--shards", type=click.IntRange(1, SHARDS_MAX), help="Run this many processes at once, one a shard.")
@click.option(
    "--split-pytest", "splits_pytest", is_flag=True, help="Let each shard's pytest run its share of the tests."
)
@click.option("--project", help="Whose run it is.")
@click.option("--label", "labels", multiple=True, type=LABEL, help="Find the run by it; repeatable.")
@click.option("--input", "input_text", metavar="JSON", help="What the run is to know: JSON, @file, or - for stdin.")
@click.option("--idempotency-key", help="Execute once under this key: a second time only tells how it ended.")
@click.option("--exclusive-key", help="At most one active run holds it, such as branch@repository.")
@click.option(
    "--on-active",
    type=click.Choice(["reject", "supersede"]),
    default="reject",
    show_default=True,
    help="What to do when an active run holds the exclusive key.",
)
@click.option("--junit", multiple=True, metavar="GLOB", help="Read results from the JUnit XML files that it writes.")
@click.option("--reportlog", multiple=True, metavar="GLOB", help="Read results from its pytest-reportlog files.")
@click.option("--timeout", type=DURATION, help="End the command after 90, 90s, 10m or 2h.")
@click.option("--grace", type=DURATION, default=GRACE, help="Between SIGTERM and SIGKILL.  [default: 5s]")
@click.option("--quiet", is_flag=True, help="Do not show what the command says.")
@click.option("--no-logs", is_flag=True, help="Do not record what the command says.")
@url_option
def exec_command(
    kind: str,
    command: tuple[str, ...],
    *,
    shards: int | None,
    labels: tuple[tuple[str, str], ...],
    input_text: str | None,
    junit: tuple[str, ...],
    reportlog: tuple[str, ...],
    timeout: timedelta | None,
    grace: timedelta,
    quiet: bool,
    no_logs: bool,
    url: Setting,
    **facts: Any,
) -> None:
    """Record COMMAND as a run of KIND: its output becomes the run's log, its exit code the run's outcome.

    Each of N shards is a process that knows its place from RUNFOLD_SHARD_INDEX (from 0) and RUNFOLD_SHARD_COUNT, or
    from {shard}, {shard1} (from 1) and {shards} in the command's arguments. pytest records its results while it runs
    when Runfold is installed beside it; other runners' results are read from --junit or --reportlog files.

    \b
    Examples:
      runfold exec test -- pytest
      runfold exec test --shards 4 --split-pytest -- pytest -q
      runfold exec test --junit 'build/**/TEST-*.xml' -- mvn test
      runfold exec e2e --shards 3 -- npx playwright test --shard={shard1}/{shards}
    """
    check_patterns((*junit, *reportlog), is_cut=(shards or 1) > 1)
    if timeout is not None and not timeout:
        raise click.UsageError("--timeout is 0: nothing could run. Give it more, or leave it out.")
    from cli.execution.execution import Execution
    from cli.execution.plan import Plan
    from cli.execution.screen import Screen

    refuse_remote(url, command="exec")
    plan = Plan(
        kind=kind,
        command=command,
        shard_count=shards,
        input={} if input_text is None else read_json_object(input_text, option="--input"),
        labels=dict(labels),
        junit=junit,
        reportlog=reportlog,
        timeout_s=None if timeout is None else timeout.total_seconds(),
        grace_s=grace.total_seconds(),
        shows_output=not quiet,
        records_output=not no_logs,
        **facts,
    )
    screen = Screen(sys.stdout, sys.stderr, shard_count=plan.process_count, shows_output=plan.shows_output)
    place = replace(url, value=absolute_url(url.value))
    with writing_ledger(place) as log:
        code = Execution(log, url=place.value, plan=plan, screen=screen, environ=os.environ).run()
    click.get_current_context().exit(code)


def absolute_url(url: str) -> str:
    """Give the ledger's URL as processes in any directory can use it."""
    path = url.removeprefix("sqlite:///")
    return url if path == url else f"sqlite:///{Path(path).absolute()}"


def check_patterns(patterns: tuple[str, ...], *, is_cut: bool) -> None:
    """Refuse patterns of result files that name the same files for several shards."""
    for pattern in patterns:
        if is_cut and "{shard}" not in pattern and "{shard1}" not in pattern:
            raise click.UsageError(
                f"{pattern!r} names the same files for every shard, so nobody could say whose results they hold."
                " Put {shard} or {shard1} into it, and into the command's arguments."
            )
