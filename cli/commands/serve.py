"""`runfold serve`: the ledger over HTTP."""

import ipaddress
import sys
from typing import TYPE_CHECKING

import click

from cli.config import Setting, without_password
from cli.errors import NoLedger
from cli.options import url_option, writing_ledger

if TYPE_CHECKING:
    from cli.http.tokens import TokenTable
    from ledger.api import Ledger


@click.command(short_help="Serve the ledger over HTTP.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65_535), default=8700, show_default=True, help="0 takes a free one.")
@click.option("--auth/--no-auth", "auth", default=None, help="Ask for tokens.  [default: not on loopback with SQLite]")
@click.option("--rate", type=click.FloatRange(0), help="Requests a second of one token; 0 is any.  [default: 1000]")
@click.option("--log-requests", is_flag=True, help="Log each answer on stderr.")
@click.option("--tls-certificate", type=click.Path(exists=True, dir_okay=False), help="Serve HTTPS with this.")
@click.option("--tls-key", type=click.Path(exists=True, dir_okay=False), help="Its private key.")
@url_option
def serve(
    *,
    host: str,
    port: int,
    auth: bool | None,
    rate: float | None,
    log_requests: bool,
    tls_certificate: str | None,
    tls_key: str | None,
    url: Setting,
) -> None:
    """Serve the ledger over HTTP, until Ctrl-C or SIGTERM. The API is described at /openapi.json.

    On loopback with a SQLite ledger it asks for no token, and says so. Everywhere else it does, and refuses to start
    before there is one: see `runfold token create`. Several servers may share one PostgreSQL ledger.

    \b
    Examples:
      runfold serve
      runfold serve --host 0.0.0.0 --url postgresql://runfold@db/runs --tls-certificate web.pem --tls-key web.key
    """
    if tls_key is not None and tls_certificate is None:
        raise click.UsageError("--tls-key is the key of a certificate, and none is given. Give --tls-certificate too.")
    try:
        from cli.http.app import Options, Service
        from cli.http.serving import Address, listen
        from cli.http.serving import serve as serve_http
    except ImportError as exc:
        raise NoLedger(f"the server needs more than is installed ({exc}): pip install 'runfold[server]'.") from exc
    needs_tokens = _needs_tokens(host, url, auth)
    import ssl

    from cli.telemetry.asked import telemetry

    with telemetry() as found, writing_ledger(url) as log:
        tokens = _tokens(log, url) if needs_tokens else None
        options = Options(logs_requests=log_requests, **({} if rate is None else {"requests_per_s": rate}))
        address = Address(host=host, port=port, certificate=tls_certificate, key=tls_key)
        try:
            listening = listen(address)
        except OSError as exc:
            raise click.ClickException(
                f"cannot listen on {host}:{port}: {exc}. Name another --host or --port."
            ) from exc
        scheme = "https" if tls_certificate else "http"
        where = f"{scheme}://{_shown(host)}:{listening.getsockname()[1]}"
        service = Service(log, tokens=tokens, options=options, telemetry=found)
        try:
            serve_http(
                service,
                listening=listening,
                address=address,
                started=lambda: _tell(where, url, needs_tokens=needs_tokens, is_plain=not tls_certificate, host=host),
            )
        except ssl.SSLError as exc:  # of the files: what goes wrong in a connection ends that connection
            raise click.UsageError(
                f"{tls_certificate} cannot be served with: {exc}. Give a PEM file with the certificate, and its key in"
                " it or as --tls-key."
            ) from exc


def _needs_tokens(host: str, url: Setting, auth: bool | None) -> bool:
    """Decide whether tokens are asked for.

    Raises:
        click.UsageError: when they must be, and the user said no.
    """
    is_own = _is_loopback(host) and url.value.startswith("sqlite:")
    if auth is False and not is_own:
        raise click.UsageError(
            "--no-auth is for a SQLite ledger on loopback only: whoever reaches this address could do everything."
        )
    return not is_own if auth is None else auth


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _tokens(log: "Ledger", url: Setting) -> "TokenTable":
    from cli.http.tokens import open_token_table
    from ledger.clock import utc_now

    tokens = open_token_table(log.store)
    now = utc_now()
    if not any(token.is_active(now) for token in tokens.list()):
        raise click.UsageError(
            "this server must ask for tokens, and there is none yet. Make one first:"
            f" runfold token create NAME --scope admin --url {without_password(url.value)}"
        )
    return tokens


def _tell(where: str, url: Setting, *, needs_tokens: bool, is_plain: bool, host: str) -> None:
    lines = [f"Serving {without_password(url.value)} on {where}"]
    if not needs_tokens:
        lines.append("No token is asked for: this is your own machine and a SQLite ledger. --auth asks for them.")
    elif is_plain and not _is_loopback(host):
        lines.append("Tokens go over the network in the clear: give --tls-certificate, or put a TLS proxy in front.")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
