"""What an adapter's config says of it before anything is opened: some kinds can't be trained on."""

from typing import Any

from detox_lightning.models.opening import Unusable, find_file, open_by_name, read_object

APART = ("XLORA", "POLY", "ADAPTION_PROMPT", "SHADOW")  # no change to the weights of layers
UNREPEATABLE = ("pissa_niter", "corda", "loftq", "lora_ga")
MERGE = (
    "Merge it into its base (merge_and_unload of peft, then save_pretrained, of the tokenizer, "
    "too), and give that folder instead"
)


def check_adapter_kind(name: str, revision: str | None = None, beside: bool = False) -> None:
    """Refuses an adapter that can't be trained on, or not beside a frozen copy of it.

    Args:
        name: Folder, hub id or ``demo:NAME``.
        revision: Branch, tag or commit of a hub id.
        beside: Whether there will be a copy, which is the reference.

    Raises:
        InputError: If it is of such a kind.
    """

    def check(located: str, **given: Any) -> None:
        file = find_file(located, "adapter_config.json", **given)
        if file is None:
            return  # opening it says so
        facts = read_object(file)
        check_kind(facts)
        if beside and facts.get("bias") not in (None, "none"):
            raise Unusable(
                f"it was trained with bias: {facts['bias']}, which changes parameters of the base "
                f"itself, and the base is the reference's, too. {MERGE}"
            )

    open_by_name("adapter", name, check, revision=revision)


def check_kind(facts: dict[str, Any]) -> None:
    """Refuses kinds of adapters that peft can't train on, or can't open as they were saved.

    Args:
        facts: What an adapter's config says.

    Raises:
        Unusable: If it is of such a kind.
    """
    kind, init = facts.get("peft_type"), str(facts.get("init_lora_weights")).lower()
    base = facts.get("base_model_name_or_path")
    instead = f"Give its base{f' ({base})' if base else ''} instead, and train a LoRA"
    if kind in APART or _is_prompt(kind):
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


def _is_prompt(kind: Any) -> bool:
    """Whether an adapter is a learned beginning of the prompt."""
    from peft import PromptLearningConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    config = PEFT_TYPE_TO_CONFIG_MAPPING.get(kind)
    return config is not None and issubclass(config, PromptLearningConfig)
