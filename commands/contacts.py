"""Contacts out to files, erasure, and backups."""

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
    existing_workspace,
    name_database,
    open_store,
    printable,
    report_deletion,
    sandbox_option,
    workspace_option,
)


@click.command(cls=Command)
@click.argument("file", required=False, type=FILE)
@sandbox_option
@workspace_option
@click.option("--force", is_flag=True, help="Replace FILE even if it is no earlier export.")
@with_appcontext
def export(file: Path | None, sandbox: bool, workspace: str, force: bool):
    """Write every contact to FILE, a .csv or .jsonl, or as JSON Lines to standard output."""
    database = open_store(sandbox)
    name_database(database)
    contacts = database.export_contacts(existing_workspace(database, workspace))
    if file is None:
        sys.stdout.reconfigure(encoding="utf-8")
        files.JSONLinesFile.write(sys.stdout, contacts)
        return
    kind = files.format_of(file)
    if file.exists() and not force and not files.is_replaceable(file):
        raise click.ClickException(
            f"{file} is no earlier export: choose another name, or replace it with --force."
        )
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
    schemas.phone_reading.set(schemas.PhoneReading(current_app.config["CONTACTS_DEFAULT_REGION"]))
    database = open_store(sandbox)
    name_database(database)
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
    name_database(database)
    if file.exists() and not database.is_copy(file):
        raise click.ClickException(
            f"{file} is in use, or is no backup of this service: choose another name."
        )
    with files.replacing(file) as new:
        database.back_up(new)
    click.echo(f"Backed up to {file}.")
