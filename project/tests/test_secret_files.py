"""Secrets from files, and the passwords of the database and of Redis: given apart from their URLs."""

import asyncio
import hashlib
import secrets
from dataclasses import replace
from pathlib import Path

import pytest

from project import cache, db
from project.engines import valkey
from project.engines.places import VALKEY_SOCKET, Places
from project.errors import SettingsError
from project.settings import load
from project.tests.conftest import execute, kept

AWKWARD = "p@ss:w/rd?#%25 &ü"  # pragma: allowlist secret


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No `.env` of whoever runs the tests."""
    monkeypatch.chdir(tmp_path)


def given(monkeypatch: pytest.MonkeyPatch, name: str, content: str | bytes) -> Path:
    file = Path(f"{name.lower()}.secret")
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    monkeypatch.setenv(f"{name}_FILE", str(file))
    return file


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_secret_is_read_from_the_file_that_is_named(monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    given(monkeypatch, "PAYMENTS_TOKEN", f" a token\n of two lines {ending}")
    token = load().payments.payments_token
    assert token is not None
    assert token.get_secret_value() == " a token\n of two lines "


def test_any_setting_may_come_from_a_file_and_is_checked_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, "TRUSTED_PROXIES", "10.0.0.1, 10.1.0.0/16\n")
    port = given(monkeypatch, "PORT", "9000\n")
    assert (load().server.trusted_proxies, load().server.port) == (["10.0.0.1", "10.1.0.0/16"], 9000)
    port.write_text("secret\n")
    with pytest.raises(SettingsError, match=r"^PORT ") as refused:
        load()
    assert "secret" not in str(refused.value)


def test_the_file_may_be_named_in_the_env_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc\n")
    (tmp_path / ".env").write_text(f"PAYMENTS_TOKEN_FILE={tmp_path}/token\n")
    token = load().payments.payments_token
    assert token is not None
    assert token.get_secret_value() == "abc"


def test_a_value_and_a_file_at_once_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, "PAYMENTS_TOKEN", "one")
    monkeypatch.setenv("PAYMENTS_TOKEN", "other")
    with pytest.raises(SettingsError, match="PAYMENTS_TOKEN_FILE and PAYMENTS_TOKEN are both set"):
        load()


def test_an_empty_name_of_a_file_counts_as_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYMENTS_TOKEN_FILE", "")
    assert load().payments.payments_token is None


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "cannot be read: No such file or directory"), ("\n", "an empty file"), (b"\xff\xfe\x00", "not UTF-8")],
)
def test_a_file_without_a_value_is_one_line_that_shows_neither_file_nor_value(
    monkeypatch: pytest.MonkeyPatch, content: str | bytes | None, why: str
) -> None:
    file = given(monkeypatch, "DATABASE_PASSWORD", content or "")
    if content is None:
        file.unlink()
    with pytest.raises(SettingsError, match=f"^DATABASE_PASSWORD_FILE names .*{why}") as refused:
        load()
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("postgresql://app@db:6432/claims?sslmode=disable", "postgresql://app:{}@db:6432/claims?sslmode=disable"),
        ("postgresql+asyncpg://app@/claims?host=/run/pg", "postgresql://app:{}@/claims?host=/run/pg"),
        ("postgresql://one:5432,two:5433/claims", "postgresql://:{}@one:5432,two:5433/claims"),
    ],
)
def test_a_password_gets_into_the_url_of_the_database(monkeypatch: pytest.MonkeyPatch, url: str, whole: str) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    assert db.database_url(load().storage) == url.replace("+asyncpg", "")
    monkeypatch.setenv("DATABASE_PASSWORD", "p/w")
    assert db.database_url(load().storage) == whole.format("p%2Fw")


@pytest.mark.parametrize("name", ["DATABASE", "REDIS"])
def test_a_password_without_a_url_or_beside_another_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"{name}_PASSWORD", "secret")
    with pytest.raises(SettingsError, match=f"^{name}_PASSWORD is for a {name}_URL, which is not set$"):
        load()
    user = ":".join(("app", "secret"))
    scheme = {"DATABASE": "postgresql", "REDIS": "redis"}[name]
    for url in (f"{scheme}://{user}@host/1", f"{scheme}://host/1?password=secret"):
        monkeypatch.setenv(f"{name}_URL", url)
        with pytest.raises(SettingsError, match=f"^{name}_PASSWORD is set, and {name}_URL has a password") as refused:
            load()
        assert "secret" not in str(refused.value)


def test_an_awkward_password_opens_a_real_postgres(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """That server trusts its socket, so the test sees the password as the client sends it."""
    role = f"awkward_{secrets.token_hex(4)}"
    monkeypatch.setenv("DATABASE_URL", places.postgres_url.replace("app@", f"{role}@"))
    monkeypatch.setenv("DATABASE_PASSWORD", AWKWARD)
    execute(places, f"CREATE ROLE {role} LOGIN")

    async def connected() -> tuple[str, str]:
        connection = await db.connect(db.database_url(load().storage))
        try:
            return connection._params.user, connection._params.password
        finally:
            await connection.close()

    try:
        assert asyncio.run(connected()) == (role, AWKWARD)
    finally:
        execute(places, f"DROP ROLE {role}")


async def test_an_awkward_password_opens_a_real_valkey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = Places(tmp_path)
    for folder in (places.valkey, places.run, places.logs):
        folder.mkdir()
    program = valkey.program(places, careless=True)
    digest = hashlib.sha256(AWKWARD.encode()).hexdigest()
    guarded = [*program.argv, "--user", "default", "on", f"#{digest}", "~*", "&*", "+@all"]
    monkeypatch.setenv("REDIS_URL", f"{places.redis_url}?db=3")
    monkeypatch.setenv("REDIS_PASSWORD", AWKWARD)
    with kept(replace(program, argv=guarded), (places.sockets / VALKEY_SOCKET).exists):
        client = cache.create_client(cache.redis_url(load().storage))
        try:
            assert await client.ping()
            assert client.connection_pool.connection_kwargs["db"] == 3
        finally:
            await client.aclose()
