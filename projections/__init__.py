"""Runfold's reading side: read models folded from the log.

import ledger
from projections import Runs

with ledger.open("sqlite:///runs.db") as log:
    for run in Runs(log).list(project="web", status=["queued", "running"]).runs:
        print(run.id, run.status)
"""

from projections.comparison import Comparison, compare
from projections.document_reader import Documents
from projections.projection import Lag, Miscount, Verification
from projections.projector import PROJECTIONS, catch_up, lag, rebuild, verify
from projections.queries import RunFilters, RunPage
from projections.reader import Runs
from projections.recycle_bin import RecycleBin
from projections.result_reader import Results
from projections.results import Result, ResultPage, TestSummary
from projections.retention import Policy, Swept, policy, sweep
from projections.timing_reader import Timings
from projections.timings import RunTimings

__all__ = [
    "PROJECTIONS",
    "Comparison",
    "Documents",
    "Lag",
    "Miscount",
    "Policy",
    "RecycleBin",
    "Result",
    "ResultPage",
    "Results",
    "RunFilters",
    "RunPage",
    "RunTimings",
    "Runs",
    "Swept",
    "TestSummary",
    "Timings",
    "Verification",
    "catch_up",
    "compare",
    "lag",
    "policy",
    "rebuild",
    "sweep",
    "verify",
]
