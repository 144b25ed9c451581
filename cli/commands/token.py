"""`runfold token`: who may use the HTTP API."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from cli.config import Setting
from cli.options import DURATION, JsonCommand, output_options, reading_ledger, url_option, writing_ledger
from cli.output import Cell, Column, Output

if TYPE_CHECKING:
    from cli.http.tokens import Secret, Token

FIELDS = ("token_id", "name", "scopes", "projects", "created_at", "expires_at", "revoked_at", "is_active")
SCOPES = ("runs:read", "runs:write", "events:read", "admin")


def _new_fields() -> Sequence[str]:
    return (*FIELDS, "token")


@click.group(short_help="Say who may use the HTTP API.")
def token() -> None:
    """Say who may use the HTTP API, and what they may do.

    \b
    Examples:
      runfold token create ci --scope runs:write --scope runs:read --project web --expires 90d
      runfold token list
      runfold token revoke tok_0123456789abcdef
    """


@token.command(cls=JsonCommand, short_help="Make a token.")
@click.argument("name")
@click.option(
    "--scope", "scopes", multiple=True, required=True, type=click.Choice(SCOPES), help="What it allows; repeatable."
)
@click.option("--project", "projects", multiple=True, help="Bind it to this project; repeatable.  [default: all]")
@click.option("--expires", type=DURATION, help="It works this long: 90d, 12h.  [default: until it is revoked]")
@output_options(_new_fields)
@url_option
def create(
    *,
    name: str,
    scopes: tuple[str, ...],
    projects: tuple[str, ...],
    expires: timedelta | None,
    url: Setting,
    output: Output,
) -> None:
    """Make a token for NAME, who becomes the actor of what is written with it. It is shown now and never again.

    Piped, the columns are: token, token id, name.

    \b
    Examples:
      runfold token create ci --scope runs:write --project web --expires 90d
      runfold token create ops --scope admin
    """
    from cli.http.tokens import hash_of, new_token, open_token_table
    from ledger.clock import utc_now

    now = utc_now()
    made, secret = new_token(
        name=name,
        scopes=scopes,
        projects=projects or None,
        expires_at=None if expires is None else now + expires,
        now=now,
    )
    with writing_ledger(url) as log:
        open_token_table(log.store).add(made, hash_of(secret))
    _print_new(output, made, secret, now)


@token.command("list", cls=JsonCommand, short_help="List the tokens.")
@output_options(lambda: FIELDS)
@url_option
def list_tokens(*, url: Setting, output: Output) -> None:
    """List all tokens, oldest first, without their secrets.

    Piped, the columns are: token id, name, `active`, `expired` or `revoked`, scopes, projects, created, expires.

    \b
    Example:
      runfold token list
    """
    from cli.http.tokens import open_token_table
    from ledger.clock import utc_now

    with reading_ledger(url) as log:
        found = open_token_table(log.store).list()
    now = utc_now()
    rows = output.rows(
        [
            Column("ID", lambda each: each.token_id),
            Column("NAME", lambda each: each.name, is_cut=True),
            Column(
                "STATUS", lambda each: _word(each, now), lambda each: Cell(_word(each, now), _STYLES[_word(each, now)])
            ),
            Column("SCOPES", lambda each: ",".join(each.scopes)),
            Column("PROJECTS", _projects, is_cut=True),
            Column("CREATED", lambda each: each.created_at, lambda each: output.moment(each.created_at)),
            Column("EXPIRES", lambda each: each.expires_at, lambda each: output.moment(each.expires_at)),
        ],
        lambda each: _document(each, now),
    )
    rows.write(found)
    rows.close()


_STYLES = {"active": "green", "expired": "yellow", "revoked": "red"}


@token.command(cls=JsonCommand, short_help="Take a token back.")
@click.argument("token_id", metavar="TOKEN")
@url_option
@output_options(lambda: ("token_id", "revoked_at"))
def revoke(*, token_id: str, url: Setting, output: Output) -> None:
    """Take a token back, by its id; servers refuse it within a second.

    Piped, it prints: token id, `revoked`.

    \b
    Example:
      runfold token revoke tok_0123456789abcdef
    """
    from cli.http.tokens import open_token_table
    from ledger.clock import utc_now

    now = utc_now()
    with writing_ledger(url) as log:
        if not open_token_table(log.store).end(token_id, expires_at=None, revoked_at=now):
            raise _unknown(token_id)
    columns: list[Column[None]] = [Column("ID", lambda _: token_id), Column("STATUS", lambda _: "revoked")]
    rows = output.rows(
        columns,
        lambda _: {"token_id": token_id, "revoked_at": now},
    )
    rows.write([None])
    rows.close()


@token.command(cls=JsonCommand, short_help="Replace a token by a new one.")
@click.argument("token_id", metavar="TOKEN")
@click.option("--overlap", type=DURATION, default="1h", show_default=True, help="The old one works this much longer.")
@output_options(_new_fields)
@url_option
def rotate(*, token_id: str, overlap: timedelta, url: Setting, output: Output) -> None:
    """Replace a token by a new one that allows the same. Both work for a while, so that nobody is locked out.

    Piped, the columns are: token, token id, name.

    \b
    Example:
      runfold token rotate tok_0123456789abcdef --overlap 15m
    """
    from cli.http.tokens import hash_of, open_token_table, successor
    from ledger.clock import utc_now

    now = utc_now()
    with writing_ledger(url) as log:
        tokens = open_token_table(log.store)
        old = next((each for each in tokens.list() if each.token_id == token_id and each.is_active(now)), None)
        if old is None:
            raise _unknown(token_id)
        made, secret = successor(old, now=now)
        tokens.add(made, hash_of(secret))
        ends = now + overlap if old.expires_at is None else min(now + overlap, old.expires_at)
        tokens.end(token_id, expires_at=ends, revoked_at=None)
    _print_new(output, made, secret, now)


def _unknown(token_id: str) -> click.UsageError:
    return click.UsageError(f"there is no token {token_id} that works. See `runfold token list`.")


def _print_new(output: Output, made: "Token", secret: "Secret", now: datetime) -> None:
    columns: list[Column[Token]] = [
        Column("TOKEN", lambda _: secret),
        Column("ID", lambda each: each.token_id),
        Column("NAME", lambda each: each.name),
    ]
    rows = output.rows(
        columns,
        lambda each: {**_document(each, now), "token": secret},
    )
    rows.write([made])
    rows.close()
    output.tell("Keep it now: it is not shown again.")


def _document(token: "Token", now: datetime) -> dict[str, Any]:
    return {
        "token_id": token.token_id,
        "name": token.name,
        "scopes": list(token.scopes),
        "projects": None if token.projects is None else list(token.projects),
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "revoked_at": token.revoked_at,
        "is_active": token.is_active(now),
    }


def _word(token: "Token", now: datetime) -> str:
    return "revoked" if token.revoked_at is not None else "active" if token.is_active(now) else "expired"


def _projects(token: "Token") -> str:
    return "*" if token.projects is None else ",".join(token.projects)
