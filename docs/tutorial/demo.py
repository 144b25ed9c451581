"""Records networkx's own test suite, cut into four shards, and looks at the run afterwards: `make demo`.

Everything is written to `.demo/`. The run is executed by the command line, as a user would; then what the ledger
counted is compared with what each shard's pytest said at its end, and a difference fails the demo.

    python docs/tutorial/demo.py           a part of the suite, about a minute on two cores
    python docs/tutorial/demo.py --full    all of it, some 6,200 cases
    python docs/tutorial/demo.py utils     only networkx.utils
"""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import click

import ledger
from projections import Runs

DEMO = Path(".demo").absolute()
URL = f"sqlite:///{DEMO / 'runs.db'}"
OUTPUT = DEMO / "output.txt"
SHARDS = 4
PART = ("classes", "generators", "readwrite", "algorithms.centrality", "algorithms.shortest_paths", "utils")
SHOWN = ("enqueued", "started", "shard_completed", "completed", "failed")
COUNTED = re.compile(r"(\d+) (passed|failed|skipped|xfailed|xpassed|error)s?\b")
SUMMARY = re.compile(r"\[(\d+)\] (?:=+ )?((?:\d+ [a-z ]+, )*\d+ [a-z ]+) in [\d.]+s")


@click.command()
@click.argument("parts", nargs=-1)
@click.option("--full", is_flag=True, help="Run the whole suite.")
def main(parts: tuple[str, ...], full: bool) -> None:
    """Record, show, rebuild, verify, compare."""
    shutil.rmtree(DEMO, ignore_errors=True)
    DEMO.mkdir()
    packages = ["networkx"] if full else [f"networkx.{part}" for part in parts or PART]
    settings = DEMO / "pytest.ini"
    settings.write_text("[pytest]\n")  # ours, found above .venv, would make networkx's warnings errors
    pytest = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-c",
        str(settings),
        "-p",
        "no:cacheprovider",
        "--pyargs",
        *packages,
    ]
    with OUTPUT.open("wb") as output:
        runfold("exec", "test", "--project", "networkx", "--shards", str(SHARDS), "--split-pytest", "--", *pytest,
                stdout=output, allowed=(0, 1))  # fmt: skip
    runfold("show", "@last")
    runfold("history", "@last", *(f"--type={name}" for name in SHOWN))
    runfold("projection", "rebuild", "runs")
    runfold("projection", "verify", "runs")
    sys.exit(0 if compare() else 1)


def runfold(*arguments: str, stdout: object = None, allowed: tuple[int, ...] = (0,)) -> None:
    """Run one command of Runfold's, and show it first."""
    shown = " ".join(arguments).replace(sys.executable, "python").replace(f"{DEMO.parent}/", "")
    click.secho(f"\n$ runfold {shown}", bold=True)
    script = Path(sys.executable).parent / "runfold"
    code = subprocess.call([str(script), *arguments], stdout=stdout, env={**os.environ, "RUNFOLD_URL": URL})  # type: ignore[call-overload]
    if code not in allowed:
        sys.exit(f"runfold {arguments[0]} exited with {code}; what the commands said is in {OUTPUT}")


def compare() -> bool:
    """Compare, shard by shard, what pytest counted with what the ledger counted."""
    said = {int(shard): counts(text) for shard, text in SUMMARY.findall(OUTPUT.read_text())}
    with ledger.open(URL) as log:
        runs = Runs(log)
        newest = runs.latest()
        assert newest is not None
        recorded = {shard: Counter(known.results.statuses) for shard, known in runs.get(newest.id).shards.items()}
    click.secho("\nWhat each shard's pytest said, and what the ledger counted", bold=True)
    for shard in range(SHARDS):
        is_equal = shard in said and said[shard] == recorded.get(shard)
        click.echo(f"  shard {shard}  {listed(said.get(shard))}  |  {listed(recorded.get(shard))}  "
                   f"{'equal' if is_equal else 'DIFFERENT'}")  # fmt: skip
    total = sum(recorded.values(), Counter())
    is_equal = said == recorded and len(said) == SHARDS
    click.echo(f"  all      {listed(sum(said.values(), Counter()))}  |  {listed(total)}  "
               f"{'equal' if is_equal else 'DIFFERENT'}")  # fmt: skip
    return is_equal


def counts(summary: str) -> Counter[str]:
    """Read the results in the last line of a pytest run; what it deselected or warned of is none."""
    return Counter({word: int(count) for count, word in COUNTED.findall(summary)})


def listed(found: Counter[str] | None) -> str:
    """Give counts in one text, in the order of their words."""
    return "nothing" if not found else ", ".join(f"{count:,} {word}" for word, count in sorted(found.items()))


if __name__ == "__main__":
    main()
