"""waitress, made to answer what a request's header settles without waiting for its body.

waitress hands a request to the application once all of it has arrived. That is what keeps a
stalled sender from holding a thread; but a caller without a good token should be told so, and
forgotten, before it has sent anything. Errors of HTTP itself are answered as JSON here.
"""

import json
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial

from waitress import create_server, wasyncore
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.task import ErrorTask
from waitress.utilities import BadRequest, RequestEntityTooLarge

try:
    import resource
except ImportError:  # as on Windows, which knows no such limit
    resource = None

CONNECTION_LIMIT = 1000
IDLE_SECONDS = 30
STOP_SECONDS = 10
MOST_SPARE_THREADS = 500
# Framing may make a chunked body a few times longer than what it carries.
BODY_BYTES_READ = 4 * 1024 * 1024

log = logging.getLogger("contacts.server")


class HeaderFirstParser(HTTPRequestParser):
    """Ends a request after its header when the header settles the answer, or the body is too long.

    The application is then called without the body, and gives the answer by its own rules.
    """

    def __init__(self, adj, server: "Server"):
        super().__init__(adj)
        self._server = server

    def received(self, data: bytes) -> int:
        header_was_read = self.headers_finished
        try:
            consumed = super().received(data)
        except ValueError as error:  # a length of 5,000 digits, http://[ as the path
            self.error, self.completed = BadRequest(str(error)), True
            return len(data)
        if isinstance(self.error, RequestEntityTooLarge):
            return self._leave_the_rest(data)
        if header_was_read or not self.headers_finished or self.error:
            return consumed
        if self._server.stopping:
            self.headers["CONNECTION"] = "close"
        all_is_here = self.completed or 0 < self.content_length <= len(data) - consumed
        return consumed if all_is_here or not self._is_refused() else self._leave_the_rest(data)

    def _is_refused(self) -> bool:
        try:
            return self._server.refuses(self.path, self.headers)
        except Exception:
            return False  # the application will meet the same error, and answer it

    def _leave_the_rest(self, data: bytes) -> int:
        self.error = None
        self.completed = True
        self.expect_continue = False
        self.headers["CONNECTION"] = "close"
        if self.chunked:
            self.headers["CONTENT_LENGTH"] = str(max(1, self.body_bytes_received))
        return len(data)


class JSONErrorTask(ErrorTask):
    """Answers what is not HTTP in the shape of every other error."""

    def execute(self):
        error = self.request.error
        log.info("malformed request: %d %s", error.code, error.reason)
        text = f"{error.reason}: {error.body}"
        body = json.dumps({"error": text, "message": text}).encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.response_headers.extend(self.channel.answer_headers.items())
        self.content_length = len(body)
        self.set_close_on_finish()
        self.write(body)


class LingeringChannel(HTTPChannel):
    """Reads on for a while after the last answer, so that a client still sending can read it.

    A socket that is closed with unread data resets the connection, and the answer may be lost.
    """

    error_task_class = JSONErrorTask
    answer_headers: Mapping[str, str]
    lingering = False

    def handle_write(self):
        if self.close_when_flushed and not self.will_close:
            self._flush_exception(self._flush_some)
            if self.connected and not self.total_outbufs_len:
                self.close_when_flushed = False
                self.lingering = True
                self.socket.shutdown(socket.SHUT_WR)
            return
        super().handle_write()

    def handle_read(self):
        if not self.lingering:
            unfinished, last_activity = self.request, self.last_activity
            super().handle_read()
            if unfinished and self.request is unfinished and not unfinished.headers_finished:
                self.last_activity = last_activity  # a header that drips in is no activity
            return
        try:
            self.recv(65536)  # does not count as activity: IDLE_SECONDS bounds it
        except OSError:
            self.handle_close()


class Server:
    """Listens, and heeds SIGTERM and Ctrl-C, from the moment it is made.

    `address` and `url` say where.
    """

    def __init__(
        self,
        application: Callable,
        host: str,
        port: int,
        threads: int,
        refuses: Callable[[str, Mapping[str, str]], bool],
        answer_headers: Mapping[str, str],
    ):
        """`refuses` tells from a request's path and header whether its body can be left unread.

        `answer_headers` go with the errors that are answered without the application.
        Raises OSError when the address can't be had.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
        self.address = listener.getsockname()[0]
        _allow_open_files(2 * CONNECTION_LIMIT)
        self._server = create_server(
            application,
            sockets=[listener],
            threads=threads,
            ident=None,
            connection_limit=CONNECTION_LIMIT,
            asyncore_use_poll=True,  # select() can't watch that many
            channel_timeout=IDLE_SECONDS,
            cleanup_interval=5,
            max_request_header_size=32 * 1024,
            max_request_body_size=BODY_BYTES_READ,
            clear_untrusted_proxy_headers=False,  # the application knows whom it trusts
            log_socket_errors=False,
        )
        self._server.channel_class = type(
            "Channel",
            (LingeringChannel,),
            {
                "parser_class": staticmethod(partial(HeaderFirstParser, server=self)),
                "answer_headers": answer_headers,
            },
        )
        self.refuses = refuses
        self.stopping = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        self._threads = threads
        self._asleep = 0
        self._asleep_lock = threading.Lock()
        name = f"[{host}]" if family == socket.AF_INET6 else host
        self.url = f"http://{name}:{listener.getsockname()[1]}"

    @contextmanager
    def spare_thread(self) -> Iterator[None]:
        """While the caller sleeps in its thread, another one serves in its place."""
        self._count_asleep(1)
        try:
            yield
        finally:
            self._count_asleep(-1)

    def _count_asleep(self, change: int):
        with self._asleep_lock:
            self._asleep += change
            if not self.stopping:
                self._server.task_dispatcher.set_thread_count(
                    self._threads + min(self._asleep, MOST_SPARE_THREADS)
                )

    def run(self):
        """Serve until SIGTERM or Ctrl-C, then answer what has been asked and return."""
        while not self.stopping:
            self._turn()
        wasyncore.dispatcher.close(self._server)
        give_up = time.monotonic() + STOP_SECONDS
        while self._busy() and time.monotonic() < give_up:
            self._turn()
        self._server.task_dispatcher.shutdown(timeout=1)
        wasyncore.close_all(self._server._map)

    def _turn(self):
        wasyncore.loop(timeout=1, use_poll=True, map=self._server._map, count=1)

    def _busy(self) -> bool:
        channels = self._server.active_channels.values()
        return any(c.requests or c.request or c.total_outbufs_len for c in channels)

    def _stop(self, number, frame):
        signal.signal(number, signal.SIG_DFL)  # a second one does not wait
        self.stopping = True
        self._server.pull_trigger()


def _allow_open_files(count: int):
    """Many systems allow 1024, too few for CONNECTION_LIMIT and the database, unless asked."""
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < count:
        with suppress(ValueError):  # the administrator allows no more
            resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
