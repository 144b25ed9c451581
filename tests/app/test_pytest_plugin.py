"""The pytest plugin: what it records while tests run, how it splits them, and that it never gets in the way."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import ledger
from runfold.environment import ShardEnvironment, shard_slice, substitute

SUITE = """
import pytest
def test_pass(): pass
def test_fail(): assert 1 == 2
@pytest.mark.skip(reason="not now")
def test_skip(): pass
@pytest.mark.xfail(reason="known")
def test_xfail(): assert 0
@pytest.mark.xfail
def test_xpass(): pass
@pytest.mark.xfail(strict=True)
def test_xpass_strict(): pass
@pytest.fixture
def bad(): raise RuntimeError("set-up")
@pytest.fixture
def bad_end():
    yield
    raise RuntimeError("tear-down")
def test_setup_error(bad): pass
def test_teardown_error(bad_end): pass
def test_both(bad_end): assert 0
@pytest.fixture
def absent(): pytest.skip("not here")
def test_skipped_by_fixture(absent): pass
@pytest.mark.parametrize("n", range(5))
def test_parametrised(n): assert n != 3
def test_subtests(subtests):
    with subtests.test(i=1): pass
    with subtests.test(i=2): assert 0
class TestClass:
    def test_method(self): pass
"""


class Recorded:
    """A run in a ledger of its own, and pytest runs that are a part of it."""

    def __init__(self, folder: Path, *, shard_count: int | None = None) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder / 'runs.db'}"
        self.log = ledger.open(self.url)
        self.run_id = self.log.enqueue("test", shard_count=shard_count).id
        self.log.start(self.run_id, worker="w1")
        self.shard_count = shard_count or 1

    def environ(self, **more: str) -> dict[str, str]:
        place = ShardEnvironment(run_id=self.run_id, url=self.url, shard=0, shard_count=self.shard_count)
        return {**place.over(os.environ), **more}

    def pytest(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
            cwd=self.folder,
            env=self.environ(**more),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def results(self) -> list[dict[str, object]]:
        events = [event.data for event in self.log.read(self.run_id) if event.type == "shard_result_appended"]
        return [result for event in events for result in event.results]  # type: ignore[union-attr]

    def names(self) -> list[object]:
        return [result["testName"] for result in self.results()]


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[Recorded]:
    recorded = Recorded(tmp_path)
    yield recorded
    recorded.log.close()


def summary(said: str) -> dict[str, int]:
    """Read what pytest counted from the last line that it printed."""
    found = re.findall(r"(\d+) (passed|failed|skipped|xfailed|xpassed|error)s?\b", said.strip().splitlines()[-1])
    return {word: int(count) for count, word in found}


# --- recording --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [("-q",), ("-W", "error"), ("-s",), ("-v",), ("-p", "no:terminal"), ("--maxfail=3",)]
)
def test_plugin_when_tests_end_in_every_way(recorded: Recorded, options: tuple[str, ...]) -> None:
    """The ledger counts what pytest's own summary counts, word by word."""
    (recorded.folder / "test_suite.py").write_text(SUITE)

    done = recorded.pytest("--junitxml=r.xml", *options)

    counted = recorded.log.state(recorded.run_id).statuses
    assert 1 == done.returncode
    if "no:terminal" in options:
        everything = {"passed": 7, "failed": 6, "skipped": 2, "xfailed": 1, "xpassed": 1, "error": 3}
        assert everything == counted
    else:
        assert summary(done.stdout) == counted


def test_plugin_when_files_cannot_be_collected(recorded: Recorded) -> None:
    """A file that cannot be imported is an error, and one that skips itself is skipped, as pytest counts them."""
    (recorded.folder / "test_broken.py").write_text("import no_such_module\n")
    (recorded.folder / "test_absent.py").write_text("import pytest\npytest.importorskip('no_such_module')\n")
    (recorded.folder / "test_good.py").write_text("def test_good(): pass\n")

    done = recorded.pytest("--continue-on-collection-errors")

    assert (
        {"passed": 1, "skipped": 1, "error": 1} == summary(done.stdout) == recorded.log.state(recorded.run_id).statuses
    )


def test_plugin_when_a_result_has_more_to_say(recorded: Recorded) -> None:
    """A result names its test, how long it took, and why it failed or was skipped."""
    (recorded.folder / "test_suite.py").write_text(SUITE + "\ndef test_slow():\n    import time; time.sleep(0.12)\n")

    recorded.pytest()

    by_name = {result["testName"]: result for result in recorded.results()}
    assert "assert 1 == 2" in str(by_name["test_fail"]["error"])
    assert ("not now", "known") == (by_name["test_skip"]["skipReason"], by_name["test_xfail"]["skipReason"])
    assert "test_suite.py::TestClass::test_method" == by_name["TestClass::test_method"]["testId"]
    assert 120 <= int(str(by_name["test_slow"]["durationMs"])) < 2_000
    assert "error" not in by_name["test_pass"]


def test_plugin_when_an_error_is_huge(recorded: Recorded) -> None:
    """An error is cut, head and tail kept, and texts that no database stores are made storable."""
    (recorded.folder / "test_huge.py").write_text(
        "def test_huge():\n    raise ValueError('x' * 10**6 + '\\x00 \\ud800 the end')\n"
    )

    recorded.pytest("--tb=short")

    (result,) = recorded.results()
    assert "the end" in str(result["error"])
    assert len(str(result["error"])) <= 8_192


def test_plugin_while_tests_run(recorded: Recorded) -> None:
    """Results are in the ledger while later tests still run."""
    (recorded.folder / "test_it.py").write_text(
        "import os\ndef test_first(): pass\ndef test_waits():\n    open('pipe').read()\n"
    )
    os.mkfifo(recorded.folder / "pipe")
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=recorded.folder,
        env=recorded.environ(),
        stdout=subprocess.DEVNULL,
    )

    with recorded.log.subscribe(types=["shard_result_appended"]) as events:
        first = next(events).data
    is_running = process.poll() is None
    (recorded.folder / "pipe").write_text("go")
    process.wait(30)

    assert (True, ["test_first"]) == (is_running, [result["testName"] for result in first.results])  # type: ignore[union-attr]
    assert ["test_first", "test_waits"] == recorded.names()


def test_plugin_when_there_are_many_tests(recorded: Recorded) -> None:
    """A thousand quick tests are appended in few batches, in their order, numbered."""
    (recorded.folder / "test_many.py").write_text(
        "import pytest\n@pytest.mark.parametrize('n', range(1000))\ndef test_one(n): pass\n"
    )

    recorded.pytest()

    events = [event.data for event in recorded.log.read(recorded.run_id) if event.type == "shard_result_appended"]
    assert [f"test_one[{n}]" for n in range(1000)] == recorded.names()
    assert len(events) <= 40
    numbers = [(event.shard, event.first_sequence, len(event.results)) for event in events]  # type: ignore[union-attr]
    assert [(0, sum(count for _, _, count in numbers[:place])) for place in range(len(numbers))] == [
        (shard, first) for shard, first, _ in numbers
    ]


def test_plugin_when_pytest_runs_twice_in_one_shard(recorded: Recorded) -> None:
    """A second test run of the same shard adds to the first: its results are numbered on."""
    (recorded.folder / "test_a.py").write_text("def test_a(): pass\n")
    (recorded.folder / "test_b.py").write_text("def test_b(): pass\n")

    recorded.pytest("test_a.py")
    recorded.pytest("test_b.py")

    assert {"passed": 2} == recorded.log.state(recorded.run_id).statuses


def test_plugin_when_the_run_is_not_cut(recorded: Recorded) -> None:
    """Two variables are enough: without a shard's number the results are of no shard."""
    (recorded.folder / "test_a.py").write_text("def test_a(): pass\n")
    environ = recorded.environ()
    del environ["RUNFOLD_SHARD_INDEX"], environ["RUNFOLD_SHARD_COUNT"], environ["RUNFOLD_SHARD_ATTEMPT"]

    for _ in range(2):
        subprocess.run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider"], cwd=recorded.folder, env=environ,
                       stdout=subprocess.DEVNULL, check=True)  # fmt: skip

    run = recorded.log.state(recorded.run_id)
    assert ({"passed": 2}, {}) == (run.unsharded.statuses, run.shards)


def test_plugin_when_two_pytests_run_side_by_side_in_one_shard(recorded: Recorded) -> None:
    """Test runs of one shard at the same time lose nothing to each other."""
    (recorded.folder / "test_it.py").write_text(
        "import pytest, time\n@pytest.mark.parametrize('n', range(40))\ndef test_one(n): time.sleep(0.03)\n"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
            cwd=recorded.folder,
            env=recorded.environ(),
            stdout=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]

    codes = [process.wait(60) for process in both]

    assert ([0, 0], {"passed": 80}) == (codes, recorded.log.state(recorded.run_id).statuses)


# --- staying out of the way -------------------------------------------------------------------------------------


def test_plugin_when_no_run_is_named(tmp_path: Path) -> None:
    """Outside a run nothing of Runfold is imported but the plugin itself."""
    (tmp_path / "test_it.py").write_text(
        "import sys\ndef test_modules():\n"
        "    ours = ('runfold', 'cli', 'ledger', 'projections', 'msgspec', 'apsw')\n"
        "    found = sorted(name for name in sys.modules if name.split('.')[0] in ours)\n"
        "    assert ['runfold', 'runfold.pytest_plugin'] == found\n"
    )
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RUNFOLD_")}

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=tmp_path, env=environ,
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert 0 == done.returncode, done.stdout


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite:////no/such/folder/runs.db", "/no/such/folder/runs.db"),
        ("nonsense", "'nonsense' is no ledger"),
        ("", "is no ledger"),
    ],
)
def test_plugin_when_the_ledger_is_out_of_reach(recorded: Recorded, url: str, says: str) -> None:
    """The tests run as ever, and one line says how many results were not recorded, and why."""
    (recorded.folder / "test_it.py").write_text("def test_a(): pass\ndef test_b(): pass\n")

    done = recorded.pytest("-W", "error", RUNFOLD_URL=url)

    assert 0 == done.returncode
    assert {"passed": 2} == summary(done.stdout)
    told = [line for line in done.stdout.splitlines() if line.startswith("runfold: ")]
    assert 1 == len(told)
    assert told[0].startswith("runfold: 2 of 2 results were not recorded: ")
    assert says in told[0]


def test_plugin_when_the_run_is_closed(recorded: Recorded) -> None:
    """A run that is closed takes no results; that is told, and the tests are none the worse."""
    (recorded.folder / "test_it.py").write_text("def test_a(): pass\n")
    recorded.log.abort(recorded.run_id)

    done = recorded.pytest()

    assert 0 == done.returncode
    assert "1 of 1 results were not recorded: the run is closed" in done.stdout


def test_plugin_when_its_recorder_is_killed(recorded: Recorded) -> None:
    """A test run survives its recorder, also with every warning an error, and says what is missing."""
    (recorded.folder / "test_it.py").write_text(
        "import os, signal, subprocess, time\n"
        "def test_a():\n"
        "    children = subprocess.run(['pgrep', '-P', str(os.getpid()), '-f', 'recorder'], capture_output=True)\n"
        "    os.kill(int(children.stdout.split()[0]), signal.SIGKILL)\n"
        "    time.sleep(0.2)\n"
        "def test_b(): pass\n"
        "def test_c(): pass\n"
    )

    done = recorded.pytest("-W", "error")

    assert 0 == done.returncode, done.stdout
    assert "runfold: 3 of 3 results were not recorded: its recorder is gone" in done.stdout


def test_plugin_when_the_environment_is_wrong(recorded: Recorded) -> None:
    """A shard number that is none is a usage error that names the variable."""
    done = recorded.pytest(RUNFOLD_SHARD_INDEX="7")

    assert 4 == done.returncode
    assert "RUNFOLD_SHARD_INDEX is 7, and RUNFOLD_SHARD_COUNT is 1" in done.stderr


def test_plugin_when_a_test_runs_pytest_itself(recorded: Recorded) -> None:
    """A pytest inside a test, in the same process or in another, is no part of the run."""
    (recorded.folder / "test_it.py").write_text(
        "import subprocess, sys\n"
        "pytest_plugins = ['pytester']\n"
        "def test_same_process(pytester):\n"
        "    pytester.makepyfile('def test_inner(): assert 0')\n"
        "    pytester.runpytest_inprocess().assert_outcomes(failed=1)\n"
        "def test_other_process(pytester):\n"
        "    pytester.makepyfile('def test_inner(): assert 0')\n"
        "    pytester.runpytest_subprocess().assert_outcomes(failed=1)\n"
    )

    recorded.pytest()

    assert ["test_same_process", "test_other_process"] == recorded.names()


def test_plugin_when_tests_fork(recorded: Recorded) -> None:
    """A child that a test forks, and leaves running, neither warns nor holds the end up nor records."""
    (recorded.folder / "test_it.py").write_text(
        "import os, pathlib, time\n"
        "def test_forks():\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        time.sleep(100)\n"
        "        os._exit(0)\n"
        "    pathlib.Path('child').write_text(str(child))\n"
    )
    began = time.monotonic()

    code = subprocess.call(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error"],
        cwd=recorded.folder,
        env=recorded.environ(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    took_s = time.monotonic() - began
    os.kill(int((recorded.folder / "child").read_text()), signal.SIGKILL)
    assert (0, ["test_forks"]) == (code, recorded.names())
    assert took_s < 30


def test_plugin_when_pytest_crashes(recorded: Recorded) -> None:
    """What was tested before a crash is recorded."""
    (recorded.folder / "test_it.py").write_text(
        "import os\ndef test_a(): pass\ndef test_b(): pass\ndef test_crash(): os.abort()\n"
    )

    done = recorded.pytest()
    for _ in range(100):
        if recorded.results():
            break
        time.sleep(0.1)

    assert (-6, ["test_a", "test_b"]) == (done.returncode, recorded.names())


def test_plugin_when_tests_are_only_collected(recorded: Recorded) -> None:
    """Collecting runs nothing and records nothing."""
    (recorded.folder / "test_it.py").write_text("def test_a(): pass\n")

    done = recorded.pytest("--collect-only")

    assert (0, []) == (done.returncode, recorded.names())


# --- splitting --------------------------------------------------------------------------------------------------

MANY = "import pytest\n@pytest.mark.parametrize('n', range({count}))\ndef test_one(n): pass\n"
SHUFFLE = "import random\ndef pytest_collection_modifyitems(items):\n    random.shuffle(items)\n"


def names_by_shard(recorded: Recorded, *arguments: str) -> list[list[object]]:
    parts = []
    for shard in range(recorded.shard_count):
        known = len(recorded.results())
        done = recorded.pytest(*arguments, RUNFOLD_SHARD_INDEX=str(shard), RUNFOLD_PYTEST_SPLIT="1")
        assert 0 == done.returncode, done.stdout
        parts.append(recorded.names()[known:])
    return parts


@pytest.fixture
def in_three(tmp_path: Path) -> Iterator[Recorded]:
    recorded = Recorded(tmp_path, shard_count=3)
    yield recorded
    recorded.log.close()


def test_split_when_tests_do_not_divide(in_three: Recorded) -> None:
    """Shards run contiguous slices in the order of collection; the first ones have one test more."""
    (in_three.folder / "test_it.py").write_text(MANY.format(count=8))

    parts = names_by_shard(in_three)

    assert [[f"test_one[{n}]" for n in part] for part in ((0, 1, 2), (3, 4, 5), (6, 7))] == parts


def test_split_when_a_plugin_shuffles(in_three: Recorded) -> None:
    """Shards agree on their slices even when each runs its tests in an order of its own."""
    (in_three.folder / "test_it.py").write_text(MANY.format(count=9))
    (in_three.folder / "conftest.py").write_text(SHUFFLE)

    parts = names_by_shard(in_three)

    assert [{f"test_one[{n}]" for n in range(start, start + 3)} for start in (0, 3, 6)] == [set(part) for part in parts]


def test_split_when_tests_are_selected(in_three: Recorded) -> None:
    """What `-k` leaves over is what is split."""
    (in_three.folder / "test_it.py").write_text(MANY.format(count=30))

    parts = names_by_shard(in_three, "-k", "one[2")

    assert [4, 4, 3] == [len(part) for part in parts]
    assert 11 == len({name for part in parts for name in part})


def test_split_when_there_are_more_shards_than_tests(in_three: Recorded) -> None:
    """A shard without tests succeeds, since the others run them."""
    (in_three.folder / "test_it.py").write_text(MANY.format(count=2))

    assert [["test_one[0]"], ["test_one[1]"], []] == names_by_shard(in_three)


def test_split_when_there_are_no_tests_at_all(in_three: Recorded) -> None:
    """A suite without tests stays pytest's exit code 5 in every shard."""
    done = in_three.pytest(RUNFOLD_PYTEST_SPLIT="1")

    assert 5 == done.returncode


def test_split_when_it_is_not_asked_for(in_three: Recorded) -> None:
    """Without being asked every shard runs all tests: another plugin may split them already."""
    (in_three.folder / "test_it.py").write_text(MANY.format(count=4))

    in_three.pytest(RUNFOLD_SHARD_INDEX="1")

    assert 4 == len(in_three.results())


@pytest.mark.parametrize(
    ("planned", "more", "code", "ran"),
    [
        ([0, 2], [], 0, [0, 2]),
        ([], [], 0, []),
        ([1, 9], [], 4, [1]),
        ([9], [], 4, []),
        ([1, 2], ["-k", "one[2"], 0, [2]),
    ],
)
def test_split_when_tests_were_planned(
    in_three: Recorded, planned: list[int], more: list[str], code: int, ran: list[int]
) -> None:
    """A shard runs what was planned for it, whatever its slice would be, and fails when that is not all there.

    A file that skips itself is none of it: else each shard would count it.
    """
    (in_three.folder / "test_it.py").write_text(MANY.format(count=4))
    (in_three.folder / "test_not.py").write_text("import pytest\npytest.skip('not here', allow_module_level=True)")
    (in_three.folder / "plan.txt").write_text("".join(f"test_it.py::test_one[{n}]\n" for n in planned))

    done = in_three.pytest(*more, RUNFOLD_SHARD_INDEX="2", RUNFOLD_PYTEST_SPLIT="1", RUNFOLD_PLAN="plan.txt")

    assert (code, [f"test_one[{n}]" for n in ran]) == (done.returncode, in_three.names()), done.stdout
    assert ("planned tests are not there" in done.stdout) == (code == 4)


@pytest.mark.parametrize("total", [0, 1, 2, 3, 4, 5, 7, 100, 6_209])
@pytest.mark.parametrize("shard_count", [1, 2, 3, 4, 16, 101])
def test_shard_slice_when_all_are_taken(total: int, shard_count: int) -> None:
    """All slices together are everything once, in order, and no two differ by more than one."""
    everything = list(range(total))

    parts = [everything[shard_slice(total, shard=n, shard_count=shard_count)] for n in range(shard_count)]

    assert everything == [item for part in parts for item in part]
    sizes = [len(part) for part in parts]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("argument", "expected"),
    [("{shard}/{shards}", "2/5"), ("{shard1}", "3"), ("{}", "{}"), ("{print $1}", "{print $1}"),
     ("a{shard}b{shard}", "a2b2")],
)  # fmt: skip
def test_substitute_when_an_argument_has_braces(argument: str, expected: str) -> None:
    """Only the three placeholders are replaced."""
    assert expected == substitute(argument, shard=2, shard_count=5)


# --- the two together -------------------------------------------------------------------------------------------


def test_exec_when_four_shards_run_one_suite(tmp_path: Path) -> None:
    """Four processes at once record one suite; every shard's counts are those of its own pytest."""
    (tmp_path / "test_suite.py").write_text(SUITE + MANY.format(count=200).removeprefix("import pytest\n"))

    done = subprocess.run(
        [str(Path(sys.executable).parent / "runfold"), "exec",
         "test", "--shards", "4", "--split-pytest", "--",
         sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path, env={**os.environ, "RUNFOLD_URL": "sqlite:///runs.db"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip

    with ledger.open(f"sqlite:///{tmp_path / 'runs.db'}") as log:
        run = log.state(next(iter(log.read_all(types=["enqueued"]))).run_id)
    assert (1, "completed", "failed") == (done.returncode, run.status, run.verdict), done.stderr
    ends = re.findall(r"^\[(\d)\] (.* in [\d.]+s.*)$", done.stdout, re.MULTILINE)
    assert {int(shard): summary(text) for shard, text in ends} == {n: run.shards[n].results.statuses for n in range(4)}
    assert {"passed": 207, "failed": 6, "skipped": 2, "xfailed": 1, "xpassed": 1, "error": 3} == run.statuses
