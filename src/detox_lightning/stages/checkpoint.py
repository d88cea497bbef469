"""What a checkpoint holds: the parameters that learn, and where they came from.

A module calls :func:`keep_trainable` and :func:`stamp` when it saves, :func:`check_stamp` and
:func:`check_trainable` when it loads. Everything is tensors and plain values, so that
``torch.load(weights_only=True)`` opens it.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from detox_lightning.errors import InputError, TrainingError
from detox_lightning.models.finite import refuse_broken
from detox_lightning.protocols import CHECKPOINT_KEY
from detox_lightning.redaction import without_secrets
from detox_lightning.runs.checkpoint_reading import BEFORE, BROKEN, BrokenCheckpoint
from detox_lightning.runs.provenance import to_plain
from detox_lightning.stages.flag_changes import (
    HYPER_PARAMETERS,
    HYPER_PARAMETERS_OF_DATA,
    differs,
    misfits,
    tell_changes,
)

VERSION = 1
NUMBER = int | float
# what counts and controls, of what kind it is and its least: or training would go wrong later
FIGURES: dict[str, tuple[Any, float]] = {
    "rollouts": (int, 0),
    "faults": (int, 0),
    "kl_coef": (NUMBER, 0),
    "count": (NUMBER, 0),
    "mean": (NUMBER, -math.inf),
    "variance": (NUMBER, 0),
}


class Broken(TrainingError):
    """The weights are not finite, in all processes, as they are the same."""

    by_all = True


def trainable_names(module: LightningModule) -> list[str]:
    """Names of the parameters that learn; of tied ones the first."""
    return [name for name, parameter in module.named_parameters() if parameter.requires_grad]


def keep_trainable(module: LightningModule, checkpoint: dict[str, Any]) -> None:
    """Reduces a checkpoint's ``state_dict`` to the parameters that learn.

    Args:
        module: Whose checkpoint it is.
        checkpoint: As Lightning hands it to ``on_save_checkpoint``; changed in place.

    Raises:
        TrainingError: If they are not finite: nothing could go on from them.
    """
    state = checkpoint["state_dict"]
    checkpoint["state_dict"] = {name: state[name] for name in trainable_names(module)}
    refuse_broken(
        checkpoint["state_dict"].items(),
        "nothing is saved",
        "a step has broken them. Checkpoints are untouched: go on from one with --ckpt_path last, "
        "with a lower model.optimizer.lr",
        Broken,
    )


def check_trainable(module: LightningModule, checkpoint: Mapping[str, Any], **facts: Any) -> None:
    """Makes sure that a checkpoint holds just the parameters that learn here, in their shapes.

    Lightning then loads it non-strictly (the frozen base isn't in it), which alone would let
    anything pass. What differs without changing a shape, such as the adapter's scale, is warned of.

    Args:
        module: With its weights built.
        checkpoint: As Lightning hands it to ``on_load_checkpoint``.
        facts: What this run would stamp; see :func:`~detox_lightning.stages.flag_changes.misfits`.

    Raises:
        InputError: If a name or a shape differs; it says which flags do, and the first few names.
            Or if weights are not finite.
    """
    saved = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
    names = set(trainable_names(module))
    here = {name: tuple(value.shape) for name, value in module.named_parameters() if name in names}
    differing = [name for name in (*here, *saved) if here.get(name) != saved.get(name)]
    its = checkpoint.get(CHECKPOINT_KEY, {})
    reasons = misfits(to_plain(facts), its, here, saved)
    if not differing:
        check_weights(module, checkpoint["state_dict"])
        if reasons:
            told = "; ".join(reasons)
            rank_zero_warn(f"the checkpoint's weights mean something else in this run: {told}")
        tell_changes(module, checkpoint)
        return
    if facts.get("base", its.get("base")) != its.get("base"):
        reasons.insert(0, differs("the base", facts["base"], its["base"]))
    differing = list(dict.fromkeys(differing))
    shown = "; ".join(
        f"{name}: {saved.get(name, 'absent')} in the checkpoint, {here.get(name, 'absent')} here"
        for name in differing[:3]
    )
    number = f"{len(differing)} parameter{'s differ' if len(differing) > 1 else ' differs'}"
    raise InputError(
        f"the checkpoint doesn't fit: {'; '.join(reasons) or 'it is of another model'}. {number} "
        f"({shown}). It was made with {_origin(checkpoint)}: give the same flags, or leave out "
        "--ckpt_path."
    )


def check_weights(module: LightningModule, weights: Mapping[str, Tensor]) -> None:
    """Makes sure that weights are numbers that can be taken up as they are.

    Args:
        module: Whose weights they are to be.
        weights: By the names of parameters, in their shapes.

    Raises:
        BrokenCheckpoint: If some are of a kind of which a copy would lose something (whole or
            complex numbers, numbers of 8 bits), or not finite.
    """
    here = dict(module.named_parameters())
    for name, x in weights.items():
        is_number = x.is_floating_point() and x.element_size() > 1
        if not is_number or x.is_meta or x.layout is not torch.strided:
            kind = f"{x.dtype}{' without numbers' * x.is_meta}"
            kind = kind if x.layout is torch.strided else f"{kind}, {x.layout}"
            raise BrokenCheckpoint(
                f"{BROKEN}: its {name} is of {kind}, where floating-point numbers are expected; "
                f"{BEFORE}"
            )
    refuse_broken(
        ((name, x.to(here[name].dtype)) for name, x in weights.items()),
        BROKEN,
        f"a step has broken them; {BEFORE}",
        BrokenCheckpoint,
    )


def stamp(checkpoint: dict[str, Any], stage: str, base: str, **facts: Any) -> None:
    """Writes what a checkpoint is, and makes its hyper-parameters plain values.

    Args:
        checkpoint: As Lightning hands it to ``on_save_checkpoint``; changed in place.
        stage: ``supervised``, ``reward`` or ``ppo``.
        base: Name of the model that training began from.
        facts: What else the stage needs to go on: plain values and tensors.
    """
    checkpoint[CHECKPOINT_KEY] = {
        "version": VERSION,
        "stage": stage,
        "base": base,
        **to_plain(facts),
    }
    for name in (HYPER_PARAMETERS, HYPER_PARAMETERS_OF_DATA):
        if name in checkpoint:
            checkpoint[name] = without_secrets(to_plain(checkpoint[name]))


def check_stamp(checkpoint: Mapping[str, Any], stage: str, base: str) -> dict[str, Any]:
    """Reads what :func:`stamp` wrote.

    Args:
        checkpoint: As Lightning hands it to ``on_load_checkpoint``.
        stage: The stage that is loading.
        base: Name of the model that this run begins from; a warning says where it is another one
            (a folder may have been moved).

    Raises:
        InputError: If the checkpoint is not of this package, of a later format or another stage,
            or a figure in it is none.
    """
    facts: dict[str, Any] | None = checkpoint.get(CHECKPOINT_KEY)
    if not isinstance(facts, dict) or not facts.keys() >= {"version", "stage", "base"}:
        raise InputError(
            "the checkpoint was not written by detox_lightning: nothing says what it is"
        )
    if facts["version"] not in range(VERSION + 1):
        raise InputError(
            f"the checkpoint has format {facts['version']}, this version of detox_lightning reads "
            f"up to {VERSION}: update the package."
        )
    if facts["stage"] != stage:
        raise InputError(
            f"the checkpoint is of the {facts['stage']} stage, this is the {stage} stage. To begin "
            "from that stage's result, give its exported folder as the model, not as --ckpt_path."
        )
    for name, figure in {**facts, **(facts.get("moments") or {})}.items():
        if name not in FIGURES:
            continue
        kind, least = FIGURES[name]
        if not (isinstance(figure, kind) and math.isfinite(figure) and figure >= least):
            wanted = "a whole number" if kind is int else "a number"
            wanted += " from 0 on" if least == 0 else ""
            raise BrokenCheckpoint(
                f"{BROKEN}: its {name} is {figure!r}, where {wanted} is expected; {BEFORE}"
            )
    if facts["base"] != base:
        rank_zero_warn(
            f"the checkpoint was made on {facts['base']!r}; its weights now go onto {base!r}"
        )
    return facts


def _origin(checkpoint: Mapping[str, Any]) -> str:
    facts = checkpoint.get(CHECKPOINT_KEY, {})
    return ", ".join(f"{key} {facts[key]!r}" for key in ("stage", "base", "lora") if key in facts)
