"""What a checkpoint holds: the parameters that learn, and facts about the run that wrote it.

A stage calls :func:`save_stage` when it saves and :func:`load_stage` when it loads. All contents
are tensors and plain values, so that ``torch.load(weights_only=True)`` opens the file.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from detox_lightning.errors import InputError, TrainingError
from detox_lightning.models.precision import check_finite
from detox_lightning.protocols import CHECKPOINT_KEY
from detox_lightning.redaction import without_secrets
from detox_lightning.runs.checkpoint_reading import BEFORE, BROKEN, BrokenCheckpoint
from detox_lightning.runs.provenance import to_plain
from detox_lightning.stages.flag_changes import (
    differs,
    misfits,
    warn_of_changed_flags,
)

VERSION = 1

# Facts that are numbers and that training depends on: their type and lower bound.
_NUMBER = int | float
_NUMBERS: dict[str, tuple[Any, float]] = {
    "rollouts": (int, 0),
    "faults": (int, 0),
    "kl_coef": (_NUMBER, 0),
    "count": (_NUMBER, 0),
    "mean": (_NUMBER, -math.inf),
    "variance": (_NUMBER, 0),
    "value": (_NUMBER, 0),
    "at_bound": (int, 0),
    "unit": (_NUMBER, 0),
}


class _BrokenWeights(TrainingError):
    """The weights are not finite; all processes raise it, as their weights are equal."""

    by_all = True


def trainable_names(module: nn.Module) -> list[str]:
    """Returns the names of the parameters that learn; of tied parameters the first name."""
    return [name for name, parameter in module.named_parameters() if parameter.requires_grad]


def save_stage(module: Any, checkpoint: dict[str, Any], **facts: Any) -> None:
    """Reduces a checkpoint to the parameters that learn, and adds the facts of the run.

    Args:
        module: The stage that saves.
        checkpoint: As Lightning hands it to ``on_save_checkpoint``; changed in place.
        facts: Facts beside the stage, the base and the number of faults.

    Raises:
        TrainingError: If parameters are not finite: no run could resume from them.
    """
    state = checkpoint["state_dict"]
    checkpoint["state_dict"] = {name: state[name] for name in trainable_names(module)}
    check_finite(
        checkpoint["state_dict"].items(),
        "nothing is saved",
        "a step has broken them. Checkpoints are untouched: go on from one with --ckpt_path last, "
        "with a lower model.optimizer.lr",
        _BrokenWeights,
    )
    checkpoint[CHECKPOINT_KEY] = {
        "version": VERSION,
        "stage": module.stage_name,
        "base": module.source.base,
        "faults": module.faults.count,
        **to_plain(facts),
    }
    for kind in (LightningModule, LightningDataModule):
        if (name := kind.CHECKPOINT_HYPER_PARAMS_KEY) in checkpoint:
            checkpoint[name] = without_secrets(to_plain(checkpoint[name]))


def load_stage(module: Any, checkpoint: Mapping[str, Any], **facts: Any) -> dict[str, Any]:
    """Checks that a checkpoint fits a stage, and restores the stage's number of faults.

    Lightning then loads the weights non-strictly, as the frozen base isn't in the file; this alone
    would accept any file. Differences that change no shape, such as the adapter's scale, give a
    warning, and so do flags that have changed.

    Args:
        module: The stage that loads, with its weights built.
        checkpoint: As Lightning hands it to ``on_load_checkpoint``.
        facts: ``base_revision`` and ``adapter`` as this run would save them; see
            :func:`~detox_lightning.stages.flag_changes.misfits`.

    Returns:
        The facts that :func:`save_stage` wrote.

    Raises:
        InputError: If the checkpoint is not of this package, of a later format, of another stage
            or of other labels, or holds other parameters, values that are not finite, or facts
            that no run can have written.
    """
    saved = _read_facts(checkpoint, module.stage_name)
    if saved["base"] != module.source.base:
        rank_zero_warn(
            f"the checkpoint was made on {saved['base']!r}; its weights now go onto "
            f"{module.source.base!r}"
        )
    if module.labels is not None and saved["labels"] != module.labels:
        raise InputError(
            f"labels={module.labels}: the checkpoint's are {saved['labels']}; give the same ones."
        )
    if module.labels is not None and saved.get("learns_scores", False) != module.learns_scores:
        target = "classes" if module.learns_scores else "scores"
        raise InputError(f"model.target: the checkpoint's is {target}; give the same one")
    _check_parameters(module, checkpoint["state_dict"], saved, facts)
    warn_of_changed_flags(module, checkpoint)
    module.faults.count = saved.get("faults", 0)
    return saved


def check_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Checks that weights, by the names of a module's parameters, can be loaded without loss.

    Raises:
        BrokenCheckpoint: If some have a type whose conversion would lose something (integers,
            complex numbers, 8-bit numbers), or are not finite.
    """
    dtypes = {name: parameter.dtype for name, parameter in module.named_parameters()}
    for name, x in weights.items():
        is_number = x.is_floating_point() and x.element_size() > 1
        if not is_number or x.is_meta or x.layout is not torch.strided:
            kind = f"{x.dtype}{' without numbers' * x.is_meta}"
            kind = kind if x.layout is torch.strided else f"{kind}, {x.layout}"
            raise BrokenCheckpoint(
                f"{BROKEN}: its {name} is of {kind}, where floating-point numbers are expected; "
                f"{BEFORE}"
            )
    check_finite(
        ((name, x.to(dtypes[name])) for name, x in weights.items()),
        BROKEN,
        f"a step has broken them; {BEFORE}",
        BrokenCheckpoint,
    )


def _read_facts(checkpoint: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """Returns what :func:`save_stage` wrote; raises an InputError if this stage can't use it."""
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
    values = {**facts, **(facts.get("moments") or {}), **(facts.get("multiplier") or {})}
    for name, (kind, least) in _NUMBERS.items():
        value = values.get(name, 0)
        if not (isinstance(value, kind) and math.isfinite(value) and value >= least):
            expected = "a whole number" if kind is int else "a number"
            expected += " from 0 on" if least == 0 else ""
            raise BrokenCheckpoint(
                f"{BROKEN}: its {name} is {value!r}, where {expected} is expected; {BEFORE}"
            )
    return facts


def _check_parameters(
    module: Any, weights: Mapping[str, Tensor], saved: dict[str, Any], facts: Any
) -> None:
    """Checks that a checkpoint's weights have the names and shapes of the parameters that learn."""
    shapes = {name: tuple(x.shape) for name, x in weights.items()}
    here = {name: tuple(p.shape) for name, p in module.named_parameters() if p.requires_grad}
    reasons = list(misfits(to_plain(facts), saved, here, shapes))
    if here == shapes:
        check_weights(module, weights)
        if reasons:
            rank_zero_warn(
                f"the checkpoint's weights mean something else in this run: {'; '.join(reasons)}"
            )
        return
    if saved["base"] != module.source.base:
        reasons.insert(0, differs("the base", module.source.base, saved["base"]))
    differing = [name for name in {**here, **shapes} if here.get(name) != shapes.get(name)]
    shown = "; ".join(
        f"{name}: {shapes.get(name, 'absent')} in the checkpoint, {here.get(name, 'absent')} here"
        for name in differing[:3]
    )
    number = f"{len(differing)} parameter{'s differ' if len(differing) > 1 else ' differs'}"
    origin = ", ".join(
        f"{key} {saved[key]!r}" for key in ("stage", "base", "lora") if saved.get(key)
    )
    raise InputError(
        f"the checkpoint doesn't fit: {'; '.join(reasons) or 'it is of another model'}. {number} "
        f"({shown}). It was made with {origin}: give the same flags, or leave out --ckpt_path."
    )
