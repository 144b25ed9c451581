"""`runfold exec`: records any command as a run."""

import os
import sys
from pathlib import Path
from typing import Any

import click

SHARDS_MAX = 256
"""Processes that one machine is asked to run at once; a run itself may have more shards."""


def _labels(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    labels = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{value!r} is no label: name=value is.")
        labels[name] = text
    return labels


def _seconds(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (value[:-1], value[-1]) if value[-1:] in units else (value, "s")
    try:
        seconds = float(number) * units[unit]
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 10**9:
        raise click.BadParameter(f"{value!r} is no duration: 90, 90s, 10m or 2h is.")
    return seconds


@click.command(
    "exec",
    short_help="Record any command as a run.",
    epilog="The exit code is 0 when the run completed and nothing in it failed, 1 when not, 124 after --timeout, 126 or"
    " 127 for a command that cannot be executed or found, and 130 after Ctrl-C or SIGTERM.",
)
@click.argument("kind")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--shards", type=click.IntRange(1, SHARDS_MAX), help="Run this many processes at once, one a shard.")
@click.option(
    "--split-pytest", "splits_pytest", is_flag=True, help="Let each shard's pytest run its share of the tests."
)
@click.option("--project", help="Whose run it is.")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", callback=_labels, help="Find the run by it.")
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
@click.option("--timeout", metavar="DURATION", callback=_seconds, help="End the command after 90, 90s, 10m or 2h.")
@click.option("--grace", metavar="DURATION", callback=_seconds, help="Between SIGTERM and SIGKILL.  [default: 5s]")
@click.option("--quiet", is_flag=True, help="Do not show what the command says.")
@click.option("--no-logs", is_flag=True, help="Do not record what the command says.")
@click.option("--url", envvar="RUNFOLD_URL", default="sqlite:///.runfold/runs.db", help="The ledger.")
def exec_command(
    kind: str,
    command: tuple[str, ...],
    *,
    shards: int | None,
    input_text: str | None,
    junit: tuple[str, ...],
    reportlog: tuple[str, ...],
    timeout: float | None,
    grace: float | None,
    quiet: bool,
    no_logs: bool,
    url: str,
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
    if (shards or 1) > 1:
        for pattern in (*junit, *reportlog):
            if "{shard}" not in pattern and "{shard1}" not in pattern:
                raise click.UsageError(
                    f"{pattern!r} names the same files for every shard, so nobody could say whose results they hold."
                    " Put {shard} or {shard1} into it, and into the command's arguments."
                )
    from cli.execution.execution import Execution
    from cli.execution.plan import GRACE_S, Plan
    from cli.execution.screen import Screen
    from ledger.opening import open as open_ledger

    plan = Plan(
        kind=kind,
        command=command,
        shard_count=shards,
        input=_input(input_text),
        junit=junit,
        reportlog=reportlog,
        timeout_s=timeout,
        grace_s=GRACE_S if grace is None else grace,
        shows_output=not quiet,
        records_output=not no_logs,
        **facts,
    )
    screen = Screen(sys.stdout, sys.stderr, shard_count=plan.process_count, shows_output=plan.shows_output)
    absolute = absolute_url(url)
    with open_ledger(absolute) as log:
        code = Execution(log, url=absolute, plan=plan, screen=screen, environ=os.environ).run()
    sys.exit(code)


def absolute_url(url: str) -> str:
    """Give the ledger's URL as processes in any directory can use it.

    Raises:
        click.UsageError: for a ledger in memory, which no other process can reach.
    """
    if url.startswith("memory:"):
        raise click.UsageError("a ledger in memory ends with this process. Record into sqlite:///path or postgresql://")
    path = url.removeprefix("sqlite:///")
    return url if path == url else f"sqlite:///{Path(path).absolute()}"


def _input(text: str | None) -> dict[str, Any]:
    import json

    if text is None:
        return {}
    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
        value = json.loads(text)
    except (OSError, ValueError) as exc:
        raise click.UsageError(f"--input cannot be read as JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise click.UsageError('--input must be a JSON object, such as {"branch": "main"}.')
    return value
