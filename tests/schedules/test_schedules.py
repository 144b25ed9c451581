"""Schedules on both databases: each occurrence once, and what becomes of those that nobody saw."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

import ledger
from cli.schedules.schedules import (
    NAME_CHARS_MAX,
    ROUNDS_MAX,
    SKIPPED_AFTER,
    Request,
    Schedule,
    ScheduleTable,
    Scheduling,
    new_schedule,
    open_schedule_table,
    run_due,
)
from ledger import limits
from ledger.errors import InvalidInput, SecretInInput
from ledger.run.codec import decode_page
from ledger.run.events import Enqueued

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def log(shared_url: str) -> Iterator[ledger.Ledger]:
    with ledger.open(shared_url, migrate=True) as opened:
        yield opened


@pytest.fixture
def table(log: ledger.Ledger) -> ScheduleTable:
    return open_schedule_table(log.store)


def a_schedule(name: str = "hourly", *, request: Request | None = None, now: datetime = NOON, **facts: Any) -> Schedule:
    facts = {"cron": "0 * * * *", "timezone": "UTC", **facts}
    return new_schedule(name, request=request or Request(kind="test"), now=now, **facts)


def enqueued(log: ledger.Ledger) -> list[Enqueued]:
    page = log.store.read_log(after_position=0, limit=1_000)
    return [event.data for event in decode_page(page.events) if isinstance(event.data, Enqueued)]


def times(log: ledger.Ledger) -> list[str]:
    return [event.labels["scheduled_for"][11:16] for event in enqueued(log)]


def only(table: ScheduleTable) -> Schedule:
    [found] = table.list()
    return found


def test_schedule_when_its_time_comes(log: ledger.Ledger, table: ScheduleTable) -> None:
    """The run is as was asked for, and says what asked for it; before and after that time nothing is asked for."""
    request = Request(
        kind="deploy", project="web", input={"to": "staging"}, labels={"team": "a"}, priority=3, shard_count=2
    )
    assert table.add(a_schedule(request=request), actor="ada")

    asked = [run_due(log, table, NOON + HOUR * part) for part in (0.99, 1.0, 1.01, 1.99)]

    assert [0, 1, 0, 0] == asked
    [event] = enqueued(log)
    assert ("deploy", "web", {"to": "staging"}, 3, 2) == (
        event.kind,
        event.project,
        event.input,
        event.priority,
        event.shard_count,
    )
    assert {"team": "a", "schedule": "hourly", "scheduled_for": "2026-03-01T13:00:00.000000Z"} == event.labels
    [recorded] = decode_page(log.store.read_log(after_position=0, limit=9).events)
    assert "schedule hourly" == recorded.envelope.actor


@pytest.mark.parametrize(
    ("missed", "late", "expected"),
    [
        ("latest", 5.5 * HOUR, ["17:00"]),
        ("all", 5.5 * HOUR, ["13:00", "14:00", "15:00", "16:00", "17:00"]),
        ("skip", 5.5 * HOUR, []),
        ("skip", 5 * HOUR + SKIPPED_AFTER, ["17:00"]),
        ("skip", 5 * HOUR + SKIPPED_AFTER + timedelta(microseconds=1), []),
        ("latest", HOUR, ["13:00"]),
    ],
)
def test_schedule_when_nobody_looked(
    log: ledger.Ledger, table: ScheduleTable, missed: str, late: timedelta, expected: list[str]
) -> None:
    """Occurrences that no daemon saw are made up for as was asked for: the latest unless said otherwise."""
    table.add(a_schedule(missed=missed), actor=None)

    run_due(log, table, NOON + late)
    run_due(log, table, NOON + late)

    assert expected == times(log)
    assert NOON + late < only(table).next_at <= NOON + late + HOUR


def test_schedule_when_more_were_missed_than_a_look_takes(log: ledger.Ledger, table: ScheduleTable) -> None:
    """A look makes up for so many, and the next goes on."""
    table.add(a_schedule(cron="* * * * *", missed="all"), actor=None)
    late = NOON + timedelta(minutes=ROUNDS_MAX + 1)

    assert [ROUNDS_MAX, 1, 0] == [run_due(log, table, late) for _ in range(3)]


def test_schedule_when_many_look_at_once(shared_url: str, log: ledger.Ledger, table: ScheduleTable) -> None:
    """Of several daemons that look at the same moment, one asks for each occurrence."""
    for index in range(10):
        table.add(a_schedule(f"s{index}", missed="all" if index % 2 else "latest"), actor=None)
    begin, counts = threading.Barrier(4), []

    def look() -> None:
        with ledger.open(shared_url) as own:
            begin.wait(30)
            counts.append(run_due(own, open_schedule_table(own.store), NOON + 3 * HOUR))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    run_due(log, table, NOON + 3 * HOUR)
    assert 4 == len(counts)
    assert 5 * 1 + 5 * 3 == len(enqueued(log))


def test_schedule_when_daemons_disagree_about_the_time(log: ledger.Ledger, table: ScheduleTable) -> None:
    """One that read what was due a moment before the other moved it on makes up for nothing more."""
    table.add(a_schedule(), actor=None)
    stale = table.due(NOON + 3 * HOUR, limit=1)[0]
    run_due(log, table, NOON + 3 * HOUR)

    class Stale:
        """The table as a daemon sees it that looked before the other wrote."""

        def due(self, _now: datetime, *, limit: int) -> list[Schedule]:
            return [stale]

        def __getattr__(self, name: str) -> Any:
            return getattr(table, name)

    assert 0 == run_due(log, Stale(), NOON + 2 * HOUR)  # type: ignore[arg-type]
    assert ["15:00"] == times(log)


def test_schedule_when_the_daemon_dies_before_it_moves_on(log: ledger.Ledger, table: ScheduleTable) -> None:
    """A daemon that dies after it asked leaves an occurrence that the next one finds asked for."""
    table.add(a_schedule(), actor=None)

    class Dying:
        def move(self, schedule: Schedule, *, to: datetime) -> bool:
            raise KeyboardInterrupt

        def __getattr__(self, name: str) -> Any:
            return getattr(table, name)

    with pytest.raises(KeyboardInterrupt):
        run_due(log, Dying(), NOON + HOUR)  # type: ignore[arg-type]

    assert 0 == run_due(log, table, NOON + HOUR)
    assert (["13:00"], NOON + 2 * HOUR) == (times(log), only(table).next_at)


def test_schedule_when_a_run_is_active_still(log: ledger.Ledger, table: ScheduleTable) -> None:
    """With an exclusive key, an occurrence is passed over while a run holds it, or ends that run."""
    rejecting = Request(kind="test", exclusive_key="a")
    superseding = Request(kind="test", exclusive_key="b", on_active="supersede")
    table.add(a_schedule("one", request=rejecting), actor=None)
    table.add(a_schedule("two", request=superseding), actor=None)

    asked = [run_due(log, table, NOON + count * HOUR) for count in (1, 2)]

    assert [2, 1] == asked
    first, second = (log.state(str(run.id)) for run in _runs_of(log, "two"))
    assert ["aborted", "queued"] == [first.status.value, second.status.value]


def _runs_of(log: ledger.Ledger, schedule: str) -> list[Any]:
    from projections import Runs

    found = Runs(log).list(limit=50).runs
    return [run for run in reversed(found) if run.labels["schedule"] == schedule]


def test_schedule_when_it_is_paused(log: ledger.Ledger, table: ScheduleTable) -> None:
    """One that rests asks for nothing; each change is noted once, with who made it."""
    added = a_schedule()
    table.add(added, actor="ada")
    paused = msgspec.structs.replace(added, is_paused=True)
    resumed = msgspec.structs.replace(added, next_at=NOON + 9 * HOUR)

    assert [True, False] == [table.change(paused, change="paused", actor="bob", at=NOON) for _ in range(2)]
    assert 0 == run_due(log, table, NOON + 5 * HOUR)
    assert [True, False] == [table.change(resumed, change="resumed", actor="bob", at=NOON) for _ in range(2)]
    assert [0, 1] == [run_due(log, table, NOON + part * HOUR) for part in (8.5, 9)]
    assert [True, False] == [table.change(added, change="removed", actor=None, at=NOON) for _ in range(2)]
    assert [] == list(table.list())
    changes = table.changes("hourly", limit=9)
    assert [("removed", None), ("resumed", "bob"), ("paused", "bob"), ("added", "ada")] == [
        (each.change, each.actor) for each in changes
    ]
    assert [True] == [each.schedule["is_paused"] for each in changes if each.change == "paused"]
    assert 2 == len(table.changes("hourly", limit=2))


def test_schedule_when_another_has_its_name(log: ledger.Ledger, table: ScheduleTable) -> None:
    """A name is taken once; after a removal, another of that name asks for what the first did not."""
    assert [True, False] == [table.add(a_schedule(), actor=None) for _ in range(2)]
    run_due(log, table, NOON + HOUR)
    table.change(only(table), change="removed", actor=None, at=NOON)
    other = a_schedule(request=Request(kind="other"))

    assert table.add(other, actor=None)

    assert [0, 1] == [run_due(log, table, NOON + count * HOUR) for count in (1, 2)]
    assert ["test", "other"] == [event.kind for event in enqueued(log)]


def test_schedule_when_its_time_zone_is_not_known_here(log: ledger.Ledger, table: ScheduleTable) -> None:
    """One that this machine cannot read the time of waits, and holds up no other."""
    table.add(msgspec.structs.replace(a_schedule("odd"), timezone="Europe/Atlantis"), actor=None)
    table.add(a_schedule("plain"), actor=None)

    assert 1 == run_due(log, table, NOON + HOUR)
    assert {"odd": NOON + HOUR, "plain": NOON + 2 * HOUR} == {each.name: each.next_at for each in table.list()}


def test_scheduling_when_nothing_is_due(log: ledger.Ledger, table: ScheduleTable) -> None:
    """A daemon comes again when the next occurrence does, and looks for new schedules before."""
    step = Scheduling(log, table)
    from ledger.clock import utc_now

    assert 5.0 == step()
    soon = msgspec.structs.replace(a_schedule(now=utc_now()), next_at=utc_now() + timedelta(seconds=2))
    table.add(soon, actor=None)
    assert 1.0 < step() <= 2.0
    table.change(soon, change="removed", actor=None, at=NOON)
    table.add(a_schedule(), actor=None)
    assert 0.0 <= step() <= 5.0
    assert 1 == len(enqueued(log))


@pytest.mark.parametrize(
    "facts",
    [
        {"name": ""},
        {"name": "n" * (NAME_CHARS_MAX + 1)},
        {"cron": "never"},
        {"timezone": "Mars/Olympus"},
        {"request": Request(kind="")},
        {"request": Request(kind="test", shard_count=0)},
        {"request": Request(kind="test", callback_url="ftp://x/")},
        {"request": Request(kind="test", labels={str(n): "" for n in range(limits.LABELS_MAX - 1)})},
        {"request": Request(kind="test", input={"x": float("nan")})},
    ],
)
def test_new_schedule_when_its_runs_would_be_refused(facts: dict[str, Any]) -> None:
    """What an enqueue would refuse is refused when the schedule is made, not at each of its times."""
    with pytest.raises(InvalidInput):
        a_schedule(**facts)


def test_new_schedule_when_it_is_at_its_limits() -> None:
    """The longest name and the most labels are taken."""
    labels = {str(n): "" for n in range(limits.LABELS_MAX - 2)}

    assert a_schedule("n" * NAME_CHARS_MAX, request=Request(kind="test", labels=labels)).name


def test_new_schedule_when_its_input_holds_a_secret() -> None:
    """A credential is not kept in a schedule either."""
    with pytest.raises(SecretInInput):
        a_schedule(request=Request(kind="test", input={"token": "ghp_" + "a1B2" * 9}))


def test_open_schedule_table_when_the_ledger_is_in_memory() -> None:
    """A ledger that ends with its process keeps no schedules, and says so."""
    with ledger.open("memory:") as log, pytest.raises(InvalidInput):
        open_schedule_table(log.store)
