"""The operator's commands: to serve, to make tokens, to move contacts in and out, to back up."""

import ipaddress
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from flask import Flask, current_app
from flask.cli import ScriptInfo, with_appcontext
from marshmallow import ValidationError

import conform
import openapi
import schemas
import server
import transfer
from app import create_app, store, unknown_settings
from store import (
    DEFAULT_WORKSPACE,
    Conflict,
    ContactNotFound,
    Store,
    StoreUnavailable,
    UnusableDatabase,
    WouldWait,
)

CURL_EXAMPLE = """\
curl -X POST {url}/api/v1/actions/update-contact \\
  -H "Authorization: Bearer sandbox" \\
  -H "Content-Type: application/json" \\
  -d '{{"phone": "+14155550123", "metadata": {{"lifetime_value": 9120.00}}}}'"""

OPEN_SANDBOX = (
    "Warning: anyone who can reach this port can read and change everything in the sandbox."
)
NO_TLS = (
    "Warning: other machines can reach this without TLS, so tokens and contacts can be read on the"
    " way. Put a proxy with TLS in front, and name its address in CONTACTS_TRUSTED_PROXY."
)


@click.group()
@click.version_option(openapi.VERSION, prog_name="qyvo-standin")
@click.pass_context
def main(context: click.Context):
    """A stand-in for Qyvo's contacts API: a sandbox for tests, and a service for small teams.

    It is not made, endorsed or supported by Qyvo. Settings are environment variables.
    """
    # Flask's own group would add its `run` and `shell`, read .env, and load any other application.
    context.obj = ScriptInfo(create_app=create_app, set_debug_flag=False)


def program() -> str:
    """Return the command as it was typed: qyvo-standin, flask, python -m qyvo_standin."""
    return click.get_current_context().find_root().info_name


@contextmanager
def one_line_errors(failure: type[click.ClickException] = click.ClickException):
    """Report what an operator can mend in one line, with the exit status of `failure`."""
    try:
        yield
    except (StoreUnavailable, UnusableDatabase) as error:
        raise failure(str(error)) from error
    except BrokenPipeError:
        raise  # the reader of the output has had enough: click ends quietly
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise failure(f"{where}{error.strerror}.") from error


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535))
@click.option("--sandbox", is_flag=True, help="Sample contacts and the token 'sandbox'.")
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="Let the sandbox respond to this name beside loopback's. May be repeated.",
)
@click.option("--stop-with-stdin", is_flag=True, help="Stop the sandbox when standard input ends.")
@click.option(
    "--temporary", is_flag=True, help="Delete the sandbox's database, and its folder, at the end."
)
@click.pass_context
def serve(context, host, port, sandbox, hosts, stop_with_stdin, temporary):
    """Serve the API until SIGTERM or Ctrl-C."""
    if (hosts or stop_with_stdin or temporary) and not sandbox:
        raise click.UsageError("--allow-host, --stop-with-stdin and --temporary need --sandbox.")
    if temporary and os.environ.get("CONTACTS_DATABASE"):
        raise click.UsageError("--temporary and CONTACTS_DATABASE exclude each other.")
    # Until the server handles it: process 1 of a container would not end, a folder would stay.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    settings = dict(os.environ)
    if temporary:
        folder = context.with_resource(TemporaryDirectory(prefix="qyvo-standin-"))
        settings["CONTACTS_DATABASE"] = str(Path(folder, "sandbox.db"))
    if stop_with_stdin:
        threading.Thread(target=terminate_after_stdin, daemon=True).start()
    for name in unknown_settings(settings):  # a cluster may set CONTACTS_PORT
        click.echo(f"Warning: {name} is not a setting, and is ignored.", err=True)
    app = create_app(settings, sandbox=sandbox)
    app.config["ACCESS_LOG"] = sys.stderr
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    stored: Store = app.extensions["store"]
    with one_line_errors():
        stored.open()
        tokens = stored.list_tokens()
        stored.close()  # the server's threads open their own
    try:
        reservation = server.reserve(host, port)
    except OSError as error:
        raise click.ClickException(f"Can't listen on {host}:{port}: {error.strerror}.") from error
    address, port = reservation.getsockname()[:2]
    beyond_loopback = not ipaddress.ip_address(address).is_loopback
    app.config.update(LOOPBACK_ONLY=not beyond_loopback, ALLOWED_HOSTS=[h.lower() for h in hosts])
    # An address that stands for all of them is none that every client can connect to.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def ready():
        if beyond_loopback and sandbox:
            click.echo(OPEN_SANDBOX, err=True)
        elif beyond_loopback and not app.config["CONTACTS_TRUSTED_PROXY"]:
            click.echo(NO_TLS, err=True)
        click.echo(f"Serving on {url}")
        if sandbox:
            click.echo("Sandbox: sample contacts, no real ones. Try it:\n")
            click.echo(CURL_EXAMPLE.format(url=url))
            click.echo(f"\nWatch requests arrive, and inject faults: {url}/")
        elif not tokens and not app.config["QYVO_TOKEN"]:
            click.echo(
                f"No token yet, so every request gets a 401. Make one: {command} token create NAME"
            )

    def end():
        stored.close()
        context.close()
        sys.stdout.flush()
        os._exit(0)

    command, threads = program(), app.config["CONTACTS_THREADS"]
    server.serve(app, reservation, threads=threads, would_wait=WouldWait, ready=ready, end=end)


def terminate_after_stdin():
    """Send this process SIGTERM when its standard input ends, unless it is stopping already."""
    with suppress(OSError):
        while os.read(0, 65536):  # sys.stdin has a lock, which would be held at the end
            pass
    if signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:  # which the server's first signal sets
        os.kill(os.getpid(), signal.SIGTERM)


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
            click.echo(store().create_token(name, workspace))
        except Conflict as error:
            raise click.ClickException(
                f"There is a token named {name}: revoke it first, or choose another name."
            ) from error


@token.command("list")
@with_appcontext
def list_():
    """Show every token's name, workspace and time of creation."""
    with one_line_errors():
        for row in existing_store().list_tokens():
            click.echo(f"{row['name']}\t{row['workspace']}\t{row['created_at'].isoformat()}")


@token.command()
@click.argument("name", type=Name())
@with_appcontext
def revoke(name: str):
    """Refuse the token from now on, in a running server too."""
    with one_line_errors():
        if not existing_store().revoke_token(name):
            raise click.ClickException(
                f"There is no token named {name}: see `{program()} token list`."
            )


of_workspace = click.option(
    "--workspace", type=Name(), default=DEFAULT_WORKSPACE, show_default=True
)


@click.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@of_workspace
@click.option(
    "--encoding", type=click.Choice(list(transfer.ENCODINGS)), default="utf-8", show_default=True
)
@click.option("--dry-run", is_flag=True, help="Say which rows would be refused; write nothing.")
@with_appcontext
def import_(file: Path, workspace: str, encoding: str, dry_run: bool):
    """Create or update contacts from FILE, a .csv or .jsonl.

    Exits with 0 when every row is in, 1 when some were refused, 2 when it did not come to its end.
    """
    schemas.default_region.set(current_app.config["CONTACTS_DEFAULT_REGION"])
    accepted = refused = 0
    read = transfer.by_ending(file, transfer.READERS)
    with (
        one_line_errors(transfer.Unfinished),
        transfer.opened(file, encoding) as text,
        ExitStack() as stack,
    ):
        contacts = read(text)
        if contacts.kept_as_metadata:
            columns = ", ".join(contacts.kept_as_metadata)
            click.echo(f"Kept in the metadata: {printable(columns)}.", err=True)
        batches = transfer.batches(text, contacts)
        if not dry_run:
            batches = imported(batches, store().open_workspace(workspace))
            keep = stack.enter_context(transfer.refused_rows(file, contacts))
        bar = stack.enter_context(progress_bar(file.stat().st_size))
        try:
            for batch in batches:
                for row in batch.rows:
                    if row.refusal:
                        refused += 1
                        click.echo(f"line {row.line}: {printable(row.refusal)}", err=True)
                        if not dry_run:
                            keep(row)
                    else:
                        accepted += 1
                bar.update(batch.bytes_read - bar.pos)
        except BaseException:
            if not dry_run:
                click.echo(
                    f"Stopped after {accepted} contacts or a few more. They are in the database,"
                    " and another run leaves them as they are.",
                    err=True,
                )
            raise
    click.echo(f"{'To import' if dry_run else 'Imported'}: {accepted}. Refused: {refused}.")
    if refused:
        click.get_current_context().exit(1)


def imported(batches: Iterable[transfer.Batch], workspace_id: int) -> Iterator[transfer.Batch]:
    """The batches, each once its rows are in the database or refused."""
    for batch in batches:
        sound = [row for row in batch.rows if not row.refusal]
        errors = store().import_contacts(workspace_id, [row.contact for row in sound])
        refusals = {sound[i].line: f"{error.field}: {error}" for i, error in errors.items()}
        yield batch._replace(
            rows=[
                row._replace(refusal=refusals[row.line]) if row.line in refusals else row
                for row in batch.rows
            ]
        )


def progress_bar(length: int):
    """On a terminal only."""
    return click.progressbar(length=length, file=sys.stderr, hidden=not sys.stderr.isatty())


def printable(text: str) -> str:
    """The text without what a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


@click.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@of_workspace
@with_appcontext
def export(file: Path | None, workspace: str):
    """Write every contact to FILE, a .csv or .jsonl, or as JSON Lines to standard output."""
    with one_line_errors():
        contacts = store().export_contacts(existing_workspace(workspace))
        if file is None:
            sys.stdout.reconfigure(encoding="utf-8")
            transfer.write_json_lines(sys.stdout, contacts)
            return
        write = transfer.by_ending(file, transfer.WRITERS)
        with (
            transfer.replacing(file) as new,
            new.open("w", encoding="utf-8", newline="") as text,
        ):
            write(text, contacts)


@click.command()
@click.argument("phone_or_id")
@of_workspace
@click.option("--yes", is_flag=True, help="Don't ask.")
@with_appcontext
def delete(phone_or_id: str, workspace: str, yes: bool):
    """Erase the contact with that phone number or id."""
    schemas.default_region.set(current_app.config["CONTACTS_DEFAULT_REGION"])
    with one_line_errors():
        try:
            workspace_id = existing_workspace(workspace)
            contact = store().get_contact(workspace_id, **reference(phone_or_id))
            if not yes:
                known = [contact["name"], contact["phone"], contact["email"], contact["id"]]
                whom = printable(", ".join(filter(None, known)))
                click.confirm(f"Delete {whom} for good?", abort=True)
            store().delete_contact(workspace_id, contact["id"])
        except ContactNotFound as error:
            raise click.ClickException(
                f"No contact of the workspace {workspace} is {printable(phone_or_id)}."
            ) from error
        click.echo(f"Deleted {contact['id']}.")
        with suppress(StoreUnavailable):
            if store().empty_log():
                return
        click.echo(
            "Another process is using the database: traces of the contact stay in its files until"
            " the log is next emptied, as it is when the service is restarted.",
            err=True,
        )


def reference(phone_or_id: str) -> dict[str, str]:
    """The text as the contact's id or else as its phone."""
    with suppress(ValidationError):
        return {"contact_id": schemas.ContactId().deserialize(phone_or_id)}
    try:
        return {"phone": schemas.PhoneNumber().deserialize(phone_or_id)}
    except ValidationError as error:
        raise click.UsageError(f"Neither an id nor a phone number: {error.messages[0]}") from error


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@with_appcontext
def backup(file: Path):
    """Copy the database to FILE, whole and verified, while the service runs."""
    with one_line_errors():
        original = existing_store()
        if file.exists() and not original.is_copy(file):
            raise click.ClickException(
                f"{file} is in use, or is no backup of this service: choose another name."
            )
        with transfer.replacing(file) as new:
            original.back_up(new)
    click.echo(f"Backed up to {file}.")


for command in (serve, token, import_, export, delete, backup, conform.command):
    main.add_command(command)


def init_app(app: Flask):
    """Give the application its commands, for `flask` in the project's folder."""
    for command in main.commands.values():
        app.cli.add_command(command)


def existing_store() -> Store:
    """The store, unless its file is missing: only what writes contacts makes one."""
    if not store().path.exists():
        raise click.ClickException(f"{store().path}: there is no database.")
    return store()


def existing_workspace(name: str) -> int:
    workspace_id = existing_store().list_workspaces().get(name)
    if workspace_id is None:
        raise click.ClickException(f"There is no workspace named {name}.")
    return workspace_id
