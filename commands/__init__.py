"""What an operator types: to serve, to make tokens, to move contacts in and out, to back up."""

import click
from flask import Flask
from flask.cli import ScriptInfo

import conform
import openapi
from app import create_app
from commands import contacts, imports, tokens
from commands.base import Commands
from commands.serve import serve


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


for command in (
    serve,
    tokens.token,
    tokens.workspace,
    imports.import_,
    contacts.export,
    contacts.delete,
    contacts.backup,
    conform.command,
):
    main.add_command(command)
