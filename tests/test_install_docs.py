"""What docs/install.md, docs/testing.md and the README's test say works as it is printed."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pages
import pytest
from conftest import PHONE, ROOT, SECONDS, environment, post, virtual_environment
from test_clients import node
from test_container import compose, needs_image, podman, running

from openapi import VERSION

pytestmark = pytest.mark.slow

WHEEL = f"qyvo_standin-{VERSION}-py3-none-any.whl"
UPDATE = {"phone": PHONE}


def examples(place):
    """The texts of the examples below a heading."""
    return [example.text for example in pages.examples(place)]


@pytest.fixture
def env(tmp_path):
    """An environment whose temporary files are in a folder of their own."""
    (tmp_path / "temporary").mkdir()
    return environment("", TMPDIR=str(tmp_path / "temporary"), XDG_DATA_HOME=str(tmp_path / "data"))


def shell(command, folder, env):
    ran = subprocess.run(
        ["bash", "-ec", command], cwd=folder, env=env, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def left_in(env):
    """The folders of sandboxes that run, or that were left behind."""
    return list(Path(env["TMPDIR"]).glob("qyvo-standin-*"))


@pytest.fixture(scope="module")
def project(made_once):
    """A project in which the README's first commands were followed, with this one beside it."""
    pytest.importorskip("hatchling")
    install, _, _ = examples("README.md#a-test")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where python3 is this one
    env = environment("", PATH=path, PIP_COMPILE="0")  # it is compiled when it is needed

    def make(folder):
        pages.clone(folder)
        (folder / "project").mkdir()
        shell(install, folder / "project", env)

    return made_once("readme", make) / "project"


@pytest.fixture
def bin_folder(project):
    """The programs of that project's environment, which has the package and pytest."""
    return project / ".venv" / "bin"


def test_from_a_checkout_to_a_passing_test_of_three_lines(project, env):
    _, test, run = examples("README.md#a-test")
    assert len(test.splitlines()) == 3
    (project / "test_contacts.py").write_text(test)
    assert "1 passed" in shell(run, project, env)
    assert not left_in(env)


@contextmanager
def served(command, folder, env):
    """The process of a command, which begins to serve on a free port, and its URL."""
    command = ["bash", "-c", f"exec {command.strip()} --port 0"]
    with subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE) as process:
        ready = process.stdout.readline().decode()
        try:
            assert ready.startswith("Serving on http://127.0.0.1:")
            yield process, ready.split()[-1]
        finally:
            process.terminate()


def test_the_package_is_installed_by_its_path_and_works_from_any_folder(project, tmp_path, env):
    install, serve = examples("docs/install.md#the-package")
    env["PATH"] = f"{project}/.venv/bin:{env['PATH']}"
    said = shell(install, project, env)
    assert said.endswith(f"qyvo-standin, version {VERSION}\n")
    with served(serve, tmp_path, env) as (_, url):
        assert post(url, UPDATE, "sandbox").status_code == 200


def test_the_ranges_that_the_page_names_are_those_of_the_package():
    dependencies = (ROOT / "pyproject.toml").read_text()
    lowest = dict(re.findall(r'^    "(\w+)>=([\d.]+),', dependencies, re.M))
    named = re.findall(r"(\w+)\s+from\s+(\d[\d.]*\d|\d)", pages.prose("docs/install.md"))
    named = {name.lower(): number for name, number in named if name.lower() in lowest}
    assert {name: number.removesuffix(".0") for name, number in lowest.items()} == {
        name: number.removesuffix(".0") for name, number in named.items()
    }


def test_a_wheel_is_built_and_installed(project, env):
    build, install = examples("docs/install.md#a-wheel")
    env["PATH"] = f"{project}/.venv/bin:{env['PATH']}"
    shell(build, project.parent / "qyvo-standin", env)
    assert WHEEL in install
    shell(install, project.parent / "qyvo-standin", env)


def test_pip_accepts_the_address_of_the_repository(project, tmp_path, env):
    [address] = re.findall(r'"git\+(https://[^"]+)"', pages.prose("README.md"))
    repository = tmp_path / "repository"
    shutil.copytree(project.parent / "qyvo-standin", repository, ignore=lambda *_: [".venv"])
    me = "-c user.name=me -c user.email=me@example.com"
    shell(f"git init -q && git add . && git {me} commit -qm all", repository, env)
    command = f'pip install --no-deps --target here "git+{address}"'
    env["PATH"] = f"{project}/.venv/bin:{env['PATH']}"
    shell(command.replace(address, repository.as_uri()), tmp_path, env)
    assert (tmp_path / "here" / "qyvo_standin" / "app.py").exists()


def test_the_repository_s_address_which_is_not_known_yet_is_in_one_place():
    texts = [path.read_text("utf-8") for path in pages.PAGES.values()]
    texts += [path.read_text("utf-8") for path in ROOT.glob("*.toml")]
    assert "".join(texts).count("git+https://") == 1
    assert "".join(texts).count("github.com/OWNER") == 1


# With uv and pipx


@pytest.fixture(scope="module")
def with_tools(made_once, project):
    """An environment in which uv and pipx are on the path, and write nothing outside of it."""

    def make(folder):
        virtual_environment(folder, packages=["uv", "pipx"])

    folder = made_once("uv", make)
    variables = {
        "PATH": f"{folder}/bin:{os.environ['PATH']}",
        "UV_CACHE_DIR": f"{folder}/uv-cache",
        "UV_PYTHON": sys.executable,
        "UV_PYTHON_DOWNLOADS": "never",
        "PIPX_HOME": f"{folder}/pipx",
        "PIPX_DEFAULT_PYTHON": sys.executable,
    }
    return {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"} | variables


@pytest.mark.parametrize("number", [0, 1], ids=["uv", "pipx"])
def test_uv_and_pipx_run_the_command_and_end_it(project, with_tools, env, number):
    command = examples("docs/install.md#uv-and-pipx")[number]
    with served(command, project.parent / "qyvo-standin", env | with_tools) as (process, url):
        assert post(url, UPDATE, "sandbox").status_code == 200
        process.terminate()
        process.wait(SECONDS)
    with pytest.raises(ConnectionRefusedError):
        post(url, UPDATE, "sandbox")


def test_the_fixture_in_a_project_that_uses_uv(project, with_tools, env):
    _, _, commands = examples("docs/install.md#uv-and-pipx")
    folder = project.parent / "uses-uv"
    folder.mkdir()
    (folder / "test_contacts.py").write_text(examples("README.md#a-test")[1])
    assert "1 passed" in shell(f"uv init --bare .\n{commands}", folder, env | with_tools)


def test_uvx_as_the_command_that_starts_the_sandbox(bin_folder, project, with_tools, env):
    page = pages.prose("docs/testing.md")
    [option] = re.findall(r'`(--qyvo-command "uvx [^"]+")`', page)
    folder = project.parent / "uses-uvx"
    folder.mkdir()
    (folder / "test_contacts.py").write_text(examples("README.md#a-test")[1])
    assert "1 passed" in shell(f"{bin_folder}/pytest {option}", folder, env | with_tools)
    assert not left_in(env)


# docs/testing.md


def test_the_examples_for_pytest(wheel, made_once, tmp_path, env):
    def make(folder):
        virtual_environment(folder, packages=[wheel, "pytest", "pytest-asyncio", "httpx"])

    python = made_once("testing", make) / "bin" / "python"
    crm, tests, started_once = examples("docs/testing.md#pytest")
    [of_async] = examples("docs/testing.md#async-tests")
    (tmp_path / "crm.py").write_text(crm)
    (tmp_path / "test_crm.py").write_text(tests)
    (tmp_path / "test_once.py").write_text(started_once + USES_A_SESSION_S_WORKSPACE)
    (tmp_path / "test_async.py").write_text(of_async)
    options = "-W error -o asyncio_default_fixture_loop_scope=function"
    said = shell(f"{python} -m pytest {options} .", tmp_path, env)
    assert f"{(tests + of_async).count('def test_') + 2} passed" in said
    assert not left_in(env)


USES_A_SESSION_S_WORKSPACE = """

@pytest.mark.parametrize("name", ["Ana", "Ben"])
def test_each_starts_over(app_qyvo, name):
    assert app_qyvo.contact("+14155550123")["name"] == "Romain"
    app_qyvo.put_contact("+14155550123", name=name)
    assert app_qyvo.requests() == []
"""


def test_the_page_names_what_an_entry_of_the_journal_has(bin_folder, tmp_path, env):
    [paragraph] = re.findall(r"^A request has .+?\n\n", pages.prose("docs/testing.md"), re.M | re.S)
    test = f"""
def test_keys(qyvo):
    import urllib.request
    headers = qyvo.headers | {{"Idempotency-Key": "1", "X-Other": "2"}}
    urllib.request.urlopen(urllib.request.Request(qyvo.base_url + "/api/v1/me", headers=headers))
    [entry] = qyvo.requests()
    assert all(f"`{{name}}`" in {paragraph!r} for name in entry.keys() - {{"id"}})
    kept = entry["request_headers"]
    assert (kept["Idempotency-Key"], kept["X-Other"]) == ("…", "2")
    assert "Authorization" not in kept
"""
    (tmp_path / "test_keys.py").write_text(test)
    assert "1 passed" in shell(f"{bin_folder}/pytest", tmp_path, env)


def test_beside_versions_that_do_not_fit(project, made_once, env):
    """Which pip would refuse to install the package's own beside."""
    [commands] = examples("docs/testing.md#beside-versions-that-do-not-fit")
    pins = ["flask==2.3.3", "marshmallow==3.18.0", "pytest==8.4.2"]

    def make(folder):
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin/pip", "install", "--quiet", *pins], check=True)

    folder = project.parent / "has-pins"
    folder.mkdir()
    (folder / "test_contacts.py").write_text(examples("README.md#a-test")[1])
    env["PATH"] = f"{made_once('pins', make)}/bin:{env['PATH']}"
    assert "1 passed" in shell(commands, folder, env)
    assert "Flask==2.3.3" in shell("pip freeze", folder, env)


def test_the_example_for_ci(bin_folder, wheel, tmp_path, env):
    [commands] = examples("docs/testing.md#ci")
    assert wheel.name == WHEEL
    (tmp_path / "vendor").mkdir()
    (tmp_path / "vendor" / WHEEL).symlink_to(wheel)
    (tmp_path / "test_contacts.py").write_text(examples("README.md#a-test")[1])
    env["PATH"] = f"{bin_folder}:{env['PATH']}"
    assert "1 passed" in shell(commands, tmp_path, env)


def test_the_command_for_other_languages(bin_folder, tmp_path, env):
    [command] = examples("docs/testing.md#other-languages")
    env["PATH"] = f"{bin_folder}:{env['PATH']}"
    with subprocess.Popen(
        command.split(), cwd=tmp_path, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        url = process.stdout.readline().decode().split()[-1]
        assert post(url, {"phone": "+14155550123"}, "sandbox-other").status_code == 200
        assert left_in(env)
        process.stdin.close()
        assert process.wait(SECONDS) == 0
    assert not left_in(env)


def test_two_lines_put_the_command_on_the_path_for_node(project, env):
    path, *_ = examples("docs/testing.md#nodes-test-runner")
    folder = project.parent / "uses-node"
    folder.mkdir()
    said = shell(path + "\nqyvo-standin --version", folder, env)
    assert said.endswith(f"qyvo-standin, version {VERSION}\n")


@pytest.fixture
def node_project(tmp_path, bin_folder, env):
    """A project with the examples for Node; the second test file is a copy of the first."""
    _, wrapper, workspace, tests, command = examples("docs/testing.md#nodes-test-runner")
    (tmp_path / "with-sandbox.mjs").write_text(wrapper)
    (tmp_path / "qyvo.mjs").write_text(workspace)
    seen = tests + "\nimport { appendFile } from 'node:fs/promises';\n"
    seen += "await appendFile('seen', process.env.QYVO_BASE_URL + '\\n');\n"
    for name in ("crm", "others"):
        (tmp_path / f"{name}.test.mjs").write_text(seen)
    env["PATH"] = f"{bin_folder}:{Path(node()).parent}:{env['PATH']}"
    env["CONTACTS_DATABASE"] = str(tmp_path / "live.db")
    return command.split()


def test_the_example_for_node_shares_one_sandbox_and_leaves_nothing(node_project, tmp_path, env):
    ran = subprocess.run(
        node_project, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"pass 12\b", ran.stdout)
    addresses = (tmp_path / "seen").read_text().split()
    assert len(addresses) == 2
    assert len(set(addresses)) == 1
    wait_until_nothing_is_left(env)
    assert not (tmp_path / "live.db").exists()


@pytest.mark.skipif(not shutil.which("npm"), reason="npm is not installed")
def test_vitest_runs_the_same_tests(node_project, tmp_path, env):
    [command] = examples("docs/testing.md#vitest")
    [instead] = re.findall(r'with `(import [^`]+ from "vitest")`', pages.prose("docs/testing.md"))
    for file in tmp_path.glob("*.test.mjs"):
        tests = file.read_text().replace('import { beforeEach, test } from "node:test"', instead)
        file.write_text(tests)
    shell("npm install --no-audit --no-fund --silent vitest@4", tmp_path, env)
    assert re.search(r"Tests .*\b12 passed\b", shell(command, tmp_path, env | {"NO_COLOR": "1"}))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_sandbox_of_a_node_process_that_is_killed_ends_with_it(
    node_project, tmp_path, env, number
):
    command = [*node_project[:2], "node", "-e", "console.log('runs'); setTimeout(() => {}, 500)"]
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"runs\n"
        assert left_in(env)
        process.send_signal(number)
    wait_until_nothing_is_left(env)


CHECKS_FOR_NODE = """
import assert from "node:assert/strict";
import { test } from "node:test";
import { workspace } from "./qyvo.mjs";

for (const [path, status] of [["made-up", 404], ["get-contact", 405]]) {
  test(`a first request that gets a ${status} is in the journal`, async () => {
    const qyvo = await workspace();
    const url = `${qyvo.env.QYVO_BASE_URL}/api/v1/actions/${path}`;
    await fetch(url, { method: "PATCH", headers: qyvo.headers });
    const [request] = await qyvo.requests({ path });
    assert.equal(request.status, status);
  });
}

test("a min that is not reached is said", async () => {
  const qyvo = await workspace();
  await assert.rejects(qyvo.requests({ min: 2, path: "/me" }), /0 of 2 requests: .*path=%2Fme/);
});
"""


def test_the_helper_for_node_keeps_refused_requests_and_says_how_many_arrived(
    node_project, tmp_path, env
):
    (tmp_path / "checks.mjs").write_text(CHECKS_FOR_NODE)
    assert re.search(r"pass 3\b", shell(shlex.join([*node_project, "checks.mjs"]), tmp_path, env))


def test_the_helper_for_node_says_how_to_run_it_with_a_sandbox(node_project, tmp_path, env):
    ran = subprocess.run(
        node_project[2:], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 1
    assert "Run this as: node with-sandbox.mjs node --test" in ran.stdout


def test_the_wrapper_for_node_forwards_sigterm_to_the_tests(node_project, tmp_path, env):
    script = "process.on('SIGTERM', () => { console.log('told'); process.exit(3); });"
    script += "console.log('runs'); setTimeout(() => {}, 60000)"
    command = [*node_project[:2], "node", "-e", script]
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"runs\n"
        process.terminate()
        assert process.stdout.readline() == b"told\n"
        assert process.wait(SECONDS) == 3
    wait_until_nothing_is_left(env)


def test_a_sandbox_that_does_not_start_for_node_is_shown_with_its_words(
    node_project, tmp_path, env
):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "qyvo-standin").write_text("#!/bin/sh\necho 'no way' >&2\nexit 1\n")
    (tmp_path / "bin" / "qyvo-standin").chmod(0o755)
    env["PATH"] = f"{tmp_path / 'bin'}:{env['PATH']}"
    ran = subprocess.run(
        node_project, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 1
    assert ran.stderr == "The sandbox did not start: no way\n\n"


def wait_until_nothing_is_left(env):
    deadline = time.monotonic() + SECONDS
    while left_in(env):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_container_reaches_the_sandbox_by_the_name_of_its_host(bin_folder, tmp_path, env):
    [command] = examples("docs/testing.md#n8n-make-postman")
    env["PATH"] = f"{bin_folder}:{env['PATH']}"
    with served(command, tmp_path, env) as (_, url):
        port = url.rpartition(":")[2]
        for host, status in (("host.docker.internal", 200), ("other.example", 403)):
            assert post(url, UPDATE, "sandbox", Host=f"{host}:{port}").status_code == status


# Containers


@needs_image
def test_the_commands_for_the_container(tmp_path):
    """Run by podman, without a network, and without what its version in Debian can't do here."""
    _, sandbox, deployment = examples("docs/install.md#the-container-image")
    assert sandbox.split()[-1] == "qyvo-standin"
    run, create, backup = deployment.replace("\\\n", "").splitlines()
    options, serve = run.split(" qyvo-standin ")
    assert "--volume contacts:/data" in options
    podman("volume", "create", "contacts-of-the-docs")
    try:
        with running(*serve.split(), volume="contacts-of-the-docs:/data") as container:
            token = container.command(*create.split()[4:])
            assert container.curl("/api/v1/me", token=token)[0] == 200
            assert container.command(*backup.split()[4:]).startswith("Backed up")
    finally:
        podman("volume", "rm", "contacts-of-the-docs")


@needs_image
def test_the_examples_of_compose(tmp_path):
    commands, beside = examples("docs/install.md#compose")
    for command in commands.splitlines():
        service = command.split()[-1]
        shown = compose("--profile", service, "config", "--services")
        assert (shown.stdout, shown.stderr) == (f"{service}\n", "")
    (tmp_path / "compose.yaml").write_text(beside)
    checked = compose("config", "--quiet", file=tmp_path / "compose.yaml")
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_workflow_starts_the_service_as_the_image_expects(tmp_path):
    yaml = pytest.importorskip("yaml")
    [workflow] = examples("docs/testing.md#github-actions")
    job = yaml.safe_load(workflow)["jobs"]["test"]
    service = job["services"]["qyvo"]
    assert service["image"].endswith("/qyvo-standin")
    dockerfile = (ROOT / "Dockerfile").read_text()
    [port] = re.findall(r"^EXPOSE (\d+)$", dockerfile, re.M)
    assert service["ports"] == [f"{port}:{port}"]
    assert job["env"]["QYVO_BASE_URL"].endswith(f":{port}")
    # A service has no command, so the image's own must serve beyond loopback.
    assert 'CMD ["serve", "--sandbox", "--host", "0.0.0.0"]' in dockerfile
