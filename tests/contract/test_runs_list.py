"""Lists of runs: filters, order, pages, counts and searches are alike on every store."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

import ledger
from ledger import InvalidInput, Ledger, RunNotFound, Status, Verdict
from ledger.limits import LIST_ROWS_MAX
from projections import Runs, rebuild
from projections.queries import matches, run_filter

NOON = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
PARENT = "0192f3a0-0000-7000-8000-00000000aaaa"


class Clock:
    """Tells a time that only tests move."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now

    def tick(self, **step: float) -> None:
        self.now += timedelta(**step)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(ledger_url: str, clock: Clock) -> Any:
    with ledger.open(ledger_url, clock=clock, migrate=True) as opened:
        yield opened


def a_run_id(number: int) -> str:
    return f"0192f3a0-0000-7000-8000-{number:012x}"


def finish(log: Ledger, run_id: str, *, failed: int = 0) -> None:
    log.start(run_id, worker="w1")
    log.append_results(run_id, [{"status": "passed"}] + [{"status": "failed"}] * failed)
    log.complete(run_id)


def some_runs(log: Ledger, clock: Clock) -> list[str]:
    """Make six runs, one a minute from noon on, that differ in what can be asked for."""
    made = [a_run_id(number) for number in range(6)]
    facts: list[dict[str, Any]] = [
        {"kind": "test", "project": "web"},
        {"kind": "test", "project": "web", "labels": {"branch": "main", "os": "linux"}},
        {"kind": "build", "project": "web", "labels": {"branch": "main"}},
        {"kind": "test", "project": "api", "parent_run_id": PARENT},
        {"kind": "test", "project": "api", "labels": {"branch": "topic"}},
        {"kind": "test"},
    ]
    for run_id, fact in zip(made, facts, strict=True):
        log.enqueue(run_id=run_id, **fact)
        clock.tick(minutes=1)
    finish(log, made[0])
    finish(log, made[1], failed=2)
    log.start(made[3], worker="w1")
    log.abort(made[4], reason="no longer needed")
    log.delete(made[4])
    return made


def numbers(made: list[str], runs: list[ledger.Run]) -> list[int]:
    return [made.index(run.run_id) for run in runs]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, [5, 3, 2, 1, 0]),
        ({"project": "web"}, [2, 1, 0]),
        ({"project": "none"}, []),
        ({"kind": "build"}, [2]),
        ({"status": "running"}, [3]),
        ({"status": Status.QUEUED}, [5, 2]),
        ({"status": ["completed", "queued"]}, [5, 2, 1, 0]),
        ({"status": []}, [5, 3, 2, 1, 0]),
        ({"project": "web", "status": "completed"}, [1, 0]),
        ({"project": "web", "status": ["completed", "queued"], "kind": "test"}, [1, 0]),
        ({"verdict": "passed"}, [0]),
        ({"verdict": Verdict.FAILED}, [1]),
        ({"labels": {"branch": "main"}}, [2, 1]),
        ({"labels": {"branch": "main", "os": "linux"}}, [1]),
        ({"labels": {"branch": "main"}, "status": ["queued", "running"]}, [2]),
        ({"labels": {"branch": "main"}, "deleted": "include"}, [2, 1]),
        ({"labels": {"branch": "topic"}}, []),
        ({"labels": {"branch": "topic"}, "deleted": "only"}, [4]),
        ({"since": NOON + timedelta(minutes=2)}, [5, 3, 2]),
        ({"before": NOON + timedelta(minutes=2)}, [1, 0]),
        ({"since": NOON + timedelta(minutes=1), "before": NOON + timedelta(minutes=3)}, [2, 1]),
        ({"parent_run_id": PARENT}, [3]),
        ({"deleted": "only"}, [4]),
        ({"deleted": "include"}, [5, 4, 3, 2, 1, 0]),
        ({"deleted": "only", "status": ["aborted", "queued"]}, [4]),
        ({"deleted": "only", "status": "queued"}, []),
    ],
)
def test_list_and_count_when_filtered(log: Ledger, clock: Clock, filters: dict[str, Any], expected: list[int]) -> None:
    """A filter gives the runs that it describes, newest first, and counting gives their number."""
    made = some_runs(log, clock)
    runs = Runs(log)

    page = runs.list(**filters)

    assert expected == numbers(made, page.runs)
    assert page.next_page_token is None
    assert len(expected) == runs.count(**filters)


def test_list_when_filters_are_combined_at_random(log: Ledger, clock: Clock) -> None:
    """Whatever the filters, the tables give the runs for which the pure rule says yes, in the same order."""
    made = some_runs(log, clock)
    runs = Runs(log)
    everything = runs.list(deleted="include").runs
    choice = Random(20260301)
    options: dict[str, list[Any]] = {
        "project": [None, "web", "api"],
        "kind": [None, "test", "build"],
        "status": [None, "queued", ["queued", "completed"], list(Status)],
        "verdict": [None, None, "passed", "none"],
        "labels": [None, None, {"branch": "main"}, {"os": "linux", "branch": "main"}],
        "since": [None, NOON + timedelta(minutes=1)],
        "before": [None, NOON + timedelta(minutes=4)],
        "deleted": ["exclude", "include", "only"],
    }

    for _ in range(80):
        filters: dict[str, Any] = {name: choice.choice(values) for name, values in options.items()}
        wanted = run_filter(**filters)
        expected = [run for run in everything if matches(wanted, run)]

        assert numbers(made, expected) == numbers(made, runs.list(**filters).runs), filters
        assert len(expected) == runs.count(**filters), filters


@pytest.mark.parametrize(
    "filters",
    [
        {"project": ""},
        {"project": "p" * 201},
        {"project": "nul\0"},
        {"kind": 3},
        {"status": "passed"},
        {"status": ["queued", "nowhere"]},
        {"status": 3},
        {"status": [["queued"]]},
        {"verdict": "fine"},
        {"labels": {"": "main"}},
        {"labels": {"branch": None}},
        {"labels": "branch=main"},
        {"since": datetime(2026, 3, 1)},  # noqa: DTZ001
        {"before": "yesterday"},
        {"at": datetime(2026, 3, 1)},  # noqa: DTZ001
        {"parent_run_id": "0192"},
        {"deleted": "maybe"},
    ],
)
def test_list_and_count_when_a_filter_is_none_that_runs_have(log: Ledger, filters: dict[str, Any]) -> None:
    """A filter that no run could ever match is refused instead of giving an empty list."""
    runs = Runs(log)

    with pytest.raises(InvalidInput):
        runs.list(**filters)
    with pytest.raises(InvalidInput):
        runs.count(**filters)


@pytest.mark.parametrize("limit", [0, LIST_ROWS_MAX + 1, True])
def test_list_when_the_limit_is_out_of_range(log: Ledger, limit: int) -> None:
    """A page has one row at least and a bounded number at most."""
    with pytest.raises(InvalidInput) as refusal:
        Runs(log).list(limit=limit)

    assert "limit" == refusal.value.field


def test_list_when_the_limit_is_the_largest(log: Ledger) -> None:
    """The largest page that is allowed can be asked for."""
    log.enqueue("test", run_id=a_run_id(1))

    page = Runs(log).list(limit=LIST_ROWS_MAX)

    assert [a_run_id(1)] == [run.run_id for run in page.runs]


def pages(read: Callable[[str | None], Any]) -> list[list[str]]:
    """Read page after page, at most 30."""
    token, read_pages = None, []
    for _ in range(30):
        page = read(token)
        read_pages.append([run.run_id for run in page.runs])
        token = page.next_page_token
        if token is None:
            return read_pages
    raise AssertionError("the pages do not end")


@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"project": "web"},
        {"status": ["queued", "running", "completed"]},
        {"project": "web", "status": ["queued", "running"]},
        {"labels": {"batch": "7"}},
        {"at": NOON + timedelta(hours=1)},
    ],
)
def test_list_when_pages_cut_through_ties(log: Ledger, filters: dict[str, Any]) -> None:
    """Runs that were created at the same time come once each, over all pages, in the order of their ids."""
    made = [a_run_id(number) for number in range(10)]
    for run_id in made:
        log.enqueue("test", run_id=run_id, project="web", labels={"batch": "7"})
    for run_id in made[::3]:
        log.start(run_id, worker="w1")

    read = pages(lambda token: Runs(log).list(limit=3, page_token=token, **filters))

    assert [made[9:6:-1], made[6:3:-1], made[3:0:-1], made[:1]] == read


def test_list_when_the_last_page_is_full(log: Ledger) -> None:
    """A list that ends with a full page has no token to an empty one."""
    made = [a_run_id(number) for number in range(4)]
    for run_id in made:
        log.enqueue("test", run_id=run_id)

    read = pages(lambda token: Runs(log).list(limit=2, page_token=token))

    assert [[made[3], made[2]], [made[1], made[0]]] == read


def test_list_when_a_run_is_added_between_pages(log: Ledger, clock: Clock) -> None:
    """A newer run does not shift the pages that follow."""
    made = [a_run_id(number) for number in range(4)]
    for run_id in made:
        log.enqueue("test", run_id=run_id)
    runs = Runs(log)
    first = runs.list(limit=2)

    clock.tick(seconds=1)
    log.enqueue("test", run_id=a_run_id(9))
    second = runs.list(limit=2, page_token=first.next_page_token)

    assert [made[1], made[0]] == [run.run_id for run in second.runs]


def test_list_when_the_token_was_made_for_another_filter(log: Ledger) -> None:
    """A token continues the list that gave it and no other."""
    for number in range(3):
        log.enqueue("test", project="web", run_id=a_run_id(number))
    runs = Runs(log)
    token = runs.list(limit=1, project="web").next_page_token

    with pytest.raises(InvalidInput) as refusal:
        runs.list(limit=1, project="web", kind="test", page_token=token)

    assert "page_token" == refusal.value.field
    assert [a_run_id(1), a_run_id(0)] == [
        run.run_id for run in runs.list(limit=9, project="web", page_token=token).runs
    ]


@pytest.mark.parametrize("token", ["", "x", "é", "AAAA", "W10", "WyJhIiwiYiIsImMiXQ", "A" * 513, 7])
def test_list_when_the_token_is_none(log: Ledger, token: Any) -> None:
    """What no list gave is refused as a token."""
    with pytest.raises(InvalidInput) as refusal:
        Runs(log).list(page_token=token)

    assert "page_token" == refusal.value.field


def test_find_when_a_prefix_is_shared(log: Ledger) -> None:
    """A prefix finds every id that begins with it, deleted runs too, in their order."""
    made = [a_run_id(number) for number in (0x10, 0x11, 0x20)]
    for run_id in made:
        log.enqueue("test", run_id=run_id)
    log.abort(made[1])
    log.delete(made[1])
    runs = Runs(log)

    assert made[:2] == list(runs.find(made[0][:-1]))
    assert made[2:] == list(runs.find(made[2]))
    assert made[:1] == list(runs.find("0192", limit=1))
    assert [] == list(runs.find("f"))


def test_find_when_a_project_is_meant(log: Ledger) -> None:
    """Runs of other projects, and of none, are not found."""
    for number, project in enumerate(["web", None, "api", "web"]):
        log.enqueue("test", run_id=a_run_id(number), project=project)
    runs = Runs(log)

    assert [a_run_id(0), a_run_id(3)] == list(runs.find("0192", project="web"))
    assert [] == list(runs.find("0192", project="none"))


@pytest.mark.parametrize("prefix", ["", "0192F3", "0192%", "g", "0" * 37, None])
def test_find_when_no_id_can_begin_like_that(log: Ledger, prefix: Any) -> None:
    """A text that begins no run id is refused."""
    with pytest.raises(InvalidInput) as refusal:
        Runs(log).find(prefix)

    assert "prefix" == refusal.value.field


def test_latest_when_there_are_runs(log: Ledger, clock: Clock) -> None:
    """The newest run is the first one of the list, filters included."""
    runs = Runs(log)
    before = runs.latest()
    made = some_runs(log, clock)

    newest, newest_of_web = runs.latest(), runs.latest(project="web")

    assert before is None
    assert newest is not None
    assert newest_of_web is not None
    assert [5, 2] == numbers(made, [newest, newest_of_web])


def test_get_when_the_run_is_unknown(log: Ledger) -> None:
    """A run of which no event is known is an error, now and at a version or moment."""
    runs = Runs(log)
    log.enqueue("test", run_id=a_run_id(1))

    for at in (None, 1, NOON):
        with pytest.raises(RunNotFound):
            runs.get(a_run_id(2), at=at)
    with pytest.raises(RunNotFound):
        runs.get(a_run_id(1), at=NOON - timedelta(seconds=1))


def test_get_when_asked_for_an_earlier_version_or_moment(log: Ledger, clock: Clock) -> None:
    """A run can be seen as it was at any version, or at any moment."""
    run = log.enqueue("test", run_id=a_run_id(1))
    clock.tick(minutes=1)
    log.start(run.id, worker="w1")
    clock.tick(minutes=1)
    log.complete(run.id)
    runs = Runs(log)

    by_version = [runs.get(run.id, at=version).status for version in (1, 2, 3)]
    by_moment = [runs.get(run.id, at=NOON + timedelta(minutes=minute)).status for minute in (0, 1, 2)]

    assert [Status.QUEUED, Status.RUNNING, Status.COMPLETED] == by_version
    assert by_version == by_moment
    assert Status.COMPLETED == runs.get(run.id).status


def test_list_and_count_when_asked_for_an_earlier_moment(log: Ledger, clock: Clock) -> None:
    """A list as of a moment shows each run as it was then, and no run that began later."""
    made = some_runs(log, clock)
    runs = Runs(log)
    then = NOON + timedelta(minutes=3)

    assert [3, 2, 1, 0] == numbers(made, runs.list(at=then).runs)
    assert {Status.QUEUED} == {run.status for run in runs.list(at=then).runs}
    assert [] == runs.list(at=then, status="completed").runs
    assert [2, 1, 0] == numbers(made, runs.list(at=then, project="web", status="queued").runs)
    assert 4 == runs.count(at=then)
    assert 0 == runs.count(at=NOON - timedelta(seconds=1))
    assert [4] == numbers(made, runs.list(at=clock.now, deleted="only").runs)


def test_list_when_asked_for_a_moment_and_clocks_disagree(log: Ledger, clock: Clock) -> None:
    """An event that a fast clock dated into the future hides it and what follows, as it does for one run."""
    run = log.enqueue("test", run_id=a_run_id(1))
    clock.tick(hours=2)
    log.start(run.id, worker="w1")
    clock.tick(hours=-1)
    log.complete(run.id)
    runs = Runs(log)

    listed = runs.list(at=clock.now).runs

    assert Status.QUEUED == runs.get(run.id, at=clock.now).status
    assert [Status.QUEUED] == [run.status for run in listed]


@pytest.mark.erases
def test_count_when_runs_change_and_go(log: Ledger) -> None:
    """Counts follow runs from status to status, into the bin, out of it, through a purge and through a rebuild."""
    runs = Runs(log)
    ids = [log.enqueue("a" if n % 2 else "b", project="web" if n % 3 else None).id for n in range(12)]

    def counts() -> tuple[object, ...]:
        return (
            runs.count(),
            runs.count(project="web"),
            runs.count(kind="a", status=["queued", "aborted"]),
            runs.count(project="web", kind="b", status="aborted"),
            runs.count_by_project(["web", "none"]),
            {status.value: count for status, count in runs.count_by_status().items() if count},
        )

    assert (12, 8, 6, 0, {"web": 8, "none": 0}, {"queued": 12}) == counts()
    for run in ids[:6]:
        log.abort(run)
    assert (12, 8, 6, 2, {"web": 8, "none": 0}, {"queued": 6, "aborted": 6}) == counts()
    for run in ids[:3]:
        log.delete(run)
    assert (9, 6, 5, 1, {"web": 6, "none": 0}, {"queued": 6, "aborted": 3}) == counts()
    log.restore(ids[0])
    log.purge(ids[1])
    expected = (10, 6, 5, 1, {"web": 6, "none": 0}, {"queued": 6, "aborted": 4})
    assert expected == counts()
    for _ in range(2):
        rebuild(log)
        assert expected == counts()
    assert (12, 1) == (runs.count(deleted="include"), runs.count(deleted="purged"))
