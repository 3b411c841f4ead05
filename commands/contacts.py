"""Contacts in and out of files, erasure, and backups."""

import io
import os
import re
import sys
from contextlib import suppress
from pathlib import Path

import click
from flask import current_app
from flask.cli import with_appcontext
from marshmallow import ValidationError

import schemas
import store
from commands import files
from commands.base import (
    FILE,
    Command,
    default_workspace,
    existing_workspace,
    notify,
    one_word,
    open_store,
    printable,
    report_deletion,
    sandbox_option,
    workspace_option,
)


def column(text: str) -> tuple[str, str]:
    """Return the title of a column, and the field that it means. Raises click.BadParameter."""
    title, _, field = text.rpartition("=")
    fields = [name for name in files.VARIANTS if name != files.REASON]
    if not title.strip() or field not in fields:
        raise click.BadParameter(
            f"write COLUMN=FIELD, with one of these fields: {', '.join(fields)}."
        )
    return title.strip(), field


@click.command("import", cls=Command, failure=files.Unfinished)
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
    "--encoding", type=click.Choice(list(files.ENCODINGS)), default="utf-8", show_default=True
)
@click.option("--dry-run", is_flag=True, help="Say which rows would be refused; write nothing.")
@with_appcontext
def import_(file, sandbox, workspace, create, named, columns, clear_empty, encoding, dry_run):
    """Create or update contacts from FILE, a .csv or .jsonl, or from standard input if it is -.

    Exits with 0 when every row is in, 1 when some were refused, 2 when it did not come to its end.
    """
    schemas.default_region.set(current_app.config["CONTACTS_DEFAULT_REGION"])
    database = open_store(sandbox, make=True)
    accepted, refused, rejected = 0, 0, None
    read = files.format_of(file, named)
    with files.opened(file, encoding) as text:
        contacts = read(text, dict(columns), clear_empty)
        require_workspace(database, workspace, create)
        notify(contacts)
        if not dry_run:
            workspace_id = database.get_or_create_workspace(workspace)
        if not dry_run and file != files.STDIN:
            rejected = file.with_name(f"{file.name}.rejected{contacts.ending}")
            rejected.unlink(missing_ok=True)
        size = os.fstat(text.fileno()).st_size
        terminal = sys.stderr if sys.stderr.isatty() else io.StringIO()
        with click.progressbar(length=size, file=terminal) as bar:
            try:
                for rows in files.batches(text, contacts):
                    if not dry_run:
                        write_rows(database, workspace_id, rows)
                    refusals = [row for row in rows if row.refusal]
                    for row in refusals:
                        click.echo(f"line {row.line}: {printable(row.refusal)}", err=True)
                    if rejected and refusals:
                        files.write_refused(rejected, contacts, refusals)
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
        raise files.Unfinished(
            f"There is no workspace named {printable(name)}: add --create to make it."
        )
    one_word(name)
    if default == store.SANDBOX_WORKSPACE and not re.fullmatch(f"{default}-.+", name):
        raise files.Unfinished(
            f"A workspace of the sandbox is named as its token: {default}-{name}."
        )


def write_rows(database: store.Store, workspace_id: int, rows: list[files.Row]):
    """Write the sound rows in one transaction, and note why the store refuses any of them."""
    sound = [row for row in rows if not row.refusal]
    errors = database.import_contacts(workspace_id, [row.contact for row in sound])
    for position, error in errors.items():
        sound[position].refusal = f"{error.field}: {error}"


@click.command(cls=Command)
@click.argument("file", required=False, type=FILE)
@sandbox_option
@workspace_option
@with_appcontext
def export(file: Path | None, sandbox: bool, workspace: str):
    """Write every contact to FILE, a .csv or .jsonl, or as JSON Lines to standard output."""
    database = open_store(sandbox)
    contacts = database.export_contacts(existing_workspace(database, workspace))
    if file is None:
        sys.stdout.reconfigure(encoding="utf-8")
        files.JSONLinesFile.write(sys.stdout, contacts)
        return
    kind = files.format_of(file)
    with files.replacing(file) as new, new.open("w", encoding="utf-8", newline="") as text:
        kind.write(text, contacts)


@click.command(cls=Command)
@click.argument("phone_or_id")
@sandbox_option
@workspace_option
@click.option("--yes", is_flag=True, help="Don't ask.")
@with_appcontext
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


def reference(phone_or_id: str) -> dict[str, str]:
    """Return the text as the contact's id or else as its phone. Raises click.UsageError."""
    with suppress(ValidationError):
        return {"contact_id": schemas.ContactId().deserialize(phone_or_id)}
    try:
        return {"phone": schemas.PhoneNumber().deserialize(phone_or_id)}
    except ValidationError as error:
        raise click.UsageError(f"Neither an id nor a phone number: {error.messages[0]}") from error


@click.command(cls=Command)
@click.argument("file", type=FILE)
@sandbox_option
@with_appcontext
def backup(file: Path, sandbox: bool):
    """Copy the database to FILE, whole and verified, while the service runs."""
    database = open_store(sandbox)
    if file.exists() and not database.is_copy(file):
        raise click.ClickException(
            f"{file} is in use, or is no backup of this service: choose another name."
        )
    with files.replacing(file) as new:
        database.back_up(new)
    click.echo(f"Backed up to {file}.")
