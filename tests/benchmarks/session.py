"""What all rows of one run of the benchmarks share."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.databases import Database, Postgres, Sqlite


@dataclass(frozen=True, slots=True)
class Session:
    """The databases, and how much to do.

    Attributes:
        rounds: How often each peer works.
        scale: 1.0 for the sizes that the goals are about; less for a quick look.
    """

    folder: Path
    sqlite: Sqlite
    postgres: Postgres | None
    rounds: int
    scale: float = 1.0

    @property
    def databases(self) -> Sequence[Database]:
        return [self.sqlite] if self.postgres is None else [self.sqlite, self.postgres]

    def scaled(self, amount: int) -> int:
        return max(1, round(amount * self.scale))
