"""Opens checkpoints, which may come from anybody, and names the file where one can't be used."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from detox_lightning.errors import InputError, Stopped, TrainingError, explain
from detox_lightning.protocols import CHECKPOINT_KEY

BROKEN = "the checkpoint is broken"
BEFORE = "give one from before it, such as previous.ckpt"

_RUNS_CODE = (
    "--ckpt_path {}: it holds more than tensors and plain values, and opening such a file can run "
    "code; give one that this package wrote"
)
# The parts of a checkpoint by name: the type of each, and the type of the values in it.
_ALWAYS = {"pytorch-lightning_version": (str, object), "state_dict": (dict, Tensor)}
_TO_TRAIN = {
    "optimizer_states": (list, dict),
    "lr_schedulers": (list, dict),
    "loops": (dict, dict),
    "callbacks": (dict, dict),
}
_PERHAPS = {"epoch": (int, object), "global_step": (int, object)}
_LOOP_PARTS = ("epoch_progress", "epoch_loop.batch_progress")
# What torch's optimizers keep of each weight: averages of gradients, and of squares (≥ 0)
_AVERAGES = {"exp_avg", "momentum_buffer", "grad_avg", "prev", "mu", "ax"}
_SQUARES = {"exp_avg_sq", "max_exp_avg_sq", "square_avg", "acc_delta", "sum", "exp_inf"}
_KEEP_STATE = ("betas", "momentum", "alpha", "rho")  # options of the optimizers that keep any


class BrokenCheckpoint(InputError):
    """A checkpoint holds what no run has written; whoever knows the file adds its name."""


def _unusable(checkpoint: object, reason: str) -> InputError:
    """Returns the error for a checkpoint whose parts are not as a run wrote them."""
    return InputError(
        f"--ckpt_path {checkpoint}: nothing can go on from this checkpoint ({reason}); give one "
        "as a run of this package has left it"
    )


@contextmanager
def blame_checkpoint(checkpoint: object) -> Iterator[None]:
    """Names the checkpoint in whatever error a block raises while it loads it.

    Args:
        checkpoint: The file; None if there is none to blame.

    Raises:
        InputError: In place of any error that has no line of its own.
    """
    try:
        yield
    except BrokenCheckpoint as error:
        raise InputError(f"--ckpt_path {checkpoint}: {error}") from error
    except (InputError, TrainingError, Stopped, MemoryError, torch.OutOfMemoryError):
        raise
    except UnpicklingError as error:
        raise InputError(_RUNS_CODE.format(checkpoint)) from error
    except Exception as error:
        is_lightnings = type(error).__name__ == "MisconfigurationException"
        if checkpoint is None or is_lightnings or explain(error) is not None:
            raise
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise _unusable(checkpoint, f"{type(error).__name__}: {reason}") from error


def open_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """Opens a checkpoint of Lightning's; its tensors stay on the disk until they are used.

    Raises:
        InputError: If it is none, is damaged, or holds objects whose opening could run code.
    """
    try:
        loaded: Any = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError as error:
        raise InputError(_RUNS_CODE.format(checkpoint)) from error
    except MemoryError:
        raise
    except Exception as error:  # torch raises many kinds
        raise InputError(
            f"--ckpt_path {checkpoint}: this is not a checkpoint, or it is damaged; give a "
            "checkpoint, or last"
        ) from error
    if not isinstance(loaded, dict) or "pytorch-lightning_version" not in loaded:
        raise InputError(
            f"--ckpt_path {checkpoint}: this was not written by Lightning; give a file that a run "
            "has left in its checkpoints/, or last"
        )
    return loaded


def check_parts(checkpoint: Path, verb: str) -> None:
    """Makes sure that a checkpoint has its parts, each of the right type, before a model is opened.

    Args:
        checkpoint: The file.
        verb: What is to be done with it; ``fit`` needs more than the weights.

    Raises:
        InputError: If a part is missing or of another type.
    """
    loaded = open_checkpoint(checkpoint)
    present = {name: types for name, types in _PERHAPS.items() if name in loaded}
    for name, (kind, inner) in (_ALWAYS | (_TO_TRAIN if verb == "fit" else {}) | present).items():
        if name not in loaded:
            raise _unusable(checkpoint, f"it has no {name}")
        value = loaded[name]
        if not isinstance(value, kind):
            raise _unusable(checkpoint, f"its {name} is a {type(value).__name__}")
        items: Any = value.values() if isinstance(value, dict) else value if kind is list else ()
        for item in items:
            if not isinstance(item, inner):
                raise _unusable(checkpoint, f"in its {name} is a {type(item).__name__}")
    if verb == "fit":
        for found in _not_counts(loaded["loops"].get("fit_loop", {})):
            raise _unusable(checkpoint, f"its loops count with a {found}")


def _not_counts(state: Any, is_progress: bool = False) -> Iterator[str]:
    """Yields the types of what stands where the loops' state should have a number."""
    if isinstance(state, Mapping):
        for name, item in state.items():
            yield from _not_counts(item, is_progress or str(name).endswith("progress"))
    elif is_progress and not isinstance(state, int | float | None):
        yield type(state).__name__


def check_training_state(
    checkpoint: object, loaded: Mapping[str, Any], optimizers: Sequence[Optimizer], schedules: int
) -> None:
    """Makes sure that a run resumes with all of its training state: Lightning skips what is absent.

    Args:
        checkpoint: The file.
        loaded: What it holds.
        optimizers: Are to take up its states.
        schedules: Number of learning rate schedules.

    Raises:
        InputError: If the place in the data, or the state of an optimizer or a schedule, is absent.
        BrokenCheckpoint: If an optimizer's state would break the weights.
    """
    for name in _LOOP_PARTS if loaded.get("loops") is not None else ():
        if name not in loaded["loops"]["fit_loop"]:
            raise _unusable(checkpoint, f"its loops have no {name}")
    for name, expected in (("optimizer_states", len(optimizers)), ("lr_schedulers", schedules)):
        if name in loaded and len(loaded[name]) != expected:
            reason = f"it has {len(loaded[name])} {name} where {expected} are expected"
            raise _unusable(checkpoint, reason)
    steps = effective_steps(loaded)
    for optimizer, state in zip(optimizers, loaded.get("optimizer_states", []), strict=False):
        for fault in optimizer_faults(state, optimizer, steps):
            raise BrokenCheckpoint(f"{BROKEN}: {fault}; {BEFORE}")


def effective_steps(checkpoint: Mapping[str, Any]) -> int:
    """Returns how many steps have surely changed the weights; Lightning counts faults, too."""
    if "MixedPrecision" in checkpoint:  # its scaler leaves out some and doesn't count them
        return 0
    faults = checkpoint.get(CHECKPOINT_KEY, {}).get("faults", 0)
    return int(checkpoint.get("global_step", 0)) - int(faults)


def optimizer_faults(saved: Mapping[str, Any], optimizer: Optimizer, steps: int) -> Iterator[str]:
    """Yields what is wrong with an optimizer's state after ``steps`` and yet loaded by torch.

    Torch itself refuses states of another number of parameters.
    """
    state, groups = saved["state"], saved["param_groups"]
    keeps_state = any(group.get(name) for group in groups for name in _KEEP_STATE)
    if steps > 0 and keeps_state and not any(state.values()):
        yield f"the state of its optimizer is empty after {steps} steps"
    numbers = [number for group in groups for number in group["params"]]
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for number, weight in zip(numbers, weights, strict=False):
        for name, value in state.get(number, {}).items():
            if not isinstance(value, Tensor | float):
                continue
            x, subject = torch.as_tensor(value), f"the {name} of its optimizer"
            is_per_weight = name in _AVERAGES | _SQUARES
            if is_per_weight and not (x.is_floating_point() and x.shape == weight.shape):
                wanted = f"floating-point numbers {list(weight.shape)} are"
                yield f"{subject} is {x.dtype} {list(x.shape)}, where {wanted} expected"
            elif x.is_floating_point() and x.element_size() > 1 and not x.isfinite().all():
                yield f"{subject} has numbers that are NaN or infinite"
            elif name in _SQUARES | {"step"} and bool((x < 0).any()):
                yield f"{subject} has numbers below 0"
