"""Opens checkpoints, which may be somebody else's, and says which file it is that isn't one."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from torch import Tensor

from detox_lightning.errors import InputError, Stopped, TrainingError, explain
from detox_lightning.models.finite import not_finite
from detox_lightning.stages.checkpoint import BEFORE, BROKEN, KEY, BrokenCheckpoint

Kinds = type | tuple[type, ...]

CODE = (
    "--ckpt_path {}: it holds more than tensors and plain values, and opening such a file can run "
    "code; give one that this package wrote"
)
# what a checkpoint of Lightning's has, and of what kind each is
PARTS: dict[str, Kinds] = {"pytorch-lightning_version": str, "state_dict": dict}
OF_FIT: dict[str, Kinds] = {
    "optimizer_states": list,
    "lr_schedulers": list,
    "loops": dict,
    "callbacks": dict,
}
PERHAPS: dict[str, Kinds] = {"epoch": int, "global_step": int}
COUNTS = ("epoch_progress", "epoch_loop.batch_progress")  # of the loops of fit
INSIDE: dict[str, Kinds] = {  # what is in each of these
    "state_dict": Tensor,
    "loops": dict,
    "callbacks": dict,
    "optimizer_states": dict,
    "lr_schedulers": dict,
}
# what torch's optimizers keep for each weight, the latter never below 0
FIRST = {"exp_avg", "momentum_buffer", "grad_avg", "prev", "mu", "ax"}
SECOND = {"exp_avg_sq", "max_exp_avg_sq", "square_avg", "acc_delta", "sum", "exp_inf"}
KEEPING = ("betas", "momentum", "alpha", "rho")  # options of those that keep something


def opened(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint, its tensors left on the disk.

    Args:
        checkpoint: The file.

    Raises:
        InputError: If it is not of Lightning, is torn, or holds what could run code.
    """
    try:
        loaded: Any = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError as error:
        raise InputError(CODE.format(checkpoint)) from error
    except MemoryError:
        raise
    except Exception as error:  # in the words of torch's own reader of archives
        raise InputError(
            f"--ckpt_path {checkpoint}: this is no checkpoint, or a torn one"
        ) from error
    if not isinstance(loaded, dict) or "pytorch-lightning_version" not in loaded:
        raise InputError(
            f"--ckpt_path {checkpoint}: this was not written by Lightning; give a file that a run "
            "has left in its checkpoints/, or last"
        )
    return loaded


def done(checkpoint: Path) -> int:
    """Optimizer steps that a checkpoint has behind it."""
    steps = opened(checkpoint).get("global_step", 0)
    return steps if isinstance(steps, int) else -1


def last_activity(folder: Path) -> float:
    """When something was last saved in a folder of checkpoints, or it was made."""
    files = [file.stat().st_mtime for file in folder.glob("*.ckpt") if file.is_file()]
    return max(files, default=folder.stat().st_mtime)


def check_form(checkpoint: Path, verb: str) -> None:
    """Refuses a checkpoint that lacks a part, or in which one is of another kind.

    Args:
        checkpoint: The file.
        verb: What is to be done with it; to go on with it takes more than its weights.

    Raises:
        InputError: If it does; or see :func:`opened`.
    """
    loaded = opened(checkpoint)
    needed = {**PARTS, **OF_FIT} if verb == "fit" else PARTS
    there = {name: kind for name, kind in PERHAPS.items() if name in loaded}
    for name, kind in {**needed, **there}.items():
        value = loaded.get(name)
        if name not in loaded:
            wrong = f"it has no {name}"
        elif not isinstance(value, kind):
            wrong = f"its {name} is a {type(value).__name__}"
        elif name in INSIDE and (other := stranger(value, INSIDE[name])):
            wrong = f"in its {name} is a {other}"
        else:
            continue
        raise InputError(spoilt(checkpoint, wrong))
    if verb == "fit" and (other := next(no_numbers(loaded["loops"].get("fit_loop", {})), None)):
        raise InputError(spoilt(checkpoint, f"its loops count with a {other}"))


def no_numbers(counted: Any, is_progress: bool = False) -> Iterator[str]:
    """Kinds of what stands in place of a number where loops count.

    Args:
        counted: The state of Lightning's loops, or a part of it.
        is_progress: Whether the part is of a count; what else loops keep is left alone.
    """
    if isinstance(counted, Mapping):
        for name, part in counted.items():
            yield from no_numbers(part, is_progress or str(name).endswith("progress"))
    elif is_progress and not isinstance(counted, int | float | None):
        yield type(counted).__name__


def stranger(values: Any, kind: Kinds) -> str | None:
    """The first value's kind that isn't the one expected; None: all are of it.

    Args:
        values: A list, or a dictionary, whose keys must be texts.
        kind: Of each value.
    """
    each = [*values.values()] if isinstance(values, Mapping) else values
    return next((type(x).__name__ for x in each if not isinstance(x, kind)), None)


def spoilt(checkpoint: object, reason: str) -> str:
    """What is said of a checkpoint whose parts are not what was written.

    Args:
        checkpoint: The file.
        reason: What is wrong with it.
    """
    return (
        f"--ckpt_path {checkpoint}: nothing can go on from this checkpoint ({reason}); give one "
        "as a run of this package has left it"
    )


@contextmanager
def reading(checkpoint: object) -> Iterator[None]:
    """Names the checkpoint where a block that takes it up fails.

    Args:
        checkpoint: The file; None: there is none to blame.

    Raises:
        InputError: If anything is raised but what has a line of its own.
    """
    try:
        yield
    except BrokenCheckpoint as error:
        raise InputError(f"--ckpt_path {checkpoint}: {error}") from error
    except (InputError, TrainingError, Stopped, MemoryError, torch.OutOfMemoryError):
        raise
    except UnpicklingError as error:
        raise InputError(CODE.format(checkpoint)) from error
    except Exception as error:
        is_lightning_s = type(error).__name__ == "MisconfigurationException"
        if checkpoint is None or is_lightning_s or explain(error) is not None:
            raise
        said = (str(error).strip() or "no reason given").splitlines()[0]
        raise InputError(spoilt(checkpoint, f"{type(error).__name__}: {said}")) from error


class CarefulConnector(_CheckpointConnector):
    """Lightning's way to take up a checkpoint, which names the file where that fails."""

    def _restore_modules_and_callbacks(
        self, checkpoint_path: Any = None, weights_only: bool | None = None
    ) -> None:
        with reading(checkpoint_path):
            super()._restore_modules_and_callbacks(checkpoint_path, weights_only)

    def restore_training_state(self) -> None:
        """Takes up the loops' places, optimizers and schedules."""
        with reading(self._ckpt_path):
            super().restore_training_state()

    def restore_loops(self) -> None:
        """Takes up the loops' places.

        Raises:
            InputError: If they aren't told: the run would begin anew, and nobody would know.
        """
        loops = self._loaded_checkpoint.get("loops")
        if loops is not None and self.trainer.state.fn == "fit":
            missing = [name for name in COUNTS if name not in loops["fit_loop"]]
            if missing:
                raise InputError(spoilt(self._ckpt_path, f"its loops have no {missing[0]}"))
        super().restore_loops()

    def restore_optimizers_and_schedulers(self) -> None:
        """Takes up optimizers and schedules, and none less than there are.

        Raises:
            InputError: If one has no state: it would begin anew, and nobody would know.
            BrokenCheckpoint: If the next step would break the weights.
        """
        for name in ("optimizer_states", "lr_schedulers"):
            here = self.trainer.optimizers if name[0] == "o" else self.trainer.lr_scheduler_configs
            there = len(self._loaded_checkpoint.get(name, here))
            if there != len(here):
                raise InputError(
                    spoilt(self._ckpt_path, f"it has {there} {name} where {len(here)} are expected")
                )
        states = self._loaded_checkpoint.get("optimizer_states", [])
        for optimizer, saved in zip(self.trainer.optimizers, states, strict=True):
            steps = steps_taken(self._loaded_checkpoint)
            if wrong := next(faults_of_state(saved, optimizer, steps), None):
                raise BrokenCheckpoint(f"{BROKEN}: {wrong}; {BEFORE}")
        super().restore_optimizers_and_schedulers()


def steps_taken(checkpoint: Mapping[str, Any]) -> int:
    """Steps that have surely changed an optimizer's state.

    Args:
        checkpoint: Lightning counts those, too, that were left out.
    """
    if "MixedPrecision" in checkpoint:  # its scaler leaves out some, and doesn't tell how many
        return 0
    return int(checkpoint.get("global_step", 0)) - int(checkpoint.get(KEY, {}).get("faults", 0))


def faults_of_state(
    saved: Mapping[str, Any], optimizer: torch.optim.Optimizer, steps: int
) -> Iterator[str]:
    """What of an optimizer's state would be lost or break the weights, and torch takes up.

    Args:
        saved: As a checkpoint has it; torch itself refuses other numbers of parameters.
        optimizer: Is to take it up.
        steps: That were taken before.
    """
    state, groups = saved["state"], saved["param_groups"]
    keeps = any(group.get(name) for group in groups for name in KEEPING)
    if steps > 0 and keeps and not any(state.values()):
        yield f"the state of its optimizer is empty after {steps} steps"
    numbers = [number for group in groups for number in group["params"]]
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for number, weight in zip(numbers, weights, strict=False):
        for name, value in state.get(number, {}).items():
            if not isinstance(value, Tensor | float):
                continue
            x, of = torch.as_tensor(value), f"the {name} of its optimizer"
            if name in FIRST | SECOND and not (x.is_floating_point() and x.shape == weight.shape):
                wanted = f"floating-point numbers {list(weight.shape)} are"
                yield f"{of} is {x.dtype} {list(x.shape)}, where {wanted} expected"
            elif not_finite([(name, x)]):
                yield f"{of} has numbers that are NaN or infinite"
            elif name in SECOND | {"step"} and bool((x < 0).any()):
                yield f"{of} has numbers below 0"


def name_checkpoints(trainer: Trainer) -> None:
    """Has errors of checkpoints that a trainer takes up name the file.

    Args:
        trainer: Nothing is taken up yet.
    """
    trainer._checkpoint_connector.__class__ = CarefulConnector
