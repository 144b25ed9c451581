"""`runfold db roles`, and the programs as users with one duty each."""

import json
import signal
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from command_line import RUNFOLD, environment, runfold
from http_server import new_token, start
from postgres_server import Logins

import ledger


def finished_run(url: str) -> str:
    with ledger.open(url) as log:
        run_id = log.enqueue("test", project="web", input={"name": "ada"}).id
        log.start(run_id, worker="w")
        log.append_results(run_id, [{"testId": "a", "status": "passed"}])
        log.complete(run_id)
        return run_id


def test_roles_when_asked_for(postgres_url: str, tmp_path: Path) -> None:
    """A dry run prints SQL; the command makes the roles, then finds them; both name them as they were asked for."""
    database = urlsplit(postgres_url).path.removeprefix("/")
    names = {duty: f"{database}_{duty}" for duty in ("writer", "reader", "eraser")}
    options = [f"--{duty}={name}" for duty, name in names.items()]
    try:
        dry = runfold("db", "roles", *options, "--dry-run", "--url", postgres_url, folder=tmp_path)
        made = runfold("db", "roles", *options, "--url", postgres_url, folder=tmp_path)
        again = runfold("db", "roles", "--json", "--url", postgres_url, folder=tmp_path)
    finally:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            for name in names.values():
                connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}".encode())

    assert f'CREATE ROLE "{names["writer"]}" NOLOGIN;' == dry.out.splitlines()[0]
    assert all(line.endswith(";") or line.startswith(("INSERT", "VALUES")) for line in dry.out.splitlines())
    assert [[duty, name, "made"] for duty, name in names.items()] == made.rows
    assert [(duty, name, False) for duty, name in names.items()] == [
        (role["duty"], role["role"], role["is_new"]) for role in json.loads(again.out)
    ]


def test_roles_when_the_ledger_is_a_file(tmp_path: Path) -> None:
    """A file has no roles, and is not made for want of them."""
    done = runfold("db", "roles", "--url", f"sqlite:///{tmp_path}/runs.db", folder=tmp_path)

    assert 2 == done.code
    assert "has no roles" in done.err
    assert [] == list(tmp_path.iterdir())


def test_roles_when_the_user_is_not_the_owner(owner_url: str, logins: Logins, tmp_path: Path) -> None:
    """A writer gives nobody rights, himself neither."""
    done = runfold("db", "roles", "--url", logins.url(owner_url, "writer"), folder=tmp_path)

    assert 4 == done.code
    assert "`runfold db roles`" in done.err or "does not own" in done.err


def test_purge_when_a_writer_and_an_eraser_ask(owner_url: str, logins: Logins, tmp_path: Path) -> None:
    """The writer is told what it lacks; the eraser purges."""
    run_id = finished_run(logins.url(owner_url, "writer"))
    purge = ("purge", "--older-than", "0s", "--yes", "--url")

    refused = runfold(*purge, logins.url(owner_url, "writer"), folder=tmp_path)
    purged = runfold(*purge, logins.url(owner_url, "eraser"), folder=tmp_path)

    assert 4 == refused.code
    assert "permission denied for table events" in refused.err
    assert "`runfold db roles`" in refused.err
    assert 0 == purged.code, purged.err
    assert [run_id, "purged"] == [purged.rows[0][0], purged.rows[0][3]]


def test_reading_when_the_user_is_a_reader(owner_url: str, logins: Logins, tmp_path: Path) -> None:
    """A reader lists, shows and follows what was written a moment ago; it writes nothing."""
    reader = logins.url(owner_url, "reader")
    run_id = finished_run(logins.url(owner_url, "writer"))

    def look(*args: str) -> list[list[str]]:
        done = runfold(*args, "--url", reader, folder=tmp_path)
        assert 0 == done.code, done.err
        return done.rows

    assert [run_id] == [row[0] for row in look("list")]
    assert look("show", run_id)
    assert look("status", "@last")
    assert ["enqueued", "started", "shard_result_appended", "completed"] == [row[3] for row in look("history", run_id)]
    assert look("watch", run_id)
    assert 4 == runfold("enqueue", "test", "--url", reader, folder=tmp_path).code
    with psycopg.connect(owner_url) as connection:
        assert [(0,)] == connection.execute("SELECT count(*) FROM runfold.runs").fetchall()


def test_read_models_when_a_daemon_runs(owner_url: str, logins: Logins, tmp_path: Path) -> None:
    """A reader of results waits for a daemon, which writes the rows."""
    writer, reader = logins.url(owner_url, "writer"), logins.url(owner_url, "reader")
    assert 0 == runfold("projection", "rebuild", "results", "--url", writer, folder=tmp_path).code
    finished_run(writer)
    daemon = subprocess.Popen(
        [RUNFOLD, "daemon", "--url", writer], cwd=tmp_path, env=environment(tmp_path), stderr=subprocess.PIPE, text=True
    )
    try:
        found = runfold("tests", "--slowest", "--project", "web", "--url", reader, folder=tmp_path)
        finished_run(writer)
        again = runfold("tests", "--project", "web", "a", "--url", reader, folder=tmp_path)
    finally:
        daemon.send_signal(signal.SIGTERM)
        said = daemon.communicate(timeout=30)[1]

    assert 0 == found.code, found.err
    assert 0 == again.code, again.err
    assert 2 == len(again.rows)
    assert "denied" not in said


def test_worker_when_the_user_is_a_writer(owner_url: str, logins: Logins, tmp_path: Path) -> None:
    """A worker claims, executes and finishes with the rights of a writer."""
    writer = logins.url(owner_url, "writer")
    for _ in range(3):
        assert 0 == runfold("enqueue", "test", "--url", writer, folder=tmp_path).code

    worked = runfold("worker", "--kind", "test", "--until-idle", "--url", writer, "--", "true", folder=tmp_path)

    assert 0 == worked.code, worked.err
    listed = runfold("list", "--status", "completed", "--url", writer, folder=tmp_path)
    assert 3 == len(listed.rows)


def test_serve_when_the_user_is_a_writer(owner_url: str, logins: Logins, tmp_path: Path) -> None:
    """A server works as a writer with tokens that the owner made; what takes another right is refused as that."""
    writer = logins.url(owner_url, "writer")
    token = new_token(owner_url, tmp_path, "--scope", "admin")
    refused = runfold("token", "create", "mine", "--scope", "admin", "--url", writer, folder=tmp_path)
    server = start(writer, tmp_path)
    server.token = token
    try:
        run_id = server.enqueue(project="web")
        listed = server.get("/v1/runs")
        aborted = server.post(f"/v1/runs/{run_id}:abort", {})
        deleted = server.post(f"/v1/runs/{run_id}:delete", {})
        purged = server.post(f"/v1/runs/{run_id}:purge", {})
    finally:
        server.kill()

    assert 4 == refused.code
    assert [run_id] == [run["run_id"] for run in listed.json["runs"]]
    assert (200, 200) == (aborted.status, deleted.status), (aborted, deleted)
    assert (403, "not-permitted") == (purged.status, purged.json["code"])
    assert "Retry-After" not in purged.headers


@pytest.mark.parametrize("duty", ["reader", "eraser"])
def test_serve_when_the_user_may_not_see_tokens(duty: str, owner_url: str, logins: Logins, tmp_path: Path) -> None:
    """A server of somebody without the writer's duty does not start, and says why."""
    began = time.monotonic()

    done = runfold("serve", "--port", "0", "--url", logins.url(owner_url, duty), folder=tmp_path)

    assert 4 == done.code
    assert "permission denied for table access_tokens" in done.err
    assert time.monotonic() - began < 30
