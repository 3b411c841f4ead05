"""What docs/install.md, docs/testing.md and the README's test say works as it is printed."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pages
import pytest
from conftest import ROOT, SECONDS, environment, post
from test_clients import node
from test_container import compose, needs_image, podman, running

pytestmark = pytest.mark.slow

WHEEL = "qyvo_standin-0.2.0-py3-none-any.whl"


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
        ["bash", "-ec", command], cwd=folder, env=env, capture_output=True, text=True, timeout=60
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


def test_the_package_is_built_and_works_from_any_folder(bin_folder, tmp_path, env):
    build, install, serve = examples("docs/install.md#the-package")
    offline = build.replace("pip wheel", "pip wheel --no-build-isolation")
    shell(f"{sys.executable} -m {offline.strip()} {ROOT}".replace(" . ", " "), tmp_path, env)
    env["PATH"] = f"{bin_folder}:{env['PATH']}"
    assert shell(install, tmp_path, env).endswith(f"version {WHEEL.split('-')[1]}\n")
    command = ["bash", "-c", f"exec {serve.strip()} --port 0"]
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline().startswith(b"Serving on http://127.0.0.1:")
        process.terminate()


def test_the_examples_for_pytest(bin_folder, tmp_path, env):
    [tests] = examples("docs/testing.md#pytest")
    (tmp_path / "test_contacts.py").write_text(tests)
    command = [bin_folder / "pytest", "-W", "error", tmp_path]
    ran = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert "3 passed" in ran.stdout, ran.stdout
    assert not left_in(env)


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


@pytest.fixture
def node_project(tmp_path, bin_folder, env):
    """A project with the examples for Node; the second test file is a copy of the first."""
    wrapper, tests, command = examples("docs/testing.md#nodes-test-runner")
    (tmp_path / "with-sandbox.mjs").write_text(wrapper)
    seen = tests + "\nimport { appendFile } from 'node:fs/promises';\n"
    seen += "await appendFile('seen', process.env.QYVO_BASE_URL + '\\n');\n"
    for name in ("contacts", "others"):
        (tmp_path / f"{name}.test.mjs").write_text(seen)
    env["PATH"] = f"{bin_folder}:{Path(node()).parent}:{env['PATH']}"
    env["CONTACTS_DATABASE"] = str(tmp_path / "live.db")
    return command.split()


def test_the_example_for_node_shares_one_sandbox_and_leaves_nothing(node_project, tmp_path, env):
    ran = subprocess.run(
        node_project, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"pass 4\b", ran.stdout)
    addresses = (tmp_path / "seen").read_text().split()
    assert len(addresses) == 2
    assert len(set(addresses)) == 1
    wait_until_nothing_is_left(env)
    assert not (tmp_path / "live.db").exists()


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
