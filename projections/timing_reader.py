"""`Timings`: when the attempts, phases and shards of a run began and ended."""

from functools import partial

from ledger import limits
from ledger.api import Ledger
from ledger.errors import RunNotFound
from ledger.run.values import check_uuid
from projections.details import Detail
from projections.projector import fresh
from projections.stores import open_timing_tables
from projections.timings import TIMINGS, RunTimings, timings_of


class Timings:
    """The timings of a ledger's runs, for reading; each read is as fresh as the log. Safe to use from any thread.

    Args:
        log: The ledger.
    """

    def __new__(cls, log: Ledger) -> "Timings":
        """Give the timings of a ledger; one behind a server answers the same questions there."""
        if hasattr(log, "ask"):
            from projections.remote_results import RemoteTimings

            return RemoteTimings(log)  # type: ignore[return-value, arg-type]
        return super().__new__(cls)

    def __init__(self, log: Ledger) -> None:
        self._log = log
        self._tables = open_timing_tables(log.store)

    def of_run(self, run_id: str) -> RunTimings:
        """Give the timings of a run.

        Raises:
            InvalidInput: when the id is no UUID.
            RunNotFound: when there is no such run.
        """
        check_uuid(run_id, field="run_id")
        rows: list[Detail] = []
        more = True
        while more:
            after = rows[-1][0] if rows else -1
            read = partial(self._tables.rows_of, run_id=run_id, after=after, limit=limits.LIST_ROWS_MAX)
            page = fresh(self._log, TIMINGS.name, read)
            rows += page
            more = len(page) == limits.LIST_ROWS_MAX
        if not rows:
            known = fresh(self._log, TIMINGS.name, partial(self._tables.versions, run_ids=[run_id]))
            if run_id not in known:
                raise RunNotFound(run_id)
        return timings_of(run_id, rows)
