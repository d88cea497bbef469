"""What the configs of a model may not hold, looked at before the library reads them."""

from typing import Any

from detox_lightning.models.opening import Unusable, read_object
from detox_lightning.models.weight_files import find_file

TOKENS = ("decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id")


def check_configs(
    located: str, revision: str | None = None, trusted: bool = False
) -> dict[str, Any]:
    """Refuses configs that the library would misread, leave out, or take for an order.

    Args:
        located: Folder or hub id.
        revision: Branch, tag or commit of a hub id.
        trusted: Whether code that comes with the model may run.

    Returns:
        What ``config.json`` says; nothing where there is none.

    Raises:
        Unusable: If they are broken, or name code of the hub.
    """
    facts: dict[str, Any] = {}
    if file := find_file(located, "config.json", revision):
        facts = read_object(file)
        _check_names(facts)
        if not trusted:
            _refuse_kernels(facts)
    if file := find_file(located, "generation_config.json", revision):
        _check_tokens(read_object(file))
    return facts


def refuse_adapter(located: str, revision: str | None = None) -> None:
    """Refuses an adapter, of which the library would open the base and hide what that lacks.

    Args:
        located: Folder or hub id.
        revision: Branch, tag or commit of a hub id.

    Raises:
        Unusable: If it is one.
    """
    if find_file(located, "adapter_config.json", revision):
        raise Unusable(
            "it is an adapter, and a whole model is wanted here. Merge it into its base "
            "(merge_and_unload of peft, then save_pretrained), and give that folder"
        )


def _check_names(facts: dict[str, Any]) -> None:
    names = facts.get("architectures")
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if names is not None and not is_list:
        raise Unusable(
            f"its config.json says architectures: {names!r}, where a list of classes is expected, "
            "such as [T5ForConditionalGeneration]; mend it"
        )


def _refuse_kernels(facts: dict[str, Any]) -> None:
    """Refuses a config that names code of the hub for its attention, or for another part."""
    waiting: list[tuple[str, Any]] = list(facts.items())
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


def _check_tokens(facts: dict[str, Any]) -> None:
    for field in TOKENS:
        value = facts.get(field)
        ids = value if isinstance(value, list) else [value]
        if value is not None and not all(type(token) is int for token in ids):
            raise Unusable(
                f"its generation_config.json says {field}: {value!r}, where a token's number is "
                "expected; mend it"
            )
