"""How much is drawn: a few examples, the same each time, or as many as ``make fuzz`` asks for."""

import os
from collections.abc import Callable

from hypothesis import HealthCheck, Phase, settings

LOOPING = "FUZZ_COUNTS" in os.environ


def drawn(brief: int, looping: int) -> Callable[..., Callable[..., None]]:
    """Settings of a test; a loop makes nothing smaller of what fails, which takes minutes.

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
        phases=(Phase.explicit, Phase.generate) if LOOPING else tuple(Phase),
    )


def count(target: str) -> None:
    """Notes an example for the loop to add up.

    Args:
        target: What it was tried on.
    """
    if LOOPING:
        with open(os.environ["FUZZ_COUNTS"], "a", encoding="utf8") as file:
            file.write(f"{target}\n")
