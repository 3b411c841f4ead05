"""What the commands share: how they report errors, and which database and workspace they mean."""

import re
import shlex
from pathlib import Path

import click
from flask import current_app
from flask.cli import AppGroup

import store
from settings import make_store

FILE = click.Path(dir_okay=False, path_type=Path)


class Unfinished(click.ClickException):
    """The import or export can't be completed, whatever the rows say."""

    exit_code = 2


class Command(click.Command):
    """A command that reports in one line what an operator can mend."""

    def __init__(self, *args, failure=click.ClickException, **kwargs):
        super().__init__(*args, **kwargs)
        self.failure = failure
        self.short_help = self.short_help or (self.help or "").partition("\n\n")[0]  # all of it

    def parse_args(self, ctx, args):
        ctx.meta[__name__] = [*ctx.command_path.split(), *args]
        return super().parse_args(ctx, args)

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


def program() -> str:
    """Return the command as it was typed: qyvo-standin, flask, python -m qyvo_standin."""
    return click.get_current_context().find_root().info_name


def typed(*more: str) -> str:
    """Return the command as it was typed, with more arguments."""
    return shlex.join([*click.get_current_context().meta[__name__], *more])


def printable(text: str) -> str:
    """Return the text without what a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def one_word(name: str) -> str:
    """Return a name that stays one word in a log line. Raises click.BadParameter."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
        raise click.BadParameter("use 1 to 64 letters, digits, dots, hyphens and underscores.")
    return name


def name_database(database: store.Store):
    """Say which file a command works on, of the several that there may be."""
    click.echo(f"Database: {printable(str(database.path))}", err=True)


def make_database(database: store.Store):
    """Make the file if there is none, and say so."""
    is_new = not database.path.exists()
    database.check_writable()
    if is_new:
        click.echo(f"Created {printable(str(database.path))}, which no server uses yet.", err=True)


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


def report_deletion(database: store.Store, name: str):
    """Say what was deleted, and whether traces of it stay in the files."""
    click.echo(f"Deleted {name}.")
    try:
        if database.empty_log():
            return
    except store.StoreUnavailable:
        pass
    click.echo(
        "Another process is using the database: traces of what was deleted stay in its files until"
        " the log is next emptied, as it is when the service is restarted.",
        err=True,
    )
