"""What only a developer's stand-in needs: sample contacts, and a workspace for every token.

A deployment never loads this module.
"""

import re
from collections.abc import Callable

from flask import Flask

from store import DEFAULT_WORKSPACE, Store, Token

# Numbers that regulators keep for fiction; the first contact is the documentation's own example.
SAMPLE_CONTACTS = [
    {
        "phone": "+14155550123",
        "name": "Romain",
        "email": "romain@example.com",
        "tags": ["vip"],
        "metadata": {"lifetime_value": 8900.5, "city": "Lyon"},
    },
    {
        "phone": "+33639980101",
        "name": "Élodie Martin",
        "email": "elodie@example.com",
        "tags": ["newsletter", "vip"],
        "metadata": {"language": "fr"},
    },
    {
        "phone": "+442079460958",
        "name": "Grace Okafor",
        "email": "grace@example.com",
        "tags": ["lead"],
        "metadata": {"source_campaign": "spring"},
    },
    {"phone": "+12025550147", "name": "Kenji Sato", "tags": ["support"]},
    {"phone": "+61491570156"},
]


def init_app(app: Flask):
    """Gives the application the sandbox's tokens."""
    app.config["SANDBOX_TOKEN"] = app.config["QYVO_TOKEN"] or "sandbox"
    app.extensions["find_token"] = workspace_finder(
        app.extensions["store"], app.config["SANDBOX_TOKEN"]
    )


def workspace_finder(store: Store, base: str) -> Callable[[str], Token | None]:
    """Gives the base token, and each that continues it after a hyphen, a workspace of its own.

    The workspace is made, with the sample contacts, when its token is first seen. Its name never
    holds the base token, which may be a secret.
    """
    known: dict[str, Token] = {}

    def find_token(secret: str) -> Token | None:
        if secret in known:
            return known[secret]
        match = re.fullmatch(re.escape(base) + r"(-.{1,200})?", secret)
        if not match:
            return None
        name = f"sandbox{match[1] or ''}"
        workspace = name if match[1] else DEFAULT_WORKSPACE
        known[secret] = Token(0, name, store.open_workspace(workspace, SAMPLE_CONTACTS))
        return known[secret]

    return find_token
