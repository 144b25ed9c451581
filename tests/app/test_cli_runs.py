"""`runfold enqueue`, `list`, `show`, `status` and `abort`, as a user types them."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from command_line import runfold, runfold_on_terminal

import ledger
from projections import Runs


@pytest.fixture
def log(tmp_path: Path) -> Iterator[ledger.Ledger]:
    """The ledger that commands in `tmp_path` find by themselves."""
    with ledger.open(f"sqlite:///{tmp_path / '.runfold' / 'runs.db'}") as opened:
        yield opened


def a_finished_run(log: ledger.Ledger, *, passed: int = 0, failed: int = 0, project: str | None = None) -> str:
    run = log.enqueue("test", project=project, shard_count=2)
    log.start(run.id, worker="w1")
    results = [{"status": "passed"}] * passed + [{"status": "failed"}] * failed
    log.append_results(run.id, results, shard=0)
    log.complete(run.id)
    return run.id


def ids(rows: list[list[str]]) -> list[str]:
    return [row[0] for row in rows]


# --- enqueue ------------------------------------------------------------------------------------------------


def test_enqueue_when_every_fact_is_given(tmp_path: Path) -> None:
    """Every option of enqueue is a fact of the run."""
    (tmp_path / "plan.json").write_text('{"branch": "main"}')

    done = runfold(
        *("enqueue", "test", "--project", "web", "--input", "@plan.json", "--idempotency-key", "k1"),
        *("--exclusive-key", "web@main", "--priority", "7", "--label", "a=b", "--label", "c=d=e"),
        *("--shards", "4", "--total", "90", "--attempts-max", "3"),
        folder=tmp_path,
    )

    with ledger.open(f"sqlite:///{tmp_path / '.runfold' / 'runs.db'}") as log:
        run = log.state(done.rows[0][0])
        enqueued = next(log.read(run.id))
    assert 0 == done.code, done.err
    assert ("test", "web", {"a": "b", "c": "d=e"}) == (run.kind, run.project, run.labels)
    assert (7, 4, 90, 3) == (run.priority, run.shard_count, run.total, run.attempts_max)
    assert ("k1", "web@main") == (run.idempotency_key, run.exclusive_key)
    assert {"branch": "main"} == enqueued.data.input  # type: ignore[union-attr]
    assert "ada" == enqueued.actor
    assert [[run.id, "1", enqueued.event_id, "enqueued"]] == done.rows


def test_enqueue_when_input_comes_from_stdin(tmp_path: Path, log: ledger.Ledger) -> None:
    """`--input -` reads the input from stdin."""
    done = runfold("enqueue", "test", "--input", "-", folder=tmp_path, stdin='{"n": 1}')

    assert {"n": 1} == next(log.read(done.rows[0][0])).data.input  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ('{"a": 1, "a": 2}', "'a' twice"),
        ('{"a": {"b": 1, "b": 1}}', "'b' twice"),
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "-Infinity"),
        ('{"a": 1e400}', "JSON does not have"),
        ('{"a": 9007199254740992}', "2^53"),
        ("[1]", "no JSON object"),
        ("{", "cannot be read as JSON"),
        ("@missing.json", "No such file"),
        ('{"a": ' + "[" * 100_000, "nested too deep"),
    ],
)
def test_enqueue_when_input_is_no_sound_json(tmp_path: Path, given: str, why: str) -> None:
    """Input that readers would understand differently is refused, with its reason, and no ledger is made."""
    done = runfold("enqueue", "test", "--input", "-" if len(given) > 1_000 else given, folder=tmp_path, stdin=given)

    assert 2 == done.code
    assert done.err.startswith("error: ")
    assert why in done.err
    assert 1 == len(done.err.splitlines())


def test_enqueue_when_the_idempotency_key_was_used(tmp_path: Path) -> None:
    """The same key with the same facts tells the same run, as existing."""
    first = runfold("enqueue", "test", "--idempotency-key", "k", folder=tmp_path)

    second = runfold("enqueue", "test", "--idempotency-key", "k", folder=tmp_path)

    assert [[*first.rows[0][:3], "existing"]] == second.rows


@pytest.mark.parametrize(("on_active", "code", "result"), [("reject", 5, None), ("return", 0, "existing")])
def test_enqueue_when_the_exclusive_key_is_held(
    tmp_path: Path, log: ledger.Ledger, on_active: str, code: int, result: str | None
) -> None:
    """A held exclusive key is refused with the holder's id, or gives the holder."""
    holder = log.enqueue("test", exclusive_key="k").id

    done = runfold("enqueue", "test", "--exclusive-key", "k", "--on-active", on_active, folder=tmp_path)

    assert code == done.code
    assert holder in done.out + done.err
    assert ([[holder, "1"]] if result else []) == [row[:2] for row in done.rows]


def test_enqueue_when_it_supersedes(tmp_path: Path, log: ledger.Ledger) -> None:
    """`--on-active supersede` aborts the holder of the key and makes a new run."""
    holder = log.enqueue("test", exclusive_key="k").id

    done = runfold("enqueue", "test", "--exclusive-key", "k", "--on-active", "supersede", folder=tmp_path)

    assert "aborted" == log.state(holder).status
    assert "queued" == log.state(done.rows[0][0]).status


@pytest.mark.parametrize(
    ("option", "value", "expected_s"), [("--delay", "5m", 300), ("--delay", "1h30m", 5_400), ("--delay", "90", 90)]
)
def test_enqueue_when_it_is_delayed(
    tmp_path: Path, log: ledger.Ledger, option: str, value: str, expected_s: int
) -> None:
    """A delay makes the run scheduled, for that long from now."""
    done = runfold("enqueue", "test", option, value, folder=tmp_path)

    run = log.state(done.rows[0][0])
    assert run.not_before is not None
    assert run.created_at is not None
    assert "scheduled" == run.status
    assert abs(expected_s - (run.not_before - run.created_at).total_seconds()) < 30


def test_enqueue_when_it_has_a_time(tmp_path: Path, log: ledger.Ledger) -> None:
    """`--not-before` takes a moment with its zone."""
    done = runfold("enqueue", "test", "--not-before", "2199-01-01T02:00:00+02:00", folder=tmp_path)

    assert datetime(2199, 1, 1, tzinfo=UTC) == log.state(done.rows[0][0]).not_before


@pytest.mark.parametrize(
    "args",
    [
        ["--delay", "5m", "--not-before", "2199-01-01"],
        ["--delay", "soon"],
        ["--not-before", "tomorrow"],
        ["--label", "branch"],
        ["--timeout", "5s"],
        ["--shards", "0"],
        ["--shards", "10001"],
        ["--url", "memory:"],
        ["--url", "mysql://db"],
    ],
)
def test_enqueue_when_an_option_makes_no_sense(tmp_path: Path, args: list[str]) -> None:
    """What cannot be meant is a usage error in one line."""
    done = runfold("enqueue", "test", *args, folder=tmp_path)

    assert (2, "", 1) == (done.code, done.out, len(done.err.splitlines()))


def test_enqueue_when_json_is_asked_for(tmp_path: Path) -> None:
    """`--json` prints what was written, all of it or the fields that are named."""
    everything = runfold("enqueue", "test", "--json", folder=tmp_path)
    some = runfold("enqueue", "test", "--json", "run_id,result", folder=tmp_path)

    assert {"run_id", "version", "event_id", "result"} == set(json.loads(everything.out)[0])
    assert {"run_id", "result"} == set(json.loads(some.out)[0])


# --- list ---------------------------------------------------------------------------------------------------


def test_list_when_piped(tmp_path: Path, log: ledger.Ledger) -> None:
    """Piped, a list is tab-separated, without a header, whole ids and ISO times, newest first."""
    first = a_finished_run(log, passed=2, failed=1, project="web")
    second = log.enqueue("deploy", labels={"a": "b"}).id

    rows = runfold("list", folder=tmp_path).rows

    assert [second, first] == ids(rows)
    assert ["completed", "failed", "test", "web", "2", "1", "0", "3"] == rows[1][1:9]
    assert datetime.fromisoformat(rows[1][9]).tzinfo is not None
    assert ["0", "2"] == rows[1][11:13]
    assert "a=b" == rows[0][13]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (["-s", "completed"], "ab"),
        (["-s", "completed", "-s", "queued"], "abc"),
        (["--verdict", "failed"], "b"),
        (["--kind", "deploy"], "c"),
        (["--project", "web"], "a"),
        (["--label", "branch=main"], "c"),
        (["--label", "branch=other"], ""),
        (["--since", "1h"], "abc"),
        (["--before", "1h"], ""),
        (["--since", "2000-01-01", "--before", "2001-01-01T00:00:00Z"], ""),
        (["-L", "1"], "c"),
        (["--deleted"], "d"),
        (["--deleted", "include"], "abcd"),
        (["--at", "2000-01-01"], ""),
    ],
)
def test_list_when_filtered(tmp_path: Path, log: ledger.Ledger, filters: list[str], expected: str) -> None:
    """Each filter gives the runs that it names, and no other."""
    made = {
        "a": a_finished_run(log, passed=1, project="web"),
        "b": a_finished_run(log, failed=1),
        "d": a_finished_run(log),
        "c": log.enqueue("deploy", labels={"branch": "main"}).id,
    }
    log.delete(made["d"])

    done = runfold("list", *filters, folder=tmp_path)

    assert 0 == done.code, done.err
    assert {made[name] for name in expected} == set(ids(done.rows))


def test_list_when_asked_as_of_a_moment(tmp_path: Path, log: ledger.Ledger) -> None:
    """`--at` shows the runs as they were then."""
    run = log.enqueue("test").id
    then = datetime.now(UTC)
    log.start(run, worker="w1")

    done = runfold("list", "--at", then.isoformat(), folder=tmp_path)

    assert [[run, "queued"]] == [row[:2] for row in done.rows]


def test_list_when_paged(tmp_path: Path, log: ledger.Ledger) -> None:
    """The JSON of a page has the token that the next page is asked with; the last one has none."""
    runs = [log.enqueue("test").id for _ in range(5)]

    first = json.loads(runfold("list", "-L", "3", "--json", "run_id", folder=tmp_path).out)
    token = first["next_page_token"]
    second = json.loads(runfold("list", "-L", "3", "--page-token", token, "--json", folder=tmp_path).out)

    assert runs[::-1] == [run["run_id"] for run in first["runs"] + second["runs"]]
    assert second["next_page_token"] is None


def test_list_when_all_are_wanted(tmp_path: Path, log: ledger.Ledger) -> None:
    """Without `--all` a list stops at 30 runs; with it, and with a large limit, it does not."""
    for _ in range(35):
        log.enqueue("test")

    counts = [len(runfold("list", *args, folder=tmp_path).rows) for args in ([], ["--all"], ["-L", "2000"])]

    assert [30, 35, 35] == counts


def test_list_when_json_lines_are_wanted(tmp_path: Path, log: ledger.Ledger) -> None:
    """`--jsonl` prints an object a line, with every field or those that `--json` names."""
    runs = [log.enqueue("test").id for _ in range(2)]

    whole = runfold("list", "--jsonl", folder=tmp_path).out.splitlines()
    picked = runfold("list", "--jsonl", "--json", "status,run_id", folder=tmp_path).out.splitlines()

    assert set(ledger.Run.__struct_fields__) == set(json.loads(whole[0]))
    assert [{"status": "queued", "run_id": run} for run in runs[::-1]] == [json.loads(line) for line in picked]


def test_list_when_a_field_is_unknown(tmp_path: Path, log: ledger.Ledger) -> None:
    """An unknown field is a usage error that lists the fields, as a problem object."""
    done = runfold("list", "--json", "run_id,colour", folder=tmp_path)

    problem = json.loads(done.err)
    assert 2 == done.code == problem["exit_code"]
    assert "'colour'" in problem["detail"]
    assert "run_id, kind, project" in problem["detail"]


def test_list_when_there_are_no_runs(tmp_path: Path, log: ledger.Ledger) -> None:
    """An empty ledger is no error: no row, or an empty array."""
    assert (0, "", "") == runfold("list", folder=tmp_path)
    assert {"runs": [], "next_page_token": None} == json.loads(runfold("list", "--json", folder=tmp_path).out)


def test_list_when_there_is_no_ledger(tmp_path: Path) -> None:
    """A ledger that does not exist is told, with what to do, and not made."""
    done = runfold("list", folder=tmp_path)

    assert (7, "") == (done.code, done.out)
    assert f"no ledger at {tmp_path / '.runfold' / 'runs.db'}" in done.err
    assert "runfold enqueue" in done.err
    assert [] == list(tmp_path.iterdir())


def test_list_when_on_a_terminal(tmp_path: Path, log: ledger.Ledger) -> None:
    """On a terminal a list has a header, glyphs beside the words, colors and relative times."""
    run = a_finished_run(log, passed=1, project="web")

    shown = runfold_on_terminal("list", folder=tmp_path).out

    header, row = shown.splitlines()
    assert "STATUS" in header
    assert run[:13] in row
    assert run not in row
    assert "\x1b[32m✓ completed\x1b[0m" in row
    assert "ago" in row or "now" in row


def test_list_when_the_terminal_is_narrow(tmp_path: Path, log: ledger.Ledger) -> None:
    """Long values give way, and no line is wider than the terminal."""
    log.enqueue("t" * 150, project="p" * 150, labels={"l" * 100: "v" * 100})

    lines = runfold_on_terminal("list", "--color", "never", folder=tmp_path, columns=90).out.splitlines()

    assert [True, True] == [len(line) <= 90 for line in lines]
    assert "…" in lines[1]


# --- show ---------------------------------------------------------------------------------------------------


def test_show_when_piped(tmp_path: Path, log: ledger.Ledger) -> None:
    """Piped, each fact of a run is a line: its name and its value."""
    run = a_finished_run(log, passed=1)

    facts = dict(runfold("show", run, folder=tmp_path).rows)

    assert list(ledger.Run.__struct_fields__) == list(facts)
    assert (run, "completed", "1", "2") == (facts["run_id"], facts["status"], facts["passed"], facts["shard_count"])


def test_show_when_asked_as_of_a_version_or_moment(tmp_path: Path, log: ledger.Ledger) -> None:
    """`--at` folds the run up to a version, or up to a moment."""
    run = log.enqueue("test").id
    then = datetime.now(UTC).isoformat()
    log.start(run, worker="w1")
    log.complete(run)

    at = [dict(runfold("show", run, "--at", at, folder=tmp_path).rows)["status"] for at in ("1", "2", "3", then)]

    assert ["queued", "running", "completed", "queued"] == at


def test_show_when_shards_gates_and_input_are_wanted(tmp_path: Path, log: ledger.Ledger) -> None:
    """Shards, gates and input are shown when asked for, and always in the JSON."""
    run = log.enqueue("test", shard_count=2, input={"n": 1}).id
    log.start(run, worker="w1")
    log.append_results(run, [{"status": "failed"}], shard=1)
    log.complete_shard(run, 1, exit_code=3)
    log.finish_gate(run, "lint", "passed", summary="clean")

    rows = runfold("show", run, "--shards", "--gates", "--input", folder=tmp_path).rows
    document = json.loads(runfold("show", run, "--json", folder=tmp_path).out)

    assert ["input", '{"n":1}'] in rows
    assert ["shard", "1", "1", "true", "3", "0", "1", "0", "failed=1"] in rows
    assert ["gate", "lint", "passed", "5", "clean", ""] in rows
    assert {"n": 1} == document["input"]
    assert [(1, 1, 3)] == [(s["shard"], s["failed"], s["exit_code"]) for s in document["shards"]]
    assert "lint" == document["gates"][0]["gate"]


def test_show_when_on_a_terminal(tmp_path: Path, log: ledger.Ledger) -> None:
    """On a terminal, a run is told in words, and what is empty is left out."""
    run = a_finished_run(log, passed=3, failed=1, project="web")

    shown = runfold_on_terminal("show", run[:13], "--shards", folder=tmp_path, env={"NO_COLOR": "1"}).out

    assert "verdict             ✗ failed" in shown
    assert "1 failed, 3 passed" in shown
    assert "SHARD  ATTEMPT" in shown
    assert "idempotency" not in shown


def test_show_when_an_error_has_several_lines(tmp_path: Path, log: ledger.Ledger) -> None:
    """On a terminal the lines of an error stand below each other; piped they stay on one line."""
    run = log.enqueue("test").id
    log.fail(run, error="first\n  second \x1b[2J\tthird")

    shown = runfold_on_terminal("show", run, folder=tmp_path, env={"NO_COLOR": "1"}).out
    piped = dict(runfold("show", run, folder=tmp_path).rows)

    assert f"error               first\n{' ' * 20}  second \\tthird\n" in shown
    assert "first\\n  second \\tthird" == piped["error"]


def test_list_when_the_encoding_lacks_a_character(tmp_path: Path, log: ledger.Ledger) -> None:
    """What an encoding cannot say is escaped in text, and JSON is UTF-8 whatever the encoding is."""
    log.enqueue("test", project="漢é👍")
    env = {"PYTHONIOENCODING": "ascii"}

    text = runfold("list", folder=tmp_path, env=env)
    document = runfold("list", "--json", "project", folder=tmp_path, env=env)

    assert "\\u6f22\\xe9\\U0001f44d" == text.rows[0][4]
    assert "漢é👍" == json.loads(document.out)["runs"][0]["project"]


# --- how a run is named -------------------------------------------------------------------------------------


def test_show_when_a_prefix_is_given(tmp_path: Path, log: ledger.Ledger) -> None:
    """The first characters of an id name its run, in upper case as well."""
    run = log.enqueue("test", run_id="0199d1a2-0000-7000-8000-00000000000a").id
    log.enqueue("test", run_id="0199d1b2-0000-7000-8000-00000000000b")

    assert run == dict(runfold("show", "0199D1A", folder=tmp_path).rows)["run_id"]


def test_show_when_a_prefix_is_ambiguous(tmp_path: Path, log: ledger.Ledger) -> None:
    """A prefix of several ids is a usage error that lists them."""
    first = log.enqueue("test", run_id="0199d1a2-0000-7000-8000-00000000000a").id
    second = log.enqueue("test", run_id="0199d1a2-0000-7000-8000-00000000000b").id

    done = runfold("show", "0199d1a2", folder=tmp_path)

    assert (2, "") == (done.code, done.out)
    assert f"{first}, {second}" in done.err


def test_status_when_the_last_ones_are_meant(tmp_path: Path, log: ledger.Ledger) -> None:
    """`@last` is the newest run; `@last-failed` the newest that failed or whose verdict is failed."""
    log.fail(log.enqueue("test").id, error="boom")
    failed = a_finished_run(log, failed=1)
    last = a_finished_run(log, passed=1)

    done = runfold("status", "@last", "@last-failed", folder=tmp_path)

    assert [last, failed] == ids(done.rows)


@pytest.mark.parametrize("given", ["@last", "@last-failed", "0199", "0199d1a2-0000-7000-8000-00000000000a"])
def test_show_when_the_run_does_not_exist(tmp_path: Path, log: ledger.Ledger, given: str) -> None:
    """A run that is not there is not found, however it is named."""
    done = runfold("show", given, folder=tmp_path)

    assert (3, "") == (done.code, done.out)


@pytest.mark.parametrize("given", ["@first", "xyz", "0199/", ""])
def test_show_when_nothing_can_be_meant(tmp_path: Path, log: ledger.Ledger, given: str) -> None:
    """What cannot begin an id is a usage error."""
    assert 2 == runfold("show", given, folder=tmp_path).code


# --- status -------------------------------------------------------------------------------------------------


def test_status_when_ids_come_from_stdin(tmp_path: Path, log: ledger.Ledger) -> None:
    """`-` reads ids from stdin, the first column of each line, so that a list can be piped as it is."""
    first, second = a_finished_run(log, passed=1), log.enqueue("test").id
    listed = runfold("list", folder=tmp_path).out

    done = runfold("status", "-", folder=tmp_path, stdin=listed)

    assert [[second, "queued"], [first, "completed"]] == [row[:2] for row in done.rows]


def test_status_when_one_of_them_is_missing(tmp_path: Path, log: ledger.Ledger) -> None:
    """Every run that is there is told, every one that is not as well, and the exit code says it."""
    run = log.enqueue("test").id

    done = runfold("status", "0199aaaa", run, "0199bbbb", folder=tmp_path)

    assert 3 == done.code
    assert [run] == ids(done.rows)
    assert 2 == len(done.err.splitlines())


# --- abort --------------------------------------------------------------------------------------------------


def test_abort_when_the_run_is_active(tmp_path: Path, log: ledger.Ledger) -> None:
    """An abort prints the run, its new version and the event, which carries the reason and who it was."""
    run = log.enqueue("test").id

    done = runfold("abort", run, "--reason", "wrong branch", folder=tmp_path)

    *_, event = log.read(run)
    assert [[run, "2", event.event_id, "aborted"]] == done.rows
    assert ("aborted", "ada", "wrong branch") == (event.type, event.actor, log.state(run).error)


def test_abort_when_the_run_has_ended(tmp_path: Path, log: ledger.Ledger) -> None:
    """A run that has ended stays as it is, and who ended it is told, as fields of the problem too."""
    run = a_finished_run(log)

    plain = runfold("abort", run, folder=tmp_path)
    problem = json.loads(runfold("abort", run, "--json", folder=tmp_path).err)

    assert (5, "") == (plain.code, plain.out)
    assert "`completed`" in plain.err
    assert ("urn:runfold:problem:run-closed", 5, run) == (problem["type"], problem["exit_code"], problem["run_id"])
    assert "completed" == problem["winner"]["type"]
    assert "completed" == log.state(run).status


def test_abort_when_there_are_several_and_nobody_said_yes(tmp_path: Path, log: ledger.Ledger) -> None:
    """Several runs are not aborted without `--yes`, and nothing is asked where nobody can answer."""
    runs = [log.enqueue("test").id for _ in range(2)]

    done = runfold("abort", *runs, folder=tmp_path)

    assert (2, "") == (done.code, done.out)
    assert "--yes" in done.err
    assert ["queued", "queued"] == [log.state(run).status for run in runs]


def test_abort_when_some_have_ended(tmp_path: Path, log: ledger.Ledger) -> None:
    """With `--yes` each run has its turn, and the exit code is that of the one that was refused."""
    ended, active = a_finished_run(log), log.enqueue("test").id

    done = runfold("abort", "-", "--yes", folder=tmp_path, stdin=f"{ended}\n{active}\n")

    assert 5 == done.code
    assert [active] == ids(done.rows)
    assert ["completed", "aborted"] == [log.state(run).status for run in (ended, active)]


def test_abort_when_it_is_a_dry_run(tmp_path: Path, log: ledger.Ledger) -> None:
    """`--dry-run` tells what would be aborted and writes nothing."""
    runs = [log.enqueue("test").id for _ in range(2)]

    done = runfold("abort", *runs, "--dry-run", folder=tmp_path)

    assert [[run, "1", "", "would_abort"] for run in runs] == done.rows
    assert 2 == len(list(log.read_all()))


@pytest.mark.parametrize(("answer", "code", "status"), [("y\n", 0, "aborted"), ("n\n", 130, "queued")])
def test_abort_when_asked_on_a_terminal(
    tmp_path: Path, log: ledger.Ledger, answer: str, code: int, status: str
) -> None:
    """On a terminal several runs are asked for, and the answer decides."""
    runs = [log.enqueue("test").id for _ in range(2)]

    done = runfold_on_terminal("abort", *runs, folder=tmp_path, keys=answer)

    assert code == done.code
    assert "Abort 2 runs?" in done.out
    assert [status, status] == [log.state(run).status for run in runs]


def test_abort_when_there_is_no_ledger(tmp_path: Path) -> None:
    """Aborting needs a ledger that is there; none is made for it."""
    assert 7 == runfold("abort", "@last", folder=tmp_path).code
    assert [] == list(tmp_path.iterdir())


# --- both databases -----------------------------------------------------------------------------------------


def test_commands_when_the_ledger_is_on_any_database(tmp_path: Path, shared_url: str) -> None:
    """The same commands give the same answers on SQLite and PostgreSQL."""
    ledger.open(shared_url, migrate=True).close()
    env = {"RUNFOLD_URL": shared_url}

    run = runfold("enqueue", "test", "--label", "a=b", folder=tmp_path, env=env).rows[0][0]
    listed = runfold("list", "-s", "queued", "--label", "a=b", folder=tmp_path, env=env)
    shown = runfold("show", run[:18], folder=tmp_path, env=env)
    aborted = runfold("abort", "@last", "--url", shared_url, folder=tmp_path)
    refused = runfold("abort", "@last", folder=tmp_path, env=env)
    history = runfold("history", run, folder=tmp_path, env=env)
    watched = runfold("watch", run, "--exit-status", folder=tmp_path, env=env)

    assert [0, 0, 0, 5, 0, 1] == [done.code for done in (listed, shown, aborted, refused, history, watched)]
    assert [run] == ids(listed.rows)
    assert ["status", "queued"] in shown.rows
    assert [run, "2"] == aborted.rows[0][:2]
    assert ["enqueued", "aborted"] == [row[3] for row in history.rows]
    assert "aborted" == watched.rows[0][1]
    with ledger.open(shared_url) as log:
        assert "aborted" == Runs(log).get(run).status


def test_list_when_times_are_wanted_otherwise(tmp_path: Path, log: ledger.Ledger) -> None:
    """`--time` changes how times are told, piped and on a terminal."""
    log.enqueue("test")

    piped = runfold("list", "--time", "relative", folder=tmp_path)
    shown = runfold_on_terminal("list", "--time", "iso", folder=tmp_path, columns=200)

    assert re.fullmatch(r"now|\d+s ago", piped.rows[0][9])
    assert datetime.now(UTC).strftime("%Y-%m-%dT") in shown.out
