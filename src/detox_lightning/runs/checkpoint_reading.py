"""Opens checkpoints, which may come from anybody, and names the file if one can't be used."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor
from torch.optim import Optimizer

from detox_lightning.errors import InputError, Stopped, TrainingError, explain
from detox_lightning.protocols import CHECKPOINT_KEY

BROKEN = "the checkpoint is broken"
BEFORE = "give one from before it, such as previous.ckpt"

_NO_CHECKPOINT = (
    "--ckpt_path {}: this is not a checkpoint, or it is damaged; give a checkpoint, or last"
)
_RUNS_CODE = (
    "--ckpt_path {}: it holds more than tensors and plain values, and opening such a file can run "
    "code; give one that this package wrote"
)
# The parts of a checkpoint by name: the type of the part, and the type of the values in it
_ALWAYS: dict[str, tuple[type, type]] = {
    "pytorch-lightning_version": (str, object),
    "state_dict": (dict, Tensor),
}
_TO_TRAIN = {
    "optimizer_states": (list, dict),
    "lr_schedulers": (list, dict),
    "loops": (dict, dict),
    "callbacks": (dict, dict),
}
_OPTIONAL = {"epoch": (int, object), "global_step": (int, object)}
_LOOP_PARTS = ("epoch_progress", "epoch_loop.batch_progress")
# What torch's optimizers keep of each weight: averages of gradients, and of squares (≥ 0)
_AVERAGES = {"exp_avg", "momentum_buffer", "grad_avg", "prev", "mu", "ax"}
_SQUARES = {"exp_avg_sq", "max_exp_avg_sq", "square_avg", "acc_delta", "sum", "exp_inf"}
_KEEP_STATE = ("betas", "momentum", "alpha", "rho")  # options of the optimizers that keep any


class BrokenCheckpoint(InputError):
    """A checkpoint holds what no run writes; :func:`blame_checkpoint` adds the file's name."""


def _unusable(checkpoint: object, reason: str) -> InputError:
    return InputError(
        f"--ckpt_path {checkpoint}: this checkpoint can't be used ({reason}); give one that a run "
        "of this package wrote, unchanged"
    )


@contextmanager
def blame_checkpoint(checkpoint: object) -> Iterator[None]:
    """Names the checkpoint in any error that a block raises while it loads it.

    Args:
        checkpoint: The file; None if no checkpoint is loaded.

    Raises:
        InputError: In place of an error whose message isn't meant for users.
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
        InputError: If it is not a checkpoint, is damaged, or holds objects whose opening could run
            code.
    """
    try:
        loaded: Any = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError as error:
        raise InputError(_RUNS_CODE.format(checkpoint)) from error
    except MemoryError:
        raise
    except Exception as error:  # torch raises many kinds
        raise InputError(_NO_CHECKPOINT.format(checkpoint)) from error
    if not isinstance(loaded, dict) or "pytorch-lightning_version" not in loaded:
        raise InputError(
            f"--ckpt_path {checkpoint}: this was not written by Lightning; give a file from a "
            "run's folder checkpoints/, or last"
        )
    return loaded


def refuse_other_files(checkpoint: Path) -> None:
    """Raises an InputError if a file can't be a checkpoint, whatever objects it may hold."""
    if not is_zipfile(checkpoint):
        raise InputError(_NO_CHECKPOINT.format(checkpoint))


def check_parts(checkpoint: Path, verb: str) -> None:
    """Checks that a checkpoint has its parts, each of the right type, before a model is opened.

    Args:
        checkpoint: The file.
        verb: The command; ``fit`` needs more than the weights.

    Raises:
        InputError: If a part is missing or of another type.
    """
    loaded = open_checkpoint(checkpoint)
    needed = _ALWAYS | _TO_TRAIN if verb == "fit" else _ALWAYS
    for name, (kind, inner) in (needed | _OPTIONAL).items():
        if name in needed and name not in loaded:
            raise _unusable(checkpoint, f"it has no {name}")
        value = loaded.get(name, kind())
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
    """Yields the types of values in the loops' state that should be numbers and are not."""
    if isinstance(state, Mapping):
        for name, item in state.items():
            yield from _not_counts(item, is_progress or str(name).endswith("progress"))
    elif is_progress and not isinstance(state, int | float | None):
        yield type(state).__name__


def check_training_state(
    checkpoint: object, loaded: Mapping[str, Any], optimizers: Sequence[Optimizer], schedules: int
) -> None:
    """Checks that a run resumes with all of its training state: Lightning skips missing parts.

    Args:
        checkpoint: The file.
        loaded: Its content.
        optimizers: The run's optimizers, which will load its states.
        schedules: Number of learning rate schedules.

    Raises:
        InputError: If the position in the data, or the state of an optimizer or a schedule, is
            missing.
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
    """Returns how many steps must have changed the weights; Lightning counts faults, too."""
    if "MixedPrecision" in checkpoint:  # its scaler leaves out steps and doesn't count them
        return 0
    faults = checkpoint.get(CHECKPOINT_KEY, {}).get("faults", 0)
    return int(checkpoint.get("global_step", 0)) - int(faults)


def optimizer_faults(saved: Mapping[str, Any], optimizer: Optimizer, steps: int) -> Iterator[str]:
    """Yields what is wrong with an optimizer's state after ``steps`` that torch would load.

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
