"""`make chaos`: a trial of CHAOS_SECONDS (180) from CHAOS_SEED (drawn, and told); exit code 1 if anything did not hold.

Everything is kept in CHAOS_FOLDER (a new one, and told), which is removed when all was sound.
"""

import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

from project.tests.chaos import trial

if __name__ == "__main__":
    seed = int(os.environ.get("CHAOS_SEED") or random.randrange(2**31))
    seconds = float(os.environ.get("CHAOS_SECONDS") or 180)
    folder = Path(os.environ.get("CHAOS_FOLDER") or tempfile.mkdtemp(prefix="chaos"))
    sys.stderr.write(f"chaos: seed {seed}, {seconds:.0f} s; data and logs are in {folder}\n")
    held = trial.hold(folder, seed, seconds)
    sys.stdout.write(held.told() + "\n")
    if held.complaints:
        sys.exit(1)
    shutil.rmtree(folder)
