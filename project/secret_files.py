"""Secrets from files, and passwords put into URLs. Used by `settings`, `db` and `cache`.

A secret in an environment variable shows in `docker inspect` and in /proc; one in a file, only to who may read that.
"""

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource

from project.errors import SettingsError

_URL = re.compile(r"(?P<scheme>[^:/]+://)(?P<authority>[^/?#]*)(?P<rest>.*)", re.DOTALL)


def with_password(url: str, password: SecretStr | None) -> str:
    """The URL with the password in it, escaped; as it is without one. The URL must have none of its own."""
    found = _URL.match(url)
    if password is None or found is None:
        return url
    user, _, hosts = found["authority"].rpartition("@")
    return f"{found['scheme']}{user}:{quote(password.get_secret_value(), safe='')}@{hosts}{found['rest']}"


def has_password(url: str) -> bool:
    """Whether the URL has one of its own."""
    found = _URL.match(url)
    return found is not None and (":" in found["authority"].rpartition("@")[0] or "password=" in found["rest"])


class SecretFiles(PydanticBaseSettingsSource):
    """Values from the files that NAME_FILE names, in the environment or in `.env`.

    Errors show neither value nor file: who mistakes the one for the other would have the secret in a log.
    """

    def __init__(self, group: type[BaseSettings], *variables: PydanticBaseSettingsSource) -> None:
        super().__init__(group)
        # of each source the names in lower case with their values, the empty ones left out; the first counts
        sources = [source.env_vars for source in variables if isinstance(source, EnvSettingsSource)]
        self._set = {name: value for source in reversed(sources) for name, value in source.items() if value}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The file's content without its last line break; SettingsError when that cannot be had."""
        file = self._set.get(f"{field_name}_file")
        if file is None:
            return None, field_name, False
        variable = f"{field_name.upper()}_FILE"
        if field_name in self._set:
            raise SettingsError(f"{variable} and {field_name.upper()} are both set; only one of them can count")
        try:
            content = Path(file).read_text("utf-8").removesuffix("\n").removesuffix("\r")
        except OSError as error:
            raise SettingsError(f"{variable} names a file that cannot be read: {error.strerror}") from None
        except ValueError:
            raise SettingsError(f"{variable} names a file that is not UTF-8 text") from None
        if not content:
            raise SettingsError(f"{variable} names an empty file")
        return content, field_name, False

    def __call__(self) -> dict[str, Any]:
        """All that is given by files."""
        read = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in read.items() if value is not None}
