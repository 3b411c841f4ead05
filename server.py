"""waitress, made to answer what a request's header settles without waiting for its body.

waitress hands a request to the application once all of it has arrived. That is what keeps a
stalled sender from holding a thread; but a caller without a good token should be told so, and
forgotten, before it has sent anything. Errors of HTTP itself are answered as JSON here.
"""

import errno
import json
import logging
import math
import signal
import socket
import sys
import threading
import time
from collections import deque
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
STOP_SECONDS = 8  # after 10 Docker kills
MOST_SPARE_THREADS = 500
SETTLED_AT_ONCE = 32
# Less than this is sent when the answers that wait are, not one by one.
SENT_AT_ONCE = 1024 * 1024
# Who leaves more than this unread is answered nothing more until it is read.
MOST_UNREAD = 64 * 1024
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
        except ValueError:  # a length of 5,000 digits, http://[ as the path
            return self._refuse("The request line or a header makes no sense", data)
        if isinstance(self.error, RequestEntityTooLarge):
            return self._leave_the_rest(data)
        if header_was_read or not self.headers_finished or self.error:
            return consumed
        if self.chunked and "CONTENT_LENGTH" in self.headers:  # by which proxies may be deceived
            return self._refuse("Content-Length and Transfer-Encoding exclude each other", data)
        if self.completed:
            self.expect_continue = False  # there is no body to go on with
        if self._server.stopping:
            self.headers["CONNECTION"] = "close"
        all_is_here = self.completed or 0 < self.content_length <= len(data) - consumed
        return consumed if all_is_here or not self._is_refused() else self._leave_the_rest(data)

    def _is_refused(self) -> bool:
        try:
            return self._server.refuses(self.path, self.headers)
        except Exception:
            return False  # the application will meet the same error, and answer it

    def _refuse(self, text: str, data: bytes) -> int:
        self.error, self.completed = BadRequest(text), True
        return len(data)

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
    `parked` is one whose next request waits until its client has read more.
    """

    error_task_class = JSONErrorTask
    answer_headers: Mapping[str, str]
    settle: Callable[[], None]
    make_room: Callable[[], None]
    lingering = False
    parked = False

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.make_room()

    @property
    def last_activity(self) -> float:
        """By a clock that nobody sets, unlike waitress's."""
        return self._last_activity

    @last_activity.setter
    def last_activity(self, _):
        self._last_activity = time.monotonic()

    def owed(self) -> tuple[bool, float]:
        """The least is owed to who has named no good token, and has been silent for longest."""
        sends_a_body = self.request and self.request.headers_finished and not self.lingering
        return bool(sends_a_body), self.last_activity

    def handle_write(self):
        self._flush_exception(self._flush_some_if_lockable)
        if self.parked and self.total_outbufs_len <= MOST_UNREAD:
            self.parked = False
            self.server.add_task(self)
        if self.will_close:
            self.handle_close()
        elif self.close_when_flushed and self.connected and not self.total_outbufs_len:
            self.close_when_flushed = False
            self.lingering = True
            try:
                self.socket.shutdown(socket.SHUT_WR)
            except OSError:  # the client was faster
                self.handle_close()

    def _flush_some(self, do_close=True):
        self.settle()
        return super()._flush_some(do_close)

    def handle_read(self):
        if not self.lingering:
            unfinished, last_activity = self.request, self._last_activity
            super().handle_read()
            if unfinished and self.request is unfinished and not unfinished.headers_finished:
                self._last_activity = last_activity  # a header that drips in is no activity
            return
        try:
            self.recv(65536)  # does not count as activity: IDLE_SECONDS bounds it
        except OSError:
            self.handle_close()


class Server:
    """Listens, and heeds SIGTERM and Ctrl-C, from the moment it is made.

    One thread leads: it reads requests, calls the application and sends the answers. Python would
    take longer to hand each request to another thread than for all of this. When the application
    has to wait it says so by spare_thread(), and another thread leads on.
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
        settle: Callable[[], None],
    ):
        """So many `threads` are kept, of which one leads and the others stand by.

        `refuses` tells from a request's path and header whether its body can be left unread.
        `answer_headers` go with the errors that are answered without the application.
        `settle` is called before anything is sent. When it raises nothing is, and run() ends with
        that exception.
        Raises OSError when the address can't be had.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
        self.address = listener.getsockname()[0]
        _allow_open_files(3 * CONNECTION_LIMIT)
        self._server = create_server(
            application,
            _dispatcher=self,  # which gets each channel that has a request, by add_task()
            sockets=[listener],
            ident=None,
            connection_limit=2 * CONNECTION_LIMIT,  # of which half may be silent
            asyncore_use_poll=True,  # select() can't watch that many
            max_request_header_size=32 * 1024,
            max_request_body_size=BODY_BYTES_READ,
            clear_untrusted_proxy_headers=False,  # the application knows whom it trusts
            log_socket_errors=False,
            send_bytes=SENT_AT_ONCE,
            outbuf_high_watermark=sys.maxsize,  # a leader that waited to send would wait for itself
        )
        self._server.channel_class = type(
            "Channel",
            (LingeringChannel,),
            {
                "parser_class": staticmethod(partial(HeaderFirstParser, server=self)),
                "answer_headers": answer_headers,
                "settle": staticmethod(self._settle_or_end),
                "make_room": staticmethod(self._make_room),
            },
        )
        self._server.pull_trigger = self._wake_the_leader
        self._server.maintenance = lambda now: None  # _drop_the_idle() does it
        self.refuses = refuses
        self._settle = settle
        self.stopping = False
        self._give_up = math.inf
        self._finished = threading.Event()
        self._failure: BaseException | None = None
        self._asked = deque()
        self._answered = deque()
        self._threads = threads
        self._most_threads = threads + MOST_SPARE_THREADS
        self._succession = threading.Condition()
        self._leader: int | None = None
        self._alive = 0
        self._standing_by = 0
        self._next_look = time.monotonic()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        name = f"[{host}]" if family == socket.AF_INET6 else host
        self.url = f"http://{name}:{listener.getsockname()[1]}"

    def run(self):
        """Serve until SIGTERM or Ctrl-C, then answer what has been asked and return.

        The thread that calls this serves nobody: it is there for the signals.
        Raises OSError when the system has no other thread to give, and what `settle` has raised.
        """
        with self._succession:
            if not self._start_thread():
                raise OSError(errno.EAGAIN, "The system starts no thread")
        while not self._finished.wait(1):
            pass  # a signal that comes just before a wait is heeded at its end
        if self._failure:
            raise self._failure
        wasyncore.close_all(self._server._map)

    @contextmanager
    def spare_thread(self) -> Iterator[None]:
        """While the caller waits in its thread, another one serves in its place."""
        if self.leads():
            with self._succession:
                if self._standing_by or self._start_thread():
                    self._leader = None
                    self._succession.notify()
        yield

    def add_task(self, channel: HTTPChannel):
        """The channel has a request for the application. waitress calls this."""
        self._asked.append(channel)
        self._wake_the_leader()

    def leads(self) -> bool:
        """Whether the calling thread leads."""
        return self._leader == threading.get_ident()

    def _wake_the_leader(self):
        if not self.leads():
            self._server.trigger.pull_trigger()

    def _start_thread(self) -> bool:
        """False when there are too many. The caller holds the lock of the succession."""
        if self._alive == self._most_threads:
            return False
        try:
            threading.Thread(target=self._take_part, daemon=True).start()
        except RuntimeError:  # the system allows no more
            return False
        self._alive += 1
        return True

    def _take_part(self):
        try:
            while self._succeeds():
                self._answer()
                while self.leads() and not self._finished.is_set():
                    timeout = 0 if self._asked else 1
                    wasyncore.loop(timeout, use_poll=True, map=self._server._map, count=1)
                    self._answer()
                    if self.leads():
                        self._drop_the_idle()
                        if self.stopping:
                            self._come_to_an_end()
        except BaseException as error:
            self._end(error)

    def _succeeds(self) -> bool:
        """Wait for the lead; false when enough others do."""
        with self._succession:
            if self._leader is not None and self._standing_by >= self._threads - 1:
                self._alive -= 1
                return False
            self._standing_by += 1
            while self._leader is not None:
                self._succession.wait()
            self._standing_by -= 1
            self._leader = threading.get_ident()
        return True

    def _settle_or_end(self):
        try:
            self._settle()
        except Exception as error:
            self._end(error)
            raise ConnectionAbortedError(errno.ECONNABORTED, str(error)) from error

    def _end(self, failure: BaseException):
        self._failure = self._failure or failure
        self._finished.set()

    def _answer(self):
        """Answer some of what has been asked; send that, and what an earlier leader answered."""
        while self._asked and len(self._answered) < SETTLED_AT_ONCE:
            channel = self._asked.popleft()
            if channel.total_outbufs_len > MOST_UNREAD:
                channel.parked = True
                continue
            self._serve(channel)
            if not self.leads():
                return
            self._answered.append(channel)
        for channel in self._answered:
            if channel.connected:
                wasyncore.write(channel)
        self._answered.clear()

    def _serve(self, channel: LingeringChannel):
        try:
            channel.service()
        except Exception:  # as when the client is gone in the middle of it
            log.exception("a connection had to be closed")
            channel.will_close = True
            self._wake_the_leader()

    def _silent(self) -> list[LingeringChannel]:
        """The connections on which nothing is being answered."""
        channels = list(self._server.active_channels.values())
        return [channel for channel in channels if channel.parked or not channel.requests]

    def _make_room(self):
        if len(silent := self._silent()) > CONNECTION_LIMIT:
            min(silent, key=LingeringChannel.owed).handle_close()

    def _drop_the_idle(self):
        """At once: waitress would wait until those that read nothing can be written to."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + 1
        for channel in self._silent():
            if channel.last_activity < now - IDLE_SECONDS:
                channel.handle_close()

    def _stop(self, number, frame):
        signal.signal(number, signal.SIG_DFL)  # a second one does not wait
        self._give_up = time.monotonic() + STOP_SECONDS
        self.stopping = True
        self._wake_the_leader()

    def _come_to_an_end(self):
        if self._server.accepting:
            self._server.accepting = False
            wasyncore.dispatcher.close(self._server)
        channels = list(self._server.active_channels.values())
        busy = any(c.requests or c.request or c.total_outbufs_len for c in channels)
        if not busy or time.monotonic() > self._give_up:
            self._finished.set()


def _allow_open_files(count: int):
    """Many systems allow 1024, too few for CONNECTION_LIMIT and the database, unless asked."""
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < count:
        with suppress(ValueError):  # the administrator allows no more
            resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
