"""What can go wrong on the command line itself, beside the ledger's own errors.

    ClickException
    ├── UsageError                the command was written wrongly
    │   └── AmbiguousRun          a prefix begins several run ids
    ├── NoSuchRun                 a run was asked for that is not there
    ├── NoLedger                  there is no ledger to read
    ├── RunUnsuccessful           the run that was waited for did not succeed
    ├── NotVerified               what was checked is not as it should be
    ├── TimedOut
    ├── CommandNotExecutable      there is a file of that name, and it may not be executed
    └── CommandNotFound

Which exit code each of them ends with stands in `cli.main`.
"""

import click


class AmbiguousRun(click.UsageError):
    """A prefix begins the ids of several runs.

    Args:
        prefix: As it was given.
        run_ids: Those that it could mean; more may exist.
    """

    def __init__(self, prefix: str, run_ids: list[str]) -> None:
        super().__init__(
            f"{prefix} begins several run ids: {', '.join(run_ids)}. Give more characters of the one meant."
        )
        self.run_ids = run_ids


class NoSuchRun(click.ClickException):
    """A run was asked for that is not in the ledger."""


class NoLedger(click.ClickException):
    """There is no ledger where the settings say."""


class RunUnsuccessful(click.ClickException):
    """A run ended otherwise than completed with nothing failed; the message may be empty, to say nothing."""


class NotVerified(click.ClickException):
    """A check found a difference."""


class TimedOut(click.ClickException):
    """What was waited for did not come in time."""


class CommandNotExecutable(click.ClickException):
    """A command that was to be executed again and again is a file that cannot be executed."""


class CommandNotFound(click.ClickException):
    """A command that was to be executed again and again is not there."""
