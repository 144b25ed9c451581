"""Runfold's reading side: read models folded from the log.

import ledger
from projections import Runs

with ledger.open("sqlite:///runs.db") as log:
    for run in Runs(log).list(project="web", status=["queued", "running"]).runs:
        print(run.id, run.status)
"""

from projections.projection import Lag, Verification
from projections.projector import PROJECTIONS, catch_up, lag, rebuild, verify
from projections.queries import RunFilters, RunPage
from projections.reader import Runs
from projections.recycle_bin import RecycleBin
from projections.retention import Policy, Swept, policy, sweep

__all__ = [
    "PROJECTIONS",
    "Lag",
    "Policy",
    "RecycleBin",
    "RunFilters",
    "RunPage",
    "Runs",
    "Swept",
    "Verification",
    "catch_up",
    "lag",
    "policy",
    "rebuild",
    "sweep",
    "verify",
]
