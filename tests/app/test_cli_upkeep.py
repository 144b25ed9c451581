"""`runfold projection`, `db`, `config` and `completion`."""

import json
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import RUNFOLD, environment, runfold, runfold_on_terminal

import ledger
from ledger.stores.migrations import load_migrations
from projections import Runs


@pytest.fixture
def log(tmp_path: Path) -> Iterator[ledger.Ledger]:
    with ledger.open(f"sqlite:///{tmp_path / '.runfold' / 'runs.db'}") as opened:
        yield opened


def change_rows(folder: Path, statement: str) -> None:
    """Change rows of the projection behind the ledger's back, as a defect would."""
    connection = sqlite3.connect(folder / ".runfold" / "runs.db")
    with connection:
        connection.execute(statement)
    connection.close()


# --- projection ---------------------------------------------------------------------------------------------


def test_projection_list_when_events_are_new(tmp_path: Path, log: ledger.Ledger) -> None:
    """The list says how far each projection is behind, and since when."""
    log.enqueue("test")
    Runs(log).list()
    log.enqueue("test")

    rows = runfold("projection", "list", folder=tmp_path).rows
    (lag,) = json.loads(runfold("projection", "lag", "runs", "--json", folder=tmp_path).out)

    *_, newest = log.read_all()
    first = next(log.read_all())
    assert ["runs", "1", "2", "1", newest.envelope.recorded_at] == rows[0]
    assert [[name, "0", "2", "2", first.envelope.recorded_at] for name in ("results", "documents", "timings")] == rows[
        1:
    ]
    assert ("runs", 1, newest.envelope.recorded_at) == (lag["name"], lag["events_behind"], lag["behind_since"])


@pytest.mark.parametrize("name", ["results", "documents", "timings"])
def test_projection_commands_when_another_is_named(tmp_path: Path, log: ledger.Ledger, name: str) -> None:
    """Every projection is rebuilt, verified and measured by its name."""
    run = log.enqueue("test").id
    log.append_results(run, [{"testId": "T", "status": "passed"}])

    rebuilt = runfold("projection", "rebuild", name, folder=tmp_path)
    verified = runfold("projection", "verify", name, folder=tmp_path)
    lag = runfold("projection", "lag", name, folder=tmp_path)

    assert [[name, "2", "2"]] == rebuilt.rows
    assert [[name, "equal", "1"]] == verified.rows
    assert [[name, "2", "2", "0", ""]] == lag.rows


def test_projection_rebuild_when_rows_are_damaged(tmp_path: Path, log: ledger.Ledger) -> None:
    """Verify names the row that differs and exits with 8; rebuild makes it anew; verify agrees."""
    run = log.enqueue("test").id
    Runs(log).list()
    change_rows(tmp_path, "UPDATE runs SET kind = 'other'")

    before = runfold("projection", "verify", folder=tmp_path)
    document = runfold("projection", "verify", "--json", folder=tmp_path)
    rebuilt = runfold("projection", "rebuild", "runs", folder=tmp_path)
    after = runfold("projection", "verify", "runs", folder=tmp_path)

    assert (8, 8, 0, 0) == (before.code, document.code, rebuilt.code, after.code)
    assert [
        ["runs", "different", "1"],
        ["differing", run],
        ["miscounted", "", "other", "queued", "0", "1"],
        ["miscounted", "", "test", "queued", "1", "0"],
    ] == before.rows
    assert run in before.err
    assert "rebuild" in before.err
    assert {
        "name": "runs",
        "is_equal": False,
        "checked": 1,
        "missing": [],
        "extra": [],
        "differing": [run],
        "miscounted": [
            {"project": None, "kind": "other", "status": "queued", "counted": 0, "there": 1},
            {"project": None, "kind": "test", "status": "queued", "counted": 1, "there": 0},
        ],
    } == json.loads(document.out)
    assert [["runs", "2", "1"]] == rebuilt.rows
    assert [["runs", "equal", "1"]] == after.rows


def test_projection_verify_when_only_a_count_is_wrong(tmp_path: Path, log: ledger.Ledger) -> None:
    """Verify tells what is counted and what is there, exits with 8, and a rebuild counts anew."""
    log.enqueue("test", project="web")
    Runs(log).list()
    change_rows(tmp_path, "UPDATE run_counts SET count = 99")

    before = runfold("projection", "verify", folder=tmp_path)
    rebuilt = runfold("projection", "rebuild", "runs", folder=tmp_path)
    after = runfold("projection", "verify", folder=tmp_path)

    assert (8, 0, 0) == (before.code, rebuilt.code, after.code)
    assert [["runs", "different", "1"], ["miscounted", "web", "test", "queued", "99", "1"]] == before.rows
    assert "1 count(s) of `runs` are not what its rows say" in before.err
    assert "row(s)" not in before.err


def test_projection_rebuild_when_on_a_terminal(tmp_path: Path, log: ledger.Ledger) -> None:
    """On a terminal a rebuild shows how far it is."""
    log.enqueue("test")

    shown = runfold_on_terminal("projection", "rebuild", folder=tmp_path).out

    assert "runs: 100 %, at position 1 of 1" in shown


@pytest.mark.parametrize("command", ["rebuild", "verify", "lag"])
def test_projection_when_its_name_is_unknown(tmp_path: Path, log: ledger.Ledger, command: str) -> None:
    """A projection that does not exist is bad input, and told with those that do."""
    done = runfold("projection", command, "walks", folder=tmp_path)

    assert 2 == done.code
    assert "runs" in done.err


# --- db -----------------------------------------------------------------------------------------------------


def test_db_migrate_when_there_is_no_ledger(tmp_path: Path) -> None:
    """Migrating makes a SQLite ledger, tells each migration, and tells nothing when asked again."""
    first = runfold("db", "migrate", folder=tmp_path)
    again = runfold("db", "migrate", folder=tmp_path)
    status = runfold("db", "status", folder=tmp_path)

    known = [[str(m.number), m.name, "applied", m.checksum] for m in load_migrations("sqlite")]
    assert known == [[*row[:3], row[4]] for row in first.rows]
    assert (0, "") == (again.code, again.out)
    assert (0, first.rows) == (status.code, status.rows)


def test_db_status_when_there_is_no_ledger(tmp_path: Path) -> None:
    """The status of a ledger that does not exist is an error, and makes none."""
    assert 7 == runfold("db", "status", folder=tmp_path).code
    assert [] == list(tmp_path.iterdir())


def test_db_when_the_database_is_empty(tmp_path: Path, postgres_server: "object") -> None:
    """On PostgreSQL migrations are pending (8) until somebody applies them; other commands refuse until then (7)."""
    url = postgres_server.create_database()  # type: ignore[attr-defined]

    before = runfold("db", "status", "--url", url, folder=tmp_path)
    refused = runfold("list", "--url", url, folder=tmp_path)
    migrated = runfold("db", "migrate", "--url", url, folder=tmp_path)
    after = runfold("db", "status", "--url", url, "--json", folder=tmp_path)
    listed = runfold("list", "--url", url, folder=tmp_path)

    postgres_server.drop_database(url)  # type: ignore[attr-defined]
    assert (8, 7, 0, 0, 0) == (before.code, refused.code, migrated.code, after.code, listed.code)
    assert {"pending"} == {row[2] for row in before.rows}
    assert "runfold db migrate" in refused.err
    assert [row[1] for row in before.rows] == [row[1] for row in migrated.rows]
    assert all(migration["is_applied"] for migration in json.loads(after.out))


def test_db_status_when_a_newer_release_migrated(tmp_path: Path, log: ledger.Ledger) -> None:
    """A database of a newer release is refused with what to do."""
    change_rows(tmp_path, "INSERT INTO schema_migrations VALUES (99, 'later', 'abc', '2199-01-01T00:00:00.000000Z')")

    done = runfold("db", "status", folder=tmp_path)

    assert 7 == done.code
    assert "Upgrade" in done.err


# --- config -------------------------------------------------------------------------------------------------


def settings(done: "object") -> dict[str, tuple[str, str]]:
    return {row[0]: (row[1], row[2]) for row in done.rows}  # type: ignore[attr-defined]


def test_config_when_nothing_is_set(tmp_path: Path) -> None:
    """Without settings the ledger is `.runfold/runs.db` here, the actor the user."""
    shown = settings(runfold("config", "show", folder=tmp_path))

    assert {
        "url": (f"sqlite:///{tmp_path / '.runfold' / 'runs.db'}", "default"),
        "actor": ("ada", "default"),
        "color": ("auto", "default"),
        "time": ("auto", "default"),
    } == shown


def test_config_when_a_setting_is_everywhere(tmp_path: Path) -> None:
    """A flag wins over the environment, that over the project's file, that over the user's, that over the default."""
    project, user = tmp_path / "runfold.toml", tmp_path / ".config" / "runfold" / "config.toml"
    user.parent.mkdir(parents=True)
    seen = [settings(runfold("config", "show", folder=tmp_path))["time"]]
    user.write_text('time = "iso"')
    seen.append(settings(runfold("config", "show", folder=tmp_path))["time"])
    project.write_text('time = "relative"')
    seen.append(settings(runfold("config", "show", folder=tmp_path))["time"])
    seen.append(settings(runfold("config", "show", folder=tmp_path, env={"RUNFOLD_TIME": "iso"}))["time"])
    flag = runfold("config", "show", "--time", "relative", folder=tmp_path, env={"RUNFOLD_TIME": "iso"})
    seen.append(settings(flag)["time"])

    assert [
        ("auto", "default"),
        ("iso", str(user)),
        ("relative", str(project)),
        ("iso", "RUNFOLD_TIME"),
        ("relative", "--time"),
    ] == seen


def test_config_when_the_users_file_is_elsewhere(tmp_path: Path) -> None:
    """`$XDG_CONFIG_HOME` says where the user's file is."""
    (tmp_path / "xdg" / "runfold").mkdir(parents=True)
    (tmp_path / "xdg" / "runfold" / "config.toml").write_text('actor = "grace"')

    done = runfold("config", "show", folder=tmp_path, env={"XDG_CONFIG_HOME": str(tmp_path / "xdg")})

    assert "grace" == settings(done)["actor"][0]


def test_config_when_the_project_is_a_parent(tmp_path: Path) -> None:
    """The nearest parent's file holds, and its relative paths are seen from it."""
    (tmp_path / "runfold.toml").write_text('url = "sqlite:///data/runs.db"')
    (tmp_path / "a" / "b").mkdir(parents=True)

    shown = settings(runfold("config", "show", folder=tmp_path / "a" / "b"))
    runfold("enqueue", "test", folder=tmp_path / "a" / "b")

    assert f"sqlite:///{tmp_path / 'data' / 'runs.db'}" == shown["url"][0]
    assert (tmp_path / "data" / "runs.db").exists()


@pytest.mark.parametrize("file", ["runfold.toml", ".config/runfold/config.toml"])
def test_config_when_a_file_is_none(file: str, tmp_path: Path) -> None:
    """Something else that has the name of a settings file is told of, not passed over."""
    (tmp_path / file).mkdir(parents=True)

    done = runfold("list", folder=tmp_path)

    assert 2 == done.code
    assert f"{file} cannot be read" in done.err


def test_ledger_when_a_parent_has_one(tmp_path: Path, log: ledger.Ledger) -> None:
    """A `.runfold` folder is found upward, as git finds `.git`."""
    run = log.enqueue("test").id
    (tmp_path / "a" / "b").mkdir(parents=True)

    assert run == runfold("list", folder=tmp_path / "a" / "b").rows[0][0]


def test_ledger_when_the_project_has_none_yet(tmp_path: Path) -> None:
    """A new default ledger is made beside the project's `runfold.toml`."""
    (tmp_path / "runfold.toml").write_text('actor = "ci"')
    (tmp_path / "a").mkdir()

    runfold("enqueue", "test", folder=tmp_path / "a")

    assert (tmp_path / ".runfold" / "runs.db").exists()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("url = ", "TOML"),
        ("colour = 'always'", "'colour'"),
        ("color = 'blue'", "auto, always, never"),
        ("time = 3", "a text is needed"),
    ],
)
def test_config_when_a_file_is_wrong(tmp_path: Path, content: str, why: str) -> None:
    """A file that cannot be understood is told with its path, by every command."""
    (tmp_path / "runfold.toml").write_text(content)

    done = runfold("config", "show", folder=tmp_path)

    assert 2 == done.code
    assert str(tmp_path / "runfold.toml") in done.err
    assert why in done.err


@pytest.mark.parametrize("url", ["postgresql://u:s3cret@h/d", "postgresql://h/d?user=u&password=s3cret"])
def test_config_when_the_url_has_a_password(tmp_path: Path, url: str) -> None:
    """A password is never shown."""
    done = runfold("config", "show", "--url", url, folder=tmp_path)

    assert "s3cret" not in done.out
    assert "***" in done.out


@pytest.mark.parametrize(
    ("env", "flags", "is_colored"),
    [
        ({}, [], True),
        ({"NO_COLOR": "1"}, [], False),
        ({"NO_COLOR": "1"}, ["--color", "always"], True),
        ({"NO_COLOR": ""}, [], True),
        ({"TERM": "dumb"}, [], False),
        ({}, ["--color", "never"], False),
    ],
)
def test_color_when_on_a_terminal(
    tmp_path: Path, log: ledger.Ledger, env: dict[str, str], flags: list[str], is_colored: bool
) -> None:
    """A terminal is colored unless `NO_COLOR`, a dumb terminal or `--color` says otherwise."""
    log.enqueue("test")

    assert is_colored == ("\x1b[" in runfold_on_terminal("list", *flags, folder=tmp_path, env=env).out)


@pytest.mark.parametrize(
    ("env", "flags", "is_colored"),
    [
        ({}, [], False),
        ({"CLICOLOR_FORCE": "1"}, [], True),
        ({"CLICOLOR_FORCE": "0"}, [], False),
        ({}, ["always"], True),
    ],
)
def test_color_when_piped(
    tmp_path: Path, log: ledger.Ledger, env: dict[str, str], flags: list[str], is_colored: bool
) -> None:
    """What is piped is colored only when `CLICOLOR_FORCE` or `--color always` asks for it."""
    run = log.enqueue("test", shard_count=2).id
    log.append_log(run, ["hello"], shard=0)

    done = runfold("logs", run, *(["--color", *flags] if flags else []), folder=tmp_path, env=env)

    assert is_colored == ("\x1b[" in done.out)


# --- completion ---------------------------------------------------------------------------------------------


def completed(folder: Path, line: str) -> set[str]:
    """Ask a real bash, with the script sourced, what it would complete."""
    script = f"""
        PATH={Path(RUNFOLD).parent}:$PATH
        source <(runfold completion bash)
        COMP_WORDS=({line}) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        _runfold_completion runfold
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "" == done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("runfold pro", {"projection"}),
        ("runfold projection re", {"rebuild"}),
        ("runfold list --stat", {"--status"}),
        ("runfold list --status ru", {"running"}),
        ("runfold show @last-", {"@last-failed"}),
    ],
)
def test_completion_when_bash_asks(tmp_path: Path, line: str, expected: set[str]) -> None:
    """Bash completes commands, options, their values and names of runs; without a ledger too."""
    assert expected == completed(tmp_path, line)


def test_completion_when_a_run_is_meant(tmp_path: Path, log: ledger.Ledger) -> None:
    """Bash completes run ids from the ledger."""
    run = log.enqueue("test").id

    assert {run} == completed(tmp_path, f"runfold show {run[:9]}")


@pytest.mark.parametrize(("shell", "marks"), [("zsh", "#compdef runfold"), ("fish", "complete --no-files")])
def test_completion_when_another_shell_asks(tmp_path: Path, shell: str, marks: str) -> None:
    """There are scripts for zsh and fish as well."""
    assert marks in runfold("completion", shell, folder=tmp_path).out


def test_completion_when_the_shell_is_unknown(tmp_path: Path) -> None:
    """A shell that click cannot complete is a usage error."""
    assert 2 == runfold("completion", "tcsh", folder=tmp_path).code


def test_completion_when_settings_are_wrong(tmp_path: Path) -> None:
    """A file that cannot be understood keeps no shell from completing."""
    (tmp_path / "runfold.toml").write_text("url = ")

    assert {"@last", "@last-failed"} == completed(tmp_path, "runfold show @")
    assert os.path.exists(tmp_path / "runfold.toml")
