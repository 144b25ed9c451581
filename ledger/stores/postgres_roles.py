"""Roles of PostgreSQL that may do no more than their duty: the second wall, behind the triggers of the log.

- `writer` works: appends, claims, folds read models, calls back. It changes no event.
- `reader` looks: SELECT, and not on secrets.
- `eraser` purges: it may empty payload and salt of events, append the event that says so, and let read models forget.

They are group roles without login, to be granted to whoever logs in. Nobody gets DDL, TRUNCATE or the sequence itself,
or names an event's position: an identity column needs no right on its sequence to be filled; reading the newest
position needs SELECT.

Roles are the server's, not the database's. So a default name that is there already is taken for another ledger's, whose
writers would write here as well, unless it is named or this ledger has recorded it.

`TABLES` decides for every table, and a test holds it against the database's catalog: a table without a line fails it.
Functions need no decision: they are SECURITY INVOKER, all of them, and so do what their caller may do himself.

Migrations that come later are covered by `PostgresStore.migrate`, which grants anew from the table `roles`. Default
privileges of the schema would give a new table to the writer before anybody had thought about it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, get_args

import psycopg
from psycopg import sql

from ledger.errors import InvalidInput, NotPermitted

Duty = Literal["writer", "reader", "eraser"]

DUTIES: Final[tuple[Duty, ...]] = get_args(Duty)

DEFAULT_NAMES: Final[Mapping[Duty, str]] = {
    "writer": "runfold_writer",
    "reader": "runfold_reader",
    "eraser": "runfold_eraser",
}

_NAME_BYTES_MAX: Final = 63
"""Of a PostgreSQL identifier; what is longer is cut off silently."""
_NO_ROLES: Final = frozenset({"public", "none"})
"""Words that GRANT takes for everybody and for nobody, quoted or not."""


class _Rights(NamedTuple):
    """What each duty may do with a table, as `GRANT` writes it; empty is nothing."""

    writer: str
    reader: str
    eraser: str


_APPEND: Final = "INSERT (run_id, version, event_id, type, envelope, payload, salt, closes, fence, fence_epoch)"
"""Every column but the position. Who may name that, with OVERRIDING SYSTEM VALUE, can put an event where the sequence
has yet to come: the append that comes there fails, and readers that passed it never see what is below."""

_FOLDED: Final = _Rights("SELECT, INSERT, UPDATE, DELETE", "SELECT", "SELECT, INSERT, UPDATE, DELETE")
"""A read model. The eraser folds too: until then, its rows have what was purged."""

TABLES: Final[Mapping[str, _Rights]] = {
    "events": _Rights(f"SELECT, {_APPEND}", "SELECT", f"SELECT, {_APPEND}, UPDATE (payload, salt)"),
    "keys": _Rights("SELECT, INSERT, DELETE", "SELECT", "SELECT"),
    "tasks": _Rights("SELECT, INSERT, UPDATE, DELETE", "SELECT", "SELECT"),
    "consumers": _Rights("SELECT, INSERT, DELETE", "SELECT", "SELECT"),
    "consumer_places": _Rights("SELECT, INSERT, UPDATE", "SELECT", "SELECT"),
    "projections": _Rights("SELECT, INSERT, UPDATE", "SELECT", "SELECT, INSERT, UPDATE"),
    "runs": _FOLDED,
    "run_labels": _FOLDED,
    "run_counts": _FOLDED,
    "result_runs": _FOLDED,
    "results": _FOLDED,
    "document_runs": _FOLDED,
    "documents": _FOLDED,
    "timing_runs": _FOLDED,
    "timings": _FOLDED,
    "schedules": _Rights("SELECT, INSERT, UPDATE, DELETE", "SELECT", "SELECT"),
    "schedule_changes": _Rights("SELECT, INSERT", "SELECT", "SELECT"),
    # who may use the HTTP API, and whom to call, is the owner's to say
    "access_tokens": _Rights("SELECT", "", ""),
    "callbacks": _Rights("SELECT", "", ""),
    "outbox": _Rights("SELECT, INSERT, UPDATE", "", ""),
    "deliveries": _Rights("SELECT, INSERT, UPDATE, DELETE", "", ""),
    "schema_migrations": _Rights("SELECT", "SELECT", "SELECT"),
    "roles": _Rights("", "", ""),
}

SEQUENCES: Final[Mapping[str, _Rights]] = {"events_position_seq": _Rights("SELECT", "SELECT", "SELECT")}
"""Those that are read by name. Without the right, some releases of PostgreSQL say NULL instead of refusing."""


class Grant(NamedTuple):
    """What gives a role its duty's rights.

    Attributes:
        duty: Which.
        role: The role's name.
        is_new: Whether the role has to be made.
        statements: SQL, in the order in which it runs; harmless to run again, but for making the role.
    """

    duty: Duty
    role: str
    is_new: bool
    statements: tuple[str, ...]


def grants(connection: psycopg.Connection[Any], names: Mapping[Duty, str]) -> list[Grant]:
    """Give what has to be run for each duty.

    Args:
        connection: To the ledger's database, as the tables' owner.
        names: Of the roles; a duty that is not named keeps its recorded role, or gets the default.

    Raises:
        NotPermitted: when the user does not own the tables, or a role is missing that it may not make.
        InvalidInput: when a name is none, twice there, or of a role that privileges do not bind; or when nobody named
            a role, and one of the default's name is there that this ledger did not make.
    """
    recorded = _recorded(connection)
    chosen = {duty: names.get(duty) or recorded.get(duty) or DEFAULT_NAMES[duty] for duty in DUTIES}
    _check_names(chosen)
    _require_owner(connection)
    there = _check_roles(connection, chosen)
    _check_defaults([role for duty, role in chosen.items() if duty not in {*names, *recorded} and role in there])
    _require_creator(connection, [role for role in chosen.values() if role not in there])
    replaced = [role for duty, role in recorded.items() if chosen[duty] != role]
    known = {name for (name,) in connection.execute(_ROLES, [replaced])}
    found = []
    for duty, role in chosen.items():
        old = recorded.get(duty)
        statements = (
            *([] if role in there else [_sql("CREATE ROLE {role} NOLOGIN", role=role)]),
            *(_nothing(old) if old is not None and old in known and old not in chosen.values() else ()),
            *_rights(duty, role),
            *([] if old == role else [_recording(duty, role)]),
        )
        found.append(Grant(duty, role, role not in there, statements))
    return found


def kept_grants(connection: psycopg.Connection[Any]) -> list[Grant]:
    """Give what has to be run so that the recorded roles have their rights again; none where nobody made roles."""
    recorded = _recorded(connection)
    there = {name for (name,) in connection.execute(_ROLES, [list(recorded.values())])}
    return [Grant(duty, role, False, _rights(duty, role)) for duty, role in recorded.items() if role in there]


def _recording(duty: Duty, role: str) -> str:
    return sql.SQL(_RECORD).format(duty=sql.Literal(duty), role=sql.Literal(role)).as_string()


def _nothing(role: str) -> tuple[str, ...]:
    return (
        _sql("REVOKE ALL ON ALL TABLES IN SCHEMA runfold FROM {role}", role=role),
        _sql("REVOKE ALL ON ALL SEQUENCES IN SCHEMA runfold FROM {role}", role=role),
        _sql("REVOKE ALL ON SCHEMA runfold FROM {role}", role=role),
    )


def _rights(duty: Duty, role: str) -> tuple[str, ...]:
    """Take everything away, then give what is decided: what an older release gave and this one does not is gone."""
    given = [
        *((f"TABLE runfold.{name}", getattr(rights, duty)) for name, rights in TABLES.items()),
        *((f"SEQUENCE runfold.{name}", getattr(rights, duty)) for name, rights in SEQUENCES.items()),
    ]
    return (
        *_nothing(role),
        _sql("GRANT USAGE ON SCHEMA runfold TO {role}", role=role),
        *(_sql(f"GRANT {rights} ON {what} TO {{role}}", role=role) for what, rights in given if rights),
    )


def _sql(text: str, *, role: str) -> str:
    return sql.SQL(text).format(role=sql.Identifier(role)).as_string()


def _recorded(connection: psycopg.Connection[Any]) -> dict[Duty, str]:
    rows = dict(connection.execute("SELECT duty, role FROM runfold.roles").fetchall())
    return {duty: rows[duty] for duty in DUTIES if duty in rows}


def _check_names(chosen: Mapping[Duty, str]) -> None:
    for duty, role in chosen.items():
        if not 1 <= len(role.encode()) <= _NAME_BYTES_MAX or "\0" in role:
            raise InvalidInput(
                duty, f"{role!r} is no name of a role: 1 to {_NAME_BYTES_MAX} bytes are, none of them 0."
            )
        if role.lower() in _NO_ROLES or role.lower().startswith("pg_"):
            raise InvalidInput(
                duty,
                f"{role!r} is no name of a role: `public`, `none` and what begins with `pg_` are PostgreSQL's own."
                " Name another.",
            )
    if len(set(chosen.values())) < len(chosen):
        raise InvalidInput("roles", f"{', '.join(chosen.values())}: each duty needs a role of its own.")


def _require_owner(connection: psycopg.Connection[Any]) -> None:
    row = connection.execute(_NOT_OWNED).fetchone()
    if row is not None:
        raise NotPermitted(
            f"the user {row[0]} does not own {row[1]}, which {row[2]} does: privileges are the owner's to give."
            f" Connect as {row[2]}, or as a member of it. Nothing was changed."
        )


def _check_roles(connection: psycopg.Connection[Any], chosen: Mapping[Duty, str]) -> set[str]:
    """Give those of the roles that are there.

    Raises:
        InvalidInput: when one is a superuser, or stands for the owner: it may do what is not granted as well.
    """
    rows = connection.execute(_ROLES_AND_OWNERS, [list(chosen.values())]).fetchall()
    for duty, role in chosen.items():
        if (role, True) in rows:
            raise InvalidInput(
                duty,
                f"{role!r} is a superuser, or a member of the tables' owner: privileges do not bind it. Name another.",
            )
    return {name for name, _ in rows}


def _check_defaults(found: Sequence[str]) -> None:
    """Refuse roles that are there under a default name, and are not known to be this ledger's."""
    if found:
        options = " ".join(f"--{duty} {role}" for duty, role in DEFAULT_NAMES.items() if role in found)
        raise InvalidInput(
            "roles",
            f"{', '.join(found)}: the server has such roles, and this ledger did not make them. Roles are the server's:"
            " whoever has them for another ledger would have them here as well. Give this ledger's roles names of their"
            f" own, or, if these are meant, name them: `runfold db roles {options}`.",
        )


def _require_creator(connection: psycopg.Connection[Any], missing: Sequence[str]) -> None:
    row = connection.execute(_MAY_CREATE).fetchone()
    if missing and row is not None and not row[1]:
        created = "; ".join(_sql("CREATE ROLE {role} NOLOGIN", role=role) for role in missing)
        raise NotPermitted(
            f"the user {row[0]} may not make roles, and {', '.join(missing)} is not there. Let somebody with CREATEROLE"
            f" run `{created}`, then ask again and name them. Nothing was changed."
        )


_RECORD: Final = """INSERT INTO runfold.roles (duty, role)
VALUES ({duty}, {role})
ON CONFLICT (duty) DO UPDATE SET role = excluded.role"""
_ROLES: Final = "SELECT rolname FROM pg_roles WHERE rolname = ANY (%s::text[])"
_MAY_CREATE: Final = "SELECT rolname, rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user"
_NOT_OWNED: Final = """
SELECT current_user, owned.name, pg_get_userbyid(owned.owner)
FROM (
    SELECT 'the schema runfold' AS name, nspowner AS owner
    FROM pg_namespace
    WHERE nspname = 'runfold'
    UNION ALL
    SELECT 'runfold.' || relname, relowner
    FROM pg_class
    WHERE relnamespace = 'runfold'::regnamespace AND relkind IN ('r', 'p', 'S')
) AS owned
WHERE NOT pg_has_role(owned.owner, 'USAGE')
LIMIT 1
"""
_ROLES_AND_OWNERS: Final = """
SELECT r.rolname, r.rolsuper OR pg_has_role(r.oid, n.nspowner, 'MEMBER')
FROM pg_roles r
CROSS JOIN pg_namespace n
WHERE r.rolname = ANY (%s::text[]) AND n.nspname = 'runfold'
"""
