"""Races: processes and threads that begin at once."""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")


def race(program: str, arguments: list[list[str]]) -> list[str]:
    """Start processes, let them all go at once, and give what each printed after that."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, *given],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        for given in arguments
    ]
    for process in processes:
        assert process.stdout is not None
        assert "ready\n" == process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    printed = [process.communicate(timeout=120)[0] for process in processes]
    assert [0] * len(processes) == [process.returncode for process in processes]
    return printed


def in_threads(count: int, work: Callable[[int], _T]) -> list[_T]:
    """Run work in threads that begin at once, and give what each returned."""
    barrier = threading.Barrier(count)
    results: dict[int, _T] = {}

    def run(number: int) -> None:
        barrier.wait()
        results[number] = work(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[number] for number in range(count)]
