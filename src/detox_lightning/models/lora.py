"""Low-rank adapters (https://arxiv.org/abs/2106.09685): a small trained part on a frozen base."""

import re
from dataclasses import dataclass
from typing import Any

from jsonargparse.typing import ClosedUnitInterval, PositiveFloat, PositiveInt

from detox_lightning.errors import InputError
from detox_lightning.models.adapter_embeddings import (
    changed_weights,
    drop_unreached,
    refuse_unreached,
)
from detox_lightning.models.completeness import explain_prefix
from detox_lightning.models.model_files import ADAPTER_WEIGHTS, find_weights
from detox_lightning.models.opening import open_by_name

# Options of peft that may change the base itself, with the values that don't.
BASE_OPTIONS = {
    "bias": ("none",),
    "init_lora_weights": (True, "gaussian"),
    "layer_replication": (None,),
    "kasa_config": (None,),
    "alora_invocation_tokens": (None,),
}
PROJECTIONS = {"q", "v", "q_proj", "v_proj", "query", "value"}


@dataclass(frozen=True)
class LoRA:
    """The adapter to train.

    Attributes:
        r: Rank of the adapter's matrices.
        alpha: Scale; the adapter's product is multiplied by alpha / r.
        dropout: Probability of dropping an input of the adapter, in supervised training only.
        target_modules: Name endings of the linear layers that get an adapter; null takes peft's
            choice for the architecture (``q`` and ``v`` for T5), else the projections of queries
            and values, and leaves out the towers that read images or sound.
        modules_to_save: Name endings of further layers to train in full and save with the adapter.
        options: Further fields of ``peft.LoraConfig``: ``use_dora``, ``use_rslora``,
            ``rank_pattern``, …
    """

    r: PositiveInt = 32
    alpha: PositiveFloat = 32
    dropout: ClosedUnitInterval = 0.05
    target_modules: list[str] | None = None
    modules_to_save: list[str] | None = None
    options: dict[str, Any] | None = None


def add_lora(base: Any, lora: LoRA, task_type: str) -> Any:
    """Freezes a model and puts a fresh adapter named ``default`` on it, which changes nothing yet.

    Args:
        base: A model from transformers; it is changed in place.
        lora: The adapter.
        task_type: peft's name of the task: ``SEQ_2_SEQ_LM``, ``CAUSAL_LM``, ``SEQ_CLS``.

    Raises:
        InputError: If the base has no layers of these names, or peft doesn't know an option.
    """
    from peft import LoraConfig, get_peft_model

    _check_options(lora.options or {})
    _check_names(base, "target_modules", lora.target_modules)
    _check_names(base, "modules_to_save", lora.modules_to_save)
    targets = {"target_modules": lora.target_modules}
    if not lora.target_modules:
        targets = _default_targets(base)
    try:
        config = LoraConfig(
            task_type=task_type,
            r=lora.r,
            lora_alpha=lora.alpha,  # a float works and is saved as one
            lora_dropout=lora.dropout,
            modules_to_save=lora.modules_to_save,
            **targets | (lora.options or {}),
        )
        model = get_peft_model(base, config)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise InputError(
            f"lora: peft can't put this adapter on {base.config.model_type}: "
            f"{str(error).rstrip('.')}. "
            "Settings of peft.LoraConfig go into lora.options, names of layers into "
            f"lora.target_modules; the linear ones here: {_linear_names(base)}."
        ) from error
    refuse_unreached(model)
    return model


def load_adapter(base: Any, name: str, revision: str | None = None) -> Any:
    """Opens a saved adapter on its base, under the name ``default``, to train it further.

    Args:
        base: A model from transformers; it is changed in place.
        name: Adapter folder, hub id or ``demo:NAME``.
        revision: Branch, tag or commit of a hub id.

    Returns:
        The ``peft.PeftModel`` around the base; its ``brings_embeddings`` says whether the file
        holds embeddings that aren't the base's own.

    Raises:
        InputError: If there is no such adapter or it was trained on another kind of base.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from peft.utils import load_peft_weights

    def load(located: str, **options: Any) -> Any:
        find_weights(located, names=ADAPTER_WEIGHTS, **options)
        saved = load_peft_weights(located, device="cpu", **options)
        changed = changed_weights(base, saved, name)
        try:
            model: Any = PeftModel.from_pretrained(base, located, is_trainable=True, **options)
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[-1].strip().rstrip(".")
            if "Target modules" in reason:
                reason = f"{base.config.model_type} has no layers of its names"
            elif isinstance(error, ValueError):
                raise
            raise _misfit(name, base, reason) from error
        # peft opens what fits, and only warns if that is not the whole adapter.
        expected = get_peft_model_state_dict(model, save_embedding_layers=False).keys()
        known = get_peft_model_state_dict(model, save_embedding_layers=True).keys()
        surplus = [key for key in saved if key not in known]
        missing = [key for key in expected if key not in saved]
        if surplus or missing:
            in_one = f"{(surplus + missing)[0]} is in one of them and not in the other"
            raise _misfit(name, base, explain_prefix(missing, surplus) or in_one)
        model.brings_embeddings = not changed <= expected
        drop_unreached(model)
        return model

    return open_by_name("adapter", name, load, revision=revision)


def _misfit(name: str, base: Any, reason: str) -> InputError:
    return InputError(
        f"the adapter {name!r} doesn't fit the base {base.name_or_path!r}: {reason}. "
        "Give the base that the adapter was trained on, or the adapter alone."
    )


def _check_options(options: dict[str, Any]) -> None:
    """Refuses options that change the base, which with the adapter off is the reference."""
    for name, harmless in BASE_OPTIONS.items():
        if options.get(name, harmless[0]) not in harmless:
            raise InputError(
                f"lora.options.{name}={options[name]}: this changes the base, which is the "
                f"reference and must stay as it is; give {' or '.join(map(str, harmless))}"
            )


def _check_names(base: Any, flag: str, endings: list[str] | None) -> None:
    """Refuses names that no layer has: peft only warns if other names of the list fit."""
    names = [name for name, _ in base.named_modules()]
    for ending in endings or []:
        if not any(name == ending or name.endswith("." + ending) for name in names):
            raise InputError(
                f"lora.{flag}: {base.config.model_type} has no layer that ends in {ending!r}; "
                f"its linear layers end in {_linear_names(base)}."
            )


def _default_targets(base: Any) -> dict[str, Any]:
    """Fields of ``LoraConfig`` that choose queries and values, but none of images or sound."""
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFT_CHOICES
    from transformers import PreTrainedModel

    named = list(base.named_modules())
    endings = {name.split(".")[-1] for name, _ in named} & PROJECTIONS
    towers = [
        re.escape(name)
        for name, part in named
        if isinstance(part, PreTrainedModel) and "text" not in part.input_modalities
    ]
    by_peft = base.config.model_type in PEFT_CHOICES
    return {
        "target_modules": None if by_peft else sorted(endings) or None,
        "exclude_modules": rf"({'|'.join(towers)})\..*" if towers else None,
    }


def _linear_names(base: Any) -> str:
    kinds = ("Linear", "Conv1D")
    layers = ((n, layer) for n, layer in base.named_modules() if type(layer).__name__ in kinds)
    return ", ".join(sorted({name.split(".")[-1] for name, _ in layers}))
