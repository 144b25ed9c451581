"""Rows about how fast the command line is there."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec

import ledger
from tests.benchmarks.measure import Line, Peer, at_most, percentile, take_turns
from tests.benchmarks.session import Session

_STARTS = 8
_BARE = """
import click

@click.group()
def main():
    "A program that does nothing."

@main.command()
def nothing():
    "Nothing."

main()
"""
_OURS = "import sys; from cli.main import main; sys.argv[0] = 'runfold'; main()"


def start(session: Session) -> Iterator[Line]:
    """`runfold --help` and `runfold list` beside a click program that does nothing."""
    if find_spec("cli.main") is None:
        return
    url = session.sqlite.new_ledger()
    with ledger.open(url) as log:
        for _ in range(20):
            log.enqueue("test", project="web")
    turns = take_turns(
        {
            "bare": _start_ms("-c", _BARE, "--help"),
            "help": _start_ms("-c", _OURS, "--help"),
            "list": _start_ms("-c", _OURS, "--url", url, "list"),
        },
        rounds=session.rounds,
    )
    for name, goal in (("help", 1.3), ("list", 2.0)):
        yield Line(
            "`runfold --help`" if name == "help" else "`runfold list`",
            "" if name == "help" else "SQLite",
            f"{turns.median(name):.0f} ms",
            f"bare click program: {turns.median('bare'):.0f} ms",
            turns.ratio(name, "bare"),
            at_most(goal),
        )


def _start_ms(*arguments: str) -> Peer:
    # Bytecode is kept, as it is on a machine where the program is installed.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def once(command: Sequence[str]) -> float:
        begun = time.perf_counter()
        subprocess.run(command, env=environment, check=True, capture_output=True)
        return (time.perf_counter() - begun) * 1_000

    return lambda: percentile([once([sys.executable, *arguments]) for _ in range(_STARTS)], 50)
