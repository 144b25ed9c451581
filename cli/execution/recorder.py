"""The process that records the results of one test run: `python -m runfold.start cli.execution.recorder`.

It reads one JSON object a line from its standard input and writes them to the ledger and the run that the environment
names. The plugin starts it deaf to the signals that end a test run. `null`, or the end of the input, ends it: what a
test run reported before it was killed is kept. At the end it prints one JSON object: how many results are recorded,
how many are lost, and why.
"""

import json
import os
import sys
from collections.abc import Iterable
from typing import TextIO

from cli.execution.result_writer import Recording, ResultWriter
from cli.worker_logs import quiet_drivers
from ledger.api import Ledger
from ledger.clock import utc_now
from ledger.errors import LedgerError
from ledger.events import RunId
from ledger.opening import open as open_ledger
from ledger.run.leases import Lease
from ledger.run.values import JsonObject
from runfold.environment import ShardEnvironment


def record(place: ShardEnvironment, lines: Iterable[str]) -> Recording:
    """Record every line up to `null`.

    A ledger that cannot even be opened loses all of them; the lines are read all the same, since their writer would
    stand still otherwise.
    """
    quiet_drivers()
    try:
        with open_ledger(place.url, actor="pytest", migrate=False) as log:
            log = _under_lease(log, place)
            writer = ResultWriter(log, place.run_id, shard=place.shard, shard_attempt=place.shard_attempt)
            for result in _results(lines):
                writer.put(result)
            return writer.close()
    except LedgerError as exc:
        recording = Recording()
        recording.lose(sum(1 for _ in _results(lines)), str(exc))
        recording.reason = str(exc)
        return recording


def _under_lease(log: Ledger, place: ShardEnvironment) -> Ledger:
    """Write under the lease of the worker that started the test run, where it has one on the whole run."""
    if place.lease_token is None:
        return log
    lease = Lease(
        run_id=RunId(place.run_id),
        kind="",
        attempt=place.attempt or 1,
        token=place.lease_token,
        worker=place.worker or "",
        deadline=utc_now(),
    )
    return log.under(lease)


def _results(lines: Iterable[str]) -> Iterable[JsonObject]:
    for line in lines:
        try:
            result = json.loads(line)
        except ValueError:
            continue  # the last line of a test run that was killed while it wrote
        if result is None:
            return
        yield result


def main(lines: TextIO = sys.stdin) -> None:
    """Record standard input."""
    place = ShardEnvironment.read(os.environ)
    if place is None:
        sys.exit("the environment names no run: RUNFOLD_RUN_ID is not set. This is started by the pytest plugin.")
    recording = record(place, lines)
    answer = {"recorded": recording.recorded, "lost": recording.lost, "reason": recording.reason}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
