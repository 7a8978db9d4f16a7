"""Asks a URL of this machine whether all is well: `python -m project.probe URL`, exit code 0 if it answers 200.

The health checks of containers call it: their images have no curl, and this imports little, since it runs every few
seconds.
"""

import http.client
import sys
from urllib.parse import urlsplit

WITHIN_S = 4.0


def probe(url: str) -> str | None:
    """What is wrong, in one line; None when it answers 200."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        return "not an http:// URL"
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=WITHIN_S)
    try:
        connection.request("GET", parts.path or "/")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"no answer ({type(error).__name__})"
    finally:
        connection.close()
    return None if status == http.HTTPStatus.OK else f"answered {status}"


if __name__ == "__main__":
    sys.exit(probe(sys.argv[1]) if len(sys.argv) == 2 else "usage: python -m project.probe URL")
