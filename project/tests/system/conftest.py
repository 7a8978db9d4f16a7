"""Fixtures of tests that have nginx in front."""

from collections.abc import Iterator

import pytest

from project.tests.keys import make_key
from project.tests.service import running
from project.tests.system.nginx import OPERATOR, SCOPES, Front, Pair, fronting


@pytest.fixture(scope="module")
def front(shared_database_url: str, shared_redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """nginx and two web processes, shared by the tests of a module. Operators come from one address."""
    key = make_key(shared_database_url, "clinic", *SCOPES)["key"]
    urls = {"DATABASE_URL": shared_database_url, "REDIS_URL": shared_redis_url}
    folder = tmp_path_factory.mktemp("front")
    trusting = urls | {"TRUSTED_PROXIES": "127.0.0.1"}
    with running(folder / "web1", trusting) as one, running(folder / "web2", trusting) as other:
        pair = Pair([one, other], key, shared_database_url)
        with fronting(folder / "nginx", pair.addresses, operators=f"allow {OPERATOR};\ndeny all;") as nginx:
            yield Front(nginx, pair)
