"""PostgreSQL as the second wall: what each role may do is what was decided, and no statement gets past it."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from postgres_server import DUTIES, Logins, PostgresServer

import ledger
from ledger.errors import InvalidInput, NotPermitted, SchemaMismatch, StoreReadOnly
from ledger.stores import migrations
from ledger.stores.postgres import PostgresStore
from ledger.stores.postgres_roles import DEFAULT_NAMES, SEQUENCES, TABLES
from projections import PROJECTIONS, Runs, rebuild, verify

ROOT = Path(__file__).parents[2]
SECRET_TABLES = {"access_tokens", "callbacks", "outbox", "deliveries"}
READ_MODELS = {
    "runs", "run_labels", "run_counts", "result_runs", "results", "document_runs", "documents", "timing_runs", "timings"
}  # fmt: skip
EVENT_COLUMNS = """
SELECT attname
FROM pg_attribute
WHERE attrelid = 'runfold.events'::regclass AND attnum > 0 AND NOT attisdropped
"""


def ask(url: str, sql: str, *values: object) -> list[Any]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(sql.encode(), values)
        return cursor.fetchall() if cursor.description else []


def tables_of(url: str) -> set[str]:
    found = ask(
        url, "SELECT relname FROM pg_class WHERE relnamespace = 'runfold'::regnamespace AND relkind IN ('r', 'p')"
    )
    return {name for (name,) in found}


def rights_in(url: str, *, kinds: str) -> dict[tuple[str, str], set[str]]:
    """Give who may do what with what, as the catalog says; what the owner may is left out, and `` is everybody."""
    found = ask(
        url,
        """
        SELECT c.relname, coalesce(r.rolname, ''), acl.privilege_type
        FROM pg_class c
        CROSS JOIN LATERAL aclexplode(c.relacl) acl
        LEFT JOIN pg_roles r ON r.oid = acl.grantee
        WHERE c.relnamespace = 'runfold'::regnamespace AND c.relkind = ANY (%s) AND acl.grantee <> c.relowner
        UNION ALL
        SELECT c.relname, coalesce(r.rolname, ''), acl.privilege_type || ' (' || a.attname || ')'
        FROM pg_class c
        JOIN pg_attribute a ON a.attrelid = c.oid
        CROSS JOIN LATERAL aclexplode(a.attacl) acl
        LEFT JOIN pg_roles r ON r.oid = acl.grantee
        WHERE c.relnamespace = 'runfold'::regnamespace AND c.relkind = ANY (%s)
        """,
        list(kinds),
        list(kinds),
    )
    rights: dict[tuple[str, str], set[str]] = {}
    for name, role, right in found:
        rights.setdefault((name, role), set()).add(right)
    return rights


# --- the matrix -----------------------------------------------------------------------------------------------------


def test_tables_when_the_catalog_is_asked(owner_url: str) -> None:
    """Every table has been decided on: a new one needs a line in `postgres_roles.TABLES`, which says who may what."""
    assert tables_of(owner_url) == set(TABLES)


def test_rights_when_the_catalog_is_asked(owner_url: str, logins: Logins) -> None:
    """The writer changes no event, the reader only looks, and not on secrets, and the eraser changes two columns."""
    found = rights_in(owner_url, kinds="rpS")

    def rights(duty: str, table: str) -> set[str]:
        return found.pop((table, logins.roles[duty]), set())

    columns = {name for (name,) in ask(owner_url, EVENT_COLUMNS)}
    append = {f"INSERT ({name})" for name in columns - {"position"}}
    assert "position" in columns
    assert {"SELECT", *append} == rights("writer", "events")
    assert {"SELECT"} == rights("reader", "events")
    assert {"SELECT", *append, "UPDATE (payload)", "UPDATE (salt)"} == rights("eraser", "events")
    assert {"SELECT", "INSERT", "DELETE"} == rights("writer", "keys")
    assert {"SELECT", "INSERT", "UPDATE", "DELETE"} == rights("writer", "tasks")
    assert {"SELECT", "INSERT", "DELETE"} == rights("writer", "consumers")
    assert {"SELECT", "INSERT", "UPDATE", "DELETE"} == rights("writer", "schedules")
    assert {"SELECT", "INSERT"} == rights("writer", "schedule_changes")
    assert {"SELECT", "INSERT", "UPDATE"} == rights("writer", "consumer_places")
    for table in READ_MODELS:
        assert {"SELECT", "INSERT", "UPDATE", "DELETE"} == rights("writer", table) == rights("eraser", table)
    assert {"SELECT", "INSERT", "UPDATE"} == rights("writer", "projections") == rights("eraser", "projections")
    assert {"SELECT"} == rights("writer", "callbacks") == rights("writer", "access_tokens")
    assert {"SELECT", "INSERT", "UPDATE"} == rights("writer", "outbox")
    assert {"SELECT", "INSERT", "UPDATE", "DELETE"} == rights("writer", "deliveries")
    for table in tables_of(owner_url) - SECRET_TABLES - {"events", "roles"}:
        assert {"SELECT"} == rights("reader", table)
    for table in tables_of(owner_url) - SECRET_TABLES - READ_MODELS - {"events", "projections", "roles"}:
        assert {"SELECT"} == rights("eraser", table)
    assert {"SELECT"} == rights("writer", "schema_migrations")
    for duty in DUTIES:
        assert {"SELECT"} == rights(duty, "events_position_seq")
    assert {} == found


def test_rights_when_no_table_is_named(owner_url: str, logins: Logins) -> None:
    """Nobody but the owner empties, extends or watches a table, makes one, owns one, or has what everybody has."""
    found = rights_in(owner_url, kinds="rpvmSf")

    assert not {"TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN"} & set().union(*found.values())
    assert set(logins.roles.values()) == {role for _, role in found}
    for role in logins.roles.values():
        ((may_use, may_make),) = ask(
            owner_url,
            "SELECT has_schema_privilege(%s, 'runfold', 'USAGE'), has_schema_privilege(%s, 'runfold', 'CREATE')",
            role,
            role,
        )
        assert (True, False) == (may_use, may_make)
    assert [] == ask(
        owner_url,
        "SELECT relname FROM pg_class"
        " WHERE relnamespace = 'runfold'::regnamespace AND relowner::regrole::text = ANY (%s)",
        list(logins.roles.values()),
    )
    assert [(False, False, False, False)] * 3 == ask(
        owner_url,
        "SELECT rolsuper, rolcreaterole, rolcanlogin, rolbypassrls FROM pg_roles WHERE rolname = ANY (%s)",
        list(logins.roles.values()),
    )


def test_functions_when_they_run_as_their_owner(owner_url: str) -> None:
    """A function with its owner's rights finds only what it names: none is there, or it pins its search path."""
    found = ask(
        owner_url,
        "SELECT proname FROM pg_proc WHERE pronamespace = 'runfold'::regnamespace AND prosecdef"
        " AND NOT coalesce(proconfig::text, '') LIKE '%%search_path=%%'",
    )

    assert [] == found


def forbidden(duty: str, table: str) -> Iterator[str]:
    """Give statements on a table that the duty's user must be refused."""
    name = f"runfold.{table}"
    allowed = re.sub(r" \([^)]*\)", "", getattr(TABLES[table], duty)).split(", ")
    changes = {
        "INSERT": f"INSERT INTO {name} DEFAULT VALUES",
        "UPDATE": f"UPDATE {name} SET {{column}} = NULL",
        "DELETE": f"DELETE FROM {name}",
        "SELECT": f"TABLE {name}",
    }
    for right, change in changes.items():
        if right not in allowed or (table == "events" and right == "UPDATE"):
            yield change
    yield f"TRUNCATE {name}"
    yield f"ALTER TABLE {name} ADD COLUMN more text"
    yield f"ALTER TABLE {name} DISABLE TRIGGER ALL"
    yield f"ALTER TABLE {name} OWNER TO CURRENT_USER"
    yield f"CREATE TRIGGER mine BEFORE INSERT ON {name} FOR EACH ROW EXECUTE FUNCTION runfold.refuse_change()"
    yield f"CREATE RULE mine AS ON INSERT TO {name} DO INSTEAD NOTHING"
    yield f"CREATE INDEX ON {name} ((1))"
    yield f"DROP TABLE {name}"


@pytest.mark.parametrize("duty", DUTIES)
@pytest.mark.parametrize("table", sorted(TABLES))
def test_statement_when_it_is_not_granted(duty: str, table: str, owner_url: str, logins: Logins) -> None:
    """Real statements of a real user are refused for want of privilege, each of them, and change nothing."""
    ((column,),) = ask(
        owner_url,
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum = 2",
        f"runfold.{table}",
    )

    with psycopg.connect(logins.url(owner_url, duty), autocommit=True) as connection:
        for statement in forbidden(duty, table):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.replace("{column}", column).encode())


@pytest.mark.parametrize("duty", DUTIES)
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT nextval('runfold.events_position_seq')",
        "SELECT setval('runfold.events_position_seq', 1)",
        "ALTER SEQUENCE runfold.events_position_seq RESTART",
        "CREATE TABLE runfold.mine (a integer)",
        "CREATE FUNCTION runfold.mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "CREATE OR REPLACE FUNCTION runfold.refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'",
        "DROP TRIGGER events_refuse_change ON runfold.events",
        "DROP SCHEMA runfold CASCADE",
        "SET session_replication_role = replica",
        "UPDATE runfold.events SET version = version",
        "INSERT INTO runfold.events (position, run_id, version, event_id, type, envelope, payload, salt)"
        " OVERRIDING SYSTEM VALUE VALUES"
        " (1000000000, gen_random_uuid(), 1, gen_random_uuid(), 'x', '', '', '')",
        "COPY runfold.events TO PROGRAM 'cat'",
    ],
)
def test_statement_when_it_would_get_around(duty: str, statement: str, owner_url: str, logins: Logins) -> None:
    """The ways around the privileges on tables are closed as well."""
    with (
        psycopg.connect(logins.url(owner_url, duty), autocommit=True) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement.encode())


@pytest.mark.parametrize("duty", DUTIES)
def test_rights_when_they_are_passed_on(duty: str, owner_url: str, logins: Logins) -> None:
    """What a role may do, it may not let others do: PostgreSQL warns, and gives nothing."""
    before = rights_in(owner_url, kinds="rpS")

    with psycopg.connect(logins.url(owner_url, duty), autocommit=True) as connection:
        connection.execute("GRANT SELECT ON runfold.events TO PUBLIC")

    assert before == rights_in(owner_url, kinds="rpS")


def test_eraser_when_it_changes_more_than_it_erases(owner_url: str, logins: Logins) -> None:
    """Who may empty payload and salt may not fill them, nor empty one of them: the trigger stands behind the grant."""
    with ledger.open(owner_url) as log:
        log.enqueue("test", input={"a": 1})

    with psycopg.connect(logins.url(owner_url, "eraser"), autocommit=True) as connection:
        for change in ("payload = '{}'", "payload = NULL", "payload = salt, salt = payload"):
            with pytest.raises(psycopg.errors.RaiseException, match="an event is never changed"):
                connection.execute(f"UPDATE runfold.events SET {change}".encode())
        assert 1 == connection.execute("UPDATE runfold.events SET payload = NULL, salt = NULL").rowcount


def test_eraser_when_it_enqueues(owner_url: str, logins: Logins) -> None:
    """An eraser purges and does not work: what needs a task or a key is refused."""
    with ledger.open(logins.url(owner_url, "eraser")) as log:
        with pytest.raises(NotPermitted):
            log.enqueue("test")
        assert [] == list(log.read_all())


def test_stranger_when_it_opens_the_ledger(owner_url: str, logins: Logins) -> None:
    """A user without a duty does not even come in, and learns what would help."""
    with pytest.raises(NotPermitted, match=r"permission denied for schema runfold.*`runfold db roles`"):
        ledger.open(logins.url(owner_url))


# --- what the duties are for ----------------------------------------------------------------------------------------


def test_purge_when_a_writer_tries(owner_url: str, logins: Logins) -> None:
    """A writer's purge is refused and leaves nothing behind; an eraser's succeeds, read models included."""
    with ledger.open(logins.url(owner_url, "writer")) as log:
        run_id = log.enqueue("test", input={"name": "ada"}).id
        log.start(run_id, worker="w")
        log.append_results(run_id, [{"testId": "a", "status": "passed"}])
        log.complete(run_id)
        log.delete(run_id)
        for name in PROJECTIONS:
            rebuild(log, name)
        with pytest.raises(NotPermitted, match=r"permission denied for table events.*`runfold db roles`"):
            log.purge(run_id)
        assert log.read(run_id) is not None
        assert all(event.data is not None for event in log.read(run_id))

    with ledger.open(logins.url(owner_url, "eraser")) as log:
        assert log.purge(run_id)
        assert "purged" == list(log.read(run_id))[-1].type
        for name in PROJECTIONS:
            assert verify(log, name)
        assert 1 == Runs(log).count(deleted="purged")


def test_reader_when_others_write(owner_url: str, logins: Logins) -> None:
    """A reader sees every append that was committed before it asked, and writes no row for it."""
    with ledger.open(logins.url(owner_url, "writer")) as log, ledger.open(logins.url(owner_url, "reader")) as looking:
        runs = Runs(looking)
        for number in range(1, 6):
            run_id = log.enqueue("test", project="web").id
            assert number == runs.count(project="web")
            assert run_id == runs.list(limit=1).runs[0].id
            assert [run_id] == list(runs.find(run_id))
            if number == 3:
                assert 3 == Runs(log).count()  # now there are rows
        log.start(run_id, worker="w")
        assert {"queued": 4, "running": 1} == {s: n for s, n in runs.count_by_status().items() if n}
        assert "running" == runs.get(run_id).status
        assert 6 == len(list(looking.read_all()))
        assert 5 == len(list(looking.tasks()))
        with looking.subscribe(after=0) as events:
            assert [1, 2, 3, 4, 5, 6] == [next(events).position for _ in range(6)]
        assert [(3,)] == ask(owner_url, "SELECT count(*) FROM runfold.runs")
        for change in (lambda: looking.enqueue("test"), lambda: looking.complete(run_id), looking.sweep):
            with pytest.raises(NotPermitted):
                change()


def test_reader_when_its_sessions_are_read_only(owner_url: str) -> None:
    """An owner whose sessions are read-only reads as a reader does."""
    with ledger.open(owner_url) as log:
        log.enqueue("test")
    name = urlsplit(owner_url).path.removeprefix("/")
    ask(owner_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")

    with ledger.open(owner_url) as log:
        assert 1 == Runs(log).count()
        with pytest.raises(StoreReadOnly, match=r"takes no writes at present: .*read-only transaction"):
            log.enqueue("test")


# --- making them ----------------------------------------------------------------------------------------------------


@pytest.fixture
def new_roles(postgres_server: PostgresServer, postgres_url: str) -> Iterator[dict[Any, str]]:
    """Names of roles that are not there, for each duty."""
    database = urlsplit(postgres_url).path.removeprefix("/")
    names: dict[Any, str] = {duty: f"{database} {duty}" for duty in DUTIES}
    yield names
    for (role,) in ask(postgres_url, "SELECT rolname FROM pg_roles WHERE rolname LIKE %s", f"{database} %"):
        ask(postgres_url, f'DROP OWNED BY "{role}"')
        ask(postgres_url, f'DROP ROLE "{role}"')


def grant(url: str, names: dict[Any, str], *, dry_run: bool = False) -> list[Any]:
    store = PostgresStore(url, migrate=None)
    try:
        return store.grant_roles(names, dry_run=dry_run)
    finally:
        store.close()


def as_user(url: str, user: str, password: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{parts.hostname}:{parts.port}"))


def test_roles_when_made_twice(postgres_url: str, new_roles: dict[Any, str]) -> None:
    """The second time changes nothing, and needs no names."""
    assert [True] * 3 == [made.is_new for made in grant(postgres_url, new_roles)]
    first = rights_in(postgres_url, kinds="rpS")

    again = grant(postgres_url, {})

    assert [(duty, new_roles[duty], False) for duty in DUTIES] == [made[:3] for made in again]
    assert first == rights_in(postgres_url, kinds="rpS")


def test_roles_when_run_dry(postgres_url: str, new_roles: dict[Any, str]) -> None:
    """A dry run changes nothing; its statements, run by hand, do what the command does."""
    statements = [sql for made in grant(postgres_url, new_roles, dry_run=True) for sql in made.statements]
    assert {} == rights_in(postgres_url, kinds="rpS")

    ask(postgres_url, ";".join(statements))

    by_hand = rights_in(postgres_url, kinds="rpS")
    grant(postgres_url, {})
    assert by_hand == rights_in(postgres_url, kinds="rpS")
    assert set(new_roles.values()) == {role for _, role in by_hand}


def test_roles_when_somebody_gave_more(postgres_url: str, new_roles: dict[Any, str]) -> None:
    """What a role has beyond its duty is taken away, from columns too."""
    grant(postgres_url, new_roles)
    expected = rights_in(postgres_url, kinds="rpS")
    writer = new_roles["writer"]
    ask(postgres_url, f'GRANT ALL ON ALL TABLES IN SCHEMA runfold TO "{writer}"')
    ask(
        postgres_url,
        f'GRANT UPDATE (type) ON runfold.events TO "{writer}"; GRANT CREATE ON SCHEMA runfold TO "{writer}"',
    )

    grant(postgres_url, {})

    assert expected == rights_in(postgres_url, kinds="rpS")
    assert [(False,)] == ask(postgres_url, "SELECT has_schema_privilege(%s, 'runfold', 'CREATE')", writer)


def test_roles_when_an_earlier_release_gave_whole_tables(postgres_url: str, new_roles: dict[Any, str]) -> None:
    """A role that could name positions cannot any more once the command ran again, and appends as before."""
    grant(postgres_url, new_roles)
    expected = rights_in(postgres_url, kinds="r")
    for duty in ("writer", "eraser"):
        ask(postgres_url, f'GRANT INSERT ON runfold.events TO "{new_roles[duty]}"')

    grant(postgres_url, {})

    assert expected == rights_in(postgres_url, kinds="r")
    assert [(False,)] * 2 == ask(
        postgres_url,
        "SELECT has_column_privilege(r, 'runfold.events', 'position', 'INSERT') FROM unnest(%s::text[]) r",
        [new_roles["writer"], new_roles["eraser"]],
    )


def test_roles_when_another_ledger_has_the_default(postgres_url: str, new_roles: dict[Any, str]) -> None:
    """A role of the default's name that this ledger did not make is taken for another's, until somebody names it."""
    default = DEFAULT_NAMES["writer"]
    names = {"reader": new_roles["reader"], "eraser": new_roles["eraser"]}
    ask(postgres_url, f"CREATE ROLE {default} NOLOGIN")
    try:
        for dry_run in (True, False):
            with pytest.raises(InvalidInput, match=rf"{default}.*this ledger did not make.*--writer {default}`"):
                grant(postgres_url, names, dry_run=dry_run)
        assert {} == rights_in(postgres_url, kinds="rpS")

        named = grant(postgres_url, {**names, "writer": default})
        again = grant(postgres_url, {})

        assert [False, True, True] == [made.is_new for made in named]
        assert [default, *names.values()] == [made.role for made in again]
    finally:
        ask(postgres_url, f"DROP OWNED BY {default}")
        ask(postgres_url, f"DROP ROLE {default}")


@pytest.mark.parametrize("name", ["public", "PUBLIC", "none", "None", "pg_mine", "PG_mine", "pg_monitor"])
@pytest.mark.parametrize("dry_run", [True, False])
def test_roles_when_the_name_is_reserved(
    postgres_url: str, new_roles: dict[Any, str], name: str, dry_run: bool
) -> None:
    """What PostgreSQL takes for everybody, for nobody or for its own is no role, and nothing is made."""
    with pytest.raises(InvalidInput, match=r"no name of a role.*Name another") as refusal:
        grant(postgres_url, {**new_roles, "writer": name}, dry_run=dry_run)

    assert "writer" == refusal.value.field
    assert {} == rights_in(postgres_url, kinds="rpS")
    assert [] == ask(postgres_url, "SELECT 1 FROM pg_roles WHERE rolname = ANY (%s)", list(new_roles.values()))


def test_roles_when_a_duty_goes_to_another(postgres_url: str, new_roles: dict[Any, str]) -> None:
    """The role that had the duty loses its rights."""
    grant(postgres_url, new_roles)

    grant(postgres_url, {"eraser": new_roles["eraser"] + " 2"})

    assert new_roles["eraser"] not in {role for _, role in rights_in(postgres_url, kinds="rpS")}
    assert new_roles["eraser"] + " 2" == {made.duty: made.role for made in grant(postgres_url, {})}["eraser"]


@pytest.mark.parametrize("may_create", [True, False])
def test_roles_when_the_owner_is_no_superuser(
    postgres_server: PostgresServer, new_roles: dict[Any, str], postgres_url: str, may_create: bool
) -> None:
    """CREATEROLE and the tables are all that an owner needs; without it he is told what to have run, and it helps."""
    owner = new_roles["writer"].replace("writer", "owner")
    ask(postgres_url, f"CREATE ROLE \"{owner}\" LOGIN PASSWORD 'x' {'CREATEROLE' if may_create else ''}")
    url = postgres_server.create_database()
    try:
        ask(url, f'GRANT CREATE ON DATABASE {urlsplit(url).path[1:]} TO "{owner}"')
        own_url = as_user(url, owner.replace(" ", "%20"), "x")
        ledger.open(own_url, migrate=True).close()
        if not may_create:
            with pytest.raises(NotPermitted, match=r"may not make roles.*CREATE ROLE .* NOLOGIN") as refusal:
                grant(own_url, new_roles)
            ask(url, str(refusal.value).split("`")[1])

        assert [may_create] * 3 == [made.is_new for made in grant(own_url, new_roles)]

        assert set(new_roles.values()) == {role for _, role in rights_in(url, kinds="rpS")}
    finally:
        postgres_server.drop_database(url)


def test_roles_when_somebody_else_asks(owner_url: str, logins: Logins) -> None:
    """Who does not own the tables gives no privileges on them, and learns who does."""
    with pytest.raises(NotPermitted):
        grant(logins.url(owner_url, "writer"), {})
    ask(owner_url, f"GRANT ALL ON ALL TABLES IN SCHEMA runfold TO {logins.roles['writer']}")

    with pytest.raises(NotPermitted, match=r"does not own .*, which postgres does.*Connect as postgres"):
        grant(logins.url(owner_url, "writer"), {})


def test_roles_when_privileges_would_not_bind(postgres_url: str, new_roles: dict[Any, str]) -> None:
    """A superuser, one role for two duties, and what is no name are refused before anything is made."""
    ((superuser,),) = ask(postgres_url, "SELECT current_user")

    for names, why in (
        ({"writer": superuser}, "privileges do not bind it"),
        ({"writer": "same", "reader": "same"}, "each duty needs a role of its own"),
        ({"reader": "pg_reader"}, "is no name of a role"),
        ({"reader": "x" * 64}, "is no name of a role"),
    ):
        with pytest.raises(InvalidInput, match=why):
            grant(postgres_url, {**new_roles, **names})

    assert {} == rights_in(postgres_url, kinds="rpS")


def test_roles_when_there_are_no_tables(postgres_server: PostgresServer) -> None:
    """A database without tables is told to migrate first."""
    url = postgres_server.create_database()

    with pytest.raises(SchemaMismatch, match="runfold db migrate"):
        grant(url, {})
    postgres_server.drop_database(url)


def test_migrate_when_there_are_roles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres_url: str, new_roles: dict[Any, str]
) -> None:
    """A migration that makes a table anew leaves the roles what they had; one that nobody decided on is nobody's."""
    grant(postgres_url, new_roles)
    before = rights_in(postgres_url, kinds="rpS")
    folder = tmp_path / "schema"
    shutil.copytree(ROOT / "schema", folder)
    number = len(list((folder / "postgres").iterdir())) + 1
    (folder / "sqlite" / f"{number:04d}_more.sql").write_text("SELECT 1")
    (folder / "postgres" / f"{number:04d}_more.sql").write_text(
        "CREATE TABLE runfold.more (a integer); DROP TABLE runfold.keys;"
        " CREATE TABLE runfold.keys (space text, project text, key text, run_id uuid)"
    )
    monkeypatch.setattr(migrations, "schema_folder", lambda: folder)

    ledger.open(postgres_url, migrate=True).close()

    assert before == rights_in(postgres_url, kinds="rpS")


def test_migrate_when_a_role_was_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres_url: str, new_roles: dict[Any, str]
) -> None:
    """A role that is gone does not stop a migration."""
    grant(postgres_url, new_roles)
    ask(postgres_url, f'DROP OWNED BY "{new_roles["eraser"]}"')
    ask(postgres_url, f'DROP ROLE "{new_roles["eraser"]}"')
    folder = tmp_path / "schema"
    shutil.copytree(ROOT / "schema", folder)
    number = len(list((folder / "postgres").iterdir())) + 1
    for database in ("sqlite", "postgres"):
        (folder / database / f"{number:04d}_more.sql").write_text("SELECT 1")
    monkeypatch.setattr(migrations, "schema_folder", lambda: folder)

    ledger.open(postgres_url, migrate=True).close()

    assert {new_roles["writer"], new_roles["reader"]} == {role for _, role in rights_in(postgres_url, kinds="rpS")}


def test_sequences_when_the_catalog_is_asked(owner_url: str) -> None:
    """Those sequences that functions read by name can be read; others are filled by their own column."""
    named = ask(
        owner_url,
        "SELECT DISTINCT substring(prosrc from 'runfold\\.([a-z_]+_seq)') FROM pg_proc"
        " WHERE pronamespace = 'runfold'::regnamespace AND prosrc LIKE '%%\\_seq%%'",
    )

    assert {name for (name,) in named} == set(SEQUENCES)
