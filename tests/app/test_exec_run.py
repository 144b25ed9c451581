"""`runfold exec` from a command to a run: what its processes are told, what is recorded, and what comes out."""

import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import ledger
from cli.execution.shard_process import LINE_BYTES_MAX, LineSplitter
from ledger.run.state import RunState

RUNFOLD = (str(Path(sys.executable).parent / "runfold"), "exec")


def runfold_exec(folder: Path, *arguments: str, url: str = "sqlite:///runs.db") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RUNFOLD, *arguments],
        cwd=folder,
        env={**os.environ, "RUNFOLD_URL": url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def the_run(folder: Path) -> RunState:
    with ledger.open(f"sqlite:///{folder / 'runs.db'}") as log:
        return log.state(next(iter(log.read_all(types=["enqueued"]))).run_id)


def the_lines(folder: Path, *, shard: int = 0, source: str = "stdout") -> list[str]:
    with ledger.open(f"sqlite:///{folder / 'runs.db'}") as log:
        events = [event.data for event in log.read_all(types=["log_appended"])]
    return [
        line
        for event in events
        if event.shard == shard and event.source == source
        for line in event.lines  # type: ignore[union-attr]
    ]


def test_exec_when_the_command_succeeds(tmp_path: Path) -> None:
    """A command that exits with 0 is a completed run, worked on by this host and process, and exec exits with 0."""
    done = runfold_exec(
        tmp_path, "deploy", "--project", "web", "--label", "branch=main", "--input", '{"to": "staging"}', "--", "true"
    )

    run = the_run(tmp_path)

    assert 0 == done.returncode, done.stderr
    assert ("deploy", "web", {"branch": "main"}) == (run.kind, run.project, run.labels)
    assert ("completed", "none", None, 1) == (run.status, run.verdict, run.shard_count, run.shards_completed)
    assert run.worker is not None
    assert os.uname().nodename == run.worker.partition(":")[0]
    assert 0 == run.shards[0].exit_code


def test_exec_when_input_is_given(tmp_path: Path) -> None:
    """The run's input says what was executed, and what the user wants it to know."""
    runfold_exec(tmp_path, "deploy", "--input", '{"to": "staging"}', "--", "echo", "{shard}")

    with ledger.open(f"sqlite:///{tmp_path / 'runs.db'}") as log:
        (enqueued,) = log.read_all(types=["enqueued"])

    assert {"to": "staging", "command": ["echo", "{shard}"]} == enqueued.data.input  # type: ignore[union-attr]


def test_exec_when_there_are_shards(tmp_path: Path) -> None:
    """Every shard's process knows its place, from its environment and its arguments, in any directory."""
    script = 'cd /; echo "$RUNFOLD_SHARD_INDEX/$RUNFOLD_SHARD_COUNT/$RUNFOLD_SHARD_ATTEMPT {shard} {shard1} {shards}"'
    script += '; echo "$RUNFOLD_RUN_ID $RUNFOLD_URL" {} {print}'

    runfold_exec(tmp_path, "test", "--shards", "3", "--", "sh", "-c", script)

    run = the_run(tmp_path)
    told = f"{run.id} sqlite:///{tmp_path / 'runs.db'} {{}} {{print}}"
    assert [[f"{n}/3/1 {n} {n + 1} 3", told] for n in range(3)] == [the_lines(tmp_path, shard=n) for n in range(3)]
    assert (3, 3) == (run.shard_count, run.shards_completed)


def test_exec_when_commands_speak(tmp_path: Path) -> None:
    """Output goes to where it was sent, its shard in front, and to the log without it, in its order."""
    script = "echo out $RUNFOLD_SHARD_INDEX; echo err $RUNFOLD_SHARD_INDEX >&2; seq 1000"

    done = runfold_exec(tmp_path, "test", "--shards", "2", "--", "sh", "-c", script)

    shown = done.stdout.splitlines()
    for shard in range(2):
        lines = [f"out {shard}", *map(str, range(1, 1001))]
        assert [f"[{shard}] {line}" for line in lines] == [line for line in shown if line.startswith(f"[{shard}]")]
        assert lines == the_lines(tmp_path, shard=shard)
        assert [f"err {shard}"] == the_lines(tmp_path, shard=shard, source="stderr")
        assert f"[{shard}] err {shard}\n" in done.stderr


def test_exec_when_a_command_says_much(tmp_path: Path) -> None:
    """Output is appended in batches: 5,000 lines make far fewer events."""
    runfold_exec(tmp_path, "test", "--", "seq", "5000")

    with ledger.open(f"sqlite:///{tmp_path / 'runs.db'}") as log:
        events = len(list(log.read_all(types=["log_appended"])))

    assert 5_000 == the_run(tmp_path).log_line_count
    assert events <= 50


def test_exec_when_the_command_writes_slowly(tmp_path: Path) -> None:
    """A line is in the log while the command still runs."""
    process = subprocess.Popen(
        [*RUNFOLD, "test", "--", "sh", "-c", "echo early; read line <pipe; echo late"],
        cwd=tmp_path,
        env={**os.environ, "RUNFOLD_URL": "sqlite:///runs.db"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.mkfifo(tmp_path / "pipe")

    with ledger.open(f"sqlite:///{tmp_path / 'runs.db'}") as log, log.subscribe(types=["log_appended"]) as events:
        first = next(events).data
        status = log.state(events_run(log)).status
    (tmp_path / "pipe").write_text("go\n")

    assert (["early"], "running") == (first.lines, status)  # type: ignore[union-attr]
    assert 0 == process.wait(30)
    assert ["early", "late"] == the_lines(tmp_path)


def events_run(log: ledger.Ledger) -> str:
    return next(iter(log.read_all(types=["enqueued"]))).run_id


@pytest.mark.parametrize(("option", "shown", "recorded"), [("--quiet", "", ["hello"]), ("--no-logs", "hello\n", [])])
def test_exec_when_output_is_not_wanted(tmp_path: Path, option: str, shown: str, recorded: list[str]) -> None:
    """`--quiet` records without showing, and `--no-logs` shows without recording."""
    done = runfold_exec(tmp_path, "test", option, "--", "echo", "hello")

    assert (shown, recorded) == (done.stdout, the_lines(tmp_path))


def test_exec_when_output_is_no_text(tmp_path: Path) -> None:
    """Bytes that are no text, NUL, and a last line without its end are kept as well as they can be."""
    runfold_exec(tmp_path, "test", "--", "printf", r"a\000b\n\377\r\nlast")

    assert ["a\ufffdb", "\ufffd", "last"] == the_lines(tmp_path)


def test_exec_when_a_line_has_no_end(tmp_path: Path) -> None:
    """A line of a million characters becomes several, between two characters, and nothing of it is lost."""
    script = "import sys; sys.stdout.write('aé' * 500_000 + '\\nafter\\n')"

    done = runfold_exec(tmp_path, "test", "--quiet", "--", sys.executable, "-X", "utf8", "-c", script)

    *pieces, last = the_lines(tmp_path)
    assert (0, "after") == (done.returncode, last)
    assert "aé" * 500_000 == "".join(pieces)


@pytest.mark.parametrize(("length", "lengths"), [(LINE_BYTES_MAX, [16_384]), (LINE_BYTES_MAX + 1, [16_384, 1])])
@pytest.mark.parametrize("chunk_size", [1_000, 16_384, 100_000])
def test_line_splitter_at_its_length(chunk_size: int, length: int, lengths: list[int]) -> None:
    """A line is kept whole up to the limit and becomes two one byte above, however it arrives."""
    said = b"x" * length + b"\nend"
    splitter = LineSplitter()

    lines = [
        line for start in range(0, len(said), chunk_size) for line in splitter.feed(said[start : start + chunk_size])
    ]

    assert lengths == [len(line) for line in lines]
    assert ["end"] == splitter.finish()


# --- outcomes ---------------------------------------------------------------------------------------------------


def test_exec_when_the_command_fails_without_results(tmp_path: Path) -> None:
    """A code that no failed result explains fails the run, with the end of what the command said."""
    done = runfold_exec(tmp_path, "test", "--", "sh", "-c", "echo fine; echo no such option >&2; exit 2")

    run = the_run(tmp_path)
    assert 1 == done.returncode
    assert ("failed", "exit_code", 2) == (run.status, run.error_category, run.shards[0].exit_code)
    assert "the command exited with code 2\nno such option" == run.error
    assert "the command exited with code 2" == run.failure_summary


def test_exec_when_a_signal_ends_the_command(tmp_path: Path) -> None:
    """A crash fails the run by the signal's name, whatever results came before."""
    report = '<testsuite><testcase name="a"><failure/></testcase></testsuite>'

    done = runfold_exec(
        tmp_path, "test", "--junit", "r.xml", "--", "sh", "-c", f"echo '{report}' >r.xml; kill -SEGV $$"
    )

    run = the_run(tmp_path)
    assert 1 == done.returncode
    assert ("failed", "signal", -11, 1) == (run.status, run.error_category, run.shards[0].exit_code, run.failed)
    assert "the command was ended by SIGSEGV" == run.failure_summary


def test_exec_when_tests_fail(tmp_path: Path) -> None:
    """A code that failed results explain completes the run with a failed verdict, and exec exits with 1."""
    report = '<testsuite><testcase name="a"><failure/></testcase><testcase name="b"/></testsuite>'

    done = runfold_exec(tmp_path, "test", "--junit", "r.xml", "--", "sh", "-c", f"echo '{report}' >r.xml; exit 1")

    run = the_run(tmp_path)
    assert 1 == done.returncode
    assert ("completed", "failed", 1, 1) == (run.status, run.verdict, run.passed, run.failed)


def test_exec_when_one_of_the_shards_fails(tmp_path: Path) -> None:
    """One failed shard fails the run by its number; the others are completed all the same."""
    done = runfold_exec(tmp_path, "test", "--shards", "3", "--", "sh", "-c", "exit $(({shard} % 2 * 7))")

    run = the_run(tmp_path)
    assert 1 == done.returncode
    assert ("failed", "shard 1 of 3: the command exited with code 7") == (run.status, run.failure_summary)
    assert [0, 7, 0] == [run.shards[shard].exit_code for shard in range(3)]


@pytest.mark.parametrize(
    ("command", "code", "category"),
    [("no-such-command", 127, "command_not_found"), ("./notes.txt", 126, "command_not_executable")],
)
def test_exec_when_there_is_no_command(tmp_path: Path, command: str, code: int, category: str) -> None:
    """A wrong command fails the run, says so, and exits as shells do."""
    (tmp_path / "notes.txt").write_text("no program")

    done = runfold_exec(tmp_path, "test", "--", command, "x")

    run = the_run(tmp_path)
    assert (code, "failed", category) == (done.returncode, run.status, run.error_category)
    assert f"the command '{command}'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("args", [("--shards", "2", "--split-pytest"), ()])
def test_exec_when_pytest_is_one_without_the_plugin(tmp_path: Path, args: tuple[str, ...]) -> None:
    """A pytest that never reported is no success: which tests it ran, and how often, nobody knows."""
    (tmp_path / "test_a.py").write_text("def test_a(): pass\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:runfold"]

    done = runfold_exec(tmp_path, "test", *args, "--", *command)

    run = the_run(tmp_path)
    assert (1, "failed", "plugin_missing") == (done.returncode, run.status, run.error_category), done.stderr
    assert "the plugin did not report" in done.stderr
    assert "install runfold" in done.stderr.lower()


@pytest.mark.parametrize("more", [("--collect-only",), ("-k", "nothing"), ("--version",)])
def test_exec_when_pytest_has_the_plugin_and_nothing_to_report(tmp_path: Path, more: tuple[str, ...]) -> None:
    """A pytest that ran no test, and has the plugin, is judged by its exit code alone."""
    (tmp_path / "test_a.py").write_text("def test_a(): pass\n")

    runfold_exec(tmp_path, "test", "--", sys.executable, "-m", "pytest", "-q", *more)

    assert "plugin_missing" != the_run(tmp_path).error_category


def test_exec_when_the_script_has_no_interpreter(tmp_path: Path) -> None:
    """A command that turns out not to be executable only when it starts fails the run in the same words."""
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)

    done = runfold_exec(tmp_path, "test", "--", "./script")

    run = the_run(tmp_path)
    assert (1, "failed", 127) == (done.returncode, run.status, run.shards[0].exit_code)
    assert "cannot execute './script'" in (run.error or "")


def test_exec_when_the_system_has_no_room(tmp_path: Path) -> None:
    """Processes that cannot all be started fail the run, and those that were started are ended."""
    arguments = ("test", "--shards", "20", "--", "sh", "-c", "echo $$ >pid.{shard}; exec sleep 1000")

    done = subprocess.run(
        ["sh", "-c", 'ulimit -n 40; exec "$@"', "sh", *RUNFOLD, *arguments],
        cwd=tmp_path,
        env={**os.environ, "RUNFOLD_URL": "sqlite:///runs.db"},
        capture_output=True,
        text=True,
        check=False,
    )

    run = the_run(tmp_path)
    assert (126, "failed", "not_started") == (done.returncode, run.status, run.error_category), done.stderr
    assert "could not be started: Too many open files" in done.stderr
    assert not any(is_alive(int(path.read_text() or 0)) for path in tmp_path.glob("pid.*"))


# --- keys -------------------------------------------------------------------------------------------------------


def test_exec_when_the_idempotency_key_was_used(tmp_path: Path) -> None:
    """Under the same key the command is executed once, and the second call exits as the first did."""
    arguments = ("test", "--idempotency-key", "k1", "--", "sh", "-c", "echo once >>done; exit 3")

    codes = [runfold_exec(tmp_path, *arguments).returncode for _ in range(2)]

    assert ([1, 1], "once\n") == (codes, (tmp_path / "done").read_text())


def test_exec_when_the_idempotency_key_is_in_use(tmp_path: Path) -> None:
    """Under the key of a run that somebody works on nothing is executed, and the worker is named."""
    arguments = ("test", "--idempotency-key", "k1", "--", "sh", "-c", "echo once >>done; read line <pipe")
    os.mkfifo(tmp_path / "pipe")
    environ = {**os.environ, "RUNFOLD_URL": "sqlite:///runs.db"}
    first = subprocess.Popen([*RUNFOLD, *arguments], cwd=tmp_path, env=environ, stderr=subprocess.DEVNULL)
    wait_for(tmp_path / "done")

    second = runfold_exec(tmp_path, *arguments)
    (tmp_path / "pipe").write_text("go\n")
    first_code = first.wait(30)

    assert (0, "once\n") == (first_code, (tmp_path / "done").read_text())
    assert 5 == second.returncode
    assert f"is with worker {the_run(tmp_path).worker}" in second.stderr


def test_exec_when_the_exclusive_key_is_taken(tmp_path: Path) -> None:
    """A second run under an exclusive key is refused by the name of the first; with supersede it takes its place."""
    first = subprocess.Popen(
        [*RUNFOLD, "test", "--exclusive-key", "k", "--", "sh", "-c", "echo >started; exec sleep 100"],
        cwd=tmp_path,
        env={**os.environ, "RUNFOLD_URL": "sqlite:///runs.db"},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(tmp_path / "started")
    held_by = the_run(tmp_path).id

    refused = runfold_exec(tmp_path, "test", "--exclusive-key", "k", "--", "touch", "refused")
    taken = runfold_exec(tmp_path, "test", "--exclusive-key", "k", "--on-active", "supersede", "--", "touch", "taken")
    said = first.communicate(timeout=30)[1]

    assert 5 == refused.returncode
    assert held_by in refused.stderr
    assert (False, True) == ((tmp_path / "refused").exists(), (tmp_path / "taken").exists())
    assert (0, 1) == (taken.returncode, first.returncode)
    assert "superseded" in said


def wait_for(path: Path) -> None:
    deadline = threading.Event()
    for _ in range(600):
        if path.exists():
            return
        deadline.wait(0.05)
    raise AssertionError(f"{path} did not appear")


# --- refused before anything is executed ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "url", "says"),
    [
        (("test", "--", "touch", "ran"), "memory:", "a ledger in memory"),
        (("test", "--shards", "2", "--junit", "*.xml", "--", "touch", "ran"), "", "Put {shard}"),
        (("test", "--shards", "0", "--", "touch", "ran"), "", "0 is not in the range"),
        (("test", "--shards", "257", "--", "touch", "ran"), "", "257 is not in the range"),
        (("test", "--timeout", "soon", "--", "touch", "ran"), "", "no duration"),
        (("test", "--label", "x", "--", "touch", "ran"), "", "no label"),
        (("test", "--input", "[1]", "--", "touch", "ran"), "", "JSON object"),
        (("test", "--input", "{", "--", "touch", "ran"), "", "cannot be read as JSON"),
        (("test",), "", "Missing argument"),
        (("test", "--timeout", "0", "--", "touch", "ran"), "", "--timeout is 0"),
    ],
)
def test_exec_when_it_is_asked_wrongly(tmp_path: Path, arguments: tuple[str, ...], url: str, says: str) -> None:
    """A usage error exits with 2 before anything is executed."""
    done = runfold_exec(tmp_path, *arguments, url=url or "sqlite:///runs.db")

    assert 2 == done.returncode
    assert says in done.stderr
    assert not (tmp_path / "ran").exists()


def test_exec_when_the_ledger_is_out_of_reach(tmp_path: Path) -> None:
    """Without a ledger nothing is executed: the run would be nowhere."""
    (tmp_path / "notes.txt").write_text("no database, and long enough to be seen as none" * 100)

    done = runfold_exec(tmp_path, "test", "--", "touch", "ran", url="sqlite:///notes.txt")

    assert 7 == done.returncode, done.stderr
    assert not (tmp_path / "ran").exists()


def test_exec_when_the_command_holds_a_secret(tmp_path: Path) -> None:
    """A credential among the arguments is refused before anything is written or executed."""
    token = "ghp_" + "a1B2" * 9

    done = runfold_exec(tmp_path, "deploy", "--", "touch", "ran", token)

    assert 2 == done.returncode
    assert "input.command[2]" in done.stderr
    assert token not in done.stderr
    assert not (tmp_path / "ran").exists()


# --- the terminal -----------------------------------------------------------------------------------------------


def test_exec_when_it_is_piped(tmp_path: Path) -> None:
    """Nothing is drawn when nobody watches: no escape sequence is written."""
    done = runfold_exec(tmp_path, "test", "--shards", "2", "--", "sh", "-c", "echo x; sleep 0.6")

    assert "\x1b" not in done.stdout + done.stderr
    assert "\r" not in done.stdout + done.stderr


def test_exec_when_it_has_a_terminal(tmp_path: Path) -> None:
    """On a terminal a line of progress shows what is recorded so far, and is gone at the end."""
    (tmp_path / "test_it.py").write_text(
        "import pytest, time\n"
        "@pytest.mark.parametrize('n', range(8))\n"
        "def test_one(n):\n    time.sleep(0.25)\n    assert n != 0\n"
    )
    screen, process_end = pty.openpty()
    process = subprocess.Popen(
        [*RUNFOLD, "test", "--quiet", "--", sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, "RUNFOLD_URL": "sqlite:///runs.db", "TERM": "xterm", "COLUMNS": "100"},
        stdout=subprocess.DEVNULL,
        stderr=process_end,
    )
    os.close(process_end)

    shown = read_terminal(screen)
    process.wait(30)

    drawn = [part for part in shown.split("\r\x1b[2K") if "1 failed" in part]
    assert len(drawn) > 1, shown
    assert shown.rstrip().endswith("completed, verdict failed: 1 failed, 7 passed")
    assert "\r\x1b[2Krunfold: run " in shown


def read_terminal(descriptor: int) -> str:
    said = b""
    while True:
        try:
            chunk = os.read(descriptor, 4096)
        except OSError:  # how Linux says that the other end is closed
            chunk = b""
        if not chunk:
            os.close(descriptor)
            return said.decode()
        said += chunk


def test_exec_when_nobody_reads_its_output(tmp_path: Path) -> None:
    """`runfold exec … | head` ends the reading, and not the run."""
    process = subprocess.Popen(
        [*RUNFOLD, "test", "--", "seq", "20000"],
        cwd=tmp_path,
        env={**os.environ, "RUNFOLD_URL": "sqlite:///runs.db"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()

    assert 0 == process.wait(60), said
    assert ("completed", 20_000) == (the_run(tmp_path).status, the_run(tmp_path).log_line_count)
    assert b"Traceback" not in said


def test_exec_when_the_command_leaves_something_running(tmp_path: Path) -> None:
    """What a command left behind is ended with it: it would hold the output open, and outlive the run."""
    done = runfold_exec(tmp_path, "test", "--", "sh", "-c", "sleep 100 & echo $!")

    left = int(done.stdout)
    assert 0 == done.returncode
    assert not is_alive(left)


def test_exec_when_the_output_goes_through_another_process(tmp_path: Path) -> None:
    """Output that a process of the command still passes on when the command has ended is not cut off."""
    done = runfold_exec(tmp_path, "test", "--", "bash", "-c", "exec > >(sleep 0.3; cat); echo the end")

    assert (0, ["the end"]) == (done.returncode, the_lines(tmp_path))


def is_alive(process_id: int) -> bool:
    try:
        status = Path(f"/proc/{process_id}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
