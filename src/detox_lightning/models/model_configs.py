"""Checks of a model's configs that are made before a library reads them."""

from typing import Any

from detox_lightning.models.opening import Unusable, find_file, read_object

TOKEN_FIELDS = ("decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id")


def check_configs(located: str, revision: str | None, trust_remote_code: bool) -> dict[str, Any]:
    """Refuses configs that transformers would misread, ignore, or take code of the hub from.

    Returns:
        The content of ``config.json``; empty if there is none.
    """
    config: dict[str, Any] = {}
    if file := find_file(located, "config.json", revision):
        config = read_object(file)
        names = config.get("architectures")
        is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if names is not None and not is_list:
            raise Unusable(
                f"its config.json says architectures: {names!r}, where a list of classes is "
                "expected, such as [T5ForConditionalGeneration]; mend it"
            )
        if not trust_remote_code:
            _refuse_kernels(config)
    if file := find_file(located, "generation_config.json", revision):
        generation = read_object(file)
        for field in TOKEN_FIELDS:
            value = generation.get(field)
            ids = value if isinstance(value, list) else [value]
            if value is not None and not all(type(token) is int for token in ids):
                raise Unusable(
                    f"its generation_config.json says {field}: {value!r}, where a token's number "
                    "is expected; mend it"
                )
    return config


def refuse_adapter(located: str, revision: str | None) -> None:
    """Refuses an adapter: transformers would open its base, and hide what that lacks."""
    if find_file(located, "adapter_config.json", revision):
        raise Unusable(
            "it is an adapter, and a whole model is wanted here. Merge it into its base "
            "(merge_and_unload of peft, then save_pretrained), and give that folder"
        )


def _refuse_kernels(config: dict[str, Any]) -> None:
    """Refuses a config that takes its attention, or another part, from code on the hub."""
    waiting = list(config.items())
    while waiting:
        field, value = waiting.pop()
        names_code = "_implementation" in field
        if isinstance(value, dict):
            waiting += [(field if names_code else name, one) for name, one in value.items()]
        elif names_code and "/" in str(value):
            raise Unusable(
                f"its config.json names code of the hub ({field}: {value}), which is not run "
                "unasked. Remove the field, or, if you trust it, give "
                "--model.weights.trust_remote_code=true"
            )
