"""What is to be executed, as `runfold exec` was asked."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One execution.

    Attributes:
        command: The command and its arguments, placeholders and all.
        shard_count: How many processes; None is one, and a run that is not cut.
        junit: Patterns of JUnit XML files that the command writes.
        reportlog: Patterns of pytest-reportlog files that it writes.
        timeout_s: After how many seconds the commands are ended; None is never.
        grace_s: Between asking the commands to end and killing them.
        shows_output: Whether their output is shown as well as recorded.
        records_output: Whether their output becomes the run's log.
        splits_pytest: Whether each shard's pytest runs its slice of the tests.
    """

    kind: str
    command: tuple[str, ...]
    shard_count: int | None = None
    project: str | None = None
    input: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    idempotency_key: str | None = None
    exclusive_key: str | None = None
    on_active: Literal["reject", "supersede"] = "reject"
    junit: tuple[str, ...] = ()
    reportlog: tuple[str, ...] = ()
    timeout_s: float | None = None
    grace_s: float = 5.0
    shows_output: bool = True
    records_output: bool = True
    splits_pytest: bool = False

    @property
    def process_count(self) -> int:
        """How many processes execute the command."""
        return self.shard_count or 1
