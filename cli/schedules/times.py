"""When a cron expression is due. No clock, no tables.

Expressions are those of Debian's cron: a job at a time that the clocks skip runs when they have skipped it, one at a
time that they repeat runs once, and one that repeats by the minute or hour goes by elapsed time.
"""

from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from ledger.errors import InvalidInput
from ledger.run.values import check_text

CRON_CHARS_MAX: Final = 200
_STEPS_MAX: Final = 200
"""Occurrences looked at to get past a repeated hour: a minute's schedule has 60 in it."""


def next_after(moment: datetime, *, cron: str, timezone: str) -> datetime:
    """Give the first occurrence after a moment, in UTC.

    Raises:
        InvalidInput: when the expression or the time zone is none, or never comes due.
    """
    zone = zone_of(timezone)
    occurrences = _occurrences(cron, moment.astimezone(zone))
    for _ in range(_STEPS_MAX):
        found = _next(occurrences, cron)
        if found > moment:  # asked from within a repeated hour, the library begins with the hour's first passing
            return found
    raise InvalidInput("cron", f"{cron!r} comes to no time after {moment}.")


def latest_until(moment: datetime, *, first: datetime, cron: str, timezone: str) -> datetime:
    """Give the latest occurrence up to a moment, in UTC, without going through all of them.

    Args:
        moment: Now.
        first: An occurrence that is due; given back when there is no later one.
    """
    zone = zone_of(timezone)
    latest = max(first, min(moment, _next(_occurrences(cron, moment.astimezone(zone), reverse=True), cron)))
    for _ in range(_STEPS_MAX):  # backwards from within a repeated hour, the library overlooks some
        later = next_after(latest, cron=cron, timezone=timezone)
        if later > moment:
            break
        latest = later
    return latest


def zone_of(timezone: str) -> ZoneInfo:
    """Give a time zone by its name.

    Raises:
        InvalidInput: when this machine knows none of that name.
    """
    try:
        return ZoneInfo(timezone)
    except (KeyError, OSError, ValueError) as exc:  # one for each way in which a name can be no zone
        raise InvalidInput("timezone", f"{timezone!r} is no time zone: Europe/Berlin is, and UTC.") from exc


def _occurrences(cron: str, start: datetime, *, reverse: bool = False) -> CronSim:
    check_text(cron, field="cron", chars_max=CRON_CHARS_MAX)
    if len(cron.split()) != 5:
        raise InvalidInput(
            "cron", f"{cron!r} does not have five fields: minute, hour, day of month, month, day of week."
        )
    try:
        return CronSim(cron, start, reverse=reverse)
    except CronSimError as exc:
        raise InvalidInput("cron", f"{cron!r} is no cron expression: {exc}.") from exc


def _next(occurrences: CronSim, cron: str) -> datetime:
    try:
        return next(occurrences).astimezone(UTC)
    except StopIteration:
        raise InvalidInput("cron", f"{cron!r} never comes due.") from None
