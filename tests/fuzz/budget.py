"""How much is drawn: a few examples, the same each time, or as many as ``make fuzz`` asks for."""

import atexit
import os
from collections import Counter
from collections.abc import Callable

from hypothesis import HealthCheck, settings

LOOPING = "FUZZ_COUNTS" in os.environ
COUNTS: Counter[str] = Counter()


def drawn(brief: int, looping: int) -> Callable[..., Callable[..., None]]:
    """Settings of a test.

    Args:
        brief: Examples in a normal run.
        looping: Examples of one seed of ``make fuzz``.
    """
    return settings(
        max_examples=looping if LOOPING else brief,
        derandomize=not LOOPING,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def tell() -> None:
    """Says how many examples each target has seen, for the loop to add up."""
    with open(os.environ["FUZZ_COUNTS"], "a", encoding="utf8") as file:
        file.writelines(f"{name} {number}\n" for name, number in COUNTS.items())


if LOOPING:
    atexit.register(tell)
