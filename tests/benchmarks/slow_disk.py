"""A disk whose fsync takes longer, for SQLite: the disks of machines at work need 0.5 to 10 ms."""

import time

import apsw


def slow_down(delay_s: float) -> None:
    """Make every SQLite file that this process opens from now on sleep before each fsync."""
    _installed.append(_SlowDisk(delay_s))


_SYSTEM = apsw.vfs_names()[0]
_installed: list[apsw.VFS] = []  # SQLite keeps no reference


class _SlowDisk(apsw.VFS):
    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        super().__init__("slow", _SYSTEM, makedefault=True)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> "_SlowFile":
        return _SlowFile(name, flags, self._delay_s)

    def xSleep(self, microseconds: int) -> int:
        """Sleep without the interpreter's lock, which apsw's own sleep keeps: waiting writers would stop everybody."""
        time.sleep(microseconds / 1_000_000)
        return microseconds


class _SlowFile(apsw.VFSFile):
    def __init__(self, name: str | apsw.URIFilename | None, flags: list[int], delay_s: float) -> None:
        self._delay_s = delay_s
        super().__init__(_SYSTEM, name, flags)  # type: ignore[arg-type]

    def xSync(self, flags: int) -> None:
        time.sleep(self._delay_s)
        super().xSync(flags)
