"""Settings that are misspelt."""

import pytest
from conftest import PHONE, environment, flask, post, serving


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("CONTACTS_DATABSE", "CONTACTS_DATABASE"),
        ("CONTACTS_Database", "CONTACTS_DATABASE"),
        ("CONTACTS_RATELIMIT", "CONTACTS_RATE_LIMIT"),
        ("CONTACTS_THREAD", "CONTACTS_THREADS"),
        ("CONTACTS_TRUSTED_PROXIES", "CONTACTS_TRUSTED_PROXY"),
        ("CONTACTS_SYNCHRONOUSLY", "CONTACTS_SYNCHRONOUS"),
    ],
)
def test_a_name_that_is_nearly_a_setting_stops_the_start_and_is_named(tmp_path, name, meant):
    env = environment(tmp_path / "contacts.db", **{name: "1"})
    result = flask("serve", "--sandbox", "--port", "0", env=env)
    assert result.returncode == 1
    assert result.stderr == f"Error: {name}: Not a setting. Did you mean {meant}?\n"


def test_a_misspelt_setting_stops_every_command_before_it_writes_anything(tmp_path):
    env = environment(tmp_path / "contacts.db", CONTACTS_DATABSE="other.db")
    for command in (["serve", "--port", "0"], ["token", "create", "a"], ["export"]):
        assert "CONTACTS_DATABSE" in flask(*command, env=env).stderr
    assert not list(tmp_path.iterdir())


def test_what_a_cluster_sets_for_a_service_called_contacts_is_warned_of_and_ignored(tmp_path):
    of_kubernetes = {
        "CONTACTS_PORT": "tcp://10.0.0.1:8000",
        "CONTACTS_SERVICE_HOST": "10.0.0.1",
        "CONTACTS_PORT_8000_TCP_ADDR": "10.0.0.1",
        "CONTACTS_DATABASE_PORT": "tcp://10.0.0.2:5432",
    }
    with serving(tmp_path, "--sandbox", **of_kubernetes) as server:
        assert post(server.url, {"phone": PHONE}, "sandbox").status_code == 200
        warnings = server.log().splitlines()[: len(of_kubernetes)]
    assert sorted(warnings) == sorted(
        f"Warning: {name} is not a setting, and is ignored." for name in of_kubernetes
    )


def test_a_misspelt_setting_without_a_value_counts_as_not_set(tmp_path):
    with serving(tmp_path, "--sandbox", CONTACTS_DATABSE="") as server:
        assert post(server.url, {"phone": PHONE}, "sandbox").status_code == 200
        assert "Warning" not in server.log()


def test_off_is_for_a_sandbox_alone_and_its_default(tmp_path):
    env = environment(tmp_path / "contacts.db", CONTACTS_SYNCHRONOUS="OFF")
    result = flask("serve", "--port", "0", env=env)
    assert result.returncode == 1
    assert "CONTACTS_SYNCHRONOUS: OFF is for a sandbox" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
    with serving(tmp_path / "sandbox", "--sandbox", CONTACTS_SYNCHRONOUS="OFF") as server:
        assert post(server.url, {"phone": PHONE}, "sandbox").status_code == 200


@pytest.mark.parametrize("value", ["off", "EXTRA", "0"])
def test_another_value_of_synchronous_stops_the_start(tmp_path, value):
    env = environment(tmp_path / "contacts.db", CONTACTS_SYNCHRONOUS=value)
    for options in ([], ["--sandbox"]):
        result = flask("serve", "--port", "0", *options, env=env)
        assert result.returncode == 1
        assert result.stderr == (
            "Error: CONTACTS_SYNCHRONOUS: Must be FULL or NORMAL, or OFF in a sandbox.\n"
        )
