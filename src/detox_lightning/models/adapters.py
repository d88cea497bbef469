"""Adapters before they are opened: in a folder or on the hub, and in this package's checkpoints."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from detox_lightning.errors import InputError
from detox_lightning.models.opening import Unusable, find_object, open_by_name
from detox_lightning.protocols import CHECKPOINT_KEY

BESIDE_LAYERS = ("XLORA", "POLY", "ADAPTION_PROMPT", "SHADOW")  # don't change layers' weights
UNSUPPORTED = ("alora_invocation_tokens", "layer_replication")
UNREPEATABLE = ("pissa_niter", "corda", "loftq", "lora_ga")  # ways to initialize a LoRA
MERGE = (
    "Merge it into its base (merge_and_unload of peft, then save_pretrained, also of the "
    "tokenizer), and give that folder instead"
)
BRINGS_EMBEDDINGS = "brings_embeddings"
MODEL_PREFIXES = {"supervised": "model.", "ppo": "policy.model."}


class Base(NamedTuple):
    """The base model of an adapter: a hub id with its revision, or a local folder."""

    name: str
    revision: str | None = None


def adapter_base(name: str, revision: str | None = None) -> Base | None:
    """Returns the base model that the adapter ``name`` names, or None if it is no adapter.

    Raises:
        InputError: If there is no such model, or the adapter names no base.
    """

    def read(located: str, **options: Any) -> Base | None:
        facts = find_object(located, "adapter_config.json", **options)
        if facts is None:
            return None
        base, its_revision = facts.get("base_model_name_or_path"), facts.get("revision")
        if not isinstance(base, str) or not base:
            raise Unusable(
                f"its adapter_config.json names no base (base_model_name_or_path: {base!r}). Write "
                "the base's folder or hub id there, or give the base and --model.adapter"
            )
        if not isinstance(its_revision, str | None):
            raise Unusable(
                f"its adapter_config.json says revision: {its_revision!r}, where a branch, tag or "
                "commit, or null, is expected; correct it"
            )
        return Base(base, its_revision)

    return open_by_name("model", name, read, revision=revision)


def check_adapter_kind(name: str, revision: str | None = None, with_copy: bool = False) -> None:
    """Raises an InputError if an adapter can't be trained further, or copied ``with_copy``."""
    from peft import PeftConfig, PromptLearningConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    def check(located: str, **options: Any) -> None:
        facts = find_object(located, "adapter_config.json", **options)
        if facts is None:
            return  # the message comes when the adapter is opened
        init, bias = str(facts.get("init_lora_weights")).lower(), facts.get("bias")
        if init.startswith(UNREPEATABLE):
            raise Unusable(
                f"its init_lora_weights: {init} changed the base that it was trained on, in a way "
                f"that can't be repeated when it is opened. {MERGE}, in the program that trained it"
            )
        if with_copy and bias not in (None, "none"):
            raise Unusable(
                f"it was trained with bias: {bias}, which changes parameters of the base itself, "
                f"and the reference has the same base. {MERGE}"
            )
        kind: Any = facts.get("peft_type")
        config = PEFT_TYPE_TO_CONFIG_MAPPING.get(kind, PeftConfig)
        faults = [f"its {option} is not supported" for option in UNSUPPORTED if facts.get(option)]
        if kind in BESIDE_LAYERS or issubclass(config, PromptLearningConfig):
            faults = [
                f"it is of the kind {kind}, which works beside the model's layers and can't be "
                "trained further here"
            ]
        if faults:
            base = facts.get("base_model_name_or_path")
            which = f" ({base})" if base else ""
            raise Unusable(f"{faults[0]}. Give its base{which} instead, and train a LoRA")

    open_by_name("adapter", name, check, revision=revision)


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
    except Exception as error:  # a damaged file fails in many ways
        raise InputError(
            f"{file}: this is no checkpoint of detox_lightning, or a damaged one; give another one"
        ) from error
    if facts["stage"] not in MODEL_PREFIXES:
        raise InputError(
            f"{file}: this is a checkpoint of the {facts['stage']} stage, which has no policy; "
            "give one of the supervised or PPO stage"
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
            f"{file}: it holds only what was trained, which isn't all of its adapter, because of "
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


def saved_part(file: str, part: str) -> dict[str, Tensor] | None:
    """Returns what a checkpoint holds of a part of the policy; None if there is nothing."""
    return _with_prefix(read_checkpoint(file)["state_dict"], f"policy.{part}.") or None


def _export_hint(file: str) -> str:
    return (
        f"Make a folder of it with `python -m detox_lightning export --config CONFIG --ckpt_path "
        f"{file}`, where CONFIG is its run's config.yaml, and give that"
    )


def _with_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): x for n, x in state.items() if n.startswith(prefix)}
