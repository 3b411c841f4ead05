"""Contacts in from a file, and the report of what became of them."""

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import phonenumbers
from flask import current_app
from flask.cli import with_appcontext

import schemas
import store
from commands import encodings, files, sources
from commands.base import (
    Command,
    Unfinished,
    default_workspace,
    make_database,
    name_database,
    one_word,
    open_store,
    printable,
    sandbox_option,
    workspace_option,
)
from commands.columns import MAPPABLE
from settings import make_store

MAX_LINES = 20  # of refused rows, on the terminal: the others are in the file
MAX_REFUSALS = 1000  # in the JSON
REASON_WIDTH = 24  # by which refusals are alike


def column(text: str) -> tuple[str, str]:
    """Return the title of a column, and the field that it means. Raises click.BadParameter."""
    title, _, name = text.rpartition("=")
    if not title.strip() or name not in MAPPABLE:
        raise click.BadParameter(
            f"write COLUMN=FIELD, with one of these fields: {', '.join(MAPPABLE)}."
        )
    return title.strip(), name


def encoding_name(text: str) -> str:
    """Return the name of an encoding. Raises click.BadParameter."""
    try:
        encodings.codec_of(text)
    except (LookupError, UnicodeError) as error:
        known = ", ".join(["utf-8", "utf-16", *encodings.CANDIDATES])
        raise click.BadParameter(f"no encoding has this name. Usual ones: {known}.") from error
    return text.lower()


def country(text: str) -> str:
    """Return the code of a country in capitals. Raises click.BadParameter."""
    if text.upper() not in phonenumbers.SUPPORTED_REGIONS:
        raise click.BadParameter("Must be an ISO 3166 country such as FR.")
    return text.upper()


@click.command("import", cls=Command, failure=Unfinished)
@click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)
)
@sandbox_option
@workspace_option
@click.option("--create", is_flag=True, help="Make the workspace if there is none of that name.")
@click.option("--dry-run", is_flag=True, help="Report the same, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON on standard output.")
@click.option(
    "--region",
    type=country,
    metavar="COUNTRY",
    help="Read numbers without + as this country dials them: FR, DE, ES. By default that of"
    " CONTACTS_DEFAULT_REGION.",
)
@click.option(
    "--national",
    is_flag=True,
    help="All numbers without + are of the region, though their leading 0 may be lost.",
)
@click.option(
    "--international",
    is_flag=True,
    help="All numbers without + have a country code: only the + is missing.",
)
@click.option(
    "--map",
    "mapping",
    metavar="COLUMN=FIELD",
    type=column,
    multiple=True,
    help=f"What a column means. FIELD is one of {', '.join(MAPPABLE)}. May be repeated.",
)
@click.option(
    "--last-wins", is_flag=True, help="Of rows with the same phone, import all, the last one last."
)
@click.option("--clear-empty", is_flag=True, help="Let empty cells clear name, email and tags.")
@click.option(
    "--encoding",
    metavar="NAME",
    type=encoding_name,
    help="Such as cp1252, for a file that is neither UTF-8 nor UTF-16.",
)
@click.option(
    "--format", "ending", type=click.Choice(["csv", "jsonl"]), help="Whatever the file's ending."
)
@with_appcontext
def import_(
    file: Path,
    sandbox: bool,
    workspace: str,
    create: bool,
    dry_run: bool,
    as_json: bool,
    region: str | None,
    national: bool,
    international: bool,
    mapping: tuple[tuple[str, str], ...],
    last_wins: bool,
    clear_empty: bool,
    encoding: str | None,
    ending: str | None,
):
    """Create or update contacts from FILE, a .csv or .jsonl, or from standard input if it is -.

    Exits with 0 when every row is in, 1 when some were refused, 2 when it could not end.
    """
    region = region or current_app.config["CONTACTS_DEFAULT_REGION"]
    if national and international:
        raise click.UsageError("--national and --international exclude each other: pass one.")
    if national and not region:
        raise click.UsageError("--national needs --region, or CONTACTS_DEFAULT_REGION.")
    kind = "national" if national else "international" if international else None
    schemas.phone_reading.set(schemas.PhoneReading(region, kind))
    database = open_store(sandbox, make=True)
    read = files.format_of(
        file, ending, "Spreadsheets save CSV, too; if it is text of columns, add --format csv."
    )
    with sources.opened(file, encoding, choice=True) as source:
        contacts = read(source, sources.Options(dict(mapping), clear_empty))
        require_workspace(database, workspace, create)
        describe(contacts)
        report = Report(str(file), str(database.path), workspace, dry_run, last_wins)
        with copied(database, sandbox) if dry_run else written(database) as database:
            workspace_id = database.get_or_create_workspace(workspace)
            with progress(os.fstat(source.text.fileno()).st_size) as show_progress:
                try:
                    for rows in files.batches(source.text, contacts):
                        report.refuse_repeated(rows)
                        report.count(rows, write_rows(database, workspace_id, rows))
                        report.keep_refused(contacts, rows)
                        show_progress(source.text.buffer.tell())
                except BaseException as error:
                    if not dry_run:
                        report.say_how_far()
                    if isinstance(error, KeyboardInterrupt):
                        raise Unfinished("Interrupted.") from error
                    raise
    report.finish(contacts, as_json)
    if report.refused:
        click.get_current_context().exit(1)


def require_workspace(database: store.Store, name: str, create: bool):
    """Refuse to make a workspace by mistake, or one that no token could open."""
    default = default_workspace()
    if name == default or (database.path.exists() and database.find_workspace(name)):
        return
    if not create:
        raise Unfinished(f"There is no workspace named {printable(name)}: add --create to make it.")
    one_word(name)
    if default == store.SANDBOX_WORKSPACE and not re.fullmatch(f"{default}-.+", name):
        raise Unfinished(f"A workspace of the sandbox is named as its token: {default}-{name}.")


@contextmanager
def written(database: store.Store) -> Iterator[store.Store]:
    """Provide the database, made if necessary, and say which it is."""
    name_database(database)
    make_database(database)
    yield database


@contextmanager
def copied(database: store.Store, sandbox: bool) -> Iterator[store.Store]:
    """Provide a copy of the database that goes afterwards, to see what an import would do."""
    name_database(database)
    with TemporaryDirectory(prefix="qyvo-standin-") as folder:
        copy = Path(folder, "copy.db")
        if database.path.exists():
            database.back_up(copy)
        settings = {"CONTACTS_DATABASE": str(copy), "CONTACTS_SYNCHRONOUS": "NORMAL"}
        with closing(make_store(settings, sandbox)) as scratch:
            yield scratch


@contextmanager
def progress(size: int) -> Iterator[Callable[[int], None]]:
    """Provide a function that shows, on a terminal, how much of the file was read."""
    if not sys.stderr.isatty():
        yield lambda position: None
        return
    with click.progressbar(length=size, file=sys.stderr) as bar:
        shown = 0

        def show(position: int):
            nonlocal shown
            bar.update(position - shown)
            shown = position

        yield show


def write_rows(database: store.Store, workspace_id: int, rows: list[sources.Row]) -> Counter:
    """Write the sound rows in one transaction, and note why the store refuses any of them."""
    sound = [row for row in rows if not row.refusal]
    results = database.import_contacts(workspace_id, [row.contact for row in sound])
    for row, result in zip(sound, results, strict=True):
        if isinstance(result, store.Refused):
            row.refusal = f"{result.field}: {result}"
    return Counter(result for result in results if isinstance(result, str))


def describe(contacts: files.ContactsFile):
    """Print what becomes of each column that is not empty, with a sample, and what is special."""
    click.echo(f"{contacts.description}:", err=True)
    for title, meaning, sample in contacts.preview:
        click.echo(f"  {printable(title):<30} → {meaning:<16} {printable(sample)}", err=True)
    for notice in contacts.notices:
        click.echo(printable(notice), err=True)


@dataclass
class Report:
    """What became of the rows of a file."""

    file: str
    database: str
    workspace: str
    dry_run: bool
    last_wins: bool
    created: int = 0
    updated: int = 0
    changed: int = 0  # of the updated
    refused: int = 0
    repeated: list[dict[str, int]] = field(default_factory=list)
    refusals: list[dict[str, int | str]] = field(default_factory=list)
    refused_file: Path | None = None

    def __post_init__(self):
        self._lines: dict[str, int] = {}  # of the first row with each phone
        self._reasons = Counter()
        self._starting_with_0 = 0

    def refuse_repeated(self, rows: list[sources.Row]):
        """Refuse rows whose phone a row before has, unless the last one wins."""
        is_stdin = self.file == str(sources.STDIN)
        name = "standard input" if is_stdin else printable(Path(self.file).name)
        for row in rows:
            if row.refusal:
                continue
            phone = row.contact["phone"]
            first = self._lines.setdefault(phone, row.line)
            if first != row.line:
                self.repeated.append({"line": row.line, "repeats": first})
                if not self.last_wins:
                    row.refusal = f"phone: Line {first} of {name} has {phone} too."
            elif not self.last_wins and row.refused_before.endswith(f" has {phone} too."):
                row.refusal = row.refused_before  # nobody has corrected it

    def count(self, rows: list[sources.Row], results: Counter):
        self.created += results["created"]
        self.updated += results["updated"] + results["unchanged"]
        self.changed += results["updated"]
        for row in rows:
            if row.refusal:
                self.refused += 1
                self._reasons[row.refusal[:REASON_WIDTH]] += 1
                self._starting_with_0 += str(row.phone).startswith("0")
                if len(self.refusals) < MAX_REFUSALS:
                    self.refusals.append({"line": row.line, "reason": row.refusal})

    def keep_refused(self, contacts: files.ContactsFile, rows: list[sources.Row]):
        """Say why rows are refused, and append them to their file, if there is one."""
        refused = [row for row in rows if row.refusal]
        said = self.refused - len(refused)
        for number, row in enumerate(refused, said + 1):
            if number <= MAX_LINES or self.file == str(sources.STDIN):
                click.echo(f"line {row.line}: {printable(row.refusal)}", err=True)
        if refused and not self.dry_run and self.file != str(sources.STDIN):
            self.refused_file = self.refused_file or files.new_file_of_refused(
                Path(self.file), contacts.ending
            )
            files.append_refused(self.refused_file, contacts, refused)

    def say_how_far(self):
        click.echo(
            f"Stopped after {self.created + self.updated} contacts or a few more. They are in the"
            " database, and another run leaves them as they are.",
            err=True,
        )

    def finish(self, contacts: files.ContactsFile, as_json: bool):
        """Print the whole of it."""
        advice = self.advice(contacts)
        if self.refused > MAX_LINES and self.file != str(sources.STDIN):
            click.echo(f"… and {self.refused - MAX_LINES} more.", err=True)
        if self.refused_file:
            click.echo(
                f"Correct the refused rows in {printable(str(self.refused_file))}, and import it"
                f" with the same options.{contacts.before_correcting}",
                err=True,
            )
        if self.last_wins:
            for each in self.repeated[:MAX_LINES]:
                click.echo("line {line} repeats line {repeats}.".format_map(each), err=True)
        click.echo(
            f"Created: {self.created}. Updated: {self.updated}, of which {self.changed} changed."
            f" Repeated: {len(self.repeated)}.",
            err=True,
        )
        if advice:
            click.echo(printable(advice), err=True)
        if self.dry_run:
            click.echo("A dry run: nothing was written.", err=True)
        imported = self.created + self.updated
        if not as_json:
            click.echo(f"Imported: {imported}. Refused: {self.refused}.")
            return
        columns = [
            {"title": title, "becomes": meaning, "sample": sample}
            for title, meaning, sample in contacts.preview
        ]
        report = {
            "file": self.file,
            "description": contacts.description,
            "columns": columns,
            "notices": contacts.notices,
            "imported": imported,
            **asdict(self),
            "refused_file": self.refused_file and str(self.refused_file),
            "advice": advice,
        }
        click.echo(json.dumps(report, indent=2))

    def advice(self, contacts: files.ContactsFile) -> str:
        """Return the option that would help if most rows are refused for one reason, else ""."""
        [(reason, count)] = self._reasons.most_common(1) or [("", 0)]
        if count * 2 <= self.created + self.updated + self.refused:
            return ""
        if reason.startswith("phone: Must start with +"):
            if self._starting_with_0 * 2 > count:
                return "Most numbers have no +. Add their country: --region FR, for example."
            return (
                "Most numbers have no +. If only that is missing, add --international. If they are"
                " of one country, add --region FR, for example, and --national where a leading 0"
                " is missing too."
            )
        if reason.startswith("phone: Without a +"):
            if kind := schemas.phone_reading.get().kind:
                return f"Most numbers have no +, and --{kind} is not true of them."
            return "Most numbers have no +. What are they? Add --national or --international."
        return contacts.advice(reason.partition(":")[0])
