"""A ledger that was opened before a fork is refused in the child, and goes on in the parent."""

import subprocess
import sys
from pathlib import Path

PARENT_AND_CHILD = """
import os, sys
import ledger
from projections import Runs

def told(act):
    try:
        return repr(act())
    except (ledger.StoreUnavailable, ledger.UnsafeStore) as error:
        return "refused: " + str(error)

log = ledger.open(sys.argv[1], migrate=True)
run = log.enqueue("test")
log.start(run.id, worker="w")
events = log.subscribe()
next(events)
child = os.fork()
if child == 0:
    for act in (
        lambda: log.append_results(run.id, [{"status": "passed"}]),
        lambda: log.complete(run.id),
        lambda: list(log.read(run.id)),
        lambda: list(log.read_all()),
        lambda: Runs(log).list(),
        lambda: log.subscribe(),
    ):
        print(told(act), flush=True)
    log.close()  # must leave the parent's locks and sockets alone
    def use_own():
        with ledger.open(sys.argv[1]) as mine:
            return mine.append_results(run.id, [{"status": "passed"}])
    print("own:", told(use_own), flush=True)
    os._exit(0)
print("child ended with", os.waitpid(child, 0)[1])
print("parent:", log.append_results(run.id, [{"status": "passed"}]), log.state(run.id).passed, log.complete(run.id).won)
events.close()
log.close()
"""
PARENT_THAT_CLOSES = """
import os, sys
import ledger

with ledger.open(sys.argv[1], migrate=True) as log:
    run = log.enqueue("test")
child = os.fork()
if child:
    os.waitpid(child, 0)
with ledger.open(sys.argv[1]) as log:
    print(log.append_results(run.id, [{"status": "passed"}]), log.state(run.id).passed, flush=True)
"""


def run(program: str, url: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program, url],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "" == done.stderr
    return done.stdout.splitlines()


def test_ledger_when_the_process_forks(shared_url: str) -> None:
    """Every method refuses in the child and says what to do, and the parent goes on.

    PostgreSQL lets the child open a ledger of its own. SQLite would take the parent's locks for the child's: of six
    events that such a child was told were safe, five were gone. So there that is refused as well.
    """
    *refused, own, child, parent = run(PARENT_AND_CHILD, shared_url)

    assert 6 == len(refused)
    assert all(line.startswith("refused: ") and "was opened before a fork" in line for line in refused), refused
    if shared_url.startswith("sqlite"):
        assert own.startswith("own: refused: ")
        assert "was open when this process was forked" in own
        assert "parent: 1 1 True" == parent
    else:
        assert ["own: 1", "parent: 1 2 True"] == [own, parent]
    assert "child ended with 0" == child


def test_ledger_when_it_is_closed_before_the_fork(shared_url: str) -> None:
    """Parent and child each open their own after the fork, and lose nothing."""
    assert ["1 1", "1 2"] == run(PARENT_THAT_CLOSES, shared_url)
