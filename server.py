"""A bridge between aiohttp, the HTTP server, and a WSGI application.

Requests run on the event loop, one after the other. One that would have to wait raises
`would_wait` there, having done nothing, and is repeated in a thread, where it may. A request that
is refused before its body is read waits for that body for GRACE_SECONDS only.
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
from functools import partial
from io import BytesIO
from itertools import chain
from typing import Any
from urllib.parse import unquote_to_bytes

from aiohttp import web

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

log = logging.getLogger("contacts.server")


class BodyNotRead(BaseException):
    """The application reads a body that has not arrived yet."""


class Body:
    """The body of a request, itself the WSGI input until it is complete."""

    def __init__(self, request: web.BaseRequest):
        self._content = request.content
        self._data = bytearray()
        self._error: BaseException = BodyNotRead()
        self.complete = not request.body_exists

    def input(self) -> "BytesIO | Body":
        return BytesIO(self._data) if self.complete else self

    def read(self, size: int = -1) -> bytes:
        raise self._error

    async def receive(self, seconds: float):
        """Wait for the next bytes. A body that is too large counts as complete."""
        async with asyncio.timeout(seconds):
            self._data += await self._content.readany()
        self.complete = self._content.at_eof() or len(self._data) > BODY_BYTES

    async def receive_all(self):
        try:
            while not self.complete:
                await self.receive(PATIENCE_SECONDS)
        except Exception:  # whatever keeps the rest from arriving
            self._error = ConnectionAbortedError("the body was cut off")


class Bridge:
    """Handles aiohttp's requests by a WSGI application.

    `would_wait` is what the application raises where it may not wait: an exception with the
    attribute `seconds`, after which the request is repeated, or 0 to repeat it in a thread. Those
    whose attribute `works` is true share so many `threads`: more would take the processor from the
    loop. The others, which only wait for a lock, have threads of their own.
    The environ's `contacts.wait_until` is the time.monotonic() until which the application may
    wait: 0 on the event loop, and in a thread `max_wait` seconds from now.
    """

    def __init__(
        self, application: Callable, threads: int, max_wait: float, would_wait: type[BaseException]
    ):
        self._application = application
        self._max_wait = max_wait
        self._would_wait = would_wait
        self._workers = ThreadPoolExecutor(threads)
        self._waiters = ThreadPoolExecutor(WAITING_THREADS)
        self._requests = 0  # in progress
        self._stopping = False

    async def handle(self, request: web.BaseRequest) -> web.Response:
        self._requests += 1
        try:
            response = await self._respond(request)
        except Exception:
            log.exception("the bridge failed")
            response = web.Response(status=500)
        finally:
            self._requests -= 1
        response.headers["Server"] = "qyvo-standin"
        if self._stopping:
            response.force_close()
        return response

    async def stop(self):
        """Wait for the requests in progress, and let each be the last of its connection."""
        self._stopping = True
        while self._requests:
            await asyncio.sleep(0.01)

    def close(self):
        """Wait for what still runs in threads, and begin nothing more there."""
        self._workers.shutdown(cancel_futures=True)
        self._waiters.shutdown(cancel_futures=True)

    async def _respond(self, request: web.BaseRequest) -> web.Response:
        if sum(map(len, chain(*request.raw_headers))) > HEADER_BYTES:
            return web.Response(status=431)
        loop, environ, body = asyncio.get_running_loop(), _environ(request), Body(request)
        expects_continue = environ.get("HTTP_EXPECT", "").lower() == "100-continue"
        if not body.complete and not expects_continue:
            with suppress(Exception):  # which comes again where the body is read
                await body.receive(GRACE_SECONDS)
        in_thread, delayed = None, False
        while True:
            environ["wsgi.input"] = body.input()
            environ["contacts.wait_until"] = time.monotonic() + self._max_wait if in_thread else 0
            try:
                response = await in_thread(environ) if in_thread else self._call(environ)
            except BodyNotRead:
                in_thread = None
                if expects_continue and request.transport and request.version >= (1, 1):
                    request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                await body.receive_all()
            except self._would_wait as wait:
                if wait.seconds:
                    in_thread, delayed = None, True
                    await asyncio.sleep(wait.seconds)
                elif wait.works and not delayed:  # a delayed request needs no client
                    in_thread = partial(loop.run_in_executor, self._workers, self._work, request)
                else:
                    threads = self._workers if wait.works else self._waiters
                    in_thread = partial(loop.run_in_executor, threads, self._call)
            else:
                if not request.content.at_eof():
                    response.force_close()
                return response

    def _work(self, request: web.BaseRequest, environ: dict[str, Any]) -> web.Response:
        """Call the application, unless the client has gone while no thread was free."""
        return web.Response(status=503) if request.transport is None else self._call(environ)

    def _call(self, environ: dict[str, Any]) -> web.Response:
        started = []
        chunks = self._application(
            environ, lambda status, headers, exc_info=None: started.extend((status, headers))
        )
        try:
            body = b"".join(chunks)
        finally:
            if hasattr(chunks, "close"):
                chunks.close()
        status, headers = started
        return web.Response(status=int(status[:3]), headers=headers, body=body)


def _environ(request: web.BaseRequest) -> dict[str, Any]:
    path = request.rel_url.raw_path.encode(errors="surrogateescape")
    query = request.rel_url.raw_query_string.encode(errors="surrogateescape")
    environ = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query.decode("latin-1"),
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


class OneTooMany(asyncio.Protocol):
    """A connection that is closed at once."""

    def connection_made(self, transport: asyncio.Transport):
        transport.abort()


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there. Raises OSError when the address can't be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


def serve(
    bridge: Bridge, listener: socket.socket, ready: Callable[[], None], end: Callable[[], None]
):
    """Serve until SIGTERM or Ctrl-C, then return or, after STOP_SECONDS, end the process.

    `ready` is called once requests can come. `end` is called, in another thread, before the
    process is ended.
    """
    finished = threading.Event()
    signalled, waker = socket.socketpair()
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno())  # written to at once, even while the loop is blocked

    def end_in_time():
        signalled.recv(1)
        if not finished.wait(STOP_SECONDS):
            try:
                end()
            finally:
                os._exit(0)

    threading.Thread(target=end_in_time, daemon=True).start()
    try:
        asyncio.run(_serve(bridge, listener, ready, waker))
        bridge.close()
    finally:
        finished.set()
        signal.set_wakeup_fd(-1)


async def _serve(bridge: Bridge, listener: socket.socket, ready: Callable, waker: socket.socket):
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    signals = signal.SIGTERM, signal.SIGINT
    # It logs malformed HTTP, which is the client's fault and may hold a secret.
    logging.getLogger("aiohttp.server").disabled = True
    server = web.Server(
        bridge.handle,
        access_log=None,
        auto_decompress=False,
        keepalive_timeout=PATIENCE_SECONDS,
        lingering_time=DRAIN_SECONDS,
        max_headers=HEADER_FIELDS,
    )
    runner = web.ServerRunner(server, shutdown_timeout=STOP_SECONDS)
    await runner.setup()
    limit = _allowed_connections()

    def stop(number, frame):
        for each in signals:  # the same one again does not wait
            signal.signal(each, signal.SIG_DFL if each == number else signal.SIG_IGN)
        waker.send(b"\0")  # on Windows, the loop has a wakeup descriptor of its own
        loop.call_soon_threadsafe(stopped.set)

    for number in signals:
        signal.signal(number, stop)  # runs even where a write to a full log blocks the loop
    accepting = await loop.create_server(
        lambda: server() if len(server.connections) < limit else OneTooMany(), sock=listener
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
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + OTHER_FILES
    if 0 <= limit < wanted:  # RLIM_INFINITY is below
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return min(CONNECTIONS, max(limit - OTHER_FILES, limit // 2))
