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
    serving,
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


@pytest.mark.parametrize("python", PYTHONS.values(), ids=PYTHONS)
def test_the_requirements_are_exactly_what_pip_installs(python):
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--dry-run", "--quiet"]
    pip += ["--ignore-installed", "--report", "-", "--requirement", "requirements.txt"]
    ran = subprocess.run(pip, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    found = [installed["metadata"] for installed in json.loads(ran.stdout)["install"]]
    pins = re.findall(r"^([a-z0-9]+)==([\d.]+)", (ROOT / "requirements.txt").read_text(), re.M)
    assert {(each["name"].lower(), each["version"]) for each in found} == set(pins)


# Released


def test_the_release_workflow_stores_no_token_and_waits_for_the_owner():
    yaml = pytest.importorskip("yaml")
    jobs = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]
    publishing = [job for job in jobs.values() if "write" in job.get("permissions", {}).values()]
    assert len(publishing) == 2
    for job in publishing:
        assert job["environment"] == "release"
        assert job["needs"] == "build"
    assert "secrets." not in yaml.safe_dump(jobs)
    assert ".ci/release-check" in yaml.safe_dump(jobs["build"])
    assert jobs["test"]["uses"] == "./.github/workflows/test.yml"


def test_the_workflow_names_linux_macos_and_windows():
    workflow = (ROOT / ".github/workflows/test.yml").read_text()
    for system in ("ubuntu", "macos", "windows"):
        assert f"{system}-latest" in workflow


@pytest.fixture
def release_check(tmp_path):
    """Run .ci/release-check, as far as it needs no network, on this version and this changelog."""

    def run(tag, version, changelog):
        (tmp_path / ".ci").mkdir()
        shutil.copy(ROOT / ".ci/release-check", tmp_path / ".ci")
        (tmp_path / "openapi.py").write_text(f'VERSION = "{version}"\n')
        (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n{changelog}\n\n### Added\n")
        env = os.environ | {"PYTHON": "false"}  # which ends it where it would install
        check = [tmp_path / ".ci/release-check", *tag]
        return subprocess.run(check, env=env, capture_output=True, text=True, timeout=SECONDS)

    return run


@pytest.mark.parametrize(
    ("tag", "version", "changelog", "says"),
    [
        (["v0.3.1"], "0.3.0", "## 0.3.0 - 2026-12-01", "The tag is v0.3.1, but VERSION"),
        (["v0.3.0"], "0.3.0", "## 0.3.0 - unreleased", "CHANGELOG.md must begin with"),
        (["v0.3.0"], "0.3.0", "## 0.4.0 - unreleased\n\n## 0.3.0 - 2026-12-01", "must begin with"),
        ([], "0.3.0", "## 0.3.0 - unreleased\n\n## 0.2.0 - 2026-11-25", "is not VERSION"),
        (["v0.3.0"], "0.3.0", "## 0.3.0 - 2026-12-01", ""),
        ([], "0.3.0", "## 0.4.0 - unreleased\n\n## 0.3.0 - 2026-12-01", ""),
    ],
)
def test_a_release_needs_one_version_in_tag_code_and_changelog(
    release_check, tag, version, changelog, says
):
    ran = release_check(tag, version, changelog)
    assert ran.returncode == 1
    assert says in ran.stderr
    assert bool(ran.stderr) == bool(says)


def test_the_image_is_built_of_what_goes_into_the_wheel():
    hatch = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]
    wheel = hatch["build"]["targets"]["wheel"]
    parts = {part.removeprefix("/") for part in wheel["include"]} | {"package/"}
    assert {f"!{part}" for part in parts} <= set((ROOT / ".dockerignore").read_text().split())


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


# Beside others


def test_a_project_with_marshmallow_3_flask_3_0_and_pytest_8_is_installed_in_one_line(
    wheel, tmp_path
):
    python = virtual_environment(
        tmp_path / "venv", packages=["marshmallow<4", "flask==3.0.*", "pytest==8.*", wheel]
    )
    (tmp_path / "test_contacts.py").write_text(
        "import flask, marshmallow\n"
        "def test_it(qyvo):\n"
        f"    assert qyvo.contact('{PHONE}')['name'] == 'Romain'\n"
    )
    command = [python, "-m", "pytest", "-W", "error", "test_contacts.py"]
    ran = subprocess.run(
        command, cwd=tmp_path, env=environment(""), capture_output=True, text=True, timeout=60
    )
    assert "1 passed" in ran.stdout, ran.stdout + ran.stderr
    script = "import importlib.metadata as m; print(*map(m.version, ['marshmallow', 'flask']))"
    versions = subprocess.run([python, "-c", script], capture_output=True, text=True).stdout
    assert re.fullmatch(r"3\.\S+ 3\.0\.\d\n", versions)


def test_the_sandbox_needs_nothing_that_windows_does_not_have(tmp_path):
    """Its lack is simulated, as far as that can be done."""
    modules = ["fcntl", "grp", "pwd", "resource", "termios"]
    without = f"""
import os, select, signal, sys
sys.modules.update(dict.fromkeys({modules}))
del os.fork, os.geteuid, os.killpg, select.poll, signal.SIGHUP, signal.SIGKILL, signal.SIGUSR1
from commands import main
main()
"""
    with serving(tmp_path, "--sandbox", python=("-c", without)) as server:
        assert post(server.url, {"phone": PHONE}, "sandbox").status_code == 200
        assert server.stop() == 0
