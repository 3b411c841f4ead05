"""A bridge between aiohttp, the HTTP server, and a WSGI application.

Requests run on the event loop, one after the other. One that would have to wait raises
`would_wait` there, having done nothing, and is repeated in a thread, where it may. A request that
is refused before its body is read never waits for that body.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from itertools import chain
from typing import Any
from urllib.parse import unquote_to_bytes

from aiohttp import web
from aiohttp.http import HttpProcessingError

HEADER_BYTES = 64 * 1024
HEADER_FIELDS = 64
BODY_BYTES = 1024 * 1024
PATIENCE_SECONDS = 30  # for a header, for the next bytes of a body, for the next request
GRACE_SECONDS = 0.01  # within which a body arrives that was sent with its header
DRAIN_SECONDS = 2  # for which a refused client may go on sending, so that it gets the response
STOP_SECONDS = 8  # Docker kills after 10
CONNECTIONS = 2048
OTHER_FILES = 256  # the database's, among others
WAITING_THREADS = 32


class BodyNotRead(BaseException):
    """The application reads a body that has not arrived yet."""


class Body:
    """The body of a request, itself the WSGI input until it is complete."""

    def __init__(self, request: web.BaseRequest):
        self._content = request.content
        self._data = bytearray()
        self._missing: BaseException = BodyNotRead()
        self.complete = not request.body_exists

    def input(self) -> "BytesIO | Body":
        return BytesIO(self._data) if self.complete else self

    def read(self, size: int = -1) -> bytes:
        raise self._missing

    async def receive(self, seconds: float):
        """Wait for the next bytes. A body that is too large counts as complete."""
        async with asyncio.timeout(seconds):
            self._data += await self._content.readany()
        self.complete = self._content.at_eof() or len(self._data) > BODY_BYTES

    async def receive_all(self):
        try:
            while not self.complete:
                await self.receive(PATIENCE_SECONDS)
        except (OSError, web.RequestPayloadError):  # TimeoutError is an OSError
            self._missing = ConnectionAbortedError("the body was cut off")


class Bridge:
    """Handles aiohttp's requests by a WSGI application.

    `would_wait` is what the application raises where it may not wait: an exception with the
    attribute `seconds`, after which the request is repeated, or 0 to repeat it in a thread. If its
    attribute `works` is true, that is one of so many `threads`: more would take the processor from
    the loop. Requests that only wait for a lock have threads of their own.
    The environment's `contacts.waiting_since` is None on the event loop, where the application
    may not wait, and otherwise the time.monotonic() since when it does.
    """

    def __init__(self, application: Callable, threads: int, would_wait: type[BaseException]):
        self._application = application
        self._would_wait = would_wait
        self._workers = ThreadPoolExecutor(threads)
        self._waiters = ThreadPoolExecutor(WAITING_THREADS)
        self._requests = 0  # in progress
        self._stopping = False

    async def handle(self, request: web.BaseRequest) -> web.Response:
        self._requests += 1
        try:
            response = await self._respond(request)
        finally:
            self._requests -= 1
        response.headers["Server"] = "qyvo-standin"
        if self._stopping:
            response.force_close()
        return response

    async def stop(self):
        """Wait for the requests in progress. Each is the last of its connection."""
        self._stopping = True
        while self._requests:
            await asyncio.sleep(0.01)

    async def _respond(self, request: web.BaseRequest) -> web.Response:
        if sum(map(len, chain(*request.raw_headers))) > HEADER_BYTES:
            return web.Response(status=431)
        loop, environ, body = asyncio.get_running_loop(), _environ(request), Body(request)
        expects_continue = "HTTP_EXPECT" in environ
        if not body.complete and not expects_continue:
            with suppress(OSError, web.RequestPayloadError):
                await body.receive(GRACE_SECONDS)
        threads = None
        while True:
            environ["wsgi.input"] = body.input()
            environ["contacts.waiting_since"] = loop.time() if threads else None
            try:
                if threads:
                    response = await loop.run_in_executor(threads, self._call, environ)
                else:
                    response = self._call(environ)
            except BodyNotRead:
                threads = None
                if expects_continue and request.transport:
                    request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                await body.receive_all()
            except self._would_wait as wait:
                threads = self._workers if wait.works else self._waiters
                if wait.seconds:
                    threads = None
                    await asyncio.sleep(wait.seconds)
            else:
                if not body.complete:
                    response.force_close()
                return response

    def _call(self, environ: dict[str, Any]) -> web.Response:
        started = []
        chunks = self._application(
            environ, lambda status, headers, exc_info=None: started.extend((status, headers))
        )
        try:
            body = b"".join(chunks)
        finally:
            chunks.close()
        status, headers = started
        return web.Response(status=int(status[:3]), headers=headers, body=body)


def _environ(request: web.BaseRequest) -> dict[str, Any]:
    path = request.rel_url.raw_path.encode(errors="surrogateescape")
    environ = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": request.rel_url.raw_query_string,
        "SERVER_NAME": "localhost",  # WSGI wants them; what counts is the Host header
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/{}.{}".format(*request.version),
        "REMOTE_ADDR": request.remote,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }
    for name, value in request.raw_headers:
        if b"_" in name:  # it would pass for the one with hyphens
            continue
        key = name.decode("latin-1").upper().replace("-", "_")
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = f"HTTP_{key}"
        text = value.decode("latin-1")
        environ[key] = f"{environ[key]},{text}" if key in environ else text
    return environ


class Refused(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.Transport):
        transport.abort()


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there. Raises OSError when the address can't be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


def serve(
    application: Callable,
    listener: socket.socket,
    *,
    threads: int,
    would_wait: type[BaseException],
    ready: Callable[[], None],
    end: Callable[[], None],
):
    """Serve until SIGTERM or Ctrl-C, then return or, after STOP_SECONDS, end the process.

    `ready` is called once requests can come. `end` is called, in another thread, before the
    process is ended. For the others see Bridge.
    """
    stopping = threading.Event()

    def end_in_time():
        stopping.wait()
        time.sleep(STOP_SECONDS)
        end()
        os._exit(0)

    threading.Thread(target=end_in_time, daemon=True).start()
    asyncio.run(_serve(Bridge(application, threads, would_wait), listener, ready, stopping))


async def _serve(
    bridge: Bridge, listener: socket.socket, ready: Callable, stopping: threading.Event
):
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    # Malformed HTTP is the client's fault, and may hold a secret.
    logging.getLogger("aiohttp.server").addFilter(
        lambda record: not isinstance(record.exc_info and record.exc_info[1], HttpProcessingError)
    )
    server = web.Server(
        bridge.handle,
        access_log=None,
        auto_decompress=False,
        keepalive_timeout=PATIENCE_SECONDS,
        lingering_time=DRAIN_SECONDS,
        max_headers=HEADER_FIELDS,
    )
    runner = web.ServerRunner(server, shutdown_timeout=1)
    await runner.setup()
    limit = _allowed_connections()

    def stop(number, frame):
        signal.signal(number, signal.SIG_DFL)  # a second one does not wait
        stopping.set()
        loop.call_soon_threadsafe(stopped.set)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)  # runs even where a write to a full log blocks the loop
    accepting = await loop.create_server(
        lambda: server() if len(server.connections) < limit else Refused(), sock=listener
    )
    ready()
    await stopped.wait()
    accepting.close()
    await bridge.stop()
    await runner.cleanup()


def _allowed_connections() -> int:
    """Return how many connections the limit on open files allows, once raised if it may be."""
    try:
        import resource
    except ImportError:  # as on Windows, which knows no such limit
        return CONNECTIONS
    limit = CONNECTIONS + OTHER_FILES
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit - OTHER_FILES
