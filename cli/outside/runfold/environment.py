"""What a shard's process is told, through environment variables and placeholders in its arguments.

The variables are a contract with programs that know nothing of Runfold's code, so they are only ever added to. This
file is imported inside other people's test runs: it needs nothing but the standard library.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

RUN_ID: Final = "RUNFOLD_RUN_ID"
URL: Final = "RUNFOLD_URL"
SHARD_INDEX: Final = "RUNFOLD_SHARD_INDEX"
SHARD_COUNT: Final = "RUNFOLD_SHARD_COUNT"
SHARD_ATTEMPT: Final = "RUNFOLD_SHARD_ATTEMPT"
PYTEST_SPLIT: Final = "RUNFOLD_PYTEST_SPLIT"
PYTEST_RECORD: Final = "RUNFOLD_PYTEST_RECORD"
ATTEMPT: Final = "RUNFOLD_ATTEMPT"
LEASE_TOKEN: Final = "RUNFOLD_LEASE_TOKEN"
WORKER: Final = "RUNFOLD_WORKER"
INPUT: Final = "RUNFOLD_INPUT"
PLAN: Final = "RUNFOLD_PLAN"
PYTEST_CURRENT_TEST: Final = "PYTEST_CURRENT_TEST"
"""Set by pytest while a test runs: a pytest that finds it is part of that test, and no part of the run."""


@dataclass(frozen=True, slots=True)
class ShardEnvironment:
    """The place of one process in a run.

    Attributes:
        run_id: The run.
        url: The ledger, absolute: the process may change its directory.
        shard: Which shard, from 0; None when the process belongs to no shard.
        shard_count: How many there are; 1 when the run is not cut.
        shard_attempt: Which attempt of the shard, from 1.
        splits_pytest: Whether pytest runs this shard's slice of the tests only.
        records_pytest: Whether the pytest plugin records results; off when they come from files.
        attempt: Which attempt of the run or the shard a worker executes; None outside of workers.
        lease_token: Of the worker's lease on the whole run: what is recorded is refused once that is another's.
        worker: Who holds the lease.
        input_file: Where the run's input is, as JSON.
        plan_file: Where the ids of the planned tests are, one a line.
    """

    run_id: str
    url: str
    shard: int | None = None
    shard_count: int = 1
    shard_attempt: int = 1
    splits_pytest: bool = False
    records_pytest: bool = True
    attempt: int | None = None
    lease_token: int | None = None
    worker: str | None = None
    input_file: str | None = None
    plan_file: str | None = None

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Self | None:
        """Read it from a process's environment; None when the process is no part of a run.

        Raises:
            ValueError: when a number in it is none, or is out of range.
        """
        if not environ.get(RUN_ID) or environ.get(PYTEST_CURRENT_TEST):
            return None
        shard = _integer(environ, SHARD_INDEX, at_least=0)
        shard_count = _integer(environ, SHARD_COUNT, at_least=1) or 1
        if shard is not None and shard >= shard_count:
            raise ValueError(f"{SHARD_INDEX} is {shard}, and {SHARD_COUNT} is {shard_count}; shards count from 0")
        return cls(
            run_id=environ[RUN_ID],
            url=environ.get(URL, ""),
            shard=shard,
            shard_count=shard_count,
            shard_attempt=_integer(environ, SHARD_ATTEMPT, at_least=1) or 1,
            splits_pytest=environ.get(PYTEST_SPLIT, "0") == "1",
            records_pytest=environ.get(PYTEST_RECORD, "1") != "0",
            attempt=_integer(environ, ATTEMPT, at_least=1),
            lease_token=_integer(environ, LEASE_TOKEN, at_least=1),
            worker=environ.get(WORKER) or None,
            input_file=environ.get(INPUT) or None,
            plan_file=environ.get(PLAN) or None,
        )

    def over(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Give the environment of the shard's process: the present one, and this on top."""
        told = {
            RUN_ID: self.run_id,
            URL: self.url,
            SHARD_COUNT: str(self.shard_count),
            SHARD_ATTEMPT: str(self.shard_attempt),
            PYTEST_SPLIT: "1" if self.splits_pytest else "0",
            PYTEST_RECORD: "1" if self.records_pytest else "0",
        }
        sometimes = {
            SHARD_INDEX: self.shard,
            ATTEMPT: self.attempt,
            LEASE_TOKEN: self.lease_token,
            WORKER: self.worker,
            INPUT: self.input_file,
            PLAN: self.plan_file,
        }
        told |= {name: str(value) for name, value in sometimes.items() if value is not None}
        hidden = {PYTEST_CURRENT_TEST, *sometimes}
        return {**{name: value for name, value in environ.items() if name not in hidden}, **told}


def substitute(argument: str, *, shard: int, shard_count: int) -> str:
    """Put the shard's number (`{shard}` from 0, `{shard1}` from 1) and their count (`{shards}`) into an argument.

    Nothing else in braces is touched: `{}` and `{print $1}` belong to the command.
    """
    return (
        argument.replace("{shard}", str(shard))
        .replace("{shard1}", str(shard + 1))
        .replace("{shards}", str(shard_count))
    )


def substitute_all(command: Sequence[str], *, shard: int, shard_count: int) -> list[str]:
    """Do so in every argument of a command."""
    return [substitute(argument, shard=shard, shard_count=shard_count) for argument in command]


def shard_slice(total: int, *, shard: int, shard_count: int) -> slice:
    """Give one shard's contiguous part of `total` things, in their order.

    Sizes differ by one at most: each shard gets the quotient, and the first ones one more until the remainder is used
    up. With more shards than things, the last shards are empty.
    """
    size, remainder = divmod(total, shard_count)
    start = shard * size + min(shard, remainder)
    return slice(start, start + size + (shard < remainder))


def _integer(environ: Mapping[str, str], name: str, *, at_least: int) -> int | None:
    text = environ.get(name, "")
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or int(text) < at_least:
        raise ValueError(f"{name} is {text!r}; a whole number from {at_least} on is needed")
    return int(text)
