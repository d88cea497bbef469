"""Asks a reward, which may be anybody's code, and says whose fault it is where that fails."""

import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from detox_lightning.errors import InputError, TrainingError
from detox_lightning.rewards.interface import Reward

Answer = TypeVar("Answer")


def asked(reward: Reward, place: str, question: Callable[[], Answer]) -> Answer:
    """What a reward answers.

    A reward that raises StopIteration, SystemExit or the like has failed, too: Lightning or Python
    would take these for the end of the data or of the program.

    Args:
        reward: Who is asked.
        place: Where in the run, for the message.
        question: Asks it.

    Raises:
        TrainingError: Where anything is raised but what has a line of its own.
    """
    try:
        return question()
    except (InputError, TrainingError, torch.OutOfMemoryError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if "can't allocate memory" in str(error):  # torch has no class of its own for a CPU's
            raise
        kinds = [type(part).forward for part in reward.modules() if isinstance(part, Reward)]
        files = {kind.__code__.co_filename for kind in kinds if hasattr(kind, "__code__")}
        frames = traceback.extract_tb(error.__traceback__)
        its = [frame for frame in frames if frame.filename in files]
        last = (its or frames)[-1]
        said = (str(error).strip() or "no reason given").splitlines()[0]
        raise TrainingError(
            f"{place}: the reward {reward.name!r} failed with {type(error).__name__}: {said} "
            f"({Path(last.filename).name}, line {last.lineno}): look at its forward"
        ) from error


def check_scores(name: str, scores: object, count: int, place: str) -> None:
    """Makes sure that a reward gave one number for each response.

    Args:
        name: The reward's.
        scores: What it gave.
        count: Of responses.
        place: Where in the run, for the message.

    Raises:
        TrainingError: If it didn't.
    """
    given = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
    if isinstance(scores, Tensor) and scores.is_complex():
        given = f"{given} of {scores.dtype}"
    elif isinstance(scores, Tensor) and scores.layout != torch.strided:
        given = f"{given} of {scores.layout}"
    if given != [count]:
        raise TrainingError(
            f"{place}: the reward {name!r} gave {given} where a tensor [{count}] is expected, one "
            f"score for each of {count} responses: look at its forward"
        )


def warn_not_finite(who: str, figures: Tensor) -> None:
    """Says once of an evaluation that its figures are of fewer responses than it seems.

    Args:
        who: Gave the figures.
        figures: ``[b]``.
    """
    if not figures.isfinite().all():
        warnings.warn(
            f"evaluation: {who} gave numbers that are NaN or infinite: the figures are of the "
            "other responses, or not finite themselves",
            stacklevel=2,
        )
