"""`make chaos`: a trial of CHAOS_SECONDS (180) from CHAOS_SEED (drawn, and told); exit code 1 if anything did not hold."""

import os
import random
import sys
import tempfile
from pathlib import Path

from project.tests.chaos import trial

if __name__ == "__main__":
    seed = int(os.environ.get("CHAOS_SEED") or random.randrange(2**31))
    seconds = float(os.environ.get("CHAOS_SECONDS") or 180)
    folder = Path(os.environ.get("CHAOS_FOLDER") or tempfile.mkdtemp(prefix="chaos"))
    sys.stderr.write(f"chaos: seed {seed}, {seconds:.0f} s; logs are in {folder}\n")
    held = trial.hold(folder, seed, seconds)
    sys.stdout.write(held.told() + "\n")
    sys.exit(1 if held.complaints else 0)
