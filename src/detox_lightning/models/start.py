"""Where a policy begins: a base model, an adapter on it, or a checkpoint of an earlier stage."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from detox_lightning.errors import InputError
from detox_lightning.models.loading import adapter_base

STAMP = "detox_lightning"
PREFIXES = {"supervised": "model.", "ppo": "policy.model."}


class Start(NamedTuple):
    """Where a policy begins.

    Attributes:
        base: Name of the base model, whose tokenizer is used.
        adapter: Name of the adapter that is trained on; None: a fresh one.
        checkpoint: File of this package that holds the adapter; None: it is not from one.
        base_revision: Branch, tag or commit of the base.
        adapter_revision: Of the adapter.
    """

    base: str
    adapter: str | None = None
    checkpoint: str | None = None
    base_revision: str | None = None
    adapter_revision: str | None = None


def find_start(policy: str, adapter: str | None = None, revision: str | None = None) -> Start:
    """Finds out what a name stands for, before anything is opened.

    Args:
        policy: A base model, an adapter, or a file ``*.ckpt`` of the supervised or PPO stage.
        adapter: An adapter, whose base ``policy`` then is.
        revision: Branch, tag or commit of ``policy``.

    Raises:
        InputError: If the checkpoint isn't there or holds no adapter, or if two adapters are given.
    """
    if policy.endswith(".ckpt"):
        if adapter is not None:
            raise InputError(
                f"model.adapter={adapter}: the checkpoint {policy} brings an adapter of its own; "
                "give one of the two"
            )
        return Start(read_checkpoint(policy)[STAMP]["base"], checkpoint=policy)
    base = adapter_base(policy, revision)
    if base is not None and adapter is not None:
        raise InputError(
            f"model.adapter={adapter}: model.policy={policy} is an adapter itself; give its base "
            f"there ({base})"
        )
    if base is not None:
        return Start(base, policy, adapter_revision=revision)
    return Start(policy, adapter, base_revision=revision)


def read_checkpoint(file: str) -> dict[str, Any]:
    """Reads a checkpoint that holds an adapter; its tensors stay on disk until they are used.

    Args:
        file: Its path.

    Raises:
        InputError: If there is no such file, or it isn't one.
    """
    if not Path(file).is_file():
        raise InputError(f"{file}: there is no such checkpoint")
    try:
        checkpoint: dict[str, Any] = torch.load(
            file, map_location="cpu", weights_only=True, mmap=True
        )
        facts = checkpoint[STAMP]
    except Exception as error:  # a torn file fails in many ways
        raise InputError(f"{file}: not a checkpoint of detox_lightning, or a torn one") from error
    if facts["stage"] not in PREFIXES:
        raise InputError(
            f"{file}: a checkpoint of the {facts['stage']} stage is no policy to begin from"
        )
    if facts.get("adapter") is None:
        raise InputError(
            f"{file}: it holds a whole model and no adapter. Make a folder of it with `python -m "
            f"detox_lightning export --config CONFIG --ckpt_path {file}`, where CONFIG is its "
            "run's config.yaml, and give that"
        )
    return checkpoint


def adapter_facts(model: Any) -> dict[str, Any] | None:
    """A model's adapter config as plain values, for checkpoints; None without adapter."""
    configs = getattr(model, "peft_config", None)
    if configs is None:
        return None
    return {
        name: sorted(value) if isinstance(value, set) else value
        for name, value in configs["default"].to_dict().items()
        if isinstance(value, bool | int | float | str | set | list | dict) or value is None
    }


def restore_adapter(base: Any, file: str) -> Any:
    """Puts a checkpoint's adapter on a base, under the name ``default``, to train on.

    Args:
        base: A model from transformers; it is changed in place.
        file: The checkpoint.

    Raises:
        InputError: If the adapter doesn't fit the base.
    """
    from peft import LoraConfig, get_peft_model

    checkpoint = read_checkpoint(file)
    facts = checkpoint[STAMP]
    options = {k: v for k, v in facts["adapter"].items() if k not in ("peft_type", "auto_mapping")}
    model = get_peft_model(base, LoraConfig(**options))
    prefix = PREFIXES[facts["stage"]]
    saved = {
        name.removeprefix(prefix): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(prefix)
    }
    try:
        unknown = model.load_state_dict(saved, strict=False).unexpected_keys
    except RuntimeError as error:
        unknown = [str(error).strip().splitlines()[-1].strip()]
    if unknown:
        raise InputError(
            f"{file}: its adapter doesn't fit the base {facts['base']!r}: {unknown[0]}"
        )
    return model
