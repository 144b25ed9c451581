"""Schedules: runs that are asked for at set times, each occurrence once, whatever number of daemons looks.

An occurrence is enqueued with an idempotency key of schedule and time, and then the schedule is moved on, if it still
stands where it stood. A daemon that dies in between, or that was second, asks for a run that is there already.
"""

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Final, Literal, Protocol

import msgspec

from cli.schedules.times import latest_until, next_after
from cli.telemetry.asked import asking
from ledger import limits
from ledger.api import Ledger, RunHandle
from ledger.clock import utc_now
from ledger.errors import IdempotencyMismatch, InvalidInput, LedgerError, OutcomeUnknown, StoreUnavailable
from ledger.run.codec import timestamp
from ledger.run.values import JsonObject, check_text

if TYPE_CHECKING:
    from cli.telemetry.otel import Telemetry
    from ledger.store import Store

SKIPPED_AFTER: Final = timedelta(minutes=5)
"""With `skip`: an occurrence that nobody saw for so long is not made up for."""
DUE_MAX: Final = 100
ROUNDS_MAX: Final = 100
"""How many occurrences of one schedule are made up for at a look, so that a daemon can be stopped in between."""
LOOK_S: Final = 5.0
"""How often a daemon looks when nothing is due before: a schedule may have been added."""
NAME_CHARS_MAX: Final = 100

logger = logging.getLogger("runfold.schedules")


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What to enqueue; see `Ledger.enqueue`."""

    kind: str
    project: str | None = None
    input: JsonObject = {}
    labels: dict[str, str] = {}
    priority: int = 0
    shard_count: int | None = None
    attempts_max: int | None = None
    callback_url: str | None = None
    exclusive_key: str | None = None
    on_active: Literal["reject", "supersede"] = "reject"


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """When to enqueue what.

    Attributes:
        cron: Five fields, as cron has them.
        timezone: In which they are meant.
        missed: What becomes of occurrences that no daemon saw: `latest` makes up for the latest of them, `all` for
            each, `skip` for none.
        next_at: The occurrence that comes next.
    """

    name: str
    cron: str
    timezone: str
    request: Request
    missed: Literal["latest", "all", "skip"] = "latest"
    is_paused: bool = False
    next_at: datetime
    created_at: datetime


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    change: `added`, `paused`, `resumed` or `removed`.
    schedule: As it was after the change; of a removed one, before.
    """

    name: str
    change: str
    changed_at: datetime
    actor: str | None
    schedule: JsonObject


class ScheduleTable(Protocol):
    """Where schedules are kept, and what was changed about them."""

    def add(self, schedule: Schedule, *, actor: str | None) -> bool:
        """Keep a new schedule; False when there is one of that name."""

    def list(self) -> Sequence[Schedule]:
        """Give all schedules in the order of their names."""

    def due(self, now: datetime, *, limit: int) -> Sequence[Schedule]:
        """Give schedules whose next occurrence has come and that are not paused, the longest due first."""

    def next_at(self, *, after: datetime) -> datetime | None:
        """Give when the next occurrence of any comes; None when there is none."""

    def move(self, schedule: Schedule, *, to: datetime) -> bool:
        """Say which occurrence comes next; False when somebody else did."""

    def change(self, schedule: Schedule, *, change: str, actor: str | None, at: datetime) -> bool:
        """Pause, resume or remove a schedule; False when it is not there, or was that already."""

    def changes(self, name: str, *, limit: int) -> Sequence[Change]:
        """Give what was changed about a schedule, the latest first."""


def open_schedule_table(store: "Store") -> ScheduleTable:
    """Give the schedules that lie beside a log.

    Raises:
        InvalidInput: when the log is in memory, which ends with its process.
    """
    scheme = store.url.partition(":")[0]
    if scheme == "sqlite":
        from cli.schedules.tables import SqliteSchedules

        return SqliteSchedules(store)
    if scheme in ("postgresql", "postgres"):
        from cli.schedules.tables import PostgresSchedules

        return PostgresSchedules(store)
    raise InvalidInput("url", f"{store.url!r} keeps no schedules: sqlite:///path and postgresql://… do.")


def new_schedule(
    name: str,
    *,
    cron: str,
    timezone: str,
    request: Request,
    missed: Literal["latest", "all", "skip"] = "latest",
    now: datetime,
) -> Schedule:
    """Make a schedule whose first occurrence is the next after now.

    Raises:
        InvalidInput, SecretInInput: when a fact is none, or what it asks for would be refused.
    """
    check_text(name, field="name", chars_max=NAME_CHARS_MAX)
    next_at = next_after(now, cron=cron, timezone=timezone)
    schedule = Schedule(
        name=name,
        cron=cron,
        timezone=timezone,
        request=request,
        missed=missed,
        next_at=next_at,
        created_at=now,
    )
    _check_request(schedule)
    return schedule


def run_due(log: Ledger, table: ScheduleTable, now: datetime, *, telemetry: "Telemetry | None" = None) -> int:
    """Enqueue what is due, and move the schedules on.

    Args:
        log: The ledger.
        table: Its schedules.
        now: Up to when they are due.
        telemetry: Makes a span of each enqueueing; None makes none.

    Returns:
        How many runs were asked for that nobody had asked for before.

    Raises:
        StoreUnavailable, OutcomeUnknown: when the ledger is out of reach; what was due is due still.
    """
    count = 0
    for _ in range(ROUNDS_MAX):  # a schedule that makes up for all that it missed has one occurrence in each
        due = table.due(now, limit=DUE_MAX)
        moved = [_run_one(log, table, schedule, now, telemetry) for schedule in due]
        count += moved.count(_Moved.WITH_RUN)
        if all(each is _Moved.NOT for each in moved):
            break
    return count


def scheduling(log: Ledger, telemetry: "Telemetry | None" = None) -> "Scheduling":
    """Give the step of a daemon that runs schedules."""
    return Scheduling(log, open_schedule_table(log.store), telemetry=telemetry)


class Scheduling:
    """A daemon's step; see `cli.daemon`."""

    def __init__(self, log: Ledger, table: ScheduleTable, *, telemetry: "Telemetry | None" = None) -> None:
        self._log = log
        self._telemetry = telemetry
        self._table = table

    def __call__(self) -> float:
        now = utc_now()
        run_due(self._log, self._table, now, telemetry=self._telemetry)
        next_at = self._table.next_at(after=now)
        if next_at is None:
            return LOOK_S
        return min(LOOK_S, max(0.0, (next_at - utc_now()).total_seconds()))


class _Moved(Enum):
    NOT = 0
    WITH_RUN = 1
    WITHOUT_RUN = 2


def _run_one(
    log: Ledger, table: ScheduleTable, schedule: Schedule, now: datetime, telemetry: "Telemetry | None"
) -> _Moved:
    try:
        when, following = _occurrences(schedule, now)
    except InvalidInput as error:  # added on a machine that knew the time zone
        logger.error("schedule %s cannot be told the time of: %s", schedule.name, error)
        return _Moved.NOT
    if when != schedule.next_at:
        # Said before it is done: of two daemons that come to different occurrences, one makes up for what was missed.
        if not table.move(schedule, to=when):
            return _Moved.NOT
        schedule = msgspec.structs.replace(schedule, next_at=when)
    is_missed = schedule.missed == "skip" and now - when > SKIPPED_AFTER
    is_new = not is_missed and _enqueue_due(log, schedule, telemetry)
    if not table.move(schedule, to=following):
        return _Moved.NOT
    return _Moved.WITH_RUN if is_new else _Moved.WITHOUT_RUN


def _occurrences(schedule: Schedule, now: datetime) -> tuple[datetime, datetime]:
    """Give the occurrence whose turn it is, and the one that follows it."""
    when = schedule.next_at
    if schedule.missed != "all":
        when = latest_until(now, first=when, cron=schedule.cron, timezone=schedule.timezone)
    return when, next_after(when, cron=schedule.cron, timezone=schedule.timezone)


def _enqueue_due(log: Ledger, schedule: Schedule, telemetry: "Telemetry | None") -> bool:
    """Ask for the run of an occurrence; False when it was asked for before, or is refused now and would be again."""
    try:
        with asking(telemetry, log, schedule.request.kind, project=schedule.request.project) as asking_log:
            run = _enqueue(asking_log, schedule)
    except (StoreUnavailable, OutcomeUnknown):
        raise
    except IdempotencyMismatch as taken:
        # Somebody removed the schedule and added another of its name, and this occurrence had been run for the first.
        logger.info("schedule %s: %s", schedule.name, taken)
        return False
    except LedgerError as refusal:
        when = timestamp(schedule.next_at)
        logger.warning("schedule %s: the occurrence of %s is passed over: %s", schedule.name, when, refusal)
        return False
    if run.is_new:
        logger.info(
            "schedule %s asked for run %s", schedule.name, run.id, extra={"run_id": run.id, "schedule": schedule.name}
        )
    return run.is_new


def _enqueue(log: Ledger, schedule: Schedule) -> RunHandle:
    when = timestamp(schedule.next_at)
    facts = msgspec.structs.asdict(schedule.request)
    return log.bind(actor=f"schedule {schedule.name}").enqueue(
        facts.pop("kind"),
        labels={**facts.pop("labels"), "schedule": schedule.name, "scheduled_for": when},
        idempotency_key=f"schedule:{schedule.name}:{when}",
        **facts,
    )


def _check_request(schedule: Schedule) -> None:
    """Let the rules refuse now what they would refuse at each occurrence: ask a ledger that is thrown away."""
    from ledger.stores.memory import MemoryStore

    if len(schedule.request.labels) > limits.LABELS_MAX - 2:
        raise InvalidInput(
            "labels", f"are too many: {limits.LABELS_MAX - 2} are allowed beside the schedule's own two."
        )
    with Ledger(MemoryStore()) as scratch:
        _enqueue(scratch, schedule)
