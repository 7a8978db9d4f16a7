"""Fixtures of tests that have nginx in front."""

from collections.abc import Iterator

import pytest

from project.engines.places import DATABASE, Places
from project.tests.conftest import empty_redis, new_database
from project.tests.keys import make_key
from project.tests.service import running
from project.tests.system.nginx import OPERATOR, SCOPES, Front, Pair, fronting


@pytest.fixture(scope="module")
def front(template: Places, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """nginx and two web processes, shared by the tests of a module. Operators come from one address."""
    databases = new_database(template, DATABASE)
    database_url = next(databases)
    key = make_key(database_url, "clinic", *SCOPES)["key"]
    settings = {"DATABASE_URL": database_url, "REDIS_URL": empty_redis(template), "TRUSTED_PROXIES": "127.0.0.1"}
    folder = tmp_path_factory.mktemp("front")
    with running(folder / "web1", settings) as one, running(folder / "web2", settings) as other:
        pair = Pair([one, other], key, database_url)
        with fronting(folder / "nginx", pair.addresses, operators=f"allow {OPERATOR};\ndeny all;") as nginx:
            yield Front(nginx, pair)
    next(databases, None)
