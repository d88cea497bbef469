"""Fuzzes with new seeds until FUZZ_SECONDS are over, and says what was tried: ``make fuzz``."""

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

TARGETS = Path(__file__).parent


def fuzz(seconds: float) -> int:
    """Goes through all targets again and again; what fails is printed as pytest prints it.

    Args:
        seconds: When to begin no other round.

    Returns:
        The number of rounds with a failure.
    """
    began, counts, failed, rounds = time.monotonic(), Counter[str](), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "counts"
        while time.monotonic() - began < seconds:
            words = [f"--hypothesis-seed={secrets.randbelow(2**32)}", f"--basetemp={folder}/tests"]
            done = subprocess.run(
                [sys.executable, "-m", "pytest", str(TARGETS), "-W", "ignore", *words],
                env={**os.environ, "FUZZ_COUNTS": str(told)},
                capture_output=True,
                text=True,
            )
            rounds, failed = rounds + 1, failed + bool(done.returncode)
            if done.returncode:
                print(" ".join(words), done.stdout, done.stderr, sep="\n", flush=True)
            for line in told.read_text().splitlines():
                name, number = line.split()
                counts[name] += int(number)
            told.unlink()
    for name, number in sorted(counts.items()):
        print(f"{name}: {number} examples")
    print(f"{rounds} rounds in {time.monotonic() - began:.0f} s, {failed} with a failure")
    return failed


if __name__ == "__main__":
    sys.exit(bool(fuzz(float(os.environ.get("FUZZ_SECONDS", "3600")))))
