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
GRACE = 180.0  # seconds; what a round may go on when the time is over


def fuzz(seconds: float) -> int:
    """Goes through all targets again and again; what fails is printed as pytest prints it.

    Args:
        seconds: When to begin no other round.

    Returns:
        The number of rounds with a failure.
    """
    began, failed, rounds = time.monotonic(), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "counts"
        told.touch()
        try:
            while (left := seconds - (time.monotonic() - began)) > 0:
                rounds, failed = rounds + 1, failed + (not fuzz_once(folder, told, left + GRACE))
        finally:
            for name, number in sorted(Counter(told.read_text().splitlines()).items()):
                print(f"{name}: {number} examples")
            took = time.monotonic() - began
            print(f"{rounds} rounds in {took:.0f} s, {failed} with a failure", flush=True)
    return failed


def fuzz_once(folder: str, told: Path, seconds: float) -> bool:
    """Goes through all targets with a new seed.

    Args:
        folder: For the tests' files.
        told: Where each example leaves its target's name.
        seconds: How long it may take; what hangs is a failure.

    Returns:
        Whether all went well.
    """
    words = [f"--hypothesis-seed={secrets.randbelow(2**32)}", f"--basetemp={folder}/tests"]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-vv", str(TARGETS), "-W", "ignore", *words],
            env={**os.environ, "FUZZ_COUNTS": str(told)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as over:
        told_until_then = (over.stdout or b"").decode(errors="replace")
        print(*words, f"stopped after {seconds:.0f} s", told_until_then, sep="\n", flush=True)
        return False
    if done.returncode:
        print(*words, done.stdout.decode(errors="replace"), sep="\n", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(bool(fuzz(float(os.environ.get("FUZZ_SECONDS", "3600")))))
