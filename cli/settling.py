"""Finds out what became of a write whose connection was lost during the commit, instead of leaving that to the user."""

import sys
from collections.abc import Callable
from time import sleep
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from ledger.api import Ledger, Outcome
    from ledger.store import Appended

SETTLE_S: Final = 30.0
"""How long a ledger that is out of reach is asked."""
_PAUSE_S: Final = 0.5

_T = TypeVar("_T")


def in_words(error: BaseException) -> str:
    """Give an error's message for somebody at a shell, where no program could call `resolve`."""
    from ledger.errors import OutcomeUnknown

    if not isinstance(error, OutcomeUnknown) or getattr(error, "request", None) is None:
        return str(error)  # what a server said stands for itself
    return (
        "the connection was lost during the commit, and the ledger stayed out of reach:"
        f" {len(error.event_ids)} event(s) may be in it or not. Look with `runfold history` before you try again."
    )


def outcome_of(log: "Ledger", appended: "Appended") -> "Outcome":
    """Give the outcome of a command whose event was found, or appended after all."""
    from ledger.api import Outcome

    return Outcome(appended.run_id, True, next(log.read(appended.run_id, after_version=appended.version - 1)))


def settled(log: "Ledger", write: Callable[[], _T], *, found: Callable[["Appended"], _T]) -> _T:
    """Write, and when the outcome is unknown, settle it: find the events in the ledger, or append them once.

    Args:
        log: The ledger.
        write: What to do.
        found: Makes the answer of `write` from where its events stand.

    Raises:
        OutcomeUnknown: when the ledger stayed out of reach: the events may be in it or not.
        LedgerError: what `write` raises, or why its events were refused: they are not in the ledger and never will be.
    """
    from ledger.clock import monotonic
    from ledger.errors import OutcomeUnknown, StoreUnavailable
    from ledger.store import KeyTaken

    try:
        return write()
    except OutcomeUnknown as error:
        unknown = error
    sys.stderr.write("runfold: the connection was lost during the commit; looking whether it was written …\n")
    give_up_at = monotonic() + SETTLE_S
    while True:
        try:
            return found(log.resolve(unknown))
        except KeyTaken:
            return write()  # nothing was written, and now somebody else has the key: the command says what that means
        except OutcomeUnknown as error:
            unknown = error
        except StoreUnavailable:
            pass
        if monotonic() >= give_up_at:
            raise unknown
        sleep(_PAUSE_S)
