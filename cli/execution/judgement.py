"""Decides what the ends of a run's commands mean for the run. No I/O.

A run did its work when every command exited with 0, or with a code that its failed results explain: test runners exit
with 1 (some with another small number) when tests failed. Such a run completes, and its verdict says what the tests
say. Anything else fails the run: a code without failed results, a signal, or a shell's code for one (126 and up).
"""

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ledger.run.state import RunState
from ledger.run.values import PASSED_RESULTS, SKIPPED_RESULTS, Status, Verdict

EXPLAINED_EXIT_CODE_MAX: Final = 125
"""Shells say 126 for not executable, 127 for not found and 128 + n for signal n."""

FIRST_ATTEMPT: Final = 1
"""Of every shard that exec starts; it starts none twice."""


@dataclass(frozen=True, slots=True)
class ShardEnd:
    """How one shard's command ended.

    Attributes:
        exit_code: Negative when a signal ended it.
        failed_results: How many of its recorded results failed.
        last_lines: The end of what it said on stderr, or on stdout when it said nothing there.
    """

    shard: int
    exit_code: int
    failed_results: int = 0
    last_lines: tuple[str, ...] = ()

    @property
    def did_its_work(self) -> bool:
        """Whether the command ended as one that did what it was there for."""
        return self.exit_code == 0 or (0 < self.exit_code <= EXPLAINED_EXIT_CODE_MAX and self.failed_results > 0)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run fails.

    Attributes:
        error: In full: each shard that failed, and the end of what it said.
        category: For programs: `exit_code` or `signal`.
        headline: In one line.
    """

    error: str
    category: str
    headline: str


def judge(ends: Sequence[ShardEnd], *, shard_count: int) -> Failure | None:
    """Give why the run fails; None when it completes."""
    failed = [end for end in ends if not end.did_its_work]
    if not failed:
        return None
    headlines = [_headline(end, shard_count) for end in failed]
    more = f" (and {len(failed) - 1} more of {shard_count} shards failed)" if len(failed) > 1 else ""
    return Failure(
        error="\n\n".join(
            "\n".join([headline, *end.last_lines]) for headline, end in zip(headlines, failed, strict=True)
        ),
        category="signal" if failed[0].exit_code < 0 else "exit_code",
        headline=headlines[0] + more,
    )


def failed_results(state: RunState, shard: int) -> int:
    """Give how many of a shard's recorded results failed."""
    known = state.shards.get(shard)
    statuses = {} if known is None else known.results.statuses
    return sum(count for word, count in statuses.items() if word not in PASSED_RESULTS | SKIPPED_RESULTS)


def taken_away(state: RunState, *, taken_version: int) -> str | None:
    """Say what became of a run that is with its executor no more; None while it is, or has ended.

    Args:
        state: The run now.
        taken_version: Version of the event by which the executor took it.
    """
    if state.is_terminal:
        return None
    if state.status is not Status.RUNNING:
        return f"is {state.status}" + (f" ({state.error})" if state.error else "")
    if state.taken_version != taken_version:
        return f"is with worker {state.worker} since version {state.taken_version}"
    handed_on = [number for number, shard in state.shards.items() if shard.attempt > FIRST_ATTEMPT]
    return f"had shard {handed_on[0]} handed on" if handed_on else None


def succeeded(state: RunState) -> bool:
    """Tell whether a run ended well: it completed, and nothing in it failed."""
    return state.status is Status.COMPLETED and state.verdict in (Verdict.PASSED, Verdict.NONE)


def describe_exit(exit_code: int) -> str:
    """Say in words what a command ended with."""
    if exit_code >= 0:
        return f"exited with code {exit_code}"
    try:
        return f"was ended by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"was ended by signal {-exit_code}"


def _headline(end: ShardEnd, shard_count: int) -> str:
    which = f"shard {end.shard} of {shard_count}: " if shard_count > 1 else ""
    return f"{which}the command {describe_exit(end.exit_code)}"
