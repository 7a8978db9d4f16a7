"""The database's URL is read by one reader, so what libpq's names ask for holds for every connection."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme
from sqlalchemy import text

from project import db
from project.tests.proxy import pass_on
from project.tests.service import line, running

SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"  # Postgres' frontend/backend protocol, message formats


class TlsFront:
    """Speaks TLS as a Postgres does, in front of one that does not; counts the connections that asked for it."""

    def __init__(self, server_socket: Path, context: ssl.SSLContext) -> None:
        self.secured = 0
        self._server_socket = server_socket
        self._context = context

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection; whoever does not ask for TLS is turned away."""
        try:
            if await reader.readexactly(8) == SSL_REQUEST:
                writer.write(b"S")
                await writer.start_tls(self._context)
                self.secured += 1
                await self._pass_on(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client did not like the certificate
        finally:
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Both ways, until one side ends."""
        from_server, to_server = await asyncio.open_unix_connection(str(self._server_socket))
        ways = [asyncio.create_task(way) for way in (pass_on(reader, to_server), pass_on(from_server, writer))]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.wait(ways)
        to_server.close()
        await to_server.wait_closed()


@asynccontextmanager
async def tls_before(database_url: str, authority: trustme.CA) -> AsyncIterator[tuple[TlsFront, str]]:
    """A front before the database of this URL, and the URL to reach the database through it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    parts = urlsplit(database_url)
    front = TlsFront(Path(parse_qs(parts.query)["host"][0]) / ".s.PGSQL.5432", context)
    server = await asyncio.start_server(front.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield front, f"postgresql://{parts.username}@localhost:{port}{parts.path}"
    finally:
        server.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(server.wait_closed(), 5)


async def test_every_kind_of_connection_speaks_tls_if_it_is_asked_to(database_url: str, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with tls_before(database_url, authority) as (front, plain):
        url = f"{plain}?sslmode=verify-full&sslrootcert={tmp_path}/ca.pem"
        for connect in (db.connect, db.connect_patiently):
            connection = await connect(url)
            assert await connection.fetchval("SELECT 1") == 1
            await connection.close()
        for engine in (db.create_engine(url, 2), db.create_patient_engine(url)):
            async with engine.connect() as read:
                assert await read.scalar(text("SELECT 1")) == 1
            await engine.dispose()
        assert front.secured == 4
        stranger = trustme.CA()
        stranger.cert_pem.write_to_path(tmp_path / "stranger.pem")
        with pytest.raises(ssl.SSLCertVerificationError):
            await db.connect(url.replace("ca.pem", "stranger.pem"))


async def test_the_service_runs_over_tls_to_its_database(database_url: str, redis_url: str, tmp_path: Path) -> None:
    async with tls_before(database_url, trustme.CA()) as (front, plain):

        def serve() -> None:
            with running(tmp_path, {"DATABASE_URL": f"{plain}?sslmode=require", "REDIS_URL": redis_url}) as service:
                claim = service.accepted([line()])
                assert service.http.get(f"/claims/{claim['id']}").status_code == 200

        await asyncio.to_thread(serve)
        assert front.secured >= 3
