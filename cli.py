"""The operator's commands: to serve, to make tokens, to move contacts in and out, to back up."""

import ipaddress
import logging
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import click
from flask import Flask, current_app
from flask.cli import FlaskGroup, with_appcontext
from marshmallow import ValidationError

import readahead
import schemas
import transfer
from app import ANSWER_HEADERS, create_app, refuses_by_header, store
from server import Server
from store import (
    DEFAULT_WORKSPACE,
    ContactNotFound,
    NameTaken,
    NotOnDisk,
    Store,
    StoreUnavailable,
    UnusableDatabase,
)

# What a second process takes to start is made good by a file of so many bytes.
LARGE_FILE = 1024 * 1024

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
def one_line_errors(failure: type[click.ClickException] = click.ClickException):
    """What an operator can mend is said in one line, with the exit status of `failure`."""
    try:
        yield
    except (NotOnDisk, StoreUnavailable, UnusableDatabase) as error:
        raise failure(str(error)) from error
    except BrokenPipeError:
        raise  # whoever reads the output has had enough: click ends quietly
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise failure(f"{where}{error.strerror}.") from error


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535))
@click.option("--sandbox", is_flag=True, help="Sample contacts and the token 'sandbox'.")
@with_appcontext
def serve(host: str, port: int, sandbox: bool):
    """Serve the API until SIGTERM or Ctrl-C."""
    app = create_app(sandbox=True) if sandbox else current_app._get_current_object()
    app.config["ACCESS_LOG"] = sys.stderr
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
            partial(refuses_by_header, app),
            ANSWER_HEADERS,
            app.extensions["store"].sync,
        )
    except OSError as error:
        raise click.ClickException(f"Can't listen on {host}:{port}: {error.strerror}.") from error
    beyond_loopback = not ipaddress.ip_address(server.address).is_loopback
    if beyond_loopback and sandbox:
        click.echo(OPEN_SANDBOX, err=True)
    elif beyond_loopback and not app.config["CONTACTS_TRUSTED_PROXY"]:
        click.echo(NO_TLS, err=True)
    app.config["LOOPBACK_ONLY"] = not beyond_loopback
    app.extensions["store"].while_waiting = server.spare_thread
    app.extensions["store"].syncs_later = True
    click.echo(f"Serving on {server.url}")
    if sandbox:
        token, where = app.config["SANDBOX_TOKEN"], ""
        if app.config["QYVO_TOKEN"]:
            token, where = "$QYVO_TOKEN", " where QYVO_TOKEN is set as it is here"
        click.echo(f"Sandbox: sample contacts, no real ones. Try it{where}:\n")
        click.echo(CURL_EXAMPLE.format(url=server.url, token=token) + "\n")
    elif not tokens and not app.config["QYVO_TOKEN"]:
        click.echo("No token yet, so every call is a 401. Make one: flask token create NAME")
    with one_line_errors():
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
            click.echo(store().create_token(name, workspace))
        except NameTaken as error:
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
            raise click.ClickException(f"There is no token named {name}: see `flask token list`.")


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
    region = current_app.config["CONTACTS_DEFAULT_REGION"]
    schemas.default_region.set(region)
    taken = refused = 0
    size = file.stat().st_size
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
        if size < LARGE_FILE:
            batches = transfer.batches(text, contacts)
        else:
            batches = readahead.batches(file, encoding, region)
        if not dry_run:
            batches = imported(batches, store().open_workspace(workspace))
            keep = stack.enter_context(transfer.refused_rows(file, contacts))
        bar = stack.enter_context(progress_bar(size))
        try:
            for batch in batches:
                for row in batch.rows:
                    if row.refusal:
                        refused += 1
                        click.echo(f"line {row.line}: {printable(row.refusal)}", err=True)
                        if not dry_run:
                            keep(row)
                    else:
                        taken += 1
                bar.update(batch.bytes_read - bar.pos)
        except BaseException:
            if not dry_run:
                click.echo(
                    f"Stopped after {taken} contacts or a few more. They are in the database, and"
                    " another run leaves them as they are.",
                    err=True,
                )
            raise
    click.echo(f"{'To import' if dry_run else 'Imported'}: {taken}. Refused: {refused}.")
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
            erase_deleted()  # what an earlier run that was interrupted has left
            raise click.ClickException(
                f"No contact of the workspace {workspace} is {printable(phone_or_id)}."
            ) from error
        click.echo(f"Deleted {contact['id']}.")
        erase_deleted()


def erase_deleted():
    try:
        if store().erase_deleted():
            return
    except StoreUnavailable:
        pass
    click.echo(
        "Another process is using the database: traces of what was deleted stay in its files until"
        " the next `flask delete`. Run it again.",
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


def init_app(app: Flask):
    """Gives the application its commands."""
    for command in (serve, token, import_, export, delete, backup):
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
