"""The settings: environment variables, read and checked once."""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import phonenumbers
import platformdirs
from marshmallow import EXCLUDE, Schema, ValidationError, fields, pre_load, validate

from store import DEPLOYMENT_FILE, SANDBOX_FILE, Store


class Address(fields.IP):
    """An IP address. ::ffff:127.0.0.1 is the IPv4 address that it stands for."""

    def _deserialize(self, value, attr, data, **kwargs):
        address = super()._deserialize(value, attr, data, **kwargs)
        return getattr(address, "ipv4_mapped", None) or address


class DeploymentSettings(Schema):
    """The environment variables that a deployment reads, with their defaults."""

    QYVO_TOKEN = fields.String(
        load_default=None,
        validate=validate.Regexp(r"[\x21-\x7e]+\Z", error="Must be ASCII without spaces."),
    )
    CONTACTS_DATABASE = fields.String(load_default=None)
    CONTACTS_DEFAULT_REGION = fields.String(
        load_default=None,
        validate=validate.OneOf(
            phonenumbers.SUPPORTED_REGIONS,
            error="Must be an ISO 3166 country in capitals, such as FR.",
        ),
    )
    # `flask serve --sandbox` reads these too: that a deployment can't be OFF is the store's rule.
    CONTACTS_SYNCHRONOUS = fields.String(
        load_default="FULL",
        validate=validate.OneOf(
            ["FULL", "NORMAL", "OFF"], error="Must be FULL or NORMAL, or OFF in a sandbox."
        ),
    )
    CONTACTS_RATE_LIMIT = fields.Integer(load_default=None, validate=validate.Range(1, 1_000_000))
    CONTACTS_THREADS = fields.Integer(load_default=32, validate=validate.Range(1, 512))
    CONTACTS_TRUSTED_PROXY = Address(load_default=None)


class SandboxSettings(DeploymentSettings):
    """Those of a sandbox, which holds test data, and more requests that wait."""

    @pre_load
    def apply_defaults(self, data, **kwargs):
        return {"CONTACTS_SYNCHRONOUS": "OFF", "CONTACTS_THREADS": 128, **data}


def read_settings(
    environment: Mapping[str, str] = os.environ, *, sandbox: bool = False
) -> dict[str, Any]:
    """Return the settings with their defaults; an empty value counts as none.

    Raises click.ClickException for a wrong value, and for a name that is nearly a setting's.
    """
    for name in unknown_settings(environment):
        if near := difflib.get_close_matches(name.upper(), DeploymentSettings().fields, 1, 0.88):
            raise click.ClickException(f"{name}: Not a setting. Did you mean {near[0]}?")
    schema = SandboxSettings() if sandbox else DeploymentSettings()
    try:
        given = {name: value for name, value in environment.items() if value}
        return schema.load(given, unknown=EXCLUDE)
    except ValidationError as error:
        name, [text, *_] = next(iter(error.messages.items()))
        raise click.ClickException(f"{name}: {text}") from error


def unknown_settings(environment: Mapping[str, str]) -> list[str]:
    """Return the names that begin as a setting's and are none."""
    names = {name for name, value in environment.items() if value and name.startswith("CONTACTS_")}
    return sorted(names - DeploymentSettings().fields.keys())


def make_store(settings: Mapping[str, Any], sandbox: bool) -> Store:
    """Return the store that the settings name, of a deployment or of a sandbox."""
    given = settings["CONTACTS_DATABASE"]
    return Store(
        given or default_database(sandbox),
        make_folder=not given,
        synchronous=settings["CONTACTS_SYNCHRONOUS"],
        application_id=SANDBOX_FILE if sandbox else DEPLOYMENT_FILE,
    )


def default_database(sandbox: bool) -> Path:
    """Return the database that is used where CONTACTS_DATABASE names none.

    A checkout has it in instance/. An installed package must not: its folder goes with the next
    upgrade.
    """
    folder = Path(__file__).parent / "instance"
    if folder.with_name("__init__.py").exists():  # which package/ adds to the wheel
        folder = platformdirs.user_data_path("qyvo-standin", appauthor=False)
    return folder / ("sandbox.db" if sandbox else "contacts.db")
