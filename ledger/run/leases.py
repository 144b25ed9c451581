"""A worker's claim on a run, on a shard of it, or on its finalization."""

from datetime import datetime
from enum import StrEnum

import msgspec

from ledger.events import RunId
from ledger.run.values import DEFAULT_POLICY, JsonObject, Policy

RUN_FENCE = "lease"
"""The fence that each taking of a run raises to its event's version."""
FINALIZATION_FENCE = "finalization"
"""Likewise for finalizing."""


class Purpose(StrEnum):
    """What a lease is for."""

    RUN = "run"
    """To execute the whole run."""
    SHARD = "shard"
    """To execute one shard."""
    FINALIZE = "finalize"
    """To finish a run whose shards are all done."""


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's claim. It ends at its deadline unless a heartbeat moves that.

    Attributes:
        run_id: The run.
        kind: Of the run.
        project: Of the run.
        purpose: What it is for.
        shard: Which shard; None unless the purpose is one.
        attempt: Which attempt of the run or the shard this is, from 1.
        token: Grows with each taking; a write under an older token is refused.
        worker: Who holds it.
        deadline: When it ends, by the database's clock.
        input: What the run was asked to do.
        plan: The ids of the shard's tests, or of all when the lease is for the run; empty when nobody planned them.
        policy: What happens when the work fails; a worker looks at `timeout_s`.
        traceparent: Trace context of whoever asked for the run.
        available_at: When it could first be claimed, by the clock of whoever asked for it; None for what was tried
            before, and for a finalization.
    """

    run_id: RunId
    kind: str
    project: str | None = None
    purpose: Purpose = Purpose.RUN
    shard: int | None = None
    attempt: int
    token: int
    worker: str
    deadline: datetime
    input: JsonObject = {}
    plan: list[str] = []
    policy: Policy = DEFAULT_POLICY
    traceparent: str | None = None
    available_at: datetime | None = None

    @property
    def fence(self) -> tuple[str, int]:
        """The fence that writes under this lease stand behind, and their epoch."""
        if self.purpose is Purpose.SHARD:
            return f"shard {self.shard}", self.token
        return (RUN_FENCE if self.purpose is Purpose.RUN else FINALIZATION_FENCE), self.token
