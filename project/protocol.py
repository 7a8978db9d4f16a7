"""HTTP/1.1 as uvicorn speaks it, with the bounds that uvicorn leaves open. Used by `web`.

Of a peer whom nobody knows yet, this bounds connections, headers (bytes and seconds), chunk framing, trailers, and how
long an answer may wait to be taken; it refuses requests past the process' load before a task is made for them. Each
refusal is problem+json (RFC 9457). Everything else is uvicorn's.

The callbacks (on_*) are called by the parser while it is fed; raising _Verdict in one ends the feeding.
"""

import asyncio
from typing import Any

import httptools
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from project import refusals
from project.answering import Cycle
from project.errors import Problem
from project.load import Load

ANSWERED_WITHIN_S = 660.0  # more than any answer takes: a batch has ten minutes
# Who was refused for too much load is not read for a moment: a client that asks again at once, whatever Retry-After
# says, would otherwise take the time that the others' requests need (docs/decisions/0012-overload.md).
UNREAD_S = 0.3
# A proxy must be the one that closes an idle connection, since a request that it sends on one just then would be lost.
# nginx does so after 60 s, as load balancers do, unless told otherwise. Others are closed after uvicorn's 5 s.
PROXY_IDLE_S = 75
LEAVING_IDLE_S = 5.0  # once the process is told to stop
LINGER_S = 2.0  # for what a refused request still has to say, so that a reset does not swallow its answer
_FRAMING = 8  # bytes of framing that a byte of a chunked body may cost, in chunks of a single byte

httptools_impl.RequestResponseCycle = Cycle  # type: ignore[misc]  # uvicorn makes them, and takes no other word for it


class _Verdict(Exception):
    """The request ends here, with this answer."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.title)
        self.problem = problem


class _Lingering:
    """The transport of an answer that may come before its request has: closing it then is not a reset.

    While it `holds`, the answer waits for its request's end. For nginx: answered before it has passed the body on, it
    tells the client to use the connection again, and drops what then comes (docs/decisions/0015-nginx-and-draining.md).
    """

    def __init__(self, protocol: "Protocol", *, holds: bool) -> None:
        self._protocol = protocol
        self._held: list[bytes] = []
        self._closed = False
        self.holds = holds
        self.is_closing = protocol.transport.is_closing

    def write(self, content: bytes) -> None:
        """A piece of the answer."""
        (self._held.append if self.holds else self._protocol.transport.write)(content)

    def close(self) -> None:
        """After the last byte of the answer."""
        if self.holds:
            self._closed = True
        elif self._protocol.is_uploading:
            self._protocol.end()
        else:
            self._protocol.transport.close()

    def let_go(self) -> None:
        """What waited is written, and nothing waits any more."""
        self.holds = False
        self._protocol.transport.write(b"".join(self._held))
        if self._closed:
            self.close()


class Protocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._load: Load = app_state["load"]
        self._limits = self._load.limits
        self._head_bytes = 0  # of the request's line and headers, and of what came since without being body
        self._head_open = False  # a request has begun and its headers have not ended
        self._hosts = 0
        self._body_bytes = 0
        self._in_body = False  # the headers have ended and the message has not
        self._uploading = False  # the latest request is being answered, and its body is not here yet
        self._shed = False  # the request is refused; what is left of it is not looked at
        self._deaf = False  # nothing of this connection is looked at any more
        self._leaving = False  # the process has been told to stop: the next answer is the last
        self._answering: RequestResponseCycle | None = None  # the latest that was begun; others may wait behind it
        self._head_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._end_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._hold_timer: asyncio.TimerHandle | None = None
        self._lingering: _Lingering | None = None
        self._is_of_proxy = False  # the peer is one of TRUSTED_PROXIES

    # The connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Takes a connection, or tells it that there are too many."""
        super().connection_made(transport)  # type: ignore[arg-type]
        if isinstance(self.app, ProxyHeadersMiddleware) and self.client and self.client[0] in self.app.trusted_hosts:
            self._is_of_proxy = True
            self.timeout_keep_alive = PROXY_IDLE_S
        self._head_timer = self.loop.call_later(self._limits.header_timeout_s, self._head_is_late)
        if len(self.connections) > self._limits.max_connections:
            self._load.refused()
            self.end(refusals.SHED_AND_CLOSE)

    def connection_lost(self, exc: Exception | None) -> None:
        """Takes back what this connection counted for."""
        for timer in (self._head_timer, self._send_timer, self._end_timer, self._unread_timer, self._hold_timer):
            if timer is not None:
                timer.cancel()
        self._upload_ended()
        self._load.flows(self)
        if self._answering is not None:  # uvicorn tells only the latest of pipelined requests
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """The process is told to stop. What is in hand is answered; who is idle is closed, but for a trusted proxy.

        That may have sent a request just now, which a closed connection would lose without anybody knowing whether it
        was carried out. So it is answered once more, with `Connection: close`; or is closed LEAVING_IDLE_S later
        (docs/decisions/0015-nginx-and-draining.md, system/test_nginx_restart.py).
        """
        self._leaving = self._load.is_leaving = True
        if not self._is_of_proxy:
            super().shutdown()
        elif not self._is_answering():
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(LEAVING_IDLE_S, self.timeout_keep_alive_handler)
        elif not self.cycle.response_started:
            self.cycle.keep_alive = False

    def pause_writing(self) -> None:
        """The client does not take its answer: it has its time for that."""
        super().pause_writing()
        self._send_timer = self.loop.call_later(self._limits.send_timeout_s, self.cut)
        self._load.stuck(self)

    def resume_writing(self) -> None:
        """The client takes its answer."""
        super().resume_writing()
        self._load.flows(self)
        if self._send_timer is not None:
            self._send_timer.cancel()

    @property
    def is_uploading(self) -> bool:
        """Whether a request's body is still on its way."""
        return self._in_body

    def unsent(self) -> int:
        """Bytes that wait for the client."""
        return self.transport.get_write_buffer_size()

    def cut(self) -> None:
        """Ends the connection at once."""
        self.transport.abort()

    def end(self, last_word: bytes = b"") -> None:
        """Says a last word. What still comes is read and dropped for LINGER_S seconds (RFC 9112, 9.6)."""
        self._deaf = True
        if self.transport.is_closing():
            return
        if last_word:
            self.transport.write(last_word)
        if not self.transport.can_write_eof():  # TLS
            self.transport.close()
            return
        self.transport.write_eof()
        self._end_timer = self.loop.call_later(LINGER_S, self.transport.close)

    def _refuse(self, problem: Problem) -> None:
        """Ends the connection with this answer, or with that to an earlier request which is not out yet."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.keep_alive = False
            if not self._uploading or self.pipeline or cycle.response_started:
                self._deaf = True
                self._end_timer = self.loop.call_later(ANSWERED_WITHIN_S, self.transport.close)
                return
            cycle.disconnected = True  # it waits for a body that will not come
            cycle.message_event.set()
        self.end(refusals.written(problem, self.server_state.default_headers, close=True))

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._deaf:
            return
        if self._head_open:
            detail = f"the headers took more than {self._limits.header_timeout_s:g} s"
            self._refuse(Problem(408, "Request Timeout", detail))
        elif not self._is_answering():
            self.transport.close()  # nothing was asked

    def _is_answering(self) -> bool:
        return self._in_body or (self.cycle is not None and not self.cycle.response_complete)

    # What comes in

    def data_received(self, data: bytes) -> None:
        """Feeds the parser, and looks at what it has made of it."""
        self._unset_keepalive_if_required()
        if self._deaf:
            return
        head_was_open, body_was_open = self._head_open, self._in_body
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # to nothing that we speak; the request is answered as it is (RFC 9110, 7.8)
        except httptools.HttpParserError as error:
            cause = error.__context__
            if not self._deaf:
                self._refuse(cause.problem if isinstance(cause, _Verdict) else refusals.NOT_HTTP)
            return
        if (head_was_open and self._head_open) or (body_was_open and self._in_body):
            self._count(len(data))
        if self._in_body:
            self._await_body()
        if self._head_timer is None and not self._is_answering():  # a request has begun, or there is noise before one
            self._head_timer = self.loop.call_later(self._limits.header_timeout_s, self._head_is_late)

    def _await_body(self) -> None:
        """The body has not come with its headers: nobody waits for that of a refused request, but for a proxy's."""
        holds = self._hold_timer is None and not self.expect_100_continue and self._is_of_proxy
        if holds:
            self._hold_timer = self.loop.call_later(self._limits.body_timeout_s, self._hold_no_longer)
        if self._shed:
            if self._hold_timer is None:
                self._load.refused()
                self.end(refusals.SHED_AND_CLOSE)
        elif self.cycle.transport is self.transport:
            self.cycle.transport = lingering = _Lingering(self, holds=holds)  # type: ignore[assignment]
            self._lingering = lingering if holds else None

    def _hold_no_longer(self) -> None:
        """The body is here, or has had its time: then what is left of it has a moment to come, unread."""
        if self._hold_timer is not None:
            self._hold_timer.cancel()
            self._hold_timer = None
        if self._lingering is not None:
            self._lingering.let_go()
            self._lingering = None
        if self._in_body and self._shed:
            self._load.refused()
            self.end(refusals.SHED_AND_CLOSE)
        elif self._in_body and self.cycle.response_complete and not self._deaf:
            self.end()

    def _count(self, size: int) -> None:
        """Bounds what is neither a whole header nor body: an endless header, or framing around next to nothing."""
        self._head_bytes += size
        if self._head_bytes > self._limits.max_header_bytes + (1 + _FRAMING) * self._body_bytes:
            self._refuse(self._too_large())

    def _too_large(self) -> Problem:
        detail = f"at most {self._limits.max_header_bytes} bytes of request line and headers"
        return Problem(431, "Request Header Fields Too Large", detail)

    def on_message_begin(self) -> None:
        """A request begins; behind one that ended the connection, none does."""
        if self._deaf:
            raise _Verdict(refusals.NOT_HTTP)
        super().on_message_begin()
        self._head_open = True
        self._head_bytes = self._body_bytes = self._hosts = 0
        self._shed = False

    def on_url(self, url: bytes) -> None:
        """The request's target, or a piece of it."""
        self._head_bytes += len(url)
        if self._head_bytes > self._limits.max_header_bytes:
            raise _Verdict(self._too_large())
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; a trailer (RFC 9110, 6.5) counts and is dropped, since nobody expects one."""
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > self._limits.max_header_bytes + (1 + _FRAMING) * self._body_bytes:
            raise _Verdict(self._too_large())
        if not self._in_body:
            super().on_header(name, value)
            self._hosts += self.headers[-1][0] == b"host"

    def on_headers_complete(self) -> None:
        """A request can be looked at: it is taken on, or refused as one too many."""
        self._head_open = False
        self._in_body = True
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if self._hosts != 1 and (self._hosts or self.parser.get_http_version() == "1.1"):  # RFC 9112, 3.2
            raise _Verdict(Problem(400, "Bad Request", "exactly one Host header is required"))
        if not self.url.startswith(b"/"):
            self._take_authority()
        is_first = self.cycle is None or self.cycle.response_complete
        if is_first and self._load.refuses(
            self.parser.get_method(), self.url.partition(b"?")[0], self.server_state.tasks
        ):
            self._shed = True
            return
        super().on_headers_complete()
        self.cycle.keep_alive &= not self._leaving
        self._uploading = True
        self._load.uploading += 1

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """As uvicorn does, and keeps the reads apart."""
        self._answering = cycle
        task = self.loop.create_task(cycle.run_asgi(app))
        for kept in (self.tasks, self._load.reading) if cycle.scope["method"] == "GET" else (self.tasks,):
            kept.add(task)
            task.add_done_callback(kept.discard)

    def _take_authority(self) -> None:
        """The host of an absolute target counts, not the Host header beside it (RFC 9112, 3.2.2)."""
        parsed = httptools.parse_url(self.url)
        if parsed.host is None or parsed.path is None:
            raise _Verdict(refusals.NOT_HTTP)
        host = b"[%b]" % parsed.host if b":" in parsed.host else parsed.host
        authority = b"%b:%d" % (host, parsed.port) if parsed.port else host
        self.headers[:] = [(name, authority if name == b"host" else value) for name, value in self.headers]

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._body_bytes += len(body)
        if not self._shed:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is here."""
        self._in_body = False
        if self._end_timer is not None and not self._deaf:
            self._end_timer.cancel()
            self._end_timer = None
        self._hold_no_longer()
        if self._shed:
            self._answer_shed()
            return
        self._upload_ended()
        super().on_message_complete()

    def _answer_shed(self) -> None:
        """Refuses a request that was one too many, as cheaply as can be."""
        self._load.refused()
        if self.parser.should_keep_alive() and self.parser.get_method() != b"HEAD" and not self._leaving:
            self.transport.write(refusals.SHED)
            self.flow.pause_reading()
            self._unread_timer = self.loop.call_later(UNREAD_S, self._read_on)
        else:
            self.end(refusals.SHED_AND_CLOSE)

    def _read_on(self) -> None:
        """After a refusal: the client may ask again, or be as idle as after any other answer."""
        super().on_response_complete()

    def _upload_ended(self) -> None:
        if self._uploading:
            self._uploading = False
            self._load.uploading -= 1

    def on_response_complete(self) -> None:
        """An answer is out. If its request is not in yet, the rest of that has a moment to come, unread."""
        super().on_response_complete()
        if not self.cycle.response_complete:
            return  # it was that of an earlier request; this one's body still comes
        self._upload_ended()
        if self._lingering is not None:
            self._unset_keepalive_if_required()
        elif self._in_body and not self.transport.is_closing() and self._end_timer is None:
            self._end_timer = self.loop.call_later(LINGER_S, self.transport.close)
