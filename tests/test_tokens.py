"""Bearer tokens: the operator's commands, and what the database keeps of them."""

import hashlib
import re

import pytest
from conftest import (
    PHONE,
    ROMAIN,
    TOKEN,
    assert_refused,
    caller,
    environment,
    execute,
    flask,
    post,
    serving,
)

from app import create_app
from settings import read_settings
from store import DEFAULT_WORKSPACE


@pytest.fixture
def token(runner):
    """Runs `flask token …`; what it printed, or raises what it complained of."""

    def token(*args):
        result = runner.invoke(args=["token", *args])
        assert result.exit_code == 0, result.output
        return result.output

    return token


@pytest.fixture
def accepts(client):
    return lambda secret: caller(client, secret)({"phone": PHONE}).status_code == 200


def test_create_shows_a_token_of_256_random_bits_once(token, accepts):
    first, second = token("create", "first"), token("create", "second")
    for output in (first, second):
        assert re.fullmatch(r"[\w-]{43}\n", output)
        assert accepts(output.strip())
    assert first != second
    assert first.strip() not in token("list")


def test_only_the_sha256_of_a_token_is_in_the_database(app, token):
    secret = token("create", "ci").strip()
    path = app.extensions["store"].path
    files = sorted(path.parent.glob(path.name + "*"))
    content = b"".join(file.read_bytes() for file in files)
    assert len(files) == 3  # with the write-ahead log and its index
    assert hashlib.sha256(secret.encode()).digest() in content
    assert secret.encode() not in content
    assert TOKEN.encode() not in content


def test_list_shows_name_workspace_and_time_of_creation(token):
    assert token("list") == ""
    token("create", "ci")
    token("create", "shop-2", "--workspace", "shop")
    first, second = (line.split("\t") for line in token("list").splitlines())
    assert first[:2] == ["ci", DEFAULT_WORKSPACE]
    assert second[:2] == ["shop-2", "shop"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", first[2])


def test_a_token_is_for_one_workspace(app, client, token):
    secret = token("create", "shop", "--workspace", "shop").strip()
    assert_refused(caller(client, secret)({"phone": PHONE}), 404, "Contact not found")
    app.extensions["store"].get_or_create_workspace("other", [ROMAIN])
    secret = token("create", "other", "--workspace", "other").strip()
    assert caller(client, secret)({"phone": PHONE}).status_code == 200


def test_revoke_takes_effect_at_once_and_for_that_token_alone(token, accepts):
    lost, kept = token("create", "lost").strip(), token("create", "kept").strip()
    assert accepts(lost)
    token("revoke", "lost")
    assert not accepts(lost)
    assert accepts(kept)
    assert "lost" not in token("list")
    again = token("create", "lost").strip()
    assert accepts(again)
    assert not accepts(lost)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["create", "ci"], "There is a token named ci"),
        (["revoke", "nobody"], "There is no token named nobody"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line_with_exit_status_1(runner, token, args, said):
    token("create", "ci")
    result = runner.invoke(args=["token", *args])
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert said in result.output
    assert result.output.count("\n") == 1


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "é", "x" * 65, "a/b", "\x1b[31m"])
@pytest.mark.parametrize("option", [[], ["ci", "--workspace"]])
def test_a_name_stays_one_word_in_a_log_line(runner, name, option):
    result = runner.invoke(args=["token", "create", *option, name])
    assert result.exit_code == 2
    assert "letters, digits" in result.output


def test_qyvo_token_is_one_more_token_of_the_workspace_default(app, accepts, token):
    assert accepts(TOKEN)
    assert token("list") == ""
    assert execute(app.extensions["store"].path, "SELECT name FROM workspace") == [("default",)]


def test_without_qyvo_token_its_value_opens_nothing(make_app):
    assert_refused(caller(make_app(QYVO_TOKEN="").test_client())({"phone": PHONE}), 401)


@pytest.mark.parametrize("value", ["a b", "é", "tab\there", "end\n"])
def test_a_qyvo_token_that_no_header_can_carry_stops_the_start(value):
    with pytest.raises(Exception, match="QYVO_TOKEN: Must be ASCII without spaces"):
        create_app(read_settings({"QYVO_TOKEN": value}))


def test_a_running_server_heeds_the_commands_at_once(tmp_path):
    with serving(tmp_path) as server:
        env = environment(server.database)
        body = {"phone": PHONE}
        created = flask("token", "create", "ci", env=env)
        secret = created.stdout.strip()
        assert created.returncode == 0
        assert_refused(post(server.url, body, secret), 404, "Contact not found")
        assert "ci" in flask("token", "list", env=env).stdout
        assert flask("token", "revoke", "ci", env=env).returncode == 0
        assert_refused(post(server.url, body, secret), 401, "Unauthenticated.")


def test_a_server_without_any_token_says_how_to_make_one(tmp_path):
    with serving(tmp_path) as server:
        assert "flask token create NAME" in server.process.stdout.readline()
        assert_refused(post(server.url, {"phone": PHONE}, "sandbox"), 401, "Unauthenticated.")
