"""Explains failures of a reward, which may be a user's code: exceptions and unusable scores."""

import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType

import torch
from torch import Tensor

from detox_lightning.errors import InputError, TrainingError
from detox_lightning.rewards.function_reward import FunctionReward
from detox_lightning.rewards.interface import Reward
from detox_lightning.rewards.weighted import WeightedReward

_METHODS = ("forward", "parts", "total")
# what only calls a user's code
_CALLERS = [getattr(x, name) for x in (Reward, WeightedReward, FunctionReward) for name in _METHODS]


@contextmanager
def reward_errors(reward: Reward, place: str, method: str) -> Iterator[None]:
    """Turns a reward's exception into a TrainingError that names the reward, file and line.

    This includes StopIteration, SystemExit and the like, which would end the data or the program.
    InputError, TrainingError, KeyboardInterrupt and exceptions about memory pass. ``place`` is the
    place in the run, ``method`` what is called of the reward: ``parts`` or ``total``.
    """
    try:
        yield
    except (InputError, TrainingError, torch.OutOfMemoryError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if "can't allocate memory" in str(error):  # of a CPU, for which torch has no class
            raise
        own = _own_code(reward)
        files = {code.co_filename for code in own}
        frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
        code, line = ([each for each in frames if each[0].co_filename in files] or frames)[-1]
        names = [code.co_name for code, _ in frames if code in own]
        failed = _in_words(names[-1]) if names else maker(reward, method)
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise TrainingError(
            f"{place}: the reward {reward.name!r} failed with {type(error).__name__}: {reason} "
            f"({Path(code.co_filename).name}, line {line}): look at {failed}"
        ) from (None if isinstance(error, StopIteration) else error)  # else contextlib undoes it


def _own_code(reward: Reward) -> list[CodeType]:
    """Returns the code of a reward's methods, and of its parts and their functions."""
    parts = [part for part in reward.modules() if isinstance(part, Reward)]
    found = [getattr(type(part), name) for part in parts for name in _METHODS]
    found += [part.function for part in parts if isinstance(part, FunctionReward)]
    return [x.__code__ for x in found if x not in _CALLERS and hasattr(x, "__code__")]


def _in_words(name: str) -> str:
    return f"its {name}" if name in _METHODS else f"the function {name}"


def maker(reward: Reward, method: str, part: str = "") -> str:
    """Returns words for the code that gives ``parts`` or ``total`` (``method``) of a reward.

    ``part`` is the name of a part, perhaps of a reward within this one.
    """
    parts = [each for each in reward.modules() if isinstance(each, Reward)]
    reward = next((each for each in parts if each.name == part), reward)
    if isinstance(reward, FunctionReward):
        return _in_words(reward.name)
    return _in_words("forward" if getattr(type(reward), method) in _CALLERS else method)


def check_scores(name: str, scores: object, place: str, made_by: str, *shapes: list[int]) -> None:
    """Raises TrainingError if scores of the reward ``name`` have none of the shapes.

    A shape is ``[b]`` for scores of responses, ``[b, t]`` for those of tokens.
    """
    found = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
    if isinstance(scores, Tensor) and scores.is_complex():
        found = f"{found} of {scores.dtype}"
    elif isinstance(scores, Tensor) and scores.layout != torch.strided:
        found = f"{found} of {scores.layout}"
    if found not in shapes:
        what = " or of their tokens" if len(shapes[-1]) == 2 else ""
        raise TrainingError(
            f"{place}: the reward {name!r} gave {found} where a tensor "
            f"{' or '.join(map(str, shapes))} is expected, one score for each of {shapes[0][0]} "
            f"responses{what}: look at {made_by}"
        )


def warn_not_finite(source: str, figures: Tensor) -> None:
    """Warns if a reward or classifier (``source``) gave figures ``[b]`` that are not finite."""
    if not figures.isfinite().all():
        warnings.warn(
            f"evaluation: {source} gave numbers that are NaN or infinite: the figures are of the "
            "other responses, or not finite themselves",
            stacklevel=2,
        )
