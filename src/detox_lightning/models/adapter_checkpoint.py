"""Adapters in checkpoints of this package: described, read, and put on a base again."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detox_lightning.errors import InputError
from detox_lightning.protocols import CHECKPOINT_KEY

BRINGS_EMBEDDINGS = "brings_embeddings"
MODEL_PREFIXES = {"supervised": "model.", "ppo": "policy.model."}
VALUE_HEAD_PREFIX = "policy.value_head."


def read_checkpoint(file: str) -> dict[str, Any]:
    """Reads a checkpoint that holds an adapter; its tensors stay on disk until they are used.

    Raises:
        InputError: If there is no such file, or it isn't one.
    """
    if not Path(file).is_file():
        raise InputError(f"{file}: there is no such checkpoint")
    try:
        checkpoint: dict[str, Any] = torch.load(
            file, map_location="cpu", weights_only=True, mmap=True
        )
        facts = checkpoint[CHECKPOINT_KEY]
        names = [facts["stage"], facts["base"], *checkpoint["state_dict"]]
        if not all(isinstance(name, str) for name in names):
            raise TypeError("names are texts")
    except Exception as error:  # a torn file fails in many ways
        raise InputError(f"{file}: not a checkpoint of detox_lightning, or a torn one") from error
    if facts["stage"] not in MODEL_PREFIXES:
        raise InputError(
            f"{file}: a checkpoint of the {facts['stage']} stage is no policy to begin from"
        )
    if facts.get("adapter") is None:
        raise InputError(f"{file}: it holds a whole model and no adapter. {_export_hint(file)}")
    return checkpoint


def adapter_facts(model: Any) -> dict[str, Any] | None:
    """Returns a model's adapter config as plain values, for checkpoints; None without adapter."""
    configs = getattr(model, "peft_config", None)
    if configs is None:
        return None
    facts = {
        name: sorted(value) if isinstance(value, set) else value
        for name, value in configs["default"].to_dict().items()
        if isinstance(value, bool | int | float | str | set | list | dict) or value is None
    }
    return facts | {BRINGS_EMBEDDINGS: True} if getattr(model, BRINGS_EMBEDDINGS, False) else facts


def restore_adapter(base: Any, file: str) -> Any:
    """Puts a checkpoint's adapter on a base, which it changes in place, to train it further.

    Raises:
        InputError: If the adapter doesn't fit the base.
    """
    from peft import LoraConfig, get_peft_model

    checkpoint = read_checkpoint(file)
    facts = checkpoint[CHECKPOINT_KEY]
    kind = str(facts["adapter"].get("peft_type", "LORA")).rpartition(".")[2]
    if kind != "LORA" or facts["adapter"].get(BRINGS_EMBEDDINGS):
        reason = "embeddings that aren't its base's" if kind == "LORA" else f"its kind, {kind}"
        raise InputError(
            f"{file}: it holds what was trained, which isn't all of its adapter, because of "
            f"{reason}. {_export_hint(file)}"
        )
    options = {k: v for k, v in facts["adapter"].items() if k not in ("peft_type", "auto_mapping")}
    try:
        model = get_peft_model(base, LoraConfig(**options))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise InputError(
            f"{file}: its adapter can't be put on the base {facts['base']!r}: {error}. Give a "
            "checkpoint as it was written"
        ) from error
    saved = _with_prefix(checkpoint["state_dict"], MODEL_PREFIXES[facts["stage"]])
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    misfits = [f"{name} is not in it" for name in sorted(trainable - saved.keys())]
    try:
        misfits += model.load_state_dict(saved, strict=False).unexpected_keys
    except RuntimeError as error:
        misfits = [str(error).strip().splitlines()[-1].strip()]
    if misfits:
        raise InputError(
            f"{file}: its adapter doesn't fit the base {facts['base']!r}: {misfits[0]}"
        )
    return model


def saved_value_head(file: str) -> dict[str, Tensor] | None:
    """Returns the ``state_dict`` of the value head in a checkpoint; None if there is none."""
    return _with_prefix(read_checkpoint(file)["state_dict"], VALUE_HEAD_PREFIX) or None


def _export_hint(file: str) -> str:
    return (
        f"Make a folder of it with `python -m detox_lightning export --config CONFIG --ckpt_path "
        f"{file}`, where CONFIG is its run's config.yaml, and give that"
    )


def _with_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, by the rest of their names."""
    return {n.removeprefix(prefix): x for n, x in state.items() if n.startswith(prefix)}
