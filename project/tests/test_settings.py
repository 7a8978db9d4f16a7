"""Settings: what is refused, and that a refusal never shows a value."""

from dataclasses import fields
from pathlib import Path

import pytest

from project.errors import SettingsError
from project.settings import Rate, load, parse_rate


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No `.env` of whoever runs the tests."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "0"),
        ("PORT", "65536"),
        ("PORT", "http"),
        ("HOST", "300.0.0.0"),
        ("HOST", "secret.example.org"),
        ("WEB_WORKERS", "0"),
        ("TRUSTED_PROXIES", "*"),
        ("TRUSTED_PROXIES", "10.0.0.1, secret.example.org"),
        ("CORS_ORIGINS", "*"),
        ("CORS_ORIGINS", "https://secret.example.org/path"),
        ("SSL_CERTFILE", "/nowhere/secret.pem"),
        ("MAX_HEADER_BYTES", "0"),
        ("DATABASE_URL", "mysql://secret@host/db"),
        ("REDIS_URL", "http://secret@host"),
        ("NPI_CHECK", "maybe"),
        ("LOG_LEVEL", "loud"),
        ("TOP_PROVIDER_RATE_LIMIT", "10/fortnight"),
        ("TOP_PROVIDER_RATE_LIMIT", "0/minute"),
        ("MAX_LINES", "-1"),
        ("MAX_UNPACKED_BYTES", "0"),
        ("MAX_NESTING", "2"),
        ("MAX_NESTING", "101"),
        ("PAYMENTS_URL", "ftp://secret@host"),
        ("PAYMENTS_ATTEMPTS", "0"),
        ("PAYMENTS_READ_TIMEOUT_S", "6"),
        ("EVENTS_URL", "amqp://secret@host"),
        ("EVENTS_TOPIC", "a secret topic"),
        ("METRICS_PORT", "70000"),
    ],
)
def test_a_wrong_setting_is_named_without_its_value(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name) as refused:
        load()
    assert "secret" not in str(refused.value)


def test_every_wrong_setting_of_a_group_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "none")
    monkeypatch.setenv("WEB_WORKERS", "none")
    with pytest.raises(SettingsError, match=r"PORT.*WEB_WORKERS"):
        load()


def test_an_empty_variable_counts_as_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "")
    monkeypatch.setenv("PORT", "")
    assert load().storage.database_url is None
    assert load().server.port == 8000


def test_both_spellings_of_a_postgres_url_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql+asyncpg://app@/claims?host=/run/pg")
    assert load().storage.database_url == "postgresql://app@/claims?host=/run/pg"


def test_the_ports_beside_follow_from_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "9100")
    assert (load().payments_port, load().metrics_port) == (9101, 9102)
    assert load().payments_url == "http://127.0.0.1:9101"
    monkeypatch.setenv("PAYMENTS_PORT", "7001")
    monkeypatch.setenv("METRICS_PORT", "7002")
    assert (load().payments_url, load().metrics_port) == ("http://127.0.0.1:7001", 7002)
    monkeypatch.setenv("PAYMENTS_URL", "https://pay.example.org/v1/")
    assert load().payments_url == "https://pay.example.org/v1"


def test_a_port_without_room_beside_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "65534")
    with pytest.raises(SettingsError, match="METRICS_PORT"):
        load()
    monkeypatch.setenv("METRICS_PORT", "9000")
    assert load().payments_port == 65535


def test_a_token_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYMENTS_TOKEN", "secret")
    assert "secret" not in repr(load())


def test_words_are_taken_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "WARNING")
    monkeypatch.setenv("NPI_CHECK", "Strict")
    assert (load().logging.log_level, load().intake.npi_check) == ("warning", "strict")


@pytest.mark.parametrize(
    ("text", "rate"), [("10/minute", Rate(10, 60)), ("3/second", Rate(3, 1)), (" 7/Hour ", Rate(7, 3600))]
)
def test_rates_name_their_window(text: str, rate: Rate) -> None:
    assert parse_rate(text) == rate


def test_every_setting_has_a_line_in_the_example_file() -> None:
    example = (Path(__file__).parents[2] / ".env.example").read_text()
    chosen = load()
    groups = [getattr(chosen, member.name) for member in fields(chosen)]
    assert len(groups) == 10
    for group in groups:
        for name in type(group).model_fields:
            assert f"#{name.upper()}=" in example, name
