"""The containers of docker-compose.yml as processes of this machine: with their words, their environment, their secrets.

Only what an engine would provide is replaced: names of services by this machine's address, ports by free ones, and
what is mounted by a folder of the test. Used by the tests beside this module.
"""

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from project.engines import launch, postgres, valkey
from project.engines.places import Places
from project.engines.process import Kept, Program
from project.tests.conftest import kept
from project.tests.deploy.compose_file import ComposeFile, ComposeService
from project.tests.deploy.image import Image
from project.tests.service import ROOT, free_port, wait_until

# The variables by which processes of ours are told their own port.
OWN_PORT = ("PORT", "METRICS_PORT", "PAYMENTS_PORT")


@dataclass
class Container:
    """A service of the file, as one process at a time."""

    service: ComposeService
    root: Path
    image: Image
    ports: dict[tuple[str, int], int]
    own_ports: dict[int, int] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        for folder in self.service.memory_folders:
            (self.root / folder[1:]).mkdir(parents=True, exist_ok=True)
        for name in OWN_PORT:
            if port := self.service.environment.get(name):
                self.own_ports[int(port)] = free_port()

    @property
    def environment(self) -> dict[str, str]:
        """The image's, and over it what the file says."""
        told = self.image.environment | {
            name: str(self.own_ports[int(value)]) if name in OWN_PORT else self.here(value)
            for name, value in self.service.environment.items()
        }
        return told | {"PYTHONWARNINGS": "error"}

    def here(self, word: str) -> str:
        """The word of the file as it holds on this machine."""
        if word.startswith("/"):
            places = [*(mount.target for mount in self.service.mounts), *self.service.memory_folders]
            if any(f"{word}/".startswith(f"{place}/") or f"{place}/".startswith(f"{word}/") for place in places):
                return f"{self.root}{word}"
        word = re.sub(r"127\.0\.0\.1:(\d+)", lambda own: f"127.0.0.1:{self.own_ports[int(own[1])]}", word)
        return re.sub(r"\b([a-z.-]+):(\d+)\b", self._reached, word)

    def _reached(self, found: re.Match[str]) -> str:
        port = self.ports.get((found[1], int(found[2])))
        return found[0] if port is None else f"127.0.0.1:{port}"

    @property
    def words(self) -> list[str]:
        """The entry point, the file's or the image's, and the command."""
        entry = self.service.get("entrypoint") or self.image.dockerfile.words("ENTRYPOINT")
        return [self.here(word) for word in [*entry, *self.service["command"]]]

    @property
    def log(self) -> Path:
        return self.root / "log"

    def run(self, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        """To its end, with another command if one is given, as `docker compose run` does."""
        entry = self.words[: -len(self.service["command"])]
        words = [*entry, *command] if command else self.words
        return subprocess.run(
            words,
            env=self.environment | more,
            cwd=self.image.app,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.words,
                env=self.environment,
                cwd=self.image.app,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def health(self) -> int:
        """The exit code of its health check."""
        assert self.process is None or self.process.poll() is None, self.log.read_text()
        test = self.service.health_test
        assert test is not None
        assert test[0] == "CMD"
        checked = subprocess.run(
            [self.here(word) for word in test[1:]],
            env=self.environment,
            cwd=self.image.app,
            stderr=subprocess.DEVNULL,
            check=False,
            timeout=30,
        )
        return checked.returncode

    def await_health(self) -> None:
        wait_until(lambda: self.health() == 0, f"{self.service.name} is healthy")

    def stop(self) -> int:
        """Its exit code after SIGTERM, within what the file allows."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(self.service.stop_grace_s)

    def client(self, key: str = "") -> httpx2.Client:
        """Talks to its port, with an API key."""
        (port,) = self.own_ports.values()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=20, headers=headers)


class Stack:
    """The file's volumes, and containers that share them."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.file = ComposeFile(**variables)
        self.folder = folder
        self.image = Image(folder / "image")
        self.ports: dict[tuple[str, int], int] = {}
        self.postgres: tuple[Places, Kept] | None = None
        self._containers: list[Container] = []

    def container(self, name: str) -> Container:
        """One more of this service, with its mounts in place; `start` or `run` it."""
        service = self.file[name]
        root = self.folder / "containers" / f"{name}-{len(self._containers)}"
        for mount in service.mounts:
            place = root / mount.target[1:]
            place.parent.mkdir(parents=True, exist_ok=True)
            source = self.volume(mount.source) if mount.is_volume else ROOT / mount.source
            place.symlink_to(source)
        made = Container(service, root, self.image, self.ports)
        if len(made.own_ports) == 1:
            ((inside, outside),) = made.own_ports.items()
            self.ports |= {(called, inside): outside for called in service.names}
        self._containers.append(made)
        return made

    def volume(self, name: str) -> Path:
        folder = self.folder / "volumes" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def secret(self, name: str) -> str:
        """What `secrets show NAME` prints."""
        shown = self.container("secrets").run("show", name)
        assert shown.returncode == 0, shown.stderr
        return shown.stdout

    def api_key(self, name: str) -> str:
        """The key of that name in the file that `migrate` reads."""
        lines = [line.split() for line in self.secret("keys/api_keys").splitlines() if not line.startswith("#")]
        return {owner: key for owner, _, key in lines}[name]

    def close(self) -> None:
        for container in self._containers:
            if container.process and container.process.poll() is None:
                container.process.kill()
                container.process.wait(20)


def with_programs(environment: dict[str, str], *programs: str) -> dict[str, str]:
    """The environment, with the folders of the embedded engines' programs first on its path."""
    folders = [str(Path(program).parent) for program in programs]
    return environment | {"PATH": os.pathsep.join([*folders, environment["PATH"]])}


@contextmanager
def postgres_of(stack: Stack) -> Iterator[tuple[Places, Kept]]:
    """The file's Postgres: set up as the official image does it, with the file's words, by TCP with a password."""
    container = stack.container("postgres")
    told = container.environment
    places = Places(stack.folder / "postgres")
    launch.prepare(places)
    places.postgres.mkdir(mode=0o700)
    launch.give_to_engine(places.postgres)
    _initialise(places, told)
    port = stack.ports["postgres", 5432] = free_port()
    with (places.postgres / "postgresql.conf").open("a") as configuration:
        configuration.write(
            f"port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{places.sockets}'\n"
        )
    _, *options = container.service["command"]
    argv = [postgres.binary("postgres"), "-D", str(places.postgres), *options]
    program = Program("Postgres", argv, before=launch.unprivileged(), log=places.logs / "postgres.log")
    (set_up,) = [mount for mount in container.service.mounts if mount.target.startswith("/docker-entrypoint-initdb.d/")]
    with kept(program, lambda: postgres.is_ready(places)) as server:
        psql = with_programs(told, postgres.binary("psql")) | {"PGHOST": str(places.sockets), "PGPORT": str(port)}
        subprocess.run(["sh", ROOT / set_up.source], env=psql, check=True, timeout=60)
        yield places, server


def _initialise(places: Places, told: dict[str, str]) -> None:
    arguments = ["--username", told["POSTGRES_USER"], "--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync"]
    password = places.data / "pwfile"
    password.write_text(Path(told["POSTGRES_PASSWORD_FILE"]).read_text())
    launch.give_to_engine(password)
    initdb = [postgres.binary("initdb"), "-D", str(places.postgres), *arguments, "--pwfile", str(password)]
    subprocess.run(
        [*launch.unprivileged(), *initdb, *told["POSTGRES_INITDB_ARGS"].split()],
        check=True,
        capture_output=True,
        timeout=60,
    )
    password.unlink()


@contextmanager
def valkey_of(stack: Stack) -> Iterator[Container]:
    """The file's Valkey, by its own words."""
    container = stack.container("valkey")
    port = stack.ports["valkey", 6379] = free_port()
    told = with_programs(container.environment, valkey.binary())
    told |= {"REDIS_PORT": str(port), "REDIS_DIR": str(stack.volume("valkey-data"))}
    words: Sequence[str] = [container.here(word) for word in container.service["command"]]
    program = Program("Valkey", words, env=told, log=stack.folder / "valkey.log")

    def answers() -> bool:
        try:
            with httpx2.Client() as probe:
                probe.get(f"http://127.0.0.1:{port}/", timeout=1)
        except httpx2.ConnectError:
            return False
        except httpx2.TransportError:
            return True
        return True

    with kept(program, answers):
        yield container


@contextmanager
def running(folder: Path, **variables: str) -> Iterator[Stack]:
    """Secrets, Postgres and Valkey of the file; the test runs and starts the others."""
    stack = Stack(folder, **variables)
    with ExitStack() as ends:
        ends.callback(stack.close)
        made = stack.container("secrets").run()
        assert made.returncode == 0, made.stderr
        stack.postgres = ends.enter_context(postgres_of(stack))
        ends.enter_context(valkey_of(stack))
        stack.ports["pgbouncer", 6432] = stack.ports["postgres", 5432]  # until a test puts a real one in between
        yield stack
