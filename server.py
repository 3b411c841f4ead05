"""A bridge between granian, the HTTP server, and a WSGI application.

Requests run on the event loop, one after the other. One that would have to wait raises
`would_wait` there, having done nothing, and is repeated in a thread, where it may. A request that
is refused before its body is read never waits for that body.
"""

import asyncio
import gc
import logging
import math
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
from typing import Any

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.rsgi import HTTPProtocol, ProtocolClosed, ProtocolError, Scope
from granian.server.embed import Server

HEADER_BYTES = 32 * 1024  # some twice as long pass, none longer than that
BODY_BYTES = 1024 * 1024
PATIENCE_SECONDS = 30  # for a header, and for the next byte of a body
GRACE_SECONDS = 0.01  # within which a body arrives that was sent with its header
GRACE_BYTES = 64 * 1024
DRAIN_SECONDS, DRAIN_LIMIT_SECONDS = 0.1, 2
DRAIN_BYTES = 16 * BODY_BYTES
STOP_SECONDS = 8  # Docker kills after 10
CONNECTIONS = 4096
WAITING_THREADS = 32
OTHER_FILES = 256  # the database's, among others

log = logging.getLogger("contacts.server")

Response = tuple[int, list[tuple[str, str]], bytes]


class BodyNotRead(BaseException):
    """The application reads a body that has not arrived yet."""


class Body:
    """The body of one request, which is read as far as somebody waits for it."""

    def __init__(self, protocol: HTTPProtocol, environ: dict[str, Any]):
        chunked = "HTTP_TRANSFER_ENCODING" in environ
        self._length = DRAIN_BYTES if chunked else int(environ.get("CONTENT_LENGTH", 0))
        self.complete = self._length == 0
        self.may_be_here = self._length <= GRACE_BYTES
        self._protocol = protocol
        self._data = bytearray()
        self._drained = False
        self._missing: BaseException = BodyNotRead()
        self._received = 0
        self._reading: asyncio.Task | None = None

    def stream(self) -> "BytesIO | Body":
        """Return the WSGI input, which is this object itself as long as bytes are missing."""
        return BytesIO(self._data) if self.complete else self

    def read(self, size: int = -1) -> bytes:
        raise self._missing

    async def arrives(self, patience: float, limit: float = math.inf) -> bool:
        """Wait until all is here, at most `patience` seconds for a byte and `limit` in all."""
        loop = asyncio.get_running_loop()
        if self._protocol is None:
            return False
        if self._reading is None:
            self._reading = loop.create_task(self._read())
        received, end = -1, loop.time() + limit
        while not self._reading.done() and received < self._received and loop.time() < end:
            received = self._received
            self._waiting = loop.create_future()
            deadline = loop.call_later(patience, self._wake)
            await self._waiting
            deadline.cancel()
        return self.complete

    def _wake(self):
        if not self._waiting.done():
            self._waiting.set_result(None)

    async def _read(self):
        with suppress(ProtocolClosed, ProtocolError):
            async for chunk in self._protocol:
                self._received += len(chunk)
                if not self._drained and len(self._data) <= BODY_BYTES:
                    self._data += chunk
                if self._received >= min(self._length, DRAIN_BYTES):
                    break
            self.complete = True
        self._wake()

    async def drain(self):
        """Read and drop a while: a client that is still sending could miss the response."""
        self._drained = True
        self._data.clear()
        await self.arrives(DRAIN_SECONDS, DRAIN_LIMIT_SECONDS)

    def leave(self):
        """Read no more. granian closes the connection of a body that nobody holds any longer."""
        if self._reading is not None:
            self._reading.cancel()
        self._protocol = self._reading = None
        self._missing = ConnectionAbortedError("the body was cut off")


class Bridge:
    """Handles granian's requests by a WSGI application.

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
        self.workers = ThreadPoolExecutor(threads)
        self.waiters = ThreadPoolExecutor(WAITING_THREADS)

    async def handle(self, scope: Scope, protocol: HTTPProtocol):
        environ = _environ(scope)
        body = Body(protocol, environ)
        response = await self._respond(environ, body)
        body.leave()
        protocol.response_bytes(*response)

    async def _respond(self, environ: dict[str, Any], body: Body) -> Response:
        loop = asyncio.get_running_loop()
        environ["contacts.waiting_since"] = threads = None
        waits_for_us = "HTTP_EXPECT" in environ  # to read from it is to say 100 Continue
        if not body.complete and body.may_be_here and not waits_for_us:
            await body.arrives(GRACE_SECONDS, DRAIN_SECONDS)
        while True:
            environ["wsgi.input"] = body.stream()
            try:
                if threads is None:
                    response = _call(self._application, environ)
                else:
                    response = await loop.run_in_executor(
                        threads, _call, self._application, environ
                    )
            except BodyNotRead:
                threads = environ["contacts.waiting_since"] = None
                if not await body.arrives(PATIENCE_SECONDS):
                    body.leave()
            except self._would_wait as wait:
                if wait.seconds:
                    threads = environ["contacts.waiting_since"] = None
                    await asyncio.sleep(wait.seconds)
                else:
                    threads = self.workers if wait.works else self.waiters
                    environ["contacts.waiting_since"] = loop.time()
            else:
                if not body.complete and not waits_for_us:
                    await body.drain()
                return response


def _environ(scope: Scope) -> dict[str, Any]:
    host, _, port = scope.server.rpartition(":")
    environ = {
        "REQUEST_METHOD": scope.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": scope.path.encode().decode("latin-1"),  # as WSGI wants it
        "QUERY_STRING": scope.query_string,
        "SERVER_PROTOCOL": f"HTTP/{scope.http_version}",
        "SERVER_NAME": host,
        "SERVER_PORT": port,
        "REMOTE_ADDR": scope.client.rpartition(":")[0].strip("[]"),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }
    for name, value in scope.headers.items():
        if "_" in name:  # it would pass for the one with hyphens
            continue
        key = name.upper().replace("-", "_")
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = f"HTTP_{key}"
        environ[key] = f"{environ[key]},{value}" if key in environ else value
    if "HTTP_TRANSFER_ENCODING" in environ:
        environ.pop("CONTENT_LENGTH", None)  # which then counts for nothing
    return environ


def _call(application: Callable, environ: dict[str, Any]) -> Response:
    started = []
    chunks = application(
        environ, lambda status, headers, exc_info=None: started.extend((status, headers))
    )
    try:
        body = b"".join(chunks)
    finally:
        chunks.close()
    status, headers = started
    return int(status[:3]), [("server", "qyvo-standin"), *headers], body


def reserve(host: str, port: int) -> socket.socket:
    """Return a socket that listens there, and keeps other servers away: granian would share.

    Raises OSError when the address can't be had.
    """
    return socket.create_server(
        (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
    )


def serve(
    application: Callable,
    reservation: socket.socket,
    *,
    threads: int,
    would_wait: type[BaseException],
    ready: Callable[[], None],
    end: Callable[[], None],
):
    """Serve at the reserved address until SIGTERM or Ctrl-C, then end the process.

    `ready` is called once requests can come, and `end` after the last, or STOP_SECONDS after the
    signal, in whatever thread. For the others see Bridge.
    """
    stopping = threading.Event()

    def leave():
        try:
            end()
        except Exception:
            log.exception("the clean-up failed")
        # Python's own end would abort where a thread of granian holds one of its objects.
        os._exit(0 if stopping.is_set() else 1)

    def leave_in_time():
        stopping.wait()
        time.sleep(STOP_SECONDS)
        leave()

    threading.Thread(target=leave_in_time, daemon=True).start()
    bridge = Bridge(application, threads, would_wait)
    asyncio.run(_serve(bridge, reservation, ready, stopping))
    bridge.workers.shutdown(cancel_futures=True)
    bridge.waiters.shutdown(cancel_futures=True)
    bridge.workers = bridge.waiters = None
    gc.collect()  # with each thread goes its database connection
    leave()


async def _serve(
    bridge: Bridge, reservation: socket.socket, ready: Callable, stopping: threading.Event
):
    loop = asyncio.get_running_loop()
    address, port = reservation.getsockname()[:2]
    server = Server(
        bridge.handle,
        address=address,
        port=port,
        interface=Interfaces.RSGI,
        http=HTTPModes.http1,
        websockets=False,
        backlog=1024,
        backpressure=_allowed_connections(),
        http1_settings=HTTP1Settings(
            header_read_timeout=PATIENCE_SECONDS * 1000, max_buffer_size=HEADER_BYTES
        ),
        log_enabled=False,
    )
    server.on_startup(reservation.close)
    if hasattr(socket, "SO_REUSEPORT"):  # lets granian in, beside this socket
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)

    def stop(number, frame):
        signal.signal(number, signal.SIG_DFL)  # a second one does not wait
        stopping.set()
        loop.call_soon_threadsafe(server.stop)

    for number in (signal.SIGTERM, signal.SIGINT):
        with suppress(NotImplementedError):  # as on Windows
            loop.add_signal_handler(number, server.stop)  # wakes it, whatever thread is signalled
        signal.signal(number, stop)  # runs even where a write to a full log blocks the loop
    serving = loop.create_task(server.serve())
    while not serving.done() and (
        reservation.fileno() != -1 or not await _accepts_connections(address, port)
    ):
        await asyncio.sleep(0.005)
    if not serving.done():
        ready()
    await serving


async def _accepts_connections(address: str, port: int) -> bool:
    with suppress(OSError):
        _, writer = await asyncio.open_connection(address, port)
        writer.close()
        return True
    return False


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
