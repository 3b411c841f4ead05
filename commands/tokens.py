"""Bearer tokens, and the workspaces that they open."""

import click

import store
from commands.base import (
    Commands,
    existing_workspace,
    make_database,
    one_word,
    open_store,
    program,
    report_deletion,
    sandbox_option,
)


@click.group(cls=Commands)
def token():
    """Make, list and revoke bearer tokens."""


@token.command()
@click.argument("name", type=one_word)
@click.option(
    "--workspace", metavar="NAME", type=one_word, default=store.DEFAULT_WORKSPACE, show_default=True
)
def create(name: str, workspace: str):
    """Make a token and show it, this once."""
    database = open_store(make=True)
    make_database(database)
    try:
        click.echo(database.create_token(name, workspace))
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


@click.group(cls=Commands)
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
