"""The check of another service: does it follow the rules that this project follows?

Uses nothing of the service that is built here. It writes to one contact only, and restores it.
"""

import io
import json
import os
import re
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import click

from conform.client import Client, Stop
from conform.rules import METADATA_KEYS, RULES, as_json
from conform.run import DIFFERENT, NOT_CHECKED, RESULTS, SAME, Finding, Run, spellings

DOCUMENTED_RATE = 120  # requests a minute for each token
LOOPBACK = ("localhost", "127.0.0.1", "::1")

NOTICE = """\
Host:       {host}
Workspace:  {workspace}
Contact:    {phone}, which {state}
Requests:   about {count}, at most {rate:g} a minute

This writes that contact's name, email, tags and metadata, many times, and then restores them. Its
number must be your own or fictional. Automations of the workspace may react to the changes. The
keys {keys} stay in its metadata."""


@click.command("conform")
@click.argument("url")
@click.option("--phone", required=True, help="The one contact to write to, in E.164.")
@click.option(
    "--rate",
    type=click.FloatRange(1),
    default=DOCUMENTED_RATE / 2,
    show_default=True,
    help="Requests a minute.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0.1),
    default=30,
    show_default=True,
    help="Seconds to wait for a response.",
)
@click.option(
    "--json",
    "file",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write what was found to this file, without personal data.",
)
@click.option("--yes", is_flag=True, help="Don't ask.")
def command(url: str, phone: str, rate: float, timeout: float, file: Path | None, yes: bool):
    """Check which of our rules the service at URL follows, with the token in QYVO_TOKEN.

    Writes to the contact PHONE alone, and restores it. Exits with 0 when every rule of the vendor's
    that was checked holds, 1 when one differs, 2 when the check could not be run or the contact not
    be restored.
    """
    address, token = address_of(url), os.environ.get("QYVO_TOKEN", "")
    try:
        spellings(phone)
    except ValueError as error:
        text = "must be in E.164, for example +14155550123."
        raise click.BadParameter(text, param_hint="'--phone'") from error
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise click.UsageError("Set QYVO_TOKEN to the token, in ASCII and without spaces.")

    def say(text: str, err: bool = False):
        """Print it, without the token and what a terminal would obey."""
        text = text.replace(token, "<token>")
        click.echo("".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text), err=err)

    findings = []
    try:
        run = Run(Client(address, token, rate, timeout), address.netloc, phone, private=[token])
        state = "exists" if run.found else "will be created, and stays"
        notice = NOTICE.format(
            host=address.netloc,
            workspace=run.tenant["name"],
            phone=phone,
            state="is restored first, since an earlier run did not end" if run.earlier else state,
            count=sum(len(rule.steps) for rule in RULES),
            rate=rate,
            keys=" and ".join(METADATA_KEYS),
        )
        say(notice, err=True)
        if not yes and not confirmed():
            raise Stop("Not started.")
        with progress_bar() as rules:
            problems, note = run.carry_out(rules)
        findings = run.findings
        say(note, err=True)
        say(table(findings))
        if file:
            document = {"service": address.hostname, "rules": [f.public() for f in findings]}
            text = json.dumps(document, ensure_ascii=False, indent=2, default=str)
            file.write_text(text + "\n", encoding="utf-8")
    except (Stop, OSError, KeyboardInterrupt) as error:
        problems = [str(error) or "Interrupted."]
    if problems:
        say(f"Error: {' '.join(problems)}", err=True)
        click.get_current_context().exit(2)
    if any(f.result == DIFFERENT and f.is_the_vendors for f in findings):
        click.get_current_context().exit(1)


def address_of(url: str) -> SplitResult:
    """Return the URL's parts. Raises click.BadParameter for what no token should be sent to."""
    wrong = partial(click.BadParameter, param_hint="'URL'")
    try:
        address = urlsplit(url)
        host, _ = address.hostname, address.port
    except ValueError as error:
        raise wrong(f"{error}.") from error
    if address.scheme not in ("http", "https") or not host:
        raise wrong("must start with https:// and a host, for example https://www.qyvo.io.")
    if "@" in address.netloc or address.path.strip("/") or address.query or address.fragment:
        raise wrong("must be the scheme and the host alone, for example https://www.qyvo.io.")
    if address.scheme == "http" and host not in LOOPBACK:
        raise wrong("must be https://, so that nobody reads the token on the way.")
    return address


def confirmed() -> bool:
    try:
        return click.confirm("Go on?", err=True)
    except click.Abort:
        return False


def progress_bar():
    """Go through the rules and, on a terminal, show how far that is."""
    terminal = sys.stderr if sys.stderr.isatty() else io.StringIO()
    return click.progressbar(RULES, file=terminal, item_show_func=lambda rule: rule and rule.id)


def table(findings: list[Finding]) -> str:
    """Return what differs, what was not checked, and the rest, the vendor's first, and counts."""
    lines = []
    for finding in sorted(findings, key=lambda f: (RESULTS.index(f.result), not f.is_the_vendors)):
        rule = finding.rule
        lines.append(f"{finding.result:<11}  {rule.id:<20}  {rule.source:<20}  {rule.sentence}")
        lines += [f"{'':<11}  {text}" for text in details(finding)]
    of = Counter(finding.result for finding in findings)
    vendors = [finding.result for finding in findings if finding.is_the_vendors]
    counts = ", ".join(f"{of[result]} {result}" for result in RESULTS)
    unseen = f"Of the vendor's {len(vendors)}, {vendors.count(NOT_CHECKED)} were not checked."
    return "\n".join([*lines, "", f"{len(findings)} rules: {counts}. {unseen}"])


def details(finding: Finding) -> list[str]:
    """Return what stands below a finding's row."""
    if finding.result == NOT_CHECKED:
        return [f"reason    {finding.reason}"]
    if finding.result == SAME:
        return []
    first, *others = finding.sent
    return [
        f"sent      {first}",
        *(f"          {other}" for other in others),
        f"expected  {as_json(finding.expected)}",
        f"observed  {as_json(finding.observed)}",
    ]
