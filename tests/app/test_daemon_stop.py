"""A daemon that is asked to stop does, whichever thread the system gives the signal to."""

import signal
import threading
import time

import ledger
from cli.daemon import Daemon


def test_daemon_when_another_thread_gets_the_signal(sqlite_url: str) -> None:
    """Of two signals at once, both may go to threads that run no handlers; the daemon stops all the same."""

    def step() -> float:
        time.sleep(0.3)  # until the main thread waits
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        return 30.0

    with ledger.open(sqlite_url) as log:
        running = Daemon(log, {"step": step})
        last = threading.Timer(10, running.stop)
        last.start()
        before = signal.signal(signal.SIGUSR1, lambda *_: running.stop())
        began_at = time.monotonic()
        try:
            running.run()
        finally:
            signal.signal(signal.SIGUSR1, before)
            last.cancel()

    assert time.monotonic() - began_at < 5
