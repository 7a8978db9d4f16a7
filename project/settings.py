"""Every setting of the service, read from the environment (or `.env`) and validated once at start.

Called by `cli` (each command loads them) and passed on from there; nothing else reads the environment.
Small groups, so that a function asks for the group that it needs. Each setting has a line in `.env.example`.
In place of a value there may be a file with it (`NAME_FILE` for NAME), as containers get their secrets.
"""

import ipaddress
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, FilePath, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from project.errors import SettingsError
from project.secret_files import SecretFiles, has_password

HOUR_S = 3600
DAY_S = 24 * HOUR_S
KIBIBYTE = 1024
MEBIBYTE = 1024 * KIBIBYTE
LAST_PORT = 65535

_RATE = re.compile(r"(\d{1,9})/(second|minute|hour)\Z", re.ASCII)
_WINDOW_S = {"second": 1, "minute": 60, "hour": HOUR_S}


@dataclass(frozen=True)
class Rate:
    """At most `limit` requests in each window of `window_s` seconds."""

    limit: int
    window_s: int


def parse_rate(text: str) -> Rate:
    """`N/second`, `N/minute` or `N/hour`, N at least 1; anything else is a ValueError."""
    found = _RATE.match(text.strip().lower())
    if not found or int(found[1]) < 1:
        raise ValueError("must be N/second, N/minute or N/hour, with N at least 1")
    return Rate(int(found[1]), _WINDOW_S[found[2]])


def _checked_rate(text: str) -> str:
    parse_rate(text)
    return text


def _postgres_url(url: str) -> str:
    """Both spellings name the same server; asyncpg itself knows only `postgresql://`."""
    for prefix in ("postgresql+asyncpg://", "postgresql://", "postgres://"):
        if url.startswith(prefix):
            return "postgresql://" + url.removeprefix(prefix)
    raise ValueError("must start with postgresql:// or postgresql+asyncpg://")


def _redis_url(url: str) -> str:
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("must start with redis://, rediss:// or unix://")
    return url


def _payments_url(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError("must start with http:// or https://")
    return url.rstrip("/")


def _events_url(url: str) -> str:
    if not url.startswith(("redis://", "rediss://", "unix://", "kafka://")):
        raise ValueError("must start with redis://, rediss://, unix:// or kafka://")
    return url


def _address(host: str) -> str:
    """Whether it may be another than a loopback address is decided at start (`security.exposure`)."""
    if host == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        raise ValueError("must be an IP address such as 127.0.0.1 or 0.0.0.0, or localhost") from None


def _split(value: object) -> object:
    """`a, b` as people write lists into an environment."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _network(proxy: str) -> str:
    try:
        return str(ipaddress.ip_network(proxy)) if "/" in proxy else str(ipaddress.ip_address(proxy))
    except ValueError:
        raise ValueError("must be IP addresses or networks, separated by commas") from None


_ORIGIN = re.compile(r"https?://[a-z0-9.\-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:.]+\](:[0-9]{1,5})?", re.ASCII)


def _origin(origin: str) -> str:
    if not _ORIGIN.fullmatch(origin):
        raise ValueError("must be origins such as https://dashboard.example.org, separated by commas")
    return origin


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class _Group(BaseSettings):
    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment before `.env`, and files that either of them names."""
        files = SecretFiles(settings_cls, env_settings, dotenv_settings)
        return init_settings, env_settings, dotenv_settings, files


class ServerSettings(_Group):
    """Where the web processes listen, whom they believe, and how many there are."""

    host: Annotated[str, AfterValidator(_address)] = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    web_workers: int = Field(1, ge=1, le=64)
    trusted_proxies: Annotated[list[Annotated[str, AfterValidator(_network)]], NoDecode, BeforeValidator(_split)] = (
        Field([], description="whose X-Forwarded-For and X-Forwarded-Proto are believed")
    )
    cors_origins: Annotated[list[Annotated[str, AfterValidator(_origin)]], NoDecode, BeforeValidator(_split)] = Field(
        [], description="origins whose pages may call the service from a browser"
    )
    ssl_certfile: FilePath | None = Field(None, description="with it the service itself speaks TLS")
    ssl_keyfile: FilePath | None = None
    ssl_keyfile_password: SecretStr | None = None
    ssl_ca_certs: FilePath | None = Field(None, description="whose client certificates are required")

    @property
    def url(self) -> str:
        """Where the service is found from this machine."""
        return f"{'https' if self.ssl_certfile else 'http'}://{self._reached(self.port)}"

    def url_of(self, port: int, host: str | None = None) -> str:
        """What else of ours listens on another port, of HOST or of `host`."""
        return f"http://{self._reached(port, host)}"

    def _reached(self, port: int, host: str | None = None) -> str:
        named = host or self.host
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(named, named)  # noqa: S104  compared, not listened on
        return f"{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return ipaddress.ip_address(self.host).is_loopback

    @property
    def exposed_by(self) -> str | None:
        """The setting that lets other machines in; None when none does."""
        if not self.is_loopback:
            return f"HOST {self.host}"
        return "TRUSTED_PROXIES" if self.trusted_proxies else None


class LimitSettings(_Group):
    """What a peer may ask of a web process before anybody knows who it is, and of its time and memory after that."""

    max_connections: int = Field(1000, ge=1, description="at once; a further one is answered 503 and closed")
    max_requests_in_hand: int = Field(128, ge=1, description="received and not answered yet; past it: 503")
    max_header_bytes: int = Field(32 * KIBIBYTE, ge=1024, description="request line and headers; past it: 431")
    header_timeout_s: float = Field(10.0, gt=0, description="headers that take longer are answered 408")
    body_timeout_s: float = Field(30.0, gt=0, description="a request body that takes longer is answered 408")
    send_timeout_s: float = Field(30.0, gt=0, description="an answer that its client does not take is cut off")


class StorageSettings(_Group):
    """The database, Redis, and the folder of the embedded ones."""

    data_dir: Path = Path("var")
    database_url: Annotated[str, AfterValidator(_postgres_url)] | None = None
    database_password: SecretStr | None = Field(None, description="for a DATABASE_URL that has none")
    redis_url: Annotated[str, AfterValidator(_redis_url)] | None = None
    redis_password: SecretStr | None = Field(None, description="for a REDIS_URL that has none")
    database_pool_size: int = Field(8, ge=2, le=100, description="connections of each web process")

    @model_validator(mode="after")
    def _one_password_for_each(self) -> Self:
        for name, url, password in (
            ("DATABASE", self.database_url, self.database_password),
            ("REDIS", self.redis_url, self.redis_password),
        ):
            if password and not url:
                raise ValueError(f"{name}_PASSWORD is for a {name}_URL, which is not set")
            if password and url and has_password(url):
                raise ValueError(f"{name}_PASSWORD is set, and {name}_URL has a password, too; only one can count")
        return self


class IntakeSettings(_Group):
    """What a claim may look like, and how many may wait for their commit."""

    max_lines: int = Field(10_000, ge=1, le=100_000)
    max_body_bytes: int = Field(16 * MEBIBYTE, ge=1024)
    max_unpacked_bytes: int = Field(16 * MEBIBYTE, ge=1024, description="what a gzip body may unpack to")
    max_batch_bytes: int = Field(64 * MEBIBYTE, ge=1024, description="of a batch, also of what its gzip unpacks to")
    max_nesting: int = Field(
        16, ge=3, le=100, description="levels of a JSON body; a claim needs 3, the parser ends at 200"
    )
    npi_check: Annotated[Literal["off", "warn", "strict"], BeforeValidator(_lower)] = "warn"
    idempotency_retention: int = Field(24 * HOUR_S, ge=1, description="seconds")
    intake_queue_lines: int = Field(200_000, ge=1, description="lines that may wait for a commit; past it: 503")


class PaymentsSettings(_Group):
    """Where the payments service is and how it is called. None of it outlasts a lease (`payments.lane.LEASE_S`)."""

    payments_url: Annotated[str, AfterValidator(_payments_url)] | None = None
    payments_port: int | None = Field(None, ge=1, le=65535, description="of the stand-in; PORT + 1 when not set")
    payments_token: SecretStr | None = Field(None, description="sent as Authorization: Bearer")
    payments_attempts: int = Field(5, ge=1, le=100, description="calls before a payment is given up")
    payments_concurrency: int = Field(128, ge=1, le=1000, description="calls in flight of each worker")
    payments_connect_timeout_s: float = Field(1.0, gt=0, le=5)
    payments_read_timeout_s: float = Field(4.0, gt=0, le=5, description="silence of the service; a call ends after 5 s")


class EventsSettings(_Group):
    """Where events are published."""

    events_url: Annotated[str, AfterValidator(_events_url)] | None = Field(None, description="REDIS_URL when not set")
    events_topic: str = Field("claim-events", pattern=r"^[A-Za-z0-9._-]{1,200}$", description="stream or topic")
    events_stream_length: int = Field(100_000, ge=1, description="about how many events a Redis stream keeps")


class WorkerSettings(_Group):
    """What the worker serves and keeps."""

    metrics_port: int | None = Field(None, ge=1, le=65535, description="of the worker; PORT + 2 when not set")
    dead_letter_retention: int = Field(90 * DAY_S, ge=1, description="seconds after a letter was closed")
    stuck_after: int = Field(900, ge=1, description="seconds until an unsettled claim counts as stuck")


class KeySettings(_Group):
    """The first API keys, which `migrate` makes."""

    api_keys: SecretStr | None = Field(None, description="lines of NAME SCOPE[,SCOPE...] KEY")


class RankingSettings(_Group):
    """The dashboards' ranking of providers."""

    top_provider_rate_limit: Annotated[str, AfterValidator(_checked_rate)] = "10/minute"

    @cached_property
    def rate(self) -> Rate:
        """The limit of GET /top-provider for each client."""
        return parse_rate(self.top_provider_rate_limit)


class LogSettings(_Group):
    """What is logged and under which name."""

    log_level: Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_lower)] = "info"
    environment: str = "development"
    app_name: str = "claim_process"


@dataclass(frozen=True)
class Settings:
    """All groups, validated."""

    server: ServerSettings
    limits: LimitSettings
    storage: StorageSettings
    intake: IntakeSettings
    payments: PaymentsSettings
    events: EventsSettings
    worker: WorkerSettings
    keys: KeySettings
    ranking: RankingSettings
    logging: LogSettings

    @property
    def payments_port(self) -> int:
        """Where the stand-in payments service listens."""
        return self.payments.payments_port or self.server.port + 1

    @property
    def stand_in_host(self) -> str:
        """Where the stand-in listens: on HOST, but never for other machines without a token."""
        safe = self.server.is_loopback or self.payments.payments_token is not None
        return self.server.host if safe else "127.0.0.1"

    @property
    def payments_url(self) -> str:
        """The payments service: PAYMENTS_URL, or without it the stand-in, running or not."""
        return self.payments.payments_url or self.server.url_of(self.payments_port, self.stand_in_host)

    @property
    def metrics_port(self) -> int:
        """Where the worker serves its own metrics."""
        return self.worker.metrics_port or self.server.port + 2


def _told(place: tuple[int | str, ...], message: str) -> str:
    """A fault with its variable; one that concerns several names them itself."""
    return " ".join([*(str(name).upper() for name in place[:1]), message.removeprefix("Value error, ")])


def load() -> Settings:
    """Reads all groups; SettingsError names each variable that is wrong, never its value (a URL holds a password)."""
    try:
        chosen = Settings(
            ServerSettings(),
            LimitSettings(),
            StorageSettings(),
            IntakeSettings(),
            PaymentsSettings(),
            EventsSettings(),
            WorkerSettings(),
            KeySettings(),
            RankingSettings(),
            LogSettings(),
        )
    except ValidationError as error:
        raise SettingsError("; ".join(_told(fault["loc"], fault["msg"]) for fault in error.errors())) from None
    if max(chosen.payments_port, chosen.metrics_port) > LAST_PORT:
        raise SettingsError("PORT leaves no room for PAYMENTS_PORT (PORT + 1) and METRICS_PORT (PORT + 2); set them")
    return chosen
