"""Sprongus's runs service: enqueue once, claim, report, list.

Differs from the plan of its run table: an enqueue with the same key and other facts is an error; a worker's late report
is refused with `LeaseLost` when its claim went to another; and claims end when no heartbeat comes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from ledger import limits
from ledger.api import Ledger, Outcome
from ledger.errors import IllegalTransition, InvalidInput, RunNotFound
from ledger.run.codec import RecordedRunEvent
from ledger.run.events import Enqueued
from ledger.run.leases import Lease
from ledger.run.values import JsonObject, Status
from projections.reader import Runs
from projections.vocabularies import SPRONGUS, statuses_of, view

Redact = Callable[[JsonObject], JsonObject]

PAGE_ROWS_MAX: Final = 100
EVENT_NAMES: Final[Mapping[str, str]] = {
    "enqueued": "run.enqueued",
    "started": "run.started",
    "completed": "run.succeeded",
    "failed": "run.failed",
    "aborted": "run.canceled",
}
"""Sprongus's domain events, by the ledger's."""


class Page(NamedTuple):
    """One page of runs, newest first, and how to ask for the next."""

    runs: list[JsonObject]
    next_page_token: str | None


class DomainEvent(NamedTuple):
    """Something that happened to a run, in Sprongus's words; `position` is what a reader remembers."""

    position: int
    type: str
    run_id: str
    at: datetime
    data: RecordedRunEvent


class SprongusRuns:
    """The runs service.

    Args:
        log: The ledger.
        redact: Is given what is about to be stored (`input`, `{"error": …}`) and gives back what may be.
    """

    def __init__(self, log: Ledger, *, redact: Redact | None = None) -> None:
        self._log = log
        self._runs = Runs(log)
        self._redact = redact or _as_it_is

    def enqueue(
        self,
        kind: str,
        *,
        project_id: str | None = None,
        input: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        max_attempts: int = 1,
    ) -> JsonObject:
        """Ask for a run; the same key with the same facts gives the same run.

        Raises:
            SecretInInput: when `input` holds what looks like a credential; pass a reference to it.
            IdempotencyMismatch: when the key stands for other facts.
        """
        handle = self._log.enqueue(
            kind,
            project=project_id,
            input=self._redact(dict(input or {})),
            idempotency_key=idempotency_key,
            attempts_max=max_attempts,
        )
        return self._shown(handle.id)

    def ensure_idempotent(
        self, idempotency_key: str, factory: Callable[[], Mapping[str, Any]], *, project_id: str | None = None
    ) -> JsonObject:
        """Give the run of a key, made from what the factory says only if there is none yet.

        Args:
            idempotency_key: The key.
            factory: Gives the arguments of `enqueue`, with `kind`; not called when the run is there.
            project_id: Keys are apart between projects.
        """
        known = self._log.find_by_idempotency_key(idempotency_key, project=project_id)
        if known is not None:
            return self._shown(known)
        facts = {**factory(), "project_id": project_id, "idempotency_key": idempotency_key}
        return self.enqueue(facts.pop("kind"), **facts)

    def claim_next(
        self, worker_id: str, *, kinds: Sequence[str] | None = None, limit: int = 1, lease_s: float = limits.LEASE_S
    ) -> list[JsonObject]:
        """Take queued runs, each for this worker alone, and give them with their input."""
        leases = self._log.claim(worker_id, kinds=kinds, limit=limit, lease_s=lease_s)
        return [self._shown(lease.run_id) for lease in leases]

    def heartbeat(self, run_id: str, worker_id: str, *, lease_s: float = limits.LEASE_S) -> bool:
        """Keep a claim; False when it is this worker's no longer."""
        lease = self._lease(run_id, worker_id)
        return lease is not None and self._log.heartbeat([lease], lease_s=lease_s)[0].is_held

    def succeed(self, run_id: str, *, worker_id: str | None = None, output_ref: str | None = None) -> Outcome:
        """Report success; only the first report of a run counts.

        Raises:
            LeaseLost: when a worker is named and the claim is no longer its own.
            IllegalTransition: when the run does not run.
        """
        return self._as_holder(run_id, worker_id).complete(run_id, output_ref=output_ref)

    def fail(self, run_id: str, *, error: str, worker_id: str | None = None, retryable: bool = False) -> Outcome:
        """Report failure: back to the queue while it is retryable and attempts are left, else for good. Raises as
        `succeed`."""
        log = self._as_holder(run_id, worker_id)
        told = str(self._redact({"error": error})["error"])
        if retryable:
            try:
                return log.fail_attempt(run_id, error=told)
            except IllegalTransition:
                if self._log.state(run_id).status not in (Status.RUNNING, Status.INTERRUPTED):
                    raise
        return log.fail(run_id, error=told)

    def cancel(self, run_id: str, *, reason: str | None = None) -> Outcome:
        """Cancel a run that waits or runs; a finished one stays as it is, and the outcome says who was first."""
        return self._log.abort(run_id, reason=reason)

    def get(self, run_id: str) -> JsonObject | None:
        """Give a run with its input; None for an unknown one."""
        try:
            return self._shown(run_id)
        except (RunNotFound, InvalidInput):
            return None

    def list(
        self,
        *,
        project_id: str | None = None,
        state: str | None = None,
        kind: str | None = None,
        since: datetime | None = None,
        before: datetime | None = None,
        limit: int = 50,
        page_token: str | None = None,
    ) -> Page:
        """List runs, newest first, without their input; a page has 100 at most."""
        page = self._runs.list(
            limit=min(limit, PAGE_ROWS_MAX),
            page_token=page_token,
            project=project_id,
            status=None if state is None else statuses_of(state, SPRONGUS),
            kind=kind,
            since=since,
            before=before,
        )
        return Page([view(run, SPRONGUS) for run in page.runs], page.next_page_token)

    def events(self, *, after: int = 0) -> Iterator[DomainEvent]:
        """Give the domain events after a position, up to now; `Ledger.subscribe` follows them live."""
        for event in self._log.read_all(after=after, types=list(EVENT_NAMES)):
            yield DomainEvent(event.position, EVENT_NAMES[event.type], event.run_id, event.recorded_at, event)

    def _shown(self, run_id: str) -> JsonObject:
        run = self._runs.get(run_id)
        asked = next(self._log.read(run_id, up_to=1)).data
        return {**view(run, SPRONGUS), "input": asked.input if isinstance(asked, Enqueued) else None}

    def _as_holder(self, run_id: str, worker_id: str | None) -> Ledger:
        lease = None if worker_id is None else self._lease(run_id, worker_id)
        if lease is not None:
            return self._log.under(lease)
        state = self._log.state(run_id)
        if worker_id is not None and not state.is_terminal and state.worker != worker_id:
            raise IllegalTransition(
                run_id=run_id, status=state.status, command="report", why=f"{worker_id} does not hold it"
            )
        return self._log

    def _lease(self, run_id: str, worker_id: str) -> Lease | None:
        for task in self._log.tasks(run_id=run_id):
            if task.worker == worker_id and task.deadline is not None and task.token is not None:
                return Lease(
                    run_id=task.run_id,
                    kind=task.kind,
                    project=task.project,
                    purpose=task.purpose,
                    shard=task.shard,
                    attempt=task.attempt,
                    token=task.token,
                    worker=worker_id,
                    deadline=task.deadline,
                )
        return None


def _as_it_is(value: JsonObject) -> JsonObject:
    return value
