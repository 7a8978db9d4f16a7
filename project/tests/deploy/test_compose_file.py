"""docker-compose.yml read as an engine and an operator would: by the schema, and against everything that it names."""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from project import settings, web
from project.cli import app as command_line
from project.engines import postgres
from project.tests.deploy.compose_file import FILE, ComposeFile, ComposeService, filled, variables_of
from project.tests.deploy.image import Dockerfile
from project.tests.service import ROOT

# Where each service listens: the port that others name, as its image or its own settings have it.
LISTENS = {
    "nginx": 8000,
    "web": 8000,
    "payments": 8001,
    "worker": 8002,
    "postgres": 5432,
    "pgbouncer": 6432,
    "valkey": 6379,
    "prometheus": 9090,
    "grafana": 3000,
}
# What is not a setting of ours but OpenTelemetry's own.
STANDARD = re.compile(r"OTEL_[A-Z_]+")
# Settings that a container has no use for: it is told by other means, or something else of the stack does it.
NOT_FOR_CONTAINERS = {
    "api_keys", "database_password", "payments_token", "redis_password",  # by file
    "ssl_certfile", "ssl_keyfile", "ssl_keyfile_password", "ssl_ca_certs",  # nginx speaks TLS
}  # fmt: skip

compose = ComposeFile()
kept = {name: service for name, service in compose.services.items() if not service.is_one_shot}
ours = {name: service for name, service in compose.services.items() if service.is_ours}


def fields() -> set[str]:
    """The names of all settings."""
    chosen = settings.load()
    return {name for group in vars(chosen).values() for name in type(group).model_fields}


def groups(service: ComposeService) -> list[str]:
    return [*service.get("group_add", []), service["user"].partition(":")[2]]


def every(services: dict[str, ComposeService]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("service", services.values(), ids=services.keys())


def test_it_is_valid_by_the_schema_of_the_specification(tmp_path: Path) -> None:
    (tmp_path / "filled.yml").write_text(yaml.safe_dump(compose.content))
    (tmp_path / "wrong.yml").write_text(FILE.read_text().replace("read_only:", "readonly:"))
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "compose-spec"]
    for file, code in ((FILE, 0), (tmp_path / "filled.yml", 0), (tmp_path / "wrong.yml", 1)):
        done = subprocess.run([*check, file], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == code, done.stdout
    assert "version" not in compose.content


def test_the_file_for_tls_adds_to_nginx_what_its_configuration_names() -> None:
    text = (ROOT / "deploy/compose-tls.yml").read_text()
    content = filled(yaml.safe_load(re.sub(r":\?[^}]*", "", text)), {"TLS_DIR": "/etc/tls"})
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "compose-spec"]
    subprocess.run([*check, ROOT / "deploy/compose-tls.yml"], check=True, capture_output=True, timeout=60)
    nginx = ComposeService("nginx", content["services"]["nginx"], {})
    certificate, configuration = sorted(nginx.mounts, key=lambda mount: mount.source.startswith("."))
    assert certificate.target == "/run/secrets/tls"
    assert f"ssl_certificate {certificate.target}/fullchain.pem;" in (ROOT / configuration.source).read_text()
    assert (ROOT / "nginx" / Path(configuration.target).name).exists()
    assert (nginx.health_test or [""])[-1].startswith(f"https://127.0.0.1:{LISTENS['nginx']}/")


def test_all_that_was_asked_for_is_there() -> None:
    assert set(compose.services) == {*LISTENS, "secrets", "migrate"}
    assert [name for name, service in compose.services.items() if service.get("profiles")] == ["payments"]
    assert compose["payments"]["profiles"] == ["demo"]


def test_nginx_alone_is_published_and_to_this_machine_alone_unless_told_otherwise() -> None:
    published = {name: service["ports"] for name, service in compose.services.items() if "ports" in service.content}
    assert published == {"nginx": ["127.0.0.1:8000:8000"]}
    assert ComposeFile(PUBLISH="443")["nginx"]["ports"] == ["443:8000"]
    assert not any("network_mode" in service.content and service["network_mode"] != "none" for service in kept.values())


def test_only_two_networks_have_a_way_out() -> None:
    networks = compose.content["networks"]
    assert {name for name, network in networks.items() if not network.get("internal")} == {"edge", "outside"}
    members = {
        network: {name for name, service in compose.services.items() if network in service.get("networks", [])}
        for network in networks
    }
    assert members["edge"] == {"nginx"}
    assert members["outside"] == {"worker", "payments"}
    # web believes the forwarded addresses of whoever is in `front`; nginx must not reach it by another network
    assert members["front"] == {"nginx", "web"}
    assert compose["web"].environment["TRUSTED_PROXIES"] == networks["front"]["ipam"]["config"][0]["subnet"]
    assert set(compose["nginx"]["networks"]) & set(compose["web"]["networks"]) == {"front"}


@every(compose.services)
def test_a_container_has_no_right_that_it_does_not_need(service: ComposeService) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service.content
    assert "privileged" not in service.content
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["ulimits"]["core"] == 0
    uid = service["user"].partition(":")[0]
    assert (uid == "0") == (service.name == "secrets")  # without capabilities and without a network
    assert service.name != "secrets" or service["network_mode"] == "none"


@every(compose.services)
def test_a_container_has_limits_and_its_log_is_rotated(service: ComposeService) -> None:
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    assert service["init"] is True


@every(kept)
def test_what_runs_for_good_is_started_again_has_a_health_check_and_time_to_end(service: ComposeService) -> None:
    assert service["restart"] == "unless-stopped"
    assert service.health_test
    assert {"interval", "timeout", "retries", "start_period"} <= set(service["healthcheck"])
    assert "stop_grace_period" in service.content


def test_a_stop_gives_requests_in_hand_the_time_that_web_gives_them() -> None:
    assert compose["web"].stop_grace_s > web.GRACE_S
    assert compose["nginx"].stop_grace_s > web.GRACE_S


@every(compose.services)
def test_what_it_waits_for_is_there_and_can_come_true(service: ComposeService) -> None:
    for name, how in service.get("depends_on", {}).items():
        other = compose[name]
        assert other.get("profiles") in (None, service.get("profiles"))
        match how["condition"]:
            case "service_completed_successfully":
                assert other.is_one_shot
            case "service_healthy":
                assert other.health_test
            case condition:
                assert condition == "service_started"
                assert name == "valkey"  # nothing needs it to begin with
    if any(mount.source.startswith("secret-") for mount in service.mounts) and service.name != "secrets":
        assert service["depends_on"]["secrets"] == {"condition": "service_completed_successfully"}


@every(compose.services)
def test_what_is_mounted_is_in_the_checkout_or_a_named_volume(service: ComposeService) -> None:
    for mount in service.mounts:
        if mount.is_volume:
            assert mount.source in compose.content["volumes"]
        else:
            assert (ROOT / mount.source).exists(), mount.source
        writes = mount.source.endswith("-data") or (service.name == "secrets" and mount.is_volume)
        assert mount.read_only != writes


def test_every_secret_is_made_and_each_container_sees_its_own() -> None:
    volumes = {name for name in compose.content["volumes"] if name.startswith("secret-")}
    makes = {mount.source: mount.target for mount in compose["secrets"].mounts if mount.is_volume}
    assert set(makes) == volumes
    seen = {
        name: {mount.source for mount in service.mounts if mount.source.startswith("secret-")}
        for name, service in compose.services.items()
    }
    assert seen == {
        "secrets": volumes,
        "migrate": {"secret-database", "secret-keys"},
        "web": {"secret-database", "secret-redis"},
        "worker": {"secret-database", "secret-redis", "secret-payments"},
        "payments": {"secret-payments"},
        "postgres": {"secret-postgres", "secret-database"},
        "pgbouncer": {"secret-database"},
        "valkey": {"secret-redis"},
        "prometheus": {"secret-metrics"},
        "grafana": {"secret-grafana"},
        "nginx": set(),
    }
    for name, sources in seen.items():
        assert not sources or "10100" in groups(compose[name])


@every({name: service for name, service in compose.services.items() if name != "secrets"})
def test_every_secret_file_that_is_named_is_one_that_is_mounted(service: ComposeService, tmp_path: Path) -> None:
    subprocess.run(
        ["sh", ROOT / "deploy/secrets/make.sh"], env={"PATH": "/usr/bin:/bin", "SECRETS_DIR": str(tmp_path)}, check=True
    )
    made = {f"secret-{file.parent.name}": file.name for file in tmp_path.glob("*/*")}
    there = {f"{mount.target}/{made[mount.source]}" for mount in service.mounts if mount.source in made}
    named = {value for name, value in service.environment.items() if name.endswith("_FILE")}
    assert named == (there if service.name != "prometheus" else set())


def test_no_password_stands_in_the_file() -> None:
    for name, service in compose.services.items():
        for variable, value in service.environment.items():
            if re.search(r"PASSWORD|TOKEN|SECRET$|KEY", variable):
                assert variable.endswith("_FILE"), (name, variable)
            if "://" in value:
                assert urlsplit(value).password is None, (name, variable)
    assert not re.search(r"(?i)(password|token|secret|key): +[\"']?[a-z0-9]", FILE.read_text())


@every(ours)
def test_each_variable_of_ours_is_a_setting_and_they_are_valid_together(
    service: ComposeService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in service["environment"]:
        assert variable.lower().removesuffix("_file") in fields() or STANDARD.fullmatch(variable), variable
    for variable, value in service.environment.items():
        monkeypatch.setenv(variable, value)
        if variable.endswith("_FILE"):
            (tmp_path / variable).write_text("x")
            monkeypatch.setenv(variable, str(tmp_path / variable))
    assert settings.load().logging.environment == "production"


def test_an_operator_can_set_whatever_can_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By `.env` or the shell: each setting is given by the file, or passed on to the service that reads it."""
    monkeypatch.chdir(tmp_path)
    told = {variable.lower().removesuffix("_file") for service in ours.values() for variable in service["environment"]}
    assert fields() - told - NOT_FOR_CONTAINERS == set()
    passed_on = ComposeFile(NPI_CHECK="strict", WEB_REPLICAS="5", PAYMENTS_URL="https://pay.example.org")
    assert passed_on["web"].environment["NPI_CHECK"] == "strict"
    assert "NPI_CHECK" not in compose["web"].environment
    assert passed_on["web"]["deploy"]["replicas"] == "5"
    assert passed_on["worker"].environment["PAYMENTS_URL"] == "https://pay.example.org"


def test_each_variable_of_the_file_is_documented() -> None:
    documents = (ROOT / ".env.example").read_text() + (ROOT / "docs/deploy.md").read_text()
    passed_on = {
        name
        for service in compose.services.values()
        for name, value in service.get("environment", {}).items()
        if value is None
    }
    for name in variables_of(FILE.read_text()) | passed_on:
        assert re.search(rf"\b{name}\b", documents), name


def addresses(service: ComposeService) -> set[tuple[str, int]]:
    """The services and ports that its URLs name."""
    urls = [urlsplit(value) for value in service.environment.values() if re.match(r"[a-z+]+://", value)]
    return {(url.hostname or "", url.port or 0) for url in urls if url.hostname}


@every(ours)
def test_each_address_is_a_service_that_listens_there_and_shares_a_network(service: ComposeService) -> None:
    for name, port in addresses(service):
        meant = compose.called(name)
        assert LISTENS[meant.name] == port
        assert set(meant["networks"]) & set(service["networks"]), name


def test_who_needs_a_session_goes_to_postgres_itself() -> None:
    """docs/decisions/0017-containers.md"""
    reached = {name: urlsplit(service.environment.get("DATABASE_URL", "")).hostname for name, service in ours.items()}
    assert reached == {"web": "pgbouncer", "worker": "postgres", "migrate": "postgres", "payments": None}


@every(ours)
def test_it_runs_a_command_of_ours_on_the_port_that_others_expect(
    service: ComposeService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (command,) = service["command"]
    assert command in {one.name or getattr(one.callback, "__name__", "") for one in command_line.registered_commands}
    own = {"web": "PORT", "worker": "METRICS_PORT", "payments": "PAYMENTS_PORT"}
    if service.name in own:
        assert int(service.environment[own[service.name]]) == LISTENS[service.name]
        assert service.environment["HOST"] == "0.0.0.0"
        (url,) = [word for word in service.health_test or [] if "://" in word]
        assert urlsplit(url).port == LISTENS[service.name]
        assert service.health_test == ["CMD", "python", "-m", "project.probe", url]


def test_the_health_of_the_others_is_asked_where_they_listen() -> None:
    for name in ("nginx", "prometheus", "grafana"):
        *_, url = compose[name].health_test or [""]
        assert urlsplit(url).port == LISTENS[name]
    words = compose["pgbouncer"].health_test or []
    assert words[words.index("-p") + 1] == str(LISTENS["pgbouncer"])
    assert f"listen_port = {LISTENS['pgbouncer']}\n" in (ROOT / "deploy/pgbouncer/pgbouncer.ini").read_text()


def test_postgres_is_set_as_the_embedded_one_is() -> None:
    _, *options = compose["postgres"]["command"]
    set_here = dict(option.removeprefix("-c").split("=", 1) for option in options)
    not_by_tcp = {"listen_addresses", "unix_socket_permissions"}
    assert set_here == {name: value for name, value in postgres.SETTINGS.items() if name not in not_by_tcp}
    assert "--encoding=UTF8 --locale=C.UTF-8" in compose["postgres"].environment["POSTGRES_INITDB_ARGS"]


def test_pgbouncer_leaves_connections_of_postgres_to_others() -> None:
    ini = (ROOT / "deploy/pgbouncer/pgbouncer.ini").read_text()
    found = re.search(r"^max_db_connections = (\d+)$", ini, re.MULTILINE)
    assert found
    assert int(found[1]) <= int(postgres.SETTINGS["max_connections"]) - 40
    assert "pool_mode = transaction" in ini


@every(compose.services)
def test_an_image_is_pinned_to_a_version_or_built_here_by_one_service(service: ComposeService) -> None:
    image = service["image"]
    if image.endswith(":local"):
        builds = [one for one in compose.services.values() if one["image"] == image and "build" in one.content]
        assert len(builds) == 1
        assert "build" in service.content or service["pull_policy"] == "never"
        return
    name, _, tag = image.partition(":")
    assert re.match(r"v?\d+\.\d+", tag), f"{name} is not pinned"


def test_the_image_that_is_built_is_the_one_of_the_dockerfile() -> None:
    assert compose["migrate"]["build"] == {"context": ".", "target": Dockerfile.read().stage}
    assert (ROOT / compose["pgbouncer"]["build"]["context"] / "Dockerfile").exists()
