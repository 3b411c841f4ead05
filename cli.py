"""The operator's commands: `flask serve` and `flask token`."""

import ipaddress
import logging
import re
import sys
from contextlib import contextmanager

import click
from flask import current_app
from flask.cli import FlaskGroup, with_appcontext

from app import ANSWER_HEADERS, create_app, refuses_by_header
from server import Server
from store import DEFAULT_WORKSPACE, NameTaken, Store, StoreUnavailable, UnusableDatabase

CURL_EXAMPLE = """\
curl -X POST {url}/api/v1/actions/update-contact \\
  -H "Authorization: Bearer {token}" \\
  -H "Content-Type: application/json" \\
  -d '{{"phone": "+14155550123", "metadata": {{"lifetime_value": 9120.00}}}}'"""

OPEN_SANDBOX = "Warning: whoever reaches this port sees and changes everything in the sandbox."
NO_TLS = (
    "Warning: other machines can reach this without TLS, so tokens and contacts can be read on the"
    " way. Put a proxy with TLS in front, and name its address in CONTACTS_TRUSTED_PROXY."
)


def main():
    """`python app.py …` is `flask …`."""
    FlaskGroup(create_app=create_app, name="app.py").main()


@contextmanager
def one_line_errors():
    """What an operator can mend is said in one line, with exit status 1."""
    try:
        yield
    except (UnusableDatabase, StoreUnavailable) as error:
        raise click.ClickException(str(error)) from error


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535))
@click.option("--sandbox", is_flag=True, help="Sample contacts and the token 'sandbox'.")
@with_appcontext
def serve(host: str, port: int, sandbox: bool):
    """Serve the API until SIGTERM or Ctrl-C."""
    app = create_app(sandbox=True) if sandbox else current_app._get_current_object()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    logging.getLogger("waitress").setLevel(logging.ERROR)  # it warns of every queued request
    with one_line_errors():
        app.extensions["store"].open()
        tokens = app.extensions["store"].list_tokens()
    try:
        server = Server(
            app,
            host,
            port,
            app.config["CONTACTS_THREADS"],
            lambda headers: refuses_by_header(app, headers),
            ANSWER_HEADERS,
        )
    except OSError as error:
        raise click.ClickException(f"Can't listen on {host}:{port}: {error.strerror}.") from error
    beyond_loopback = not ipaddress.ip_address(server.address).is_loopback
    if beyond_loopback and sandbox:
        click.echo(OPEN_SANDBOX, err=True)
    elif beyond_loopback and not app.config["CONTACTS_TRUSTED_PROXY"]:
        click.echo(NO_TLS, err=True)
    app.config["LOOPBACK_ONLY"] = not beyond_loopback
    app.extensions["spare_thread"] = server.spare_thread
    click.echo(f"Serving on {server.url}")
    if sandbox:
        click.echo("Sandbox: sample contacts, no real ones. Try it:\n")
        token = "$QYVO_TOKEN" if app.config["QYVO_TOKEN"] else app.config["SANDBOX_TOKEN"]
        click.echo(CURL_EXAMPLE.format(url=server.url, token=token) + "\n")
    elif not tokens and not app.config["QYVO_TOKEN"]:
        click.echo("No token yet, so every call is a 401. Make one: flask token create NAME")
    server.run()
    app.extensions["store"].close()


class Name(click.ParamType):
    """A name that stays one word in a log line."""

    name = "name"

    def convert(self, value, param, ctx):
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", value):
            self.fail("use 1 to 64 letters, digits, dots, hyphens and underscores.", param, ctx)
        return value


@click.group()
def token():
    """Make, list and revoke bearer tokens."""


@token.command()
@click.argument("name", type=Name())
@click.option("--workspace", type=Name(), default=DEFAULT_WORKSPACE, show_default=True)
@with_appcontext
def create(name: str, workspace: str):
    """Make a token and show it, this once."""
    with one_line_errors():
        try:
            click.echo(_store().create_token(name, workspace))
        except NameTaken as error:
            raise click.ClickException(
                f"There is a token named {name}: revoke it first, or choose another name."
            ) from error


@token.command("list")
@with_appcontext
def list_():
    """Show every token's name, workspace and time of creation."""
    with one_line_errors():
        for row in _store().list_tokens():
            click.echo(f"{row['name']}\t{row['workspace']}\t{row['created_at'].isoformat()}")


@token.command()
@click.argument("name", type=Name())
@with_appcontext
def revoke(name: str):
    """Refuse the token from now on, in a running server too."""
    with one_line_errors():
        if not _store().revoke_token(name):
            raise click.ClickException(f"There is no token named {name}: see `flask token list`.")


def _store() -> Store:
    return current_app.extensions["store"]
