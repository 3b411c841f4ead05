"""The operator's commands: to serve, to make tokens, to move contacts in and out, to back up."""

import ipaddress
import logging
import os
import re
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from flask import Flask, current_app
from flask.cli import AppGroup, ScriptInfo
from marshmallow import ValidationError

import conform
import openapi
import schemas
import store
import transfer
from app import create_app, make_store, unknown_settings

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

FILE = click.Path(dir_okay=False, path_type=Path)


class Command(click.Command):
    """A command that reports in one line what an operator can mend."""

    def __init__(self, *args, failure=click.ClickException, **kwargs):
        super().__init__(*args, **kwargs)
        self.failure = failure

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except (store.StoreUnavailable, store.UnusableDatabase) as error:
            raise self.failure(str(error)) from error
        except BrokenPipeError:
            raise  # the reader of the output has had enough: click ends quietly
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise self.failure(f"{where}{error.strerror or error}.") from error


class Commands(AppGroup):
    """A group of such commands, which run in the application's context unless they say no."""

    command_class = Command


# Flask's own group would add its `run` and `shell`, read .env, and load any other application.
@click.group(
    cls=Commands, context_settings={"obj": ScriptInfo(create_app=create_app, set_debug_flag=False)}
)
@click.version_option(openapi.VERSION, prog_name="qyvo-standin")
def main():
    """A stand-in for Qyvo's contacts API: a sandbox for tests, and a service for small teams.

    It is not made, endorsed or supported by Qyvo. Settings are environment variables.
    """


def init_app(app: Flask):
    """Give the application its commands, for `flask` in the project's folder."""
    for command in main.commands.values():
        app.cli.add_command(command)


def program() -> str:
    """Return the command as it was typed: qyvo-standin, flask, python -m qyvo_standin."""
    return click.get_current_context().find_root().info_name


@main.command(with_appcontext=False)
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
    import server  # which takes a third of the time in which all else is imported

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
    stored: store.Store = app.extensions["store"]
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

    command = program()
    threads = app.config["CONTACTS_THREADS"]
    bridge = server.Bridge(app, threads, store.BUSY_SECONDS, store.WouldWait)
    server.serve(bridge, listener, ready, end=context.close)
    stored.close()


def read_contacts(app: Flask, file: Path) -> list[dict[str, Any]]:
    """Return the contacts of a file, each of which must be sound. Raises click.ClickException."""
    from sandbox.endpoints import fits  # which a deployment never loads

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
            try:
                fits(row.contact.get("metadata", {}))
            except ValidationError as error:
                refusal = refusal or f"metadata: {error.messages[0]}"
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
    # The server's first signal sets one of these.
    if signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, signal.SIG_IGN):
        os.kill(os.getpid(), signal.SIGTERM)


def one_word(name: str) -> str:
    """Return a name that stays one word in a log line. Raises click.BadParameter."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
        raise click.BadParameter("use 1 to 64 letters, digits, dots, hyphens and underscores.")
    return name


@main.group(cls=Commands)
def token():
    """Make, list and revoke bearer tokens."""


@token.command()
@click.argument("name", type=one_word)
@click.option(
    "--workspace", metavar="NAME", type=one_word, default=store.DEFAULT_WORKSPACE, show_default=True
)
def create(name: str, workspace: str):
    """Make a token and show it, this once."""
    try:
        click.echo(open_store(make=True).create_token(name, workspace))
    except store.Refused as error:
        raise click.ClickException(
            f"There is a token named {name}: revoke it first, or choose another name."
        ) from error


@token.command("list")
def list_():
    """Show every token's name, workspace and time of creation."""
    for row in open_store().list_tokens():
        click.echo(f"{row['name']}\t{row['workspace']}\t{row['created_at'].isoformat()}")


@token.command()
@click.argument("name", type=one_word)
def revoke(name: str):
    """Refuse the token from now on, in a running server too."""
    if not open_store().revoke_token(name):
        raise click.ClickException(f"There is no token named {name}: see `{program()} token list`.")


def open_store(sandbox: bool = False, *, make: bool = False) -> store.Store:
    """Return the deployment's store or the sandbox's, whose file must exist unless `make`."""
    database = current_app.extensions["store"]
    if sandbox:
        database = make_store(current_app.config, sandbox)
    if not make and not database.path.exists():
        raise click.ClickException(f"{database.path}: there is no database.")
    return database


def existing_workspace(database: store.Store, name: str) -> int:
    """Return the id of the workspace of that name. Raises click.ClickException."""
    workspace_id = database.find_workspace(name)
    if workspace_id is None:
        raise click.ClickException(f"There is no workspace named {printable(name)}.")
    return workspace_id


def default_workspace() -> str:
    """Return the workspace that the current command means unless one is named."""
    sandbox = click.get_current_context().params["sandbox"]
    return store.SANDBOX_WORKSPACE if sandbox else store.DEFAULT_WORKSPACE


sandbox_option = click.option(
    "--sandbox", is_flag=True, is_eager=True, help="Use the sandbox's database."
)
workspace_option = click.option(
    "--workspace",
    metavar="NAME",
    default=default_workspace,
    show_default="default, or sandbox with --sandbox",
)


def column(text: str) -> tuple[str, str]:
    """Return the title of a column, and the field that it means. Raises click.BadParameter."""
    title, _, field = text.rpartition("=")
    fields = [name for name in transfer.VARIANTS if name != transfer.REASON]
    if not title.strip() or field not in fields:
        raise click.BadParameter(
            f"write COLUMN=FIELD, with one of these fields: {', '.join(fields)}."
        )
    return title.strip(), field


@main.command("import", failure=transfer.Unfinished)
@click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)
)
@sandbox_option
@workspace_option
@click.option("--create", is_flag=True, help="Make the workspace if there is none of that name.")
@click.option("--format", "named", type=click.Choice(["csv", "jsonl"]), help="Whatever the ending.")
@click.option(
    "--map", "columns", metavar="COLUMN=FIELD", type=column, multiple=True, help="May be repeated."
)
@click.option("--clear-empty", is_flag=True, help="Let empty cells clear name, email and tags.")
@click.option(
    "--encoding", type=click.Choice(list(transfer.ENCODINGS)), default="utf-8", show_default=True
)
@click.option("--dry-run", is_flag=True, help="Say which rows would be refused; write nothing.")
def import_(file, sandbox, workspace, create, named, columns, clear_empty, encoding, dry_run):
    """Create or update contacts from FILE, a .csv or .jsonl, or from standard input if it is -.

    Exits with 0 when every row is in, 1 when some were refused, 2 when it did not come to its end.
    """
    schemas.default_region.set(current_app.config["CONTACTS_DEFAULT_REGION"])
    database = open_store(sandbox, make=True)
    accepted, refused, rejected = 0, 0, None
    read = transfer.format_of(file, named)
    with transfer.opened(file, encoding) as text:
        contacts = read(text, dict(columns), clear_empty)
        require_workspace(database, workspace, create)
        notify(contacts)
        if not dry_run:
            workspace_id = database.open_workspace(workspace)
        if not dry_run and file != transfer.STDIN:
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


def require_workspace(database: store.Store, name: str, create: bool):
    """Refuse to make a workspace by mistake, or one that no token could open."""
    default = default_workspace()
    if name == default or (database.path.exists() and database.find_workspace(name)):
        return
    if not create:
        raise transfer.Unfinished(
            f"There is no workspace named {printable(name)}: add --create to make it."
        )
    one_word(name)
    if default == store.SANDBOX_WORKSPACE and not re.fullmatch(f"{default}-.+", name):
        raise transfer.Unfinished(
            f"A workspace of the sandbox is named as its token: {default}-{name}."
        )


def notify(contacts: transfer.CSVFile | transfer.JSONLinesFile):
    """Print what becomes of the file's columns."""
    for notice in contacts.notices:
        click.echo(printable(notice), err=True)


def write_rows(database: store.Store, workspace_id: int, rows: list[transfer.Row]):
    """Write the sound rows in one transaction, and note why the store refuses any of them."""
    sound = [row for row in rows if not row.refusal]
    errors = database.import_contacts(workspace_id, [row.contact for row in sound])
    for position, error in errors.items():
        sound[position].refusal = f"{error.field}: {error}"


def printable(text: str) -> str:
    """Return the text without what a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


@main.command()
@click.argument("file", required=False, type=FILE)
@sandbox_option
@workspace_option
def export(file: Path | None, sandbox: bool, workspace: str):
    """Write every contact to FILE, a .csv or .jsonl, or as JSON Lines to standard output."""
    database = open_store(sandbox)
    contacts = database.export_contacts(existing_workspace(database, workspace))
    if file is None:
        sys.stdout.reconfigure(encoding="utf-8")
        transfer.JSONLinesFile.write(sys.stdout, contacts)
        return
    kind = transfer.format_of(file)
    with transfer.replacing(file) as new, new.open("w", encoding="utf-8", newline="") as text:
        kind.write(text, contacts)


@main.command()
@click.argument("phone_or_id")
@sandbox_option
@workspace_option
@click.option("--yes", is_flag=True, help="Don't ask.")
def delete(phone_or_id: str, sandbox: bool, workspace: str, yes: bool):
    """Erase the contact with that phone number or id."""
    schemas.default_region.set(current_app.config["CONTACTS_DEFAULT_REGION"])
    database = open_store(sandbox)
    workspace_id = existing_workspace(database, workspace)
    try:
        contact = database.get_contact(workspace_id, **reference(phone_or_id))
        if not yes:
            known = [contact["name"], contact["phone"], contact["email"], contact["id"]]
            whom = printable(", ".join(filter(None, known)))
            click.confirm(f"Delete {whom} for good?", abort=True)
        database.delete_contact(workspace_id, contact["id"])
    except store.ContactNotFound as error:
        raise click.ClickException(
            f"No contact of the workspace {workspace} is {printable(phone_or_id)}."
        ) from error
    report_deletion(database, contact["id"])


def report_deletion(database: store.Store, name: str):
    """Say what was deleted, and whether traces of it stay in the files."""
    click.echo(f"Deleted {name}.")
    with suppress(store.StoreUnavailable):
        if database.empty_log():
            return
    click.echo(
        "Another process is using the database: traces of what was deleted stay in its files until"
        " the log is next emptied, as it is when the service is restarted.",
        err=True,
    )


def reference(phone_or_id: str) -> dict[str, str]:
    """Return the text as the contact's id or else as its phone. Raises click.UsageError."""
    with suppress(ValidationError):
        return {"contact_id": schemas.ContactId().deserialize(phone_or_id)}
    try:
        return {"phone": schemas.PhoneNumber().deserialize(phone_or_id)}
    except ValidationError as error:
        raise click.UsageError(f"Neither an id nor a phone number: {error.messages[0]}") from error


@main.command()
@click.argument("file", type=FILE)
@sandbox_option
def backup(file: Path, sandbox: bool):
    """Copy the database to FILE, whole and verified, while the service runs."""
    database = open_store(sandbox)
    if file.exists() and not database.is_copy(file):
        raise click.ClickException(
            f"{file} is in use, or is no backup of this service: choose another name."
        )
    with transfer.replacing(file) as new:
        database.back_up(new)
    click.echo(f"Backed up to {file}.")


@main.group(cls=Commands)
def workspace():
    """List and delete workspaces."""


@workspace.command("list")
@sandbox_option
def list_workspaces(sandbox: bool):
    """Show every workspace's name, contacts, tokens and last change of a contact."""
    for row in open_store(sandbox).summarize_workspaces():
        updated = row["updated_at"].isoformat() if row["updated_at"] else "never"
        click.echo(f"{row['name']}\t{row['contacts']}\t{row['tokens']}\t{updated}")


@workspace.command("delete")
@click.argument("name")
@sandbox_option
@click.option("--yes", is_flag=True, help="Don't ask.")
def delete_workspace(name: str, sandbox: bool, yes: bool):
    """Erase the workspace with its contacts and tokens, in a running server too."""
    database = open_store(sandbox)
    workspace_id = existing_workspace(database, name)
    if not yes:
        [row] = [row for row in database.summarize_workspaces() if row["name"] == name]
        what = f"contacts: {row['contacts']}, tokens: {row['tokens']}"
        click.confirm(f"Delete the workspace {name} ({what}) for good?", abort=True)
    database.delete_workspace(workspace_id)
    report_deletion(database, name)


main.add_command(conform.command)
