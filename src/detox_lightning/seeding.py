"""Seeds as functions of where we are, so that nothing random has to be saved."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(seed: int, *place: int | str) -> int:
    """Mixes a run's seed with a place in the run, such as ("rollout", 17, rank).

    Args:
        seed: The run's seed.
        place: What the random numbers are for, and where in the run.

    Returns:
        A seed in ``[0, 2**63)``; different places give unrelated seeds.
    """
    digest = hashlib.sha256(repr((seed, *place)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def global_seed(default: int = 0) -> int:
    """The seed that ``--seed_everything`` set, else ``default``."""
    return int(os.environ.get("PL_GLOBAL_SEED", default))


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draws torch's random numbers from ``seed`` in the block; the outer stream is untouched.

    Args:
        seed: As from :func:`derive_seed`.
        device: The device whose generator is seeded, besides the CPU's.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
