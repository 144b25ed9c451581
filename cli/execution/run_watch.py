"""Looks after a run from the executor's side: keeps its lease, and sees whether somebody else ended it."""

import threading
from typing import Final

from ledger.api import Ledger
from ledger.clock import monotonic
from ledger.errors import LedgerError
from ledger.run.leases import Lease
from ledger.run.state import RunState

LOOK_S: Final = 0.25
"""Well within the second in which an abort from elsewhere is to reach the commands."""


class RunWatch:
    """Reads the run's new events a few times a second, in the background.

    Args:
        log: The ledger; used from the watch's thread.
        state: The run as it is known.
        lease: What the executor holds.
        lease_s: How long each heartbeat lasts.
    """

    def __init__(self, log: Ledger, state: RunState, *, lease: Lease, lease_s: float) -> None:
        self.state = state
        self._log = log
        self._lease = lease
        self._lease_s = lease_s
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._look, name="runfold watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._closed.set()
        self._thread.join()

    def _look(self) -> None:
        renew_at = monotonic() + self._lease_s / 3
        while not self._closed.wait(LOOK_S):
            try:
                if monotonic() >= renew_at:
                    self._log.heartbeat([self._lease], lease_s=self._lease_s)
                    renew_at = monotonic() + self._lease_s / 3
                self.state = self._log.state(self.state.run_id)
            except LedgerError:
                continue  # out of reach for a moment: what matters is what it says when it is back
