"""Figures that are the ledger's, not a process's: whoever is asked gives the same ones.

They are read when somebody asks for them. Their cost is what there is to do and how many kinds there are, not how many
runs there were.
"""

from collections.abc import Sequence
from typing import Final

from cli.outbox.deliveries import open_outbox_table
from cli.telemetry.figures import Family, Measure
from ledger.api import Ledger
from projections import Runs

TASKS: Final = Measure("runfold_tasks", "Tasks by kind and state.", ("kind", "state"))
OLDEST: Final = Measure(
    "runfold_oldest_waiting_seconds", "For how long the oldest task that may be claimed has waited.", ("kind",)
)
RUNS: Final = Measure("runfold_runs", "Runs that are not in the bin, by kind and status.", ("kind", "status"))
DELIVERIES: Final = Measure("runfold_outbox_deliveries", "Callbacks that wait, and that have failed.", ("state",))
BACKLOG: Final = Measure("runfold_outbox_lag_events", "Events that were not looked at yet for whom to call back.")
CONSUMERS: Final = Measure("runfold_consumer_position", "Least checkpoint of a consumer.", ("consumer",))
POSITION: Final = Measure("runfold_log_position", "Position of the newest settled event.")


def ledger_families(log: Ledger) -> Sequence[Family]:
    """Read the ledger's figures.

    Args:
        log: A ledger in a database.
    """
    tasks = log.store.tasks
    outbox = None if log.store.url.startswith("memory:") else open_outbox_table(log.store)
    # where positions have holes, the log is settled further than its newest event, and lags would never end
    position = outbox.head() if outbox else log.store.read_log(after_position=2**62, limit=1).settled_position
    runs = Runs(log).count_by_kind()
    families = [
        Family(TASKS, "gauge", {key: count for key, count in tasks.count(kinds=None).items()}),
        Family(OLDEST, "gauge", {(kind,): seconds for kind, seconds in tasks.oldest().items()}),
        Family(RUNS, "gauge", {(kind, status.value): count for (kind, status), count in runs.items()}),
        Family(POSITION, "gauge", {(): position}),
    ]
    if outbox is None:
        return families  # a ledger in memory has no outbox, and no consumers of other processes
    return [
        *families,
        Family(CONSUMERS, "gauge", {(each.name,): each.position() for each in log.consumers()}),
        Family(DELIVERIES, "gauge", {(state,): count for state, count in outbox.backlog().items()}),
        Family(BACKLOG, "gauge", {(): max(0, position - outbox.position())}),
    ]
