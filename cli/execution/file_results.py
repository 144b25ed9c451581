"""Results of one shard from files that its command writes: pytest-reportlog while it runs, JUnit XML at its end."""

import glob
import os
import stat
import threading
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from cli.results.junit import read_junit
from cli.results.reportlog import ReportLogReader
from cli.results.result_file import Result, ResultFileError, make_result

FILES_MAX: Final = 10_000
"""Result files of one shard."""
LOOK_S: Final = 0.3

Stamp = tuple[int, int, int]


class FileResults:
    """Finds and reads a shard's result files.

    A file that was there before and did not change since belongs to an earlier run, and is left alone.

    Args:
        junit: Patterns of JUnit XML files, as `glob` understands them, `**` included.
        reportlog: Patterns of pytest-reportlog files.
        put: Gets every result.
        complain: Gets what is wrong, for people.
    """

    def __init__(
        self,
        *,
        junit: Sequence[str],
        reportlog: Sequence[str],
        put: Callable[[Result], None],
        complain: Callable[[str], None],
    ) -> None:
        self._junit = junit
        self._reportlog = reportlog
        self._put = put
        self._complain = complain
        self._before = _stamps([*junit, *reportlog])
        self._readers: dict[str, ReportLogReader | None] = {}
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        if reportlog:
            self._thread = threading.Thread(target=self._follow, name="runfold report logs", daemon=True)
            self._thread.start()

    def finish(self) -> None:
        """Read to their ends, once the command has ended."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        self._read_report_logs(is_finished=True)
        for path in self._new_files(self._junit):
            self._take_junit(path)
        for pattern in (*self._junit, *self._reportlog):
            if len(_matches(pattern)) > FILES_MAX:
                self._put(self._broken(ResultFileError(Path(pattern), "", f"more than {FILES_MAX:,} files match")))

    def warn_of_missing(self) -> None:
        """Say which patterns found no file that this run wrote."""
        for pattern in (*self._junit, *self._reportlog):
            if not self._new_files([pattern]):
                self._complain(f"no result file of this run matches {pattern}: its results are missing")

    def _follow(self) -> None:
        while not self._ended.wait(LOOK_S):
            self._read_report_logs(is_finished=False)

    def _read_report_logs(self, *, is_finished: bool) -> None:
        for path in self._new_files(self._reportlog):
            reader = self._readers.setdefault(path, ReportLogReader(Path(path)))
            if reader is None:
                continue  # it was broken when we last looked
            try:
                results = reader.read(is_finished=is_finished)
            except ResultFileError as exc:
                self._readers[path] = None
                results = [*reader.take(), self._broken(exc)]
            for result in results:
                self._put(result)

    def _take_junit(self, path: str) -> None:
        try:
            for result in read_junit(Path(path)):
                self._put(result)
        except ResultFileError as exc:
            self._put(self._broken(exc))

    def _broken(self, error: ResultFileError) -> Result:
        """A file that cannot be read is an error among the results: without its results, no run has passed."""
        self._complain(str(error))
        return make_result(test_id=str(error.path), name=error.path.name, status="error", error=str(error))

    def _new_files(self, patterns: Sequence[str]) -> list[str]:
        now = _stamps(patterns)
        return [path for path, stamp in now.items() if self._before.get(path) != stamp]


def _stamps(patterns: Sequence[str]) -> dict[str, Stamp]:
    """Give the files that match, each with what changes when it is written anew."""
    stamps: dict[str, Stamp] = {}
    for pattern in patterns:
        for path in sorted(_matches(pattern)[:FILES_MAX]):
            try:
                status = os.stat(path)
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode):
                stamps[path] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return stamps


def _matches(pattern: str) -> list[str]:
    """Give what matches, and one more than the limit at most."""
    return list(islice(glob.iglob(pattern, recursive=True), FILES_MAX + 1))
