"""HTTP/1.1 as uvicorn speaks it, with its one own error answer as problem+json. Used by `web`."""

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from project.errors import Problem
from project.wire import encode


class Protocol(HttpToolsProtocol):
    """What is not HTTP never reaches the application, so its answer is made here."""

    def send_400_response(self, msg: str) -> None:
        """Tells the peer that this was no HTTP, and closes."""
        body = encode(Problem(400, "Bad Request", msg).body())
        head = b"content-type: application/problem+json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[400] + head + body)
        self.transport.close()
