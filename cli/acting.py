"""`Acting`: executes a command for each event that a consumer gives, one after the other.

What the command did is acknowledged once it has ended well, so whoever dies, no event is left out; one whose success
was not recorded comes again, with the same id.
"""

import logging
import os
import random
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from signal import SIGKILL, SIGTERM
from typing import Final, Protocol

import msgspec

from cli.execution.process_group import signal_group
from ledger.api import Ledger
from ledger.clock import monotonic
from ledger.consumers import Batch
from ledger.errors import BatchLost, StoreUnavailable
from ledger.interop.cloudevents import cloud_event
from ledger.run.codec import RecordedRunEvent
from projections import Runs

_WAIT_S: Final = 1.0
_LOOK_S: Final = 0.2
_OUTAGE_S: Final = 2.0
_RETRY_DELAY_S: Final = 1.0
_RETRY_DELAY_MAX_S: Final = 300.0

logger = logging.getLogger("runfold.consumer")


class Gives(Protocol):
    """What gives the events: `ledger.consumer.Consumer`, or the one behind a server."""

    def fetch(self, *, limit: int, lease_s: float, wait_s: float) -> Batch | None: ...

    def acknowledge(self, batch: Batch) -> bool: ...

    def extend(self, batch: Batch, *, lease_s: float) -> None: ...

    def hand_back(self, batch: Batch) -> None: ...


class Acting:
    """Executes a command for each event; `run` is for one thread, `stop` for any.

    Args:
        log: Where the runs are.
        consumer: Gives the events.
        command: Gets the event as a CloudEvent on its input, and its ids in its environment.
        environ: The environment beside those.
        lease_s: Nobody else gets an event for so long; it is kept for as long as the command runs.
        grace_s: Between SIGTERM and SIGKILL, when it is to stop.
        attempts_max: Of one event; then it is passed over. None is to try for ever.
    """

    def __init__(
        self,
        log: Ledger,
        consumer: Gives,
        command: Sequence[str],
        *,
        environ: Mapping[str, str],
        lease_s: float,
        grace_s: float,
        attempts_max: int | None = None,
    ) -> None:
        self._runs = Runs(log)
        self._consumer = consumer
        self._command = command
        self._environ = environ
        self._lease_s = lease_s
        self._grace_s = grace_s
        self._attempts_max = attempts_max
        self._attempts: dict[str, int] = {}
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End the command that runs, give its event back, and make `run` return."""
        self._stopping.set()

    def run(self, *, until_end: bool = False) -> None:
        """Go on until `stop`.

        Args:
            until_end: Return too when nothing is left, or others have it.
        """
        while not self._stopping.is_set():
            try:
                batch = self._consumer.fetch(limit=1, lease_s=self._lease_s, wait_s=0 if until_end else _WAIT_S)
                if batch is not None:
                    self._act(batch)
                elif until_end:
                    return
            except StoreUnavailable as exc:
                logger.warning("%s", exc)
                self._stopping.wait(_OUTAGE_S)

    def _act(self, batch: Batch) -> None:
        (event,) = batch.events
        event_id = event.envelope.event_id
        facts = {"run_id": event.run_id, "attempt": self._attempts.get(event_id, 0) + 1}
        try:
            why = self._execute(event, batch)
            if self._stopping.is_set() and why is not None:
                self._consumer.hand_back(batch)
                return
            if why is not None and not self._give_up(event_id):
                logger.warning("%s of run %s: %s", event.type, event.run_id, why, extra=facts)
                self._pause(batch, attempts=self._attempts[event_id])
                return
            self._consumer.acknowledge(batch)
        except BatchLost as exc:
            logger.warning("%s of run %s went to another: %s", event.type, event.run_id, exc, extra=facts)
            return
        self._attempts.pop(event_id, None)
        told = logger.error if why is not None else logger.info
        told("%s of run %s: %s", event.type, event.run_id, f"passed over, {why}" if why else "done", extra=facts)

    def _give_up(self, event_id: str) -> bool:
        self._attempts[event_id] = self._attempts.get(event_id, 0) + 1
        return self._attempts_max is not None and self._attempts[event_id] >= self._attempts_max

    def _pause(self, batch: Batch, *, attempts: int) -> None:
        """Keep the event for a while: what follows it in its run must not come before it."""
        pause_s = min(_RETRY_DELAY_MAX_S, _RETRY_DELAY_S * 3.0 ** (attempts - 1)) * (1 - random.random() / 2)
        until = monotonic() + pause_s
        while (left_s := until - monotonic()) > 0 and not self._stopping.wait(min(left_s, self._lease_s / 3)):
            self._consumer.extend(batch, lease_s=self._lease_s)
        self._consumer.hand_back(batch)

    def _execute(self, event: RecordedRunEvent, batch: Batch) -> str | None:
        """Execute the command; give why it did not succeed, or None."""
        project = self._runs.get(event.run_id).project
        about = {
            "RUNFOLD_EVENT_ID": event.envelope.event_id,
            "RUNFOLD_EVENT_TYPE": event.type,
            "RUNFOLD_RUN_ID": event.run_id,
        }
        process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, env={**self._environ, **about}, process_group=0
        )
        try:
            self._watch(process, msgspec.json.encode(cloud_event(event, project=project)) + b"\n", batch)
        finally:
            self._end(process)
        return None if process.returncode == 0 else f"the command ended with {process.returncode}"

    def _watch(self, process: "subprocess.Popen[bytes]", said: bytes, batch: Batch) -> None:
        """Wait for the command, and keep its event meanwhile."""
        threading.Thread(target=_tell, args=(process, said), daemon=True).start()  # it need not read
        extended_at = monotonic()
        while process.poll() is None and not self._stopping.is_set():
            with suppress(subprocess.TimeoutExpired):
                process.wait(_LOOK_S)
            if monotonic() - extended_at > self._lease_s / 3:
                self._consumer.extend(batch, lease_s=self._lease_s)
                extended_at = monotonic()

    def _end(self, process: "subprocess.Popen[bytes]") -> None:
        if process.poll() is None:
            signal_group(process.pid, SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(self._grace_s)
        signal_group(process.pid, SIGKILL)  # what it left behind as well
        process.wait()


def _tell(process: "subprocess.Popen[bytes]", said: bytes) -> None:
    assert process.stdin is not None
    with suppress(OSError), process.stdin:
        process.stdin.write(said)


def environment(url: str) -> dict[str, str]:
    """Give the environment of this process, with the ledger that commands are to ask."""
    return {**os.environ, "RUNFOLD_URL": url}
