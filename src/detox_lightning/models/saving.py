"""Saves models: folders in Hugging Face format, with adapters merged on request."""

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from detox_lightning.errors import InputError
from detox_lightning.models.adapters import adapter_base
from detox_lightning.models.loading import load_model, load_tokenizer


def save_model(model: Any, tokenizer: Any, folder: str | Path) -> None:
    """Writes a folder in Hugging Face format: safetensors, configs, tokenizer.

    Of a ``PeftModel`` the adapter ``default`` is written. The tokenizer may be None.
    """
    folder = Path(folder)
    adapters = getattr(model, "peft_config", None)
    if adapters is None:
        model.save_pretrained(folder)
    else:
        # A base in a local folder is found from any working directory.
        base = adapters["default"].base_model_name_or_path  # None of a model made in memory
        if base and Path(base).is_dir():
            adapters["default"].base_model_name_or_path = str(Path(base).resolve())
        # Embeddings never change here, but an adapter may have brought some that aren't its base's.
        # By default, peft would ask the hub.
        brought = getattr(model, "brings_embeddings", False)
        model.save_pretrained(folder, selected_adapters=["default"], save_embedding_layers=brought)
        if model.can_generate():
            model.generation_config.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def save_merged(
    adapter: Path, folder: Path, auto_class: str, trust_remote_code: bool = False
) -> None:
    """Writes an adapter and its base as one plain model, with the adapter's tokenizer.

    The base is opened again, in float32: merging in place couldn't be undone exactly. If the
    adapter was trained on a quantized base, the merged weights differ from those of training by the
    error of quantization.

    Args:
        adapter: Folder of the adapter, whose config names the base.
        folder: Where to write the plain model.
        auto_class: Class of ``transformers`` that opens the base: ``AutoModelForSeq2SeqLM``, …
        trust_remote_code: Run code that comes with the base.

    Raises:
        InputError: If the base isn't there any more, or a plain model can't hold what was trained.
    """
    from peft import PeftModel
    from transformers import GenerationConfig
    from transformers.utils import GENERATION_CONFIG_NAME

    found = adapter_base(str(adapter))
    assert found is not None, adapter
    trust: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    base = load_model(auto_class, found.name, revision=found.revision, **trust)
    tied = base.all_tied_weights_keys.items()
    model = PeftModel.from_pretrained(base, adapter)
    _untie(model)
    try:
        with warnings.catch_warnings():  # what is tied is looked at below
            warnings.filterwarnings("ignore", "Input and output embeddings are no longer tied")
            merged = model.merge_and_unload()
    except (NotImplementedError, RuntimeError, ValueError, AttributeError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise InputError(
            f"export.merged: this adapter can't be merged: {reason}. {adapter} holds it as it is; "
            "leave export.merged out"
        ) from error
    if (adapter / GENERATION_CONFIG_NAME).is_file():
        merged.generation_config = GenerationConfig.from_pretrained(adapter)
    weights = merged.state_dict()
    differ = any(not torch.equal(weights[one], weights[other]) for one, other in tied)
    if differ:  # with a config that ties them, a file would hold but one of them
        merged.config.tie_word_embeddings = False
    save_model(merged, load_tokenizer(str(adapter), **trust), folder)
    if differ and not _holds(folder, merged, auto_class, **trust):
        raise InputError(
            f"export.merged: {base.config.model_type} ties its embeddings, and one of them was "
            "trained apart (lora.modules_to_save, lora.target_modules), which a plain model can't "
            f"hold. {adapter} holds it; leave export.merged out"
        )


def _untie(model: Any) -> None:
    """Gives adapted layers weights of their own, so that merging changes no other layer."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    users = Counter(id(x) for layer in model.modules() for x in layer._parameters.values())
    for layer in model.modules():
        if not isinstance(layer, BaseTunerLayer):
            continue
        base = layer.get_base_layer()
        for name, weight in list(base.named_parameters(recurse=False)):
            if users[id(weight)] > 1:
                copied = torch.nn.Parameter(weight.detach().clone(), requires_grad=False)
                setattr(base, name, copied)


def _holds(folder: Path, model: Any, auto_class: str, **options: Any) -> bool:
    """Whether the model that a folder holds has all weights of ``model``."""
    try:
        saved = load_model(auto_class, str(folder), **options).state_dict()
    except InputError:  # it lacks some
        return False
    return all(torch.equal(saved[name], value) for name, value in model.state_dict().items())
