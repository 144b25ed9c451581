"""Becomes a shard's command, after telling the guardian its process id. Run as a script, with nothing but itself.

The id is told before the command exists, and by the one who owns it: were the executor to tell it, it could be killed
between starting the command and telling.
"""

import os
import signal
import sys

NOT_EXECUTABLE = 126
NOT_FOUND = 127


def main(command: list[str]) -> None:
    """Tell the guardian, whose pipe is the standard input, and become the command, which gets an empty one."""
    try:
        os.write(0, b"+%d\n" % os.getpid())
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        # Python ignores these two for itself, and a command would inherit it: `yes | head` would never end.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        os.execvp(command[0], command)
    except OSError as exc:
        os.write(2, f"runfold: cannot execute {command[0]!r}: {exc.strerror}\n".encode(errors="replace"))
        os._exit(NOT_FOUND if isinstance(exc, FileNotFoundError) else NOT_EXECUTABLE)


if __name__ == "__main__":
    main(sys.argv[1:])
