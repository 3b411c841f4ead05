"""The operator's commands: to serve, to make tokens, to move contacts in and out, to back up."""

import ipaddress
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from flask import Flask, current_app
from flask.cli import ScriptInfo, with_appcontext
from marshmallow import ValidationError

import conform
import openapi
import schemas
import server
import transfer
from app import create_app, default_database, store, unknown_settings
from store import (
    DEFAULT_WORKSPACE,
    METADATA_LIMIT,
    SANDBOX_FILE,
    Conflict,
    ContactNotFound,
    Store,
    StoreUnavailable,
    UnusableDatabase,
    WouldWait,
    compact_json,
)

CURL_EXAMPLE = """\
curl -X POST {url}/api/v1/actions/update-contact \\
  -H "Authorization: Bearer sandbox" \\
  -H "Content-Type: application/json" \\
  -d '{{"phone": "{phone}", "metadata": {{"lifetime_value": 9120.00}}}}'"""

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
@click.option(
    "--contacts",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Start every workspace of the sandbox with those of this file, a .csv or .jsonl.",
)
@click.pass_context
def serve(context, host, port, sandbox, hosts, stop_with_stdin, temporary, contacts):
    """Serve the API until SIGTERM or Ctrl-C."""
    if (hosts or stop_with_stdin or temporary or contacts) and not sandbox:
        raise click.UsageError(
            "--allow-host, --stop-with-stdin, --temporary and --contacts need --sandbox."
        )
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
        if contacts:
            app.config["SANDBOX_CONTACTS"] = read_contacts(app, contacts)
        stored.open()
        if sandbox:
            context.call_on_close(stored.lock().close)
        tokens = stored.list_tokens()
        stored.close()  # the server's threads open their own
    try:
        listener = server.listen(host, port)
    except OSError as error:
        raise click.ClickException(f"Can't listen on {host}:{port}: {error.strerror}.") from error
    address, port = listener.getsockname()[:2]
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
        lines = [f"Serving on {url}"]
        if sandbox:
            start = app.config["SANDBOX_CONTACTS"]
            whose = f"the contacts of {contacts}" if contacts else "sample contacts, no real ones"
            lines += [f"Sandbox: {whose}. Try it:", ""]
            lines += [CURL_EXAMPLE.format(url=url, phone=start[0]["phone"]), ""]
            lines += [f"Watch requests arrive, and inject faults: {url}/"]
        elif not tokens and not app.config["QYVO_TOKEN"]:
            hint = f"Make one: {command} token create NAME"
            lines += [f"No token yet, so every request gets a 401. {hint}"]
        with suppress(OSError):  # the reader may have had enough after the first line
            click.echo("\n".join(lines))

    command, threads = program(), app.config["CONTACTS_THREADS"]
    server.serve(
        app, listener, threads=threads, would_wait=WouldWait, ready=ready, end=context.close
    )
    stored.close()


def read_contacts(app: Flask, file: Path) -> list[dict[str, Any]]:
    """Return the contacts of a file, each of which must be sound. Raises click.ClickException."""
    schemas.default_region.set(app.config["CONTACTS_DEFAULT_REGION"])
    contacts, lines = [], {}
    with transfer.opened(file, "utf-8") as text:
        rows = transfer.format_of(file)(text, {}, False)
        notify(rows)
        for row in rows:
            refusal = row.refusal
            for field in ("phone", "id"):
                value = row.contact.get(field)
                if value and value in lines:
                    refusal = refusal or f"{field}: Line {lines[value]} has it."
                lines[value] = row.line
            if len(compact_json(row.contact.get("metadata")).encode()) > METADATA_LIMIT:
                refusal = refusal or f"metadata: It exceeds {METADATA_LIMIT} bytes (64 KiB)."
            if refusal:
                raise click.ClickException(f"{file}: line {row.line}: {printable(refusal)}")
            contacts.append(row.contact)
    if not contacts:
        raise click.ClickException(f"{file}: there are no contacts in it.")
    return contacts


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
        for row in existing(store()).list_tokens():
            click.echo(f"{row['name']}\t{row['workspace']}\t{row['created_at'].isoformat()}")


@token.command()
@click.argument("name", type=Name())
@with_appcontext
def revoke(name: str):
    """Refuse the token from now on, in a running server too."""
    with one_line_errors():
        if not existing(store()).revoke_token(name):
            raise click.ClickException(
                f"There is no token named {name}: see `{program()} token list`."
            )


def of_database(command: Callable) -> Callable:
    """Call the command with a store: the deployment's or, with --sandbox, the sandbox's."""

    @click.option("--sandbox", is_flag=True, is_eager=True, help="Use the sandbox's database.")
    @wraps(command)
    def wrapper(sandbox: bool, **options):
        database, config = store(), current_app.config
        if sandbox:
            path = config["CONTACTS_DATABASE"] or default_database(sandbox)
            database = Store(
                path, synchronous=config["CONTACTS_SYNCHRONOUS"], application_id=SANDBOX_FILE
            )
        return command(database=database, **options)

    return with_appcontext(wrapper)


def default_workspace() -> str:
    if not click.get_current_context().params["sandbox"]:
        return DEFAULT_WORKSPACE
    from sandbox.workspaces import BASE  # which a deployment never loads

    return BASE


of_workspace = click.option(
    "--workspace",
    metavar="NAME",
    callback=lambda context, param, value: value or default_workspace(),
    show_default="default, or sandbox with --sandbox",
)


class Column(click.ParamType):
    """COLUMN=FIELD: the title of a column, and the field that it is read as."""

    name = "COLUMN=FIELD"

    def convert(self, value, param, ctx):
        title, _, field = value.rpartition("=")
        fields = [name for name in transfer.VARIANTS if name != transfer.REASON]
        if not title.strip() or field not in fields:
            self.fail(f"write COLUMN=FIELD, with one of these fields: {', '.join(fields)}.")
        return title.strip(), field


@click.command("import")
@click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)
)
@of_workspace
@click.option("--create", is_flag=True, help="Make the workspace if there is none of that name.")
@click.option("--format", "named", type=click.Choice(["csv", "jsonl"]), help="Whatever the ending.")
@click.option("--map", "columns", type=Column(), multiple=True, help="May be repeated.")
@click.option("--clear-empty", is_flag=True, help="Let empty cells clear name, email and tags.")
@click.option(
    "--encoding", type=click.Choice(list(transfer.ENCODINGS)), default="utf-8", show_default=True
)
@click.option("--dry-run", is_flag=True, help="Say which rows would be refused; write nothing.")
@of_database
def import_(database, file, workspace, create, named, columns, clear_empty, encoding, dry_run):
    """Create or update contacts from FILE, a .csv or .jsonl, or from standard input if it is -.

    Exits with 0 when every row is in, 1 when some were refused, 2 when it did not come to its end.
    """
    schemas.default_region.set(current_app.config["CONTACTS_DEFAULT_REGION"])
    accepted, refused, rejected = 0, 0, None
    read = transfer.format_of(file, named)
    with one_line_errors(transfer.Unfinished), transfer.opened(file, encoding) as text:
        contacts = read(text, dict(columns), clear_empty)
        require_workspace(database, workspace, create)
        notify(contacts)
        if not dry_run:
            workspace_id = database.open_workspace(workspace)
            if file != transfer.STDIN:
                rejected = file.with_name(f"{file.name}.rejected{contacts.ending}")
                rejected.unlink(missing_ok=True)
        size = os.fstat(text.fileno()).st_size
        hidden = not sys.stderr.isatty()
        with click.progressbar(length=size, file=sys.stderr, hidden=hidden) as bar:
            try:
                for rows in transfer.batches(text, contacts):
                    if not dry_run:
                        write_rows(database, workspace_id, rows)
                    refusals = [row for row in rows if row.refusal]
                    for row in refusals:
                        click.echo(f"line {row.line}: {printable(row.refusal)}", err=True)
                    if rejected and refusals:
                        transfer.write_refused(rejected, contacts, refusals)
                    refused += len(refusals)
                    accepted += len(rows) - len(refusals)
                    bar.update(text.buffer.tell() - bar.pos)
            except BaseException:
                if not dry_run:
                    click.echo(
                        f"Stopped after {accepted} contacts or a few more. They are in the"
                        " database, and another run leaves them as they are.",
                        err=True,
                    )
                raise
    click.echo(f"{'To import' if dry_run else 'Imported'}: {accepted}. Refused: {refused}.")
    if refused:
        click.get_current_context().exit(1)


def require_workspace(database: Store, name: str, create: bool):
    """Refuse to make a workspace by mistake, or one that no token could open."""
    if name == default_workspace() or (database.path.exists() and database.find_workspace(name)):
        return
    if not create:
        raise transfer.Unfinished(
            f"There is no workspace named {printable(name)}: add --create to make it."
        )
    Name().convert(name, None, None)
    if default_workspace() != DEFAULT_WORKSPACE and not name.startswith(f"{default_workspace()}-"):
        raise transfer.Unfinished(
            f"A workspace of the sandbox is named as its token: {default_workspace()}-{name}."
        )


def notify(contacts: transfer.CSVFile | transfer.JSONLinesFile):
    """Print what becomes of the file's columns."""
    for notice in contacts.notices:
        click.echo(printable(notice), err=True)


def write_rows(database: Store, workspace_id: int, rows: list[transfer.Row]):
    """Write the sound rows in one transaction, and refuse those that the store does."""
    sound = [row for row in rows if not row.refusal]
    errors = database.import_contacts(workspace_id, [row.contact for row in sound])
    for position, error in errors.items():
        sound[position].refusal = f"{error.field}: {error}"


def printable(text: str) -> str:
    """The text without what a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


@click.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@of_workspace
@of_database
def export(database: Store, file: Path | None, workspace: str):
    """Write every contact to FILE, a .csv or .jsonl, or as JSON Lines to standard output."""
    with one_line_errors():
        contacts = database.export_contacts(existing_workspace(database, workspace))
        if file is None:
            sys.stdout.reconfigure(encoding="utf-8")
            transfer.JSONLinesFile.write(sys.stdout, contacts)
            return
        kind = transfer.format_of(file)
        with (
            transfer.replacing(file) as new,
            new.open("w", encoding="utf-8", newline="") as text,
        ):
            kind.write(text, contacts)


@click.command()
@click.argument("phone_or_id")
@of_workspace
@click.option("--yes", is_flag=True, help="Don't ask.")
@of_database
def delete(database: Store, phone_or_id: str, workspace: str, yes: bool):
    """Erase the contact with that phone number or id."""
    schemas.default_region.set(current_app.config["CONTACTS_DEFAULT_REGION"])
    with one_line_errors():
        try:
            workspace_id = existing_workspace(database, workspace)
            contact = database.get_contact(workspace_id, **reference(phone_or_id))
            if not yes:
                known = [contact["name"], contact["phone"], contact["email"], contact["id"]]
                whom = printable(", ".join(filter(None, known)))
                click.confirm(f"Delete {whom} for good?", abort=True)
            database.delete_contact(workspace_id, contact["id"])
        except ContactNotFound as error:
            raise click.ClickException(
                f"No contact of the workspace {workspace} is {printable(phone_or_id)}."
            ) from error
        click.echo(f"Deleted {contact['id']}.")
        remove_traces(database)


def remove_traces(database: Store):
    with suppress(StoreUnavailable):
        if database.empty_log():
            return
    click.echo(
        "Another process is using the database: traces of what was deleted stay in its files until"
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
@of_database
def backup(database: Store, file: Path):
    """Copy the database to FILE, whole and verified, while the service runs."""
    with one_line_errors():
        original = existing(database)
        if file.exists() and not original.is_copy(file):
            raise click.ClickException(
                f"{file} is in use, or is no backup of this service: choose another name."
            )
        with transfer.replacing(file) as new:
            original.back_up(new)
    click.echo(f"Backed up to {file}.")


@click.group()
def workspace():
    """List and delete workspaces."""


@workspace.command("list")
@of_database
def list_workspaces(database: Store):
    """Show every workspace's name, contacts, tokens and last change of a contact."""
    with one_line_errors():
        for row in existing(database).summarize_workspaces():
            updated = row["updated_at"].isoformat() if row["updated_at"] else "never"
            click.echo(f"{row['name']}\t{row['contacts']}\t{row['tokens']}\t{updated}")


@workspace.command("delete")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Don't ask.")
@of_database
def delete_workspace(database: Store, name: str, yes: bool):
    """Erase the workspace with its contacts and tokens, in a running server too."""
    with one_line_errors():
        workspace_id = existing_workspace(database, name)
        if not yes:
            [row] = [row for row in database.summarize_workspaces() if row["name"] == name]
            what = f"contacts: {row['contacts']}, tokens: {row['tokens']}"
            click.confirm(f"Delete the workspace {name} ({what}) for good?", abort=True)
        database.delete_workspace(workspace_id)
        click.echo(f"Deleted {name}.")
        remove_traces(database)


for command in (serve, token, workspace, import_, export, delete, backup, conform.command):
    main.add_command(command)


def init_app(app: Flask):
    """Give the application its commands, for `flask` in the project's folder."""
    for command in main.commands.values():
        app.cli.add_command(command)


def existing(database: Store) -> Store:
    """The store, unless its file is missing: only what writes contacts makes one."""
    if not database.path.exists():
        raise click.ClickException(f"{database.path}: there is no database.")
    return database


def existing_workspace(database: Store, name: str) -> int:
    workspace_id = existing(database).find_workspace(name)
    if workspace_id is None:
        raise click.ClickException(f"There is no workspace named {printable(name)}.")
    return workspace_id
