"""The image that .ci/image has built, run by podman as compose.yaml runs it."""

import json
import os
import re
import shutil
import subprocess
import time
import uuid
from contextlib import contextmanager

import pytest
from conftest import PHONE, ROOT, SECONDS, UPDATE

PREPARED = ROOT / ".image"
IMAGE = "localhost/qyvo-standin"
HARDENED = [
    "--network=none",
    "--pull=never",
    "--read-only",
    "--read-only-tmpfs=false",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
]

needs_image = pytest.mark.skipif(
    not (PREPARED / "docker-compose").exists() or not shutil.which("podman"),
    reason="there is no image: .ci/image makes one, as root on Debian",
)
pytestmark = [pytest.mark.slow, needs_image]


def podman(*args, check=True, stdin=None):
    ran = subprocess.run(
        ["podman", *args],
        input=stdin,
        env=os.environ | {"CONTAINERS_CONF": str(PREPARED / "containers.conf")},
        capture_output=True,
        text=True,
        timeout=2 * SECONDS,
    )
    assert not check or ran.returncode == 0, ran.stderr
    return ran


class Container:
    """A container that runs, whose loopback is reached from here."""

    def __init__(self, name, network):
        self.name = name
        self._network = network

    def curl(self, path, *args, token="sandbox"):
        """Status and JSON of a response."""
        ran = subprocess.run(
            ["nsenter", "--target", self._network, "--net", "curl", "--silent", "--show-error",
             "--write-out", "\n%{http_code}", "--header", f"Authorization: Bearer {token}",
             "--header", "Content-Type: application/json", *args, f"http://127.0.0.1:8000{path}"],
            capture_output=True, text=True, timeout=SECONDS,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        body, _, status = ran.stdout.rpartition("\n")
        return int(status), json.loads(body)

    def update(self, token="sandbox", **body):
        return self.curl(UPDATE, "--data", json.dumps(body), token=token)

    def command(self, *args):
        return podman("exec", self.name, "qyvo-standin", *args).stdout.strip()

    def stop(self, seconds):
        """Send SIGTERM, and SIGKILL after so many seconds; return the exit status."""
        podman("stop", "--time", str(seconds), self.name)
        return int(podman("inspect", "--format", "{{.State.ExitCode}}", self.name).stdout)


@contextmanager
def running(*command, volume):
    name = f"qyvo-standin-{uuid.uuid4().hex}"
    podman("run", "--detach", "--name", name, *HARDENED, "--volume", volume, IMAGE, *command)
    try:
        pid = podman("inspect", "--format", "{{.State.Pid}}", name).stdout.strip()
        deadline = time.monotonic() + SECONDS
        while "Serving on" not in podman("logs", name).stdout:
            assert time.monotonic() < deadline, podman("logs", name).stderr
            time.sleep(0.05)
        yield Container(name, pid)
    finally:
        podman("rm", "--force", "--time", "0", name)


@pytest.fixture
def volume():
    name = f"qyvo-standin-{uuid.uuid4().hex}"
    podman("volume", "create", name)
    yield f"{name}:/data"
    podman("volume", "rm", "--force", name)


@pytest.fixture(scope="module")
def inspected():
    return json.loads(podman("image", "inspect", IMAGE).stdout)[0]


def test_without_a_command_it_is_a_sandbox_that_serves_the_documented_request(volume):
    with running(volume=volume) as container:
        status, contact = container.update(phone=PHONE, metadata={"lifetime_value": 9120.0})
        assert (status, contact["name"]) == (200, "Romain")
        status, _ = container.update(phone="0612345678")
        assert status == 422
        said = podman("logs", container.name).stdout
        assert said.startswith("Serving on http://127.0.0.1:8000\n")


def test_what_a_deployment_holds_outlives_its_container(volume):
    serve = ["serve", "--host", "0.0.0.0"]
    with running(*serve, volume=volume) as container:
        token = container.command("token", "create", "mine")
        created = container.curl(
            UPDATE.replace("update", "create"), "--data", json.dumps({"phone": PHONE}), token=token
        )
        assert created[0] == 201
        assert container.curl("/api/v1/me")[0] == 401
    with running(*serve, volume=volume) as container:
        assert container.update(token, phone=PHONE) == (200, created[1])
        assert container.curl("/sandbox/requests", token=token)[0] == 404


def test_a_sandbox_and_a_deployment_refuse_each_others_volume(volume):
    with running(volume=volume):
        pass
    run = ["run", "--rm", *HARDENED, "--volume", volume, IMAGE, "serve", "--host", "0.0.0.0"]
    ran = podman(*run, check=False)
    assert ran.returncode == 1
    assert "\nError: /data/contacts.db: the file belongs to a sandbox.\n" in f"\n{ran.stderr}"


def test_a_folder_of_this_machine_must_belong_to_the_images_user(tmp_path):
    volume = f"{tmp_path}:/data"
    ran = podman("run", "--rm", *HARDENED, "--volume", volume, IMAGE, check=False)
    assert ran.returncode == 1
    assert "\nError: /data/contacts.db: " in f"\n{ran.stderr}"
    assert "Traceback" not in ran.stderr
    os.chown(tmp_path, 10001, 10001)
    with running(volume=volume) as container:
        assert container.update(phone=PHONE)[0] == 200
    assert (tmp_path / "contacts.db").stat().st_uid == 10001


def test_it_stops_within_a_second_of_a_sigterm_with_exit_status_0(volume):
    with running(volume=volume) as container:
        assert container.update(phone=PHONE)[0] == 200
        assert container.stop(seconds=1) == 0


def test_the_health_check_tells_whether_it_serves(volume):
    with running(volume=volume) as container:
        assert podman("healthcheck", "run", container.name, check=False).returncode == 0
    with running("serve", "--sandbox", "--port", "8001", volume=volume) as container:
        assert podman("healthcheck", "run", container.name, check=False).returncode == 1


def test_it_runs_as_a_user_without_rights_who_writes_data_and_nothing_else(volume, inspected):
    assert inspected["Config"]["User"] == "10001:10001"
    with running(volume=volume) as container:
        assert podman("exec", container.name, "id", "-u").stdout.strip() == "10001"
        for folder in ("/", "/tmp", "/opt/qyvo-standin", "/var/tmp"):
            touched = podman("exec", container.name, "touch", f"{folder}/new", check=False)
            assert touched.returncode != 0
        assert (
            podman("exec", container.name, "stat", "-c", "%a %u", "/data").stdout == "700 10001\n"
        )


def test_a_large_import_and_a_backup_work_where_only_data_can_be_written(volume):
    rows = "".join(f'{{"phone": "+1415555{n:04}", "name": "{"x" * 200}"}}\n' for n in range(6000))
    with running("serve", "--host", "0.0.0.0", volume=volume) as container:
        write = "import sys; open('contacts.jsonl', 'w').write(sys.stdin.read())"
        podman("exec", "--interactive", container.name, "python", "-c", write, stdin=rows)
        assert container.command("import", "contacts.jsonl") == "Imported: 6000. Refused: 0."
        assert container.command("backup", "copy.db") == "Backed up to copy.db."
        assert len(container.command("export").splitlines()) == 6000


def test_the_image_has_neither_pytest_nor_what_the_service_does_not_use():
    script = (
        "import importlib.util as u, pathlib, phonenumbers as p;"
        "print([n for n in ('pytest', 'app', 'store', 'hypothesis') if u.find_spec(n)],"
        " (pathlib.Path(p.__file__).parent / 'geodata').exists())"
    )
    ran = podman("run", "--rm", *HARDENED, "--entrypoint", "python", IMAGE, "-P", "-c", script)
    assert ran.stdout == "[] False\n"


def test_the_versions_are_those_of_the_requirements():
    pins = re.findall(r"^([a-z]+)==([\d.]+)", (ROOT / "requirements.txt").read_text(), re.M)
    script = (
        "import importlib.metadata as m, json;"
        "print(json.dumps({d.name.lower(): d.version for d in m.distributions()}))"
    )
    ran = podman("run", "--rm", *HARDENED, "--entrypoint", "python", IMAGE, "-c", script)
    installed = json.loads(ran.stdout)
    of_pytest = {"pytest", "iniconfig", "pluggy", "pygments"}
    assert {n: v for n, v in pins if n not in of_pytest}.items() <= installed.items()


def compose(*args, file=ROOT / "compose.yaml"):
    return subprocess.run(
        [PREPARED / "docker-compose", "--file", file, *args],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def test_docker_accepts_the_compose_file_in_which_each_service_is_hardened():
    assert compose("config", "--quiet").stderr == ""
    shown = compose("--profile", "*", "config", "--format", "json")
    assert shown.returncode == 0, shown.stderr
    services = json.loads(shown.stdout)["services"]
    assert set(services) == {"sandbox", "deployment"}
    for service in services.values():
        assert service["read_only"]
        assert service["init"]
        assert service["cap_drop"] == ["ALL"]
        assert [port["host_ip"] for port in service["ports"]] == ["127.0.0.1"]
    assert "--sandbox" in services["sandbox"]["command"]
    assert "--sandbox" not in services["deployment"]["command"]
    volumes = {service["volumes"][0]["source"] for service in services.values()}
    assert len(volumes) == 2


def test_the_commands_of_the_compose_file_serve(volume):
    services = json.loads(compose("--profile", "*", "config", "--format", "json").stdout)
    name = volume.removesuffix(":/data")
    for service in services["services"].values():
        with running(*service["command"], volume=volume) as container:
            assert container.curl("/healthz") == (200, {"status": "ok"})
        podman("volume", "rm", name)
