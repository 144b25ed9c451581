"""What a kind of run declares: its phases in order, and what a failed verdict means.

A profile is looked up once, when a run is enqueued; what it says goes into the `enqueued` event, so that nothing that
folds the log later depends on a process's configuration.
"""

import msgspec

from ledger.run.values import DEFAULT_POLICY, Policy


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of run.

    Attributes:
        name: What `enqueue` is called with, such as `build`.
        phases: Its phases in order; empty when any text goes.
        failed_verdict_fails: Whether completing a run whose verdict is failed or blocked fails it. By default a run
            completes whatever its tests say, and the verdict tells.
        attempts_max: Attempts of a run, or of each of its shards, unless the caller says otherwise.
        policy: What happens when work is lost or fails.
    """

    name: str
    phases: tuple[str, ...] = ()
    failed_verdict_fails: bool = False
    attempts_max: int = 1
    policy: Policy = DEFAULT_POLICY
