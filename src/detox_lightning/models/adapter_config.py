"""What an adapter's config tells before anything is opened: its base, and whether it can train."""

from pathlib import Path
from typing import Any, NamedTuple

from detox_lightning.models.opening import Unusable, find_file, open_by_name, read_object

BESIDE_LAYERS = ("XLORA", "POLY", "ADAPTION_PROMPT", "SHADOW")  # don't change layers' weights
UNREPEATABLE = ("pissa_niter", "corda", "loftq", "lora_ga")  # ways to initialize a LoRA
MERGE = (
    "Merge it into its base (merge_and_unload of peft, then save_pretrained, of the tokenizer, "
    "too), and give that folder instead"
)


class Base(NamedTuple):
    """The base model of an adapter: a hub id with its revision, or a local folder."""

    name: str
    revision: str | None = None


def adapter_base(name: str, revision: str | None = None) -> Base | None:
    """Returns the base model that the adapter ``name`` names, or None if it is no adapter.

    Raises:
        InputError: If there is no such model, or the adapter names no base.
    """
    from transformers.utils.peft_utils import find_adapter_config_file

    def read(located: str, **options: Any) -> Base | None:
        file = find_adapter_config_file(located, **options)
        if file is None:
            return None
        facts = read_object(Path(file))
        base, its_revision = facts.get("base_model_name_or_path"), facts.get("revision")
        if not isinstance(base, str) or not base:
            raise Unusable(
                f"its adapter_config.json names no base (base_model_name_or_path: {base!r}). Write "
                "the base's folder or hub id there, or give the base and --model.adapter"
            )
        if not isinstance(its_revision, str | None):
            raise Unusable(
                f"its adapter_config.json has a revision that is no text ({its_revision!r}); give "
                "a branch, tag or commit there, or null"
            )
        return Base(base, its_revision)

    return open_by_name("model", name, read, revision=revision)


def check_adapter_kind(name: str, revision: str | None = None, with_copy: bool = False) -> None:
    """Raises an InputError if an adapter can't be trained further, or copied ``with_copy``."""

    def check(located: str, **options: Any) -> None:
        file = find_file(located, "adapter_config.json", **options)
        if file is None:
            return  # the message comes when the adapter is opened
        facts = read_object(file)
        _check_kind(facts)
        if with_copy and facts.get("bias") not in (None, "none"):
            raise Unusable(
                f"it was trained with bias: {facts['bias']}, which changes parameters of the base "
                f"itself, and the base is the reference's, too. {MERGE}"
            )

    open_by_name("adapter", name, check, revision=revision)


def _check_kind(facts: dict[str, Any]) -> None:
    """Refuses kinds that peft can't train, or can't open as they were saved."""
    kind, init = facts.get("peft_type"), str(facts.get("init_lora_weights")).lower()
    base = facts.get("base_model_name_or_path")
    instead = f"Give its base{f' ({base})' if base else ''} instead, and train a LoRA"
    if kind in BESIDE_LAYERS or _is_learned_prompt(kind):
        raise Unusable(
            f"it is of the kind {kind}, which works beside the model's layers and can't be trained "
            f"on here. {instead}"
        )
    if facts.get("alora_invocation_tokens"):
        raise Unusable(
            "it works from certain tokens on (alora_invocation_tokens), which is not supported. "
            f"{instead}"
        )
    if facts.get("layer_replication"):
        raise Unusable(f"it replicates layers (layer_replication), which can't be done. {instead}")
    if init.startswith(UNREPEATABLE):
        raise Unusable(
            f"its init_lora_weights: {init} changed the base it was trained on in a way that can't "
            "be repeated when it is opened. In the program that trained it, merge it "
            "(merge_and_unload of peft, then save_pretrained, of the tokenizer, too), and give "
            "that folder instead"
        )


def _is_learned_prompt(kind: Any) -> bool:
    from peft import PromptLearningConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    config = PEFT_TYPE_TO_CONFIG_MAPPING.get(kind)
    return config is not None and issubclass(config, PromptLearningConfig)
