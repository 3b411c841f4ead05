"""The wheel and the sdist, installed and used on every Python of this machine."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
import urllib.request
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from conftest import (
    PHONE,
    ROOT,
    SECONDS,
    TOKEN,
    contacts_in,
    environment,
    post,
    virtual_environment,
    wait_until,
)
from pages import examples

pytestmark = pytest.mark.slow

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMMANDS = {"serve", "token", "workspace", "import", "export", "delete", "backup", "conform"}


def pythons():
    """The first working Python of each version, on the path or of pyenv, that the wheel is for."""
    oldest = int(PROJECT["requires-python"].removeprefix(">=3."))
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    found = {}
    for minor in range(oldest, oldest + 10):
        name = f"python3.{minor}"
        here = [sys.executable] if sys.version_info[:2] == (3, minor) else []
        for path in filter(None, [*here, *sorted(pyenv.glob(f"*/bin/{name}")), shutil.which(name)]):
            works = [path, "-c", "import sqlite3, venv"]
            if name not in found and not subprocess.run(works, capture_output=True).returncode:
                found[name] = path
    return found


PYTHONS = pythons()


def requirement(text):
    """Name and version range: `flask>=3.1,<4`."""
    return re.fullmatch(r"([a-z]+)((?:[<>=]+[\d.]+,?)+)", text).groups()


def version(text):
    return tuple(int(part) for part in text.split("."))


# What is in it


def test_the_wheel_has_one_package_and_the_sdist_gives_the_same_wheel(wheel, tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "--target", "sdist"]
    subprocess.run([*build, "--directory", tmp_path / "dist"], cwd=ROOT, check=True)
    [sdist] = (tmp_path / "dist").iterdir()
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", tmp_path, sdist], check=True)
    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"qyvo_standin"}
    assert {path.name for path in ROOT.glob("*.py")} <= {Path(name).name for name in names}
    assert not any("__pycache__" in name for name in names)


def test_the_ranges_hold_the_versions_that_are_pinned_and_pytest_is_none_of_them():
    pins = dict(re.findall(r"^([a-z]+)==([\d.]+)", (ROOT / "requirements.txt").read_text(), re.M))
    ranges = dict(requirement(text) for text in PROJECT["dependencies"])
    assert "pytest" in pins
    assert "pytest" not in ranges
    for name, bounds in ranges.items():
        lowest, beyond = re.fullmatch(r">=([\d.]+),<([\d.]+)", bounds).groups()
        assert version(lowest) <= version(pins[name]) < version(beyond), name


# Installed

ON_ONE_PYTHON = pytest.mark.parametrize("bin_folder", [*PYTHONS.items()][:1], indirect=True)


@pytest.fixture(scope="module", params=PYTHONS.items(), ids=lambda python: python[0])
def bin_folder(request, wheel, made_once):
    """The programs of a fresh environment in which the wheel was installed, and nothing else."""
    name, python = request.param
    made = made_once(f"fresh-{name}", lambda folder: virtual_environment(folder, python, [wheel]))
    return made / "bin"


@pytest.fixture
def work(tmp_path):
    """A folder with modules that are named like ours and others', and with a .env."""
    folder = tmp_path / "work"
    folder.mkdir()
    for name in ("app", "store", "schemas", "cli", "sandbox", "flask", "click"):
        (folder / f"{name}.py").write_text("raise SystemExit('not mine')\n")
    (folder / ".env").write_text("CONTACTS_SYNCHRONOUS=read\nQYVO_TOKEN=live\n")
    return folder


@pytest.fixture
def run(bin_folder, work, tmp_path):
    """Run `qyvo-standin …` there to its end."""
    env = environment("", XDG_DATA_HOME=str(tmp_path / "data"))

    def run(*args, command=("qyvo-standin",)):
        return subprocess.run(
            [bin_folder / command[0], *command[1:], *args],
            cwd=work,
            env=env,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )

    run.env = env
    return run


@contextmanager
def installed_server(run, bin_folder, work, *options):
    with subprocess.Popen(
        [bin_folder / "qyvo-standin", "serve", "--port", "0", *options],
        cwd=work,
        env=run.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        ready = process.stdout.readline()
        try:
            assert ready.startswith("Serving on "), process.stderr.read()
            yield ready.split()[-1]
            process.terminate()
            assert process.wait(SECONDS) == 0
        finally:
            process.kill()


def read(url):
    with urllib.request.urlopen(url, timeout=SECONDS) as response:
        return response.read().decode()


def test_the_sandbox_works_from_any_folder_and_keeps_its_data_in_the_users_folder(
    run, bin_folder, work, tmp_path
):
    files = set(work.iterdir())
    with installed_server(run, bin_folder, work, "--sandbox") as url:
        response = post(url, {"phone": PHONE, "metadata": {"lifetime_value": 9120.0}}, "sandbox")
        assert (response.status_code, response.json["name"]) == (200, "Romain")
        page = read(url)
        assert "Romain" in page
        assets = re.findall(r'(?:src|href)="(/[^"]+\.(?:css|js|svg))"', page)
        assert {asset.rpartition(".")[2] for asset in assets} == {"css", "js", "svg"}
        assert all(read(url + asset) for asset in assets)
    assert (tmp_path / "data/qyvo-standin/sandbox.db").exists()
    assert set(work.iterdir()) == files


def test_a_deployment_imports_a_file_that_a_second_process_reads(run, bin_folder, work, tmp_path):
    text = "x" * 1500
    rows = [f"+1415555{number:04},Ada,{text}\n" for number in range(800)]
    (work / "contacts.csv").write_text("phone,name,note\n" + "".join(rows))
    assert (work / "contacts.csv").stat().st_size > 1024 * 1024
    imported = run("import", "contacts.csv")
    assert (imported.returncode, imported.stdout) == (0, "Imported: 800. Refused: 0.\n")
    token = run("token", "create", "mine").stdout.strip()
    with installed_server(run, bin_folder, work) as url:
        assert post(url, {"phone": "+14155550799"}, token).json["name"] == "Ada"
    assert (tmp_path / "data/qyvo-standin/contacts.db").exists()
    exported = run("export", command=("python", "-P", "-m", "qyvo_standin")).stdout
    assert len(exported.splitlines()) == 800
    assert json.loads(exported.splitlines()[0])["metadata"] == {"note": text}


@ON_ONE_PYTHON
def test_the_command_speaks_of_this_program_and_has_its_commands_alone(run):
    shown = run("--help").stdout
    assert shown.startswith("Usage: qyvo-standin ")
    assert set(re.findall(r"^  (\w+)  ", shown.partition("Commands:")[2], re.M)) == COMMANDS
    assert "flask" not in shown.lower()
    assert "Qyvo" in shown
    for command in ("run", "shell"):
        assert run(command).returncode == 2
    [number] = re.findall(r"^qyvo-standin, version ([\d.]+)\n$", run("--version").stdout)
    script = "from importlib.metadata import version; print(version('qyvo-standin'))"
    assert run("-P", "-c", script, command=("python",)).stdout.strip() == number


@ON_ONE_PYTHON
def test_messages_name_the_command_as_it_was_typed(run):
    run("token", "create", "mine")
    assert "`qyvo-standin token list`" in run("token", "revoke", "nobody").stderr


def test_nothing_of_ours_can_be_imported_by_its_plain_name(run):
    script = "import importlib.util as u; print([n for n in {} if u.find_spec(n)])"
    names = [path.stem for path in ROOT.glob("*.py")] + ["pytest"]
    found = run("-P", "-c", script.format(names), command=("python",))
    assert (found.stdout, found.stderr) == ("[]\n", "")


@ON_ONE_PYTHON
def test_a_temporary_sandbox_leaves_the_users_folder_alone(run, bin_folder, work, tmp_path):
    with installed_server(run, bin_folder, work, "--sandbox", "--temporary") as url:
        assert post(url, {"phone": PHONE}, "sandbox").status_code == 200
    assert not (tmp_path / "data").exists()


def test_gunicorn_serves_an_installed_wheel(wheel, tmp_path):
    python = virtual_environment(tmp_path / "venv", packages=[wheel, "gunicorn"])
    [command] = [e.text for e in examples("docs/operating.md#commands") if "gunicorn" in e.text]
    database, port = tmp_path / "contacts.db", free_port()
    env = environment(database, QYVO_TOKEN=TOKEN, HOME=str(tmp_path))
    env["PATH"] = f"{python.parent}:{env['PATH']}"
    command = command.replace("wsgi:app", f"--bind 127.0.0.1:{port} wsgi:app")
    with subprocess.Popen(["sh", "-c", f"exec {command}"], cwd=tmp_path, env=env) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until(lambda: is_listening(port))
            create = "/v1/actions/create-contact"
            assert post(url, {"phone": PHONE, "name": "A"}, path=create).status_code == 201
            assert post(url, {"phone": PHONE}).json["name"] == "A"
            assert post(url, {"phone": PHONE}, "wrong").status_code == 401
        finally:
            process.terminate()
    assert contacts_in(database)[0]["name"] == "A"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def is_listening(port):
    with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False
