"""`runfold relay`: carries the log to where more can read it than a database serves."""

import re
import sys
from typing import Any, Final

import click

from cli.config import Setting
from cli.options import LABEL, refuse_remote, url_option, writing_ledger

_PREFIX: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", re.ASCII)
_STREAM: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


def _checked(pattern: "re.Pattern[str]", what: str) -> Any:
    def check(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
        if not pattern.fullmatch(value):
            raise click.BadParameter(f"{value!r} is no {what}: letters, digits, _ and - make one.")
        return value

    return check


@click.group(short_help="Carry the log to a message broker.")
def relay() -> None:
    """Carry the log to a message broker, from which more readers can follow it than a database serves.

    \b
    Example:
      runfold relay nats nats://broker:4222 --stream RUNS --subject-prefix runfold
    """


@relay.command("nats", short_help="Relay to a stream of NATS JetStream.")
@click.argument("target", metavar="NATS_URL")
@click.option("--stream", required=True, callback=_checked(_STREAM, "stream"), help="Where the events go.")
@click.option(
    "--subject-prefix",
    "prefix",
    default="runfold",
    show_default=True,
    callback=_checked(_PREFIX, "prefix"),
    help="Subjects are PREFIX.PROJECT.TYPE; no other ledger may use it in this stream.",
)
@click.option("--create-stream", "creates_stream", is_flag=True, help="Make the stream if it is missing.")
@click.option("--credentials", metavar="FILE", type=click.Path(exists=True, dir_okay=False), help="Of NATS.")
@click.option("--consumer", "name", metavar="NAME", help="Keeps the place in the log.  [default: nats-STREAM]")
@click.option("--now", "from_now", is_flag=True, help="A new consumer begins with what comes, not with the whole log.")
@click.option("--type", "types", multiple=True, help="Only events of this type; repeatable.")
@click.option("--project", "projects", multiple=True, help="Only runs of this project; repeatable.")
@click.option("--kind", help="Only runs of this kind.")
@click.option("--label", "labels", multiple=True, type=LABEL, metavar="NAME=VALUE", help="Only runs with this label.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="On stderr.")
@url_option
def nats_command(
    *,
    target: str,
    stream: str,
    prefix: str,
    creates_stream: bool,
    credentials: str | None,
    name: str | None,
    from_now: bool,
    types: tuple[str, ...],
    projects: tuple[str, ...],
    kind: str | None,
    labels: tuple[tuple[str, str], ...],
    log_format: str,
    url: Setting,
) -> None:
    """Publish every event to a JetStream stream as a CloudEvent, once and in order, until SIGTERM or Ctrl-C.

    It goes on where it was, whatever was killed meanwhile. A second relay of the same stream takes over when the first
    is gone. `runfold consumer list` tells how far it is behind.

    \b
    Examples:
      runfold relay nats nats://broker:4222 --stream RUNS --create-stream
      runfold relay nats tls://broker:4222 --stream ENDS --type completed --type failed --type aborted
    """
    import asyncio

    from cli.worker_logs import log_to_stderr

    try:
        from cli.relay.nats import NatsRelay, Relaying, StreamMissing
    except ImportError as exc:
        raise click.ClickException(
            f"NATS needs a client that is not installed ({exc}): pip install 'runfold[nats]'."
        ) from exc
    refuse_remote(url, command="relay")
    log_to_stderr(sys.stderr, form=log_format)
    with writing_ledger(url) as log:
        consumer = log.consumer(
            name or f"nats-{stream}",
            types=types,
            kind=kind,
            projects=projects or None,
            labels=dict(labels),
            after=None if from_now else 0,
        )
        how = Relaying(url=target, stream=stream, prefix=prefix, credentials=credentials, creates_stream=creates_stream)
        try:
            asyncio.run(_run(NatsRelay(consumer, facts=log.facts, how=how)))
        except StreamMissing as error:
            raise click.ClickException(str(error)) from error


async def _run(relay: Any) -> None:
    import asyncio
    import signal

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, relay.stop)
    await relay.run()
