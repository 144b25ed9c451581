"""Starts the command line, and the helper processes of a run, with our own packages, whatever others are on the path.

python -P -m runfold.start cli.execution.recorder
"""

import os
import sys
from importlib.machinery import PathFinder
from typing import Final

_OWN: Final = ("cli", "ledger", "projections")


def main() -> int:
    """Run the command line, and give its exit code."""
    prefer_own_packages()
    from cli.main import main as run_command_line

    return run_command_line()


def prefer_own_packages() -> None:
    """Put the folder of our packages first on the path, if one of their names would be found elsewhere.

    Not always: packages of the standard library that others ship again would come to the front as well.
    """
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if not os.path.isdir(os.path.join(folder, "ledger")):  # in the sources this package lies in cli/outside
        folder = os.path.dirname(os.path.dirname(folder))
    for name in _OWN:
        spec = PathFinder.find_spec(name)
        if spec is None or spec.origin is None or os.path.dirname(os.path.dirname(spec.origin)) != folder:
            sys.path.insert(0, folder)
            return


def _run_module() -> None:
    import runpy

    prefer_own_packages()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _run_module()
