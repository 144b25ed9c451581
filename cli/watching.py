"""Waits for runs to end, keeping their states up to date meanwhile."""

from collections.abc import Callable, Sequence

from cli.errors import TimedOut
from cli.following import follow
from ledger.api import Ledger
from ledger.run.codec import RecordedRunEvent
from ledger.run.state import RunState, apply, copy
from ledger.run.values import Status, Verdict


def wait_until_ended(
    log: Ledger,
    states: Sequence[RunState],
    *,
    timeout_s: float | None = None,
    on_event: Callable[[RunState, RecordedRunEvent], None] | None = None,
    on_tick: Callable[[Sequence[RunState]], None] | None = None,
) -> list[RunState]:
    """Follow runs until each of them has its terminal event.

    Args:
        log: The ledger.
        states: The runs as they are known; what happened since is not missed.
        timeout_s: When to give up; None is never.
        on_event: Is given each event of the runs, and the run folded up to it.
        on_tick: Is given the runs several times a second, whether something happened or not.

    Returns:
        The runs as they ended, in the order in which they were given.

    Raises:
        TimedOut: when the time is over and one of them goes on.
    """
    known = {state.run_id: copy(state) for state in states}
    active = {run_id for run_id, state in known.items() if not (state.is_terminal or state.purged_at)}
    if not active:
        return list(known.values())
    try:
        for event in follow(log, after=min(known[run_id].position for run_id in active), timeout_s=timeout_s):
            if event is not None and event.run_id in active:
                state = known[event.run_id]
                if event.version == state.version + 1:  # an older one was folded before the subscription began
                    apply(state, event)
                    if on_event is not None:
                        on_event(state, event)
                if state.is_terminal:
                    active.discard(event.run_id)
                    if not active:
                        break
            if on_tick is not None:
                on_tick(list(known.values()))
    except TimeoutError as exc:
        raise TimedOut(
            f"after {timeout_s:g} s, {len(active)} of {len(known)} run(s) had not ended, first {min(active)}, which is"
            f" {known[min(active)].status}. They go on; watch them again, or give more time."
        ) from exc
    return list(known.values())


def unsuccessful(state: RunState) -> str | None:
    """Tell why a run that ended is no success; None when it is one.

    A run is a success when it completed and nothing in it failed: its verdict is passed, or there is none.
    """
    if state.status is Status.COMPLETED and state.verdict in (Verdict.NONE, Verdict.PASSED):
        return None
    if state.status is Status.COMPLETED:
        why = f"completed with the verdict {state.verdict}: {state.failed:,} of {state.total:,} results failed"
    else:
        why = f"{state.status}: {state.failure_summary or state.error or 'no reason was given'}"
    return f"run {state.run_id} {why}. See `runfold show {state.run_id}`."
