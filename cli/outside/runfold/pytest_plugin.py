"""The pytest plugin, found by its entry point: records a test run in the ledger while it runs.

Installed beside pytest it does nothing, and imports nothing, unless `RUNFOLD_RUN_ID` says that this process is a part
of a run. It never changes what a test run does: a ledger that is out of reach costs the results, and one line that
says so.
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_configure(config: "pytest.Config") -> None:
    """Register what records and splits, when this process is a part of a run."""
    if os.environ.get("RUNFOLD_RUN_ID"):
        from runfold.pytest_session import register

        register(config, os.environ)
