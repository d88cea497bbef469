"""Explains failures of a reward, which may be a user's code: exceptions and unusable scores."""

import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from detox_lightning.errors import InputError, TrainingError
from detox_lightning.rewards.interface import Reward


@contextmanager
def reward_errors(reward: Reward, place: str) -> Iterator[None]:
    """Turns a reward's exception into a TrainingError that names the reward, file and line.

    This includes StopIteration, SystemExit and the like, which would end the data or the program.
    InputError, TrainingError, KeyboardInterrupt and exceptions about memory pass. ``place`` is the
    place in the run.
    """
    try:
        yield
    except (InputError, TrainingError, torch.OutOfMemoryError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if "can't allocate memory" in str(error):  # of a CPU, for which torch has no class
            raise
        kinds = [type(part).forward for part in reward.modules() if isinstance(part, Reward)]
        files = {kind.__code__.co_filename for kind in kinds if hasattr(kind, "__code__")}
        frames = traceback.extract_tb(error.__traceback__)
        last = ([frame for frame in frames if frame.filename in files] or frames)[-1]
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise TrainingError(
            f"{place}: the reward {reward.name!r} failed with {type(error).__name__}: {reason} "
            f"({Path(last.filename).name}, line {last.lineno}): look at its forward"
        ) from (None if isinstance(error, StopIteration) else error)  # else contextlib undoes it


def check_scores(name: str, scores: object, count: int, place: str) -> None:
    """Raises TrainingError if the reward ``name`` didn't give one number for each response."""
    found = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
    if isinstance(scores, Tensor) and scores.is_complex():
        found = f"{found} of {scores.dtype}"
    elif isinstance(scores, Tensor) and scores.layout != torch.strided:
        found = f"{found} of {scores.layout}"
    if found != [count]:
        raise TrainingError(
            f"{place}: the reward {name!r} gave {found} where a tensor [{count}] is expected, one "
            f"score for each of {count} responses: look at its forward"
        )


def warn_not_finite(source: str, figures: Tensor) -> None:
    """Warns if a reward or classifier (``source``) gave figures ``[b]`` that are not finite."""
    if not figures.isfinite().all():
        warnings.warn(
            f"evaluation: {source} gave numbers that are NaN or infinite: the figures are of the "
            "other responses, or not finite themselves",
            stacklevel=2,
        )
