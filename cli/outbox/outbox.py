"""`Outbox`: calls back when runs end, whatever dies when.

It goes through the log once, as a reader with a durable position: each terminal event becomes one delivery a sink, in
the transaction that moves the position. Deliveries are claimed with a lease, made, and settled. Any number of daemons
may do so at once. A call is repeated only when its success was not recorded: the same event has the same `webhook-id`,
by which a receiver knows a repetition.
"""

import logging
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import msgspec

from cli.outbox.deliveries import OF_RUN, Callback, Delivery, open_outbox_table
from cli.outbox.destinations import Network
from cli.outbox.message import message
from cli.outbox.sending import NotDelivered, post
from cli.outbox.signing import signed_headers
from ledger import limits
from ledger.api import Ledger
from ledger.errors import LedgerError
from ledger.events import EventId
from ledger.run.codec import RecordedRunEvent, decode_page
from ledger.run.events import TERMINAL_EVENTS, Enqueued, Purged
from projections import Runs

PAGES_PER_STEP: Final = 20
KEPT_S: Final = 7 * 86_400.0
"""How long a delivery that succeeded is kept, to be looked at."""
PRUNED_PER_STEP: Final = 500
PRUNE_EVERY_S: Final = 60.0
IDLE_S: Final = 1.0
BUSY_S: Final = 0.05
ERROR_CHARS_MAX: Final = 500

logger = logging.getLogger("runfold.outbox")


class Delivering(msgspec.Struct, frozen=True, kw_only=True):
    """How callbacks are made.

    Attributes:
        concurrency: Calls at once.
        timeout_s: Of one call.
        attempts_max: Of one delivery; then it has failed, until somebody asks for it anew.
        retry_delay_s: After the first attempt; each further one waits three times as long,
        retry_delay_max_s: but not longer than this.
        allowed: Networks beside the public ones that calls may go to.
    """

    concurrency: int = 8
    timeout_s: float = 15.0
    attempts_max: int = 12
    retry_delay_s: float = 5.0
    retry_delay_max_s: float = 6 * 3600.0
    allowed: tuple[Network, ...] = ()

    @property
    def lease_s(self) -> float:
        """Twice the time of a call: to look up a name is not in it, and cannot be cut short."""
        return 2 * self.timeout_s + 1


class Outbox:
    """Goes through the log and makes the calls; to be used from one thread."""

    def __init__(self, log: Ledger, how: Delivering | None = None) -> None:
        self._log = log
        self._runs = Runs(log)
        self._table = open_outbox_table(log.store)
        self._how = how or Delivering()
        self._pool = ThreadPoolExecutor(self._how.concurrency, thread_name_prefix="runfold callback")
        self._free = threading.Semaphore(self._how.concurrency)
        self._run_secret: str | None = None
        self._pruned_at = float("-inf")

    def step(self) -> float:
        """Go on through the log and begin what is due, without waiting for any call.

        Returns:
            In how many seconds to come again, unless something is appended before.
        """
        for _ in range(PAGES_PER_STEP):
            if not self.plan():
                break
        else:
            return 0.0
        self._prune()
        return BUSY_S if self.begin_due() else IDLE_S

    def close(self) -> None:
        """Wait for the calls under way, and begin none."""
        self._pool.shutdown(wait=True)

    # --- from the log to deliveries -------------------------------------------------------------------------

    def plan(self) -> bool:
        """Turn the next page of the log into deliveries.

        Returns:
            Whether there may be more.
        """
        past = self._table.position()
        page = self._log.store.read_log(after_position=past, limit=limits.PAGE_EVENTS)
        if page.last_position == past:
            return False
        # After the page: a callback that is made later than this does not concern anything in it.
        callbacks = self._table.callbacks()
        events = decode_page(page.events)
        deliveries = [made for event in events if _is_terminal(event) for made in self._deliveries(event, callbacks)]
        purged = [event.run_id for event in events if isinstance(event.data, Purged)]
        self._table.advance(past=past, to=page.last_position, deliveries=deliveries, purged=purged)
        return page.more

    def _deliveries(self, event: RecordedRunEvent, callbacks: Sequence[Callback]) -> list[Delivery]:
        first = next(self._log.read(event.run_id, up_to=1)).data
        if not isinstance(first, Enqueued):
            return []  # purged: what it was is nobody's to know
        urls = {} if first.callback_url is None else {OF_RUN: first.callback_url}
        urls |= {
            each.callback_id: each.url
            for each in callbacks
            if each.wants(kind=first.kind, project=first.project, position=event.position)
        }
        return [
            Delivery(
                event_id=EventId(event.envelope.event_id),
                sink=sink,
                run_id=event.run_id,
                version=event.version,
                position=event.position,
                url=url,
            )
            for sink, url in urls.items()
        ]

    # --- from deliveries to calls ---------------------------------------------------------------------------

    def begin_due(self) -> int:
        """Claim what is due, as much as there are free hands for, and let them begin.

        Returns:
            How many were begun.
        """
        free = 0
        while free < self._how.concurrency and self._free.acquire(blocking=False):
            free += 1
        claimed: list[Delivery] = []
        try:
            if free:
                claimed = self._table.claim(limit=free, lease_s=self._how.lease_s)
        finally:
            if free > len(claimed):
                self._free.release(free - len(claimed))
        for delivery in claimed:
            self._pool.submit(self._deliver_and_settle, delivery)
        return len(claimed)

    def _deliver_and_settle(self, delivery: Delivery) -> None:
        try:
            self._settle(delivery, self._deliver(delivery))
        except Exception:
            logger.exception("could not settle the callback of %s; its lease will run out", delivery.run_id)
        finally:
            self._free.release()

    def _deliver(self, delivery: Delivery) -> NotDelivered | None:
        """Make one call; give why it did not succeed, or None."""
        if delivery.attempts > self._how.attempts_max:
            return NotDelivered("each attempt ended with the daemon that made it.", is_final=True)
        try:
            secret = self._secret_of(delivery.sink)
            event = next(self._log.read(delivery.run_id, after_version=delivery.version - 1))
            body = message(event, self._runs.get(delivery.run_id))
            headers = signed_headers(secret, message_id=delivery.event_id, at=int(time.time()), body=body)
            headers |= {"content-type": "application/cloudevents+json", "user-agent": "runfold"}
            post(delivery.url, body, headers, timeout_s=self._how.timeout_s, allowed=self._how.allowed)
        except NotDelivered as failure:
            return failure
        except LedgerError as exc:
            return NotDelivered(f"the ledger: {exc}")
        return None

    def _secret_of(self, sink: str) -> str:
        if sink == OF_RUN:
            self._run_secret = self._run_secret or self._table.run_secret()
            return self._run_secret
        found = next((each.secret for each in self._table.callbacks() if each.callback_id == sink), None)
        if found is None:
            raise NotDelivered("the callback was removed.", is_final=True)
        return found

    def _settle(self, delivery: Delivery, failure: NotDelivered | None) -> None:
        facts = {"run_id": delivery.run_id, "sink": delivery.sink, "attempt": delivery.attempts}
        if failure is None:
            self._table.settle(delivery, state="delivered", delay_s=0, error=None)
            logger.info("called back for run %s", delivery.run_id, extra=facts)
            return
        error = str(failure)[:ERROR_CHARS_MAX].replace("\0", "")
        is_last = failure.is_final or delivery.attempts >= self._how.attempts_max
        delay_s = 0 if is_last else retry_delay_s(self._how, delivery.attempts, fraction=random.random())
        self._table.settle(delivery, state="failed" if is_last else "pending", delay_s=delay_s, error=error)
        what = "gave up the callback" if is_last else "could not call back"
        logger.warning("%s for run %s (attempt %d): %s", what, delivery.run_id, delivery.attempts, error, extra=facts)

    def _prune(self) -> None:
        if time.monotonic() - self._pruned_at >= PRUNE_EVERY_S:
            self._pruned_at = time.monotonic()
            self._table.prune(older_s=KEPT_S, limit=PRUNED_PER_STEP)


def retry_delay_s(how: Delivering, attempt: int, *, fraction: float) -> float:
    """Give the pause after an attempt: three times as long each time, less up to a half by chance.

    Args:
        how: Its limits.
        attempt: The one that failed, from 1.
        fraction: Of the chance, 0 to 1.
    """
    return float(min(how.retry_delay_max_s, how.retry_delay_s * 3.0 ** (attempt - 1)) * (1 - fraction / 2))


def _is_terminal(event: RecordedRunEvent) -> bool:
    return event.type in _TERMINAL_TYPES


_TERMINAL_TYPES: Final = frozenset(str(kind.__struct_config__.tag) for kind in TERMINAL_EVENTS)
