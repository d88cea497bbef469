"""Seeds as functions of the position in a run, so that no random state has to be saved."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(seed: int, *place: int | str) -> int:
    """Mixes a run's seed with a position in the run.

    Args:
        seed: The run's seed.
        place: The purpose of the random numbers and the position, such as ("rollout", 17, rank).

    Returns:
        A seed in ``[0, 2**63)``; different places give unrelated seeds.
    """
    digest = hashlib.sha256(repr((seed, *place)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def global_seed(default: int = 0) -> int:
    """Returns the seed that ``--seed_everything`` set, else ``default``."""
    return int(os.environ.get("PL_GLOBAL_SEED", default))


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds torch in a block; afterwards its random numbers continue as if none had been drawn.

    Args:
        seed: A seed from :func:`derive_seed`.
        device: The device whose generator is seeded, besides the CPU's.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
