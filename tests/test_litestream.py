"""Litestream beside a deployment, run for real: what its replica gives back, and what it keeps."""

import importlib.util
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import (
    PHONE,
    ROOT,
    SECONDS,
    connection,
    contacts_in,
    environment,
    execute,
    flask,
    post,
    serving,
)
from pages import examples

DEPLOY = ROOT / "deploy"
CONFIGURATION = DEPLOY / "litestream.yml"
LITESTREAM = shutil.which(
    "litestream", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
)
LOST_SECONDS = 3  # what docs/replication.md says that a restore may cost
NAME = "Zebulon Quixotry"
PHONES = [f"+1415555{n:04}" for n in range(40)]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not LITESTREAM, reason="litestream is not installed: requirements-dev.txt has it"
    ),
]


@contextmanager
def bucket(tmp_path):
    """The URL of a bucket in a store that speaks S3, on loopback."""
    log = tmp_path / "s3.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", "0"],
            stdout=stderr,
            stderr=stderr,
        )
    with process:
        try:
            url = wait_for(lambda: re.search(r"http://127\.0\.0\.1:\d+", log.read_text()))[0]
            with connection(url) as http_connection:
                http_connection.request("PUT", "/qyvo")
                assert http_connection.getresponse().status == 200
            yield f"s3://qyvo/contacts?endpoint={url}&region=us-east-1&force-path-style=true"
        finally:
            process.kill()


@pytest.fixture(params=["folder", "bucket"])
def replica(request, tmp_path):
    """The URL of an empty replica."""
    if request.param == "folder":
        yield folder(tmp_path)
        return
    if not importlib.util.find_spec("moto"):
        pytest.skip("moto is not installed: requirements-dev.txt has it")
    with bucket(tmp_path) as url:
        yield url


def folder(tmp_path):
    return f"file://{tmp_path}/replica"


def wait_for(condition):
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come about")


def litestream_environment(database, replica):
    settings = environment(
        database,
        REPLICA_URL=replica,
        LITESTREAM_ACCESS_KEY_ID="key-of-the-tests",
        LITESTREAM_SECRET_ACCESS_KEY="secret-of-the-tests",
    )
    settings.pop("AWS_CA_BUNDLE", None)  # a file that the tests' store does not need
    return settings


def litestream(command, *args, database, replica):
    """Run a command of Litestream's to its end."""
    return subprocess.run(
        [LITESTREAM, command, "-config", CONFIGURATION, *args],
        env=litestream_environment(database, replica),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@contextmanager
def replicating(database, replica, configuration=CONFIGURATION):
    """Litestream, with the configuration in deploy/: `kill()`, `stop()`, `log()`."""
    log = database.with_suffix(".litestream.log")
    with log.open("a") as output:
        earlier = output.tell()
        process = subprocess.Popen(
            [LITESTREAM, "replicate", "-config", configuration],
            env=litestream_environment(database, replica),
            stdout=output,
            stderr=output,
        )

    def stop():
        process.send_signal(signal.SIGTERM)
        return process.wait(SECONDS)

    with process:
        try:
            wait_for(lambda: log.read_text()[earlier:].count("replicating to"))
            yield SimpleNamespace(kill=process.kill, stop=stop, log=log.read_text)
        finally:
            process.kill()


def restore(replica, folder, *options):
    """Restore the replica into a new folder, which stands for a new machine."""
    folder.mkdir()
    database = folder / "served.db"
    ran = litestream(
        "restore",
        "-integrity-check",
        "full",
        *options,
        database,
        database=database,
        replica=replica,
    )
    return database, ran


def restored(replica, folder, *options):
    database, ran = restore(replica, folder, *options)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return database


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A database with contacts, and a token for them: made once, copied for each test."""
    database = tmp_path_factory.mktemp("prepared") / "served.db"
    created = flask("token", "create", "my-integration", env=environment(database))
    assert created.returncode == 0, created.stderr
    import_rows(database, [(PHONE, NAME), *((phone, "Client") for phone in PHONES)])
    return database, created.stdout.strip()


@pytest.fixture
def deployment(prepared, tmp_path):
    """The `database` of a deployment of its own, and the `bearer` token that it accepts."""
    database, bearer = prepared
    (tmp_path / "first").mkdir()
    copy = shutil.copy(database, tmp_path / "first" / "served.db")
    return SimpleNamespace(database=copy, bearer=bearer)


def import_rows(database, rows):
    file = database.with_suffix(".csv")
    file.write_text("phone,name\n" + "".join(f"{phone},{name}\n" for phone, name in rows))
    return subprocess.run(
        [sys.executable, "-m", "flask", "import", file],
        cwd=ROOT,
        env=environment(database),
        capture_output=True,
        text=True,
        timeout=3 * SECONDS,
        check=True,
    )


def count_up(url, bearer, phones, acknowledged):
    """Write growing counts to these contacts until the server is gone; note what it confirmed."""
    with suppress(OSError, HTTPException):
        for n in range(1, 100_000):
            phone = phones[n % len(phones)]
            response = post(url, {"phone": phone, "metadata": {"count": n}}, bearer)
            assert response.status_code == 200, response.json
            acknowledged[phone].append((time.monotonic(), n))


def counts_in(database):
    return {
        contact["phone"]: contact["metadata"].get("count", 0) for contact in contacts_in(database)
    }


def names_in(database):
    return {contact["name"] for contact in contacts_in(database)}


def snapshot_made(replication):
    """Wait until the replica can be restored from; return the time."""
    wait_for(lambda: "snapshot complete" in replication.log())
    return datetime.now(UTC).isoformat()


def assert_sound(database):
    assert execute(database, "PRAGMA integrity_check") == [("ok",)]
    assert execute(database, "PRAGMA foreign_key_check") == []


def test_after_kill_9_a_replica_gives_back_all_but_the_last_three_seconds(
    tmp_path, deployment, replica
):
    database, bearer = deployment.database, deployment.bearer
    acknowledged = defaultdict(list)
    with (
        replicating(database, replica) as replication,
        serving(database.parent) as server,
        ThreadPoolExecutor(2) as clients,
    ):
        halves = [PHONES[::2], PHONES[1::2]]
        writing = [
            clients.submit(count_up, server.url, bearer, half, acknowledged) for half in halves
        ]
        time.sleep(LOST_SECONDS + 1.5)
        killed = time.monotonic()
        server.process.kill()
        replication.kill()
    assert [each.result() for each in writing] == [None, None]

    second = restored(replica, tmp_path / "second")
    assert_sound(second)
    promised = {
        phone: max((n for moment, n in confirmed if moment < killed - LOST_SECONDS), default=0)
        for phone, confirmed in acknowledged.items()
    }
    assert min(promised.values()) > 0
    counts = counts_in(second)
    assert {phone: counts[phone] for phone, n in promised.items() if counts[phone] < n} == {}

    # The restored database is served at once, for the same token, and replicated as before.
    with replicating(second, replica) as replication, serving(second.parent) as server:
        response = post(server.url, {"phone": PHONES[0], "name": "Restored"}, bearer)
        assert response.status_code == 200, response.json
        time.sleep(LOST_SECONDS)
        server.process.kill()
        replication.kill()
    third = restored(replica, tmp_path / "third")
    assert_sound(third)
    assert contacts_in(third) == contacts_in(second)
    assert "Restored" in [contact["name"] for contact in contacts_in(third)]


def test_a_stop_loses_nothing_and_neither_an_import_nor_a_backup_is_in_the_way(
    tmp_path, deployment
):
    database, bearer, replica = deployment.database, deployment.bearer, folder(tmp_path)
    rows = [(f"+1415{n}", f"Person {n}") for n in range(5_560_000, 5_580_000)]
    copy = tmp_path / "copy.db"
    acknowledged = defaultdict(list)
    with (
        replicating(database, replica) as replication,
        serving(database.parent) as server,
        ThreadPoolExecutor(2) as threads,
    ):
        writing = threads.submit(count_up, server.url, bearer, PHONES, acknowledged)
        importing = threads.submit(import_rows, database, rows)
        backups = 0
        while not importing.done():
            backed_up = flask("backup", str(copy), env=environment(database))
            assert backed_up.returncode == 0, backed_up.stderr
            backups += 1
        assert importing.result().stdout == "Imported: 20000. Refused: 0.\n"
        assert backups > 1
        assert server.stop() == 0
        assert replication.stop() == 0
    assert writing.result() is None
    assert "level=ERROR" not in replication.log()

    assert_sound(copy)
    second = restored(replica, tmp_path / "second")
    assert contacts_in(second) == contacts_in(database)
    assert len(contacts_in(second)) == 1 + len(PHONES) + 20_000
    confirmed = {phone: entries[-1][1] for phone, entries in acknowledged.items()}
    assert confirmed.items() <= counts_in(second).items()


def test_while_others_write_the_erased_leaves_the_replica_with_its_retention(tmp_path, deployment):
    database, replica = deployment.database, folder(tmp_path)
    configuration = tmp_path / "litestream.yml"
    seconds_for_hours = CONFIGURATION.read_text().replace("6h", "1s").replace("72h", "2s")
    configuration.write_text(
        "l0-retention: 1s\nl0-retention-check-interval: 1s\n"
        f"levels: [interval: 1s, interval: 2s]\n{seconds_for_hours}"
    )
    with replicating(database, replica, configuration) as replication:
        before = snapshot_made(replication)
        assert replication.stop() == 0
    deleted = flask("delete", PHONE, "--yes", env=environment(database))
    assert deleted.returncode == 0
    assert [line.partition(":")[0] for line in deleted.stderr.splitlines()] == ["Database"]
    assert NAME in names_in(restored(replica, tmp_path / "kept", "-timestamp", before))
    attempts = iter(range(100))

    def gone():
        attempt = next(attempts)
        execute(database, "UPDATE contact SET name = ? WHERE phone = ?", f"{attempt}", PHONES[0])
        _, ran = restore(replica, tmp_path / f"attempt-{attempt}", "-timestamp", before)
        return ran.returncode != 0

    with replicating(database, replica, configuration):
        wait_for(gone)
        second = restored(replica, tmp_path / "second")
    assert NAME.encode() not in second.read_bytes()
    assert len(contacts_in(second)) == len(PHONES)


# The documentation and the files in deploy/


class Machine:
    """A folder that stands for the machine on which docs/replication.md is followed."""

    def __init__(self, root):
        self.root = root
        self.database = root / "var/lib/qyvo-standin/contacts.db"
        self.replication = None
        self._services = ExitStack()
        for path in ("etc/systemd/system", "var/lib/qyvo-standin", "bin", "opt/qyvo-standin"):
            (root / path).mkdir(parents=True)
        shutil.copytree(DEPLOY, root / "opt/qyvo-standin/deploy")
        programs = {
            "bin/sudo": '[ "$1" = -u ] && shift 2\nexec env "$@"',
            "bin/chown": "",
            "opt/qyvo-standin/.venv/bin/pip": "",
            "opt/qyvo-standin/.venv/bin/flask": f'cd {ROOT}; exec {sys.executable} -m flask "$@"',
            "opt/qyvo-standin/.venv/bin/litestream": f'exec {LITESTREAM} "$@"',
        }
        for path, script in programs.items():
            program = root / path
            program.parent.mkdir(parents=True, exist_ok=True)
            program.write_text(f"#!/bin/sh\n{script}\n")
            program.chmod(0o755)

    def follow(self, block):
        """Run the commands. What they tell systemd about Litestream is done here."""
        block = re.sub(r"(?<![\w.])/(?=(etc|opt|var)/)", f"{self.root}/", block)
        commands = ""
        for line in block.replace(" -o qyvo-standin", "").splitlines(keepends=True):
            if not line.startswith("sudo systemctl "):
                commands += line
                continue
            self._run(commands)
            commands = ""
            if re.match(r"sudo systemctl (start|enable --now) qyvo-standin-litestream", line):
                [url] = re.findall(
                    r'REPLICA_URL="(.*)"',
                    (self.root / "etc/qyvo-standin-litestream.env").read_text(),
                )
                self.replication = self._services.enter_context(replicating(self.database, url))
                wait_for(self._is_replicated)
            elif " stop " in line and "qyvo-standin-litestream" in line:
                self.stop()
        self._run(commands)

    def _is_replicated(self):
        """Both Litestream's own folder and the replica have files."""
        own = self.database.with_name(f".{self.database.name}-litestream")
        folders = (own, self.root / "var/backups/qyvo-standin")
        return all(any(folder.rglob("*.ltx")) for folder in folders)

    def stop(self):
        assert self.replication.stop() == 0

    def close(self):
        self._services.close()

    def _run(self, commands):
        ran = subprocess.run(
            ["bash", "-euc", commands],
            env=environment("unset", PATH=f"{self.root}/bin:{os.environ['PATH']}"),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert (ran.returncode, "stay in its files" in ran.stderr) == (0, False), ran.stderr


@pytest.fixture
def machine(tmp_path):
    with closing(Machine(tmp_path / "machine")) as machine:
        yield machine


def documented(place):
    """The commands below that heading of docs/replication.md."""
    return [example.text for example in examples(place) if example.language == "sh"]


def test_who_follows_the_documentation_gets_a_replica_restores_it_and_erases_from_it(
    tmp_path, deployment, machine
):
    database = machine.database
    shutil.copy(deployment.database, database)
    for block in documented("docs/replication.md#set-it-up"):
        machine.follow(block)
    assert (machine.root / "etc/systemd/system/qyvo-standin-litestream.service").exists()
    for block in documented("docs/replication.md#see-that-it-works"):
        machine.follow(block)

    as_it_was = contacts_in(database)
    for block in documented("docs/replication.md#restore"):
        machine.follow(block)
    assert stat.S_IMODE(database.stat().st_mode) == 0o600
    assert contacts_in(database) == as_it_was

    before = datetime.now(UTC).isoformat()
    delete, make_anew = documented("docs/replication.md#erasure")
    assert "+1 415 555 0199" in delete
    machine.follow(delete.replace("+1 415 555 0199", PHONE))
    files = [database, *database.parent.glob("contacts.db-*")]
    assert not any(NAME.encode() in file.read_bytes() for file in files)
    replica = f"file://{machine.root}/var/backups/qyvo-standin"
    assert NAME in names_in(restored(replica, tmp_path / "kept", "-timestamp", before))

    machine.follow(make_anew)
    machine.stop()
    second = restored(replica, tmp_path / "second")
    assert contacts_in(second) == contacts_in(database)
    assert NAME.encode() not in second.read_bytes()
    _, ran = restore(replica, tmp_path / "earlier", "-timestamp", before)
    assert ran.returncode != 0


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit_of_litestream(tmp_path):
    unit = tmp_path / "qyvo-standin-litestream.service"
    text = (DEPLOY / unit.name).read_text()
    assert "/opt/qyvo-standin/.venv/bin/litestream" in text
    text = text.replace("/opt/qyvo-standin/.venv/bin/litestream", LITESTREAM)
    unit.write_text(text.replace("/opt/qyvo-standin", str(ROOT)))

    def analyze(*arguments):
        return subprocess.run(
            ["systemd-analyze", *arguments, unit],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    verified = analyze("verify", "--man=no")
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
    exposure = analyze("security", "--offline=yes", "--threshold=25", "--no-pager")
    assert exposure.returncode == 0, exposure.stdout


COMPOSE = ROOT / ".image" / "docker-compose"


@pytest.mark.skipif(not COMPOSE.exists(), reason="there is no docker-compose: .ci/image gets it")
def test_compose_adds_litestream_to_the_deployment(monkeypatch):
    def compose(*args):
        files = ["-f", ROOT / "compose.yaml", "-f", DEPLOY / "compose.litestream.yaml"]
        return subprocess.run(
            [COMPOSE, *files, *args], capture_output=True, text=True, timeout=SECONDS, check=False
        )

    monkeypatch.setenv("REPLICA_URL", "s3://your-bucket/contacts")
    for example in examples("docs/replication.md#with-containers"):
        assert "-f compose.yaml -f deploy/compose.litestream.yaml " in example.text
    checked = compose("config", "--quiet")
    assert (checked.returncode, checked.stderr) == (0, "")
    shown = compose("--profile", "deployment", "config", "--format", "json")
    services = json.loads(shown.stdout)["services"]
    litestream, deployment = services["litestream"], services["deployment"]
    assert "litestream" in deployment["depends_on"]
    assert litestream["volumes"][0]["source"] == deployment["volumes"][0]["source"]
    assert litestream["read_only"]
    assert litestream["cap_drop"] == ["ALL"]
    monkeypatch.delenv("REPLICA_URL")
    assert "REPLICA_URL" in compose("config", "--quiet").stderr
