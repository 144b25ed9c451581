"""Measures Runfold against peers and the raw databases, and prints a table of ratios.

`python tests/benchmarks/run.py [--quick] [--only NAME …] [--output FILE]`; what each row is about stands in
`docs/reference/benchmarks.md`.
"""

import platform
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[2]))

import apsw
import psycopg

from tests.benchmarks import appends, lists, queues, reads, server, sources, startup, subscribers
from tests.benchmarks.databases import Postgres, Sqlite
from tests.benchmarks.measure import Line, table
from tests.benchmarks.session import Session
from tests.postgres_server import running_server

ROWS: dict[str, Callable[[Session], Iterator[Line]]] = {
    "single-append": appends.single_append,
    "distinct-runs": appends.distinct_runs,
    "one-run": appends.one_run,
    "slow-disk": appends.slow_disk,
    "batches": appends.batches,
    "growth": appends.growth,
    "read-run": reads.read_run,
    "read-log": reads.read_log,
    "rebuild": reads.rebuild_runs,
    "memory": reads.memory,
    "list-pages": lists.list_pages,
    "list-beside-results": lists.list_beside_results,
    "source-lists": sources.source_lists,
    "subscriber": subscribers.latency,
    "server": server.server,
    "queue": queues.claim_and_complete,
    "queue-idle": queues.idle_worker,
    "queue-claim": queues.claim_cost,
    "queue-heartbeat": queues.heartbeat_cost,
    "start": startup.start,
}


@click.command()
@click.option("--only", multiple=True, type=click.Choice(list(ROWS)), help="Measure this row; may be given often.")
@click.option("--quick", is_flag=True, help="Two rounds of a tenth of the work: does it run, not how fast.")
@click.option("--rounds", type=click.IntRange(1, 100), help="Rounds; 5 unless said, 2 with --quick.")
@click.option("--sqlite-only", is_flag=True, help="Leave PostgreSQL out.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the table to this file too.")
def main(only: tuple[str, ...], *, quick: bool, rounds: int | None, sqlite_only: bool, output: Path | None) -> None:
    """Measure Runfold and print ratios of medians, peers in turn inside each round."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server and the files go away
    folder = Path(tempfile.mkdtemp(prefix="runfold-bench-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        session = Session(
            folder,
            Sqlite(folder),
            None if sqlite_only else Postgres(stack.enter_context(running_server())),
            rounds or (2 if quick else 5),
            0.1 if quick else 1.0,
        )
        report = f"{_circumstances(session)}\n\n{table(_measure(session, only or tuple(ROWS)))}\n"
    click.echo(report)
    if output is not None:
        output.write_text(report)


def _measure(session: Session, names: tuple[str, ...]) -> list[Line]:
    lines: list[Line] = []
    for name in names:
        begun = time.monotonic()
        for line in ROWS[name](session):
            lines.append(line)
            click.echo(f"{line.row} ({line.database}): {line.ratio:.2f} {line.goal or ''}", err=True)
        click.echo(f"{name}: {time.monotonic() - begun:.0f} s", err=True)
    return lines


def _circumstances(session: Session) -> str:
    server = "none"
    if session.postgres is not None:
        with psycopg.connect(session.postgres.url) as connection:
            server = str(connection.info.server_version // 10_000)
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.system()} {platform.machine()}, {_processors()},"
        f" Python {platform.python_version()}, SQLite {apsw.sqlite_lib_version()} (apsw), {sqlite3.sqlite_version}"
        f" (standard library), PostgreSQL {server} on the same machine; medians of {session.rounds} rounds."
    )


def _processors() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(models)} x {models[0]}" if models else platform.processor()


if __name__ == "__main__":
    main()
