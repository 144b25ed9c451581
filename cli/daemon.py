"""`Daemon`: our own loops, each in a thread: sweeps, callbacks, schedules, read models.

Several daemons may run on one ledger; each loop is harmless when another does the same.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ledger.api import Ledger
from ledger.errors import LedgerError
from ledger.queue import Swept
from ledger.store import Listener

Step = Callable[[], float]
"""Does what there is to do now; gives in how many seconds to come again, at the latest."""

SWEEP_S: Final = 5.0
FOLD_S: Final = 1.0
RETRY_S: Final = 1.0
LOOK_S: Final = 0.1
"""How soon a stop is noticed: see `Daemon.stop`."""
PAUSE_S: Final = 0.02
"""The least time between two steps that had nothing to do: a busy log wakes with each of its appends."""

logger = logging.getLogger("runfold.daemon")


class Daemon:
    """Runs steps until it is stopped.

    Args:
        log: The ledger; an append wakes every loop.
        steps: Name to step. A step that fails is logged, and tried again.
    """

    def __init__(self, log: Ledger, steps: Mapping[str, Step]) -> None:
        self._steps = dict(steps)
        self._is_asked_to_stop = False
        self._stopping = threading.Event()
        self._listeners: list[Listener] = [log.store.listen() for _ in self._steps]

    def run(self) -> None:
        """Run every loop until `stop` is called, and the step that each is in has ended."""
        threads = [
            threading.Thread(target=self._loop, args=(name, step, listener), name=f"runfold {name}")
            for (name, step), listener in zip(self._steps.items(), self._listeners, strict=True)
        ]
        for thread in threads:
            thread.start()
        while not self._is_asked_to_stop:
            time.sleep(LOOK_S)
        self._stopping.set()
        for listener in self._listeners:
            listener.close()
        for thread in threads:
            thread.join()

    def stop(self) -> None:
        """Make `run` return. May be called from a signal handler.

        It sets an attribute and nothing else: a handler may interrupt its thread where that holds a lock. And it is
        looked for, not waited for: of two signals at once the system may give both to a thread that is not the main
        one, and then nothing interrupts what the main thread waits for, and its handlers with it.
        """
        self._is_asked_to_stop = True

    def _loop(self, name: str, step: Step, listener: Listener) -> None:
        while not self._stopping.is_set():
            try:
                pause_s = step()
                if pause_s > 0 and not self._stopping.wait(min(PAUSE_S, pause_s)):
                    listener.wait(pause_s)
            except LedgerError as error:
                logger.warning("%s: %s", name, error)
                self._stopping.wait(RETRY_S * (1 + random.random()))
            except Exception:
                logger.exception("%s failed", name)
                self._stopping.wait(RETRY_S * (1 + random.random()))


def sweeping(log: Ledger, *, on_swept: Callable[[Sequence[Swept]], None] | None = None) -> Step:
    """Give the step that settles what workers left behind.

    Args:
        log: The ledger.
        on_swept: Is told what was settled.
    """
    swept_at = float("-inf")

    def step() -> float:
        nonlocal swept_at
        from ledger.clock import monotonic

        left_s = swept_at + SWEEP_S * (1 + random.random()) - monotonic()
        if left_s > 0:
            return left_s
        swept = log.sweep()
        for one in swept:
            logger.info("the lease of %s was over: %s", one.worker, ", ".join(one.events), extra={"run_id": one.run_id})
        if on_swept is not None:
            on_swept(swept)
        swept_at = monotonic()
        return SWEEP_S

    return step


def folding(log: Ledger) -> Step:
    """Give the step that writes the rows of read models which somebody has read before.

    Whoever may write catches up when he reads; whoever may not can only wait for somebody to do it.
    """
    folded_at = float("-inf")

    def step() -> float:
        nonlocal folded_at
        from ledger.clock import monotonic
        from projections.projector import PROJECTIONS, catch_up, is_live

        left_s = folded_at + FOLD_S - monotonic()
        if left_s > 0:
            return left_s
        for name in PROJECTIONS:
            if is_live(log, name):
                catch_up(log, name)
        folded_at = monotonic()
        return FOLD_S

    return step
