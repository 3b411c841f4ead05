"""The server: waitress with its limits, from the first line on the terminal to the stop."""

import errno
import ipaddress
import logging
import os
import re
import select
import signal
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import waitress
from flask import Flask

import schemas
from app import create_app
from commands import files, sources
from commands.base import Command, printable, program
from settings import read_settings, unknown_settings

BODY_BYTES = 2 * 1024 * 1024  # beyond them waitress refuses; between 1 and 2 MiB, the application
HEADER_BYTES = 64 * 1024
CONNECTIONS = 1000
OTHER_FILES = 256  # the database's, among others
STOP_SECONDS = 8  # Docker kills after 10

# A client of a sandbox may poll every minute or two, and finds its connection open. A deployment's
# proxy keeps those of its own clients.
SANDBOX_IDLE_SECONDS = 130
IDLE_SECONDS = 30

SANDBOX_HINTS = """\
Sandbox: {whose}. Try it:

curl -X POST {url}/api/v1/actions/update-contact \\
  -H "Authorization: Bearer sandbox" \\
  -H "Content-Type: application/json" \\
  -d '{{"phone": "{phone}", "metadata": {{"lifetime_value": 9120.00}}}}'

Watch requests arrive, and inject faults: {url}/
"""
FIRST_STEP = "No token yet, so every request gets a 401. Make one: {command} token create NAME\n"
OPEN_SANDBOX = (
    "Warning: anyone who can reach this port can read and change everything in the sandbox."
)
NO_TLS = (
    "Warning: other machines can reach this without TLS, so tokens and contacts can be read on the"
    " way. Put a proxy with TLS in front, and name its address in CONTACTS_TRUSTED_PROXY."
)


def host_name(text: str) -> str:
    """Return a name as a Host header may have it, without the port. Raises click.BadParameter."""
    with suppress(ValueError):
        return str(ipaddress.ip_address(text.strip("[]")))
    if not re.fullmatch(r"[A-Za-z0-9._-]+", text):
        raise click.BadParameter("pass the name alone, such as host.docker.internal.")
    return text.lower()


@click.command(cls=Command)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535))
@click.option("--sandbox", is_flag=True, help="Sample contacts and the token 'sandbox'.")
@click.option(
    "--allow-host",
    "hosts",
    type=host_name,
    multiple=True,
    metavar="NAME",
    help="Let the sandbox respond to this name beside loopback's. May be repeated.",
)
@click.option("--stop-with-stdin", is_flag=True, help="Stop the sandbox when standard input ends.")
@click.option(
    "--temporary", is_flag=True, help="Delete the sandbox's database, and its folder, at the end."
)
@click.option(
    "--contacts",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Start every workspace of the sandbox with those of this file, a .csv or .jsonl.",
)
@click.pass_context
def serve(context, host, port, sandbox, hosts, stop_with_stdin, temporary, contacts):
    """Serve the API until SIGTERM or Ctrl-C."""
    if (hosts or stop_with_stdin or temporary or contacts) and not sandbox:
        raise click.UsageError(
            "--allow-host, --stop-with-stdin, --temporary and --contacts need --sandbox."
        )
    if temporary and os.environ.get("CONTACTS_DATABASE"):
        raise click.UsageError("--temporary and CONTACTS_DATABASE exclude each other.")
    # Until stop_on_signals(), too, SIGTERM ends process 1 of a container and removes the folder.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    environment = dict(os.environ)
    if temporary:
        # Windows deletes no file that a request still reads.
        made = TemporaryDirectory(prefix="qyvo-standin-", ignore_cleanup_errors=True)
        folder = context.with_resource(made)
        environment["CONTACTS_DATABASE"] = str(Path(folder, "sandbox.db"))
    if stop_with_stdin:
        threading.Thread(target=terminate_after_stdin, daemon=True).start()
    for name in unknown_settings(environment):  # a cluster may set CONTACTS_PORT
        click.echo(f"Warning: {name} is not a setting, and is ignored.", err=True)
    settings = read_settings(environment, sandbox=sandbox)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    listeners = listen(host, port)
    for listener in listeners:
        context.call_on_close(listener.close)
    addresses = [ipaddress.ip_address(each.getsockname()[0]) for each in listeners]
    loopback_only = all(address.is_loopback for address in addresses)
    url = url_of(host, listeners[0].getsockname()[1])
    stand_in = None
    if sandbox:
        from sandbox import Sandbox  # which a deployment never loads

        start = read_contacts(contacts, settings["CONTACTS_DEFAULT_REGION"]) if contacts else None
        stand_in = Sandbox(start, loopback_only=loopback_only, allowed_hosts=hosts)
    app = create_app(settings, sandbox=stand_in, access_log=sys.stderr)
    store = app.extensions["store"]
    store.check_writable()
    if sandbox:
        context.call_on_close(store.lock().close)
    server = make_server(
        app,
        listeners,
        threads=settings["CONTACTS_THREADS"],
        idle_seconds=SANDBOX_IDLE_SECONDS if sandbox else IDLE_SECONDS,
    )
    stop_on_signals(stand_in, before_exit=context.close)
    if not loopback_only and sandbox:
        click.echo(OPEN_SANDBOX, err=True)
    elif not loopback_only and not settings["CONTACTS_TRUSTED_PROXY"]:
        click.echo(NO_TLS, err=True)
    hints = ""
    if sandbox:
        whose = f"the contacts of {contacts}" if contacts else "sample contacts, no real ones"
        phone = stand_in.contacts[0]["phone"]
        hints = SANDBOX_HINTS.format(url=url, whose=whose, phone=phone)
    elif not store.list_tokens() and not settings["QYVO_TOKEN"]:
        hints = FIRST_STEP.format(command=program())
    with suppress(OSError):  # the reader may have had enough after the first line
        click.echo(f"Serving on {url}\n{hints}", nl=False)
    server.run()
    store.close()


def listen(host: str, port: int) -> list[socket.socket]:
    """Return sockets that listen on each address of the host that this machine has.

    `::` is every address of both families. Port 0 is any free one, the same for all of them.
    Raises click.ClickException if there is no such address, or another program has the port.
    """
    listeners, host = [], host.strip("[]")
    try:
        if host == "::" and socket.has_dualstack_ipv6():
            address, family = (host, port), socket.AF_INET6
            return [socket.create_server(address, family=family, dualstack_ipv6=True)]
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for family, name in dict.fromkeys((family, address[0]) for family, *_, address in found):
            try:
                listeners.append(socket.create_server((name, port), family=family))
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                absent = error
            else:
                port = listeners[0].getsockname()[1]
        if not listeners:
            raise absent
    except OSError as error:
        # Python adds the address to the text of some errors, which is said here already.
        known = error.errno and error.errno > 0
        reason = os.strerror(error.errno) if known else error.strerror
        hint = " Choose another port with --port." if error.errno == errno.EADDRINUSE else ""
        raise click.ClickException(f"Can't listen on {host}:{port}: {reason}.{hint}") from error
    return listeners


def url_of(host: str, port: int) -> str:
    """Return a URL that works on this machine, even if the host stands for all addresses."""
    host = host.strip("[]")
    if host == "0.0.0.0" or (host == "::" and socket.has_dualstack_ipv6()):  # noqa: S104
        host = "127.0.0.1"
    elif host == "::":
        host = "::1"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def make_server(app: Flask, listeners: list[socket.socket], *, threads: int, idle_seconds: int):
    """Return waitress, which serves that many requests at once, until it is stopped.

    A connection is closed once it has been idle, without a request in progress, for `idle_seconds`.
    """
    # It prints what a client sent, which may be a secret.
    logging.getLogger("waitress").setLevel(logging.CRITICAL)
    return waitress.create_server(
        app,
        sockets=listeners,
        threads=threads,
        ident="qyvo-standin",
        channel_timeout=idle_seconds,
        cleanup_interval=min(30, idle_seconds),
        connection_limit=allowed_connections(),
        max_request_header_size=HEADER_BYTES,
        max_request_body_size=BODY_BYTES,
        asyncore_use_poll=hasattr(select, "poll"),
        clear_untrusted_proxy_headers=False,  # the application knows whom it trusts
        log_socket_errors=False,
    )


def allowed_connections() -> int:
    """Return how many connections the limit on open files allows, once raised if it may be."""
    try:
        import resource
    except ImportError:  # as on Windows, which has no such limit, and 512 sockets in a select()
        return 500
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * CONNECTIONS + OTHER_FILES  # a large body waits in a file
    if 0 <= limit < wanted:  # RLIM_INFINITY is below
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return min(CONNECTIONS, max(limit - OTHER_FILES, limit // 2))


def stop_on_signals(sandbox, before_exit):
    """End the server at SIGTERM or Ctrl-C, and the process STOP_SECONDS later at the latest.

    The requests of a sandbox that wait on purpose are ended first. waitress gives those that run
    5 seconds. If the process must be ended, `before_exit` is called before.
    """

    def end():
        try:
            before_exit()
        finally:
            os._exit(0)

    def stop(number, frame):
        for each in signals:  # the same one again does not wait
            signal.signal(each, signal.SIG_DFL if each == number else signal.SIG_IGN)
        timer = threading.Timer(STOP_SECONDS, end)
        timer.daemon = True
        timer.start()
        if sandbox:
            sandbox.stop()
        sys.exit()

    signals = signal.SIGTERM, signal.SIGINT
    for number in signals:
        signal.signal(number, stop)


def read_contacts(file: Path, region: str | None) -> list[dict[str, Any]]:
    """Return the contacts of a file, each of which must be sound. Raises click.ClickException."""
    schemas.phone_reading.set(schemas.PhoneReading(region))
    with sources.opened(file) as source:
        reader = files.format_of(file)(source, sources.Options(trusted=True))
        for notice in reader.notices:
            click.echo(printable(notice), err=True)
        rows = list(reader)
    if not rows:
        raise click.ClickException(f"{file}: there are no contacts in it.")
    refused = next((row for row in rows if row.refusal), None)
    if refused:
        raise click.ClickException(f"{file}: line {refused.line}: {printable(refused.refusal)}")
    contacts = [row.contact for row in rows]
    for position, field, earlier in schemas.find_repeated(contacts):
        line, other = rows[position].line, rows[earlier].line
        raise click.ClickException(f"{file}: line {line}: {field}: Line {other} has it.")
    return contacts


def terminate_after_stdin():
    """Send this process SIGTERM when its standard input ends, unless it is stopping already."""
    with suppress(OSError):
        while os.read(0, 65536):  # sys.stdin has a lock, which would be held at the end
            pass
    # The first signal sets one of these.
    if signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, signal.SIG_IGN):
        if os.name == "nt":  # where os.kill would end the process at once
            signal.raise_signal(signal.SIGTERM)
        else:
            os.kill(os.getpid(), signal.SIGTERM)
