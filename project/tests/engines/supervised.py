"""A supervisor with one cheap child, run as a program by the supervisor's tests: `supervised.py CHILD...`.

ENGINE_READY_WITHIN_S makes it less patient with its engines than it is.
"""

import os
import sys

from project import settings
from project.engines import supervisor
from project.errors import ServiceError

if __name__ == "__main__":
    chosen = settings.load()
    supervisor.ENGINE_READY_WITHIN_S = float(os.environ.get("ENGINE_READY_WITHIN_S", "60"))
    url = f"http://127.0.0.1:{chosen.server.port}/"
    try:
        sys.exit(supervisor.run(chosen, [supervisor.Child("child", sys.argv[1:], url)], f"serving: {url}"))
    except ServiceError as error:
        sys.exit(f"claim_process: {error}")
