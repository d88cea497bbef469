"""How models get onto the disk: folders in Hugging Face format, adapters merged on request."""

from pathlib import Path
from typing import Any

import torch

from detox_lightning.errors import InputError
from detox_lightning.models.bases import adapter_base
from detox_lightning.models.loading import load_model, load_tokenizer


def save_model(model: Any, tokenizer: Any, folder: str | Path) -> None:
    """Writes a folder in Hugging Face format: safetensors, configs, tokenizer.

    Args:
        model: A model from transformers, or a ``PeftModel``, of which the adapter ``default`` is
            written.
        tokenizer: Its tokenizer.
        folder: Where to; made if it isn't there.
    """
    folder = Path(folder)
    adapters = getattr(model, "peft_config", None)
    if adapters is None:
        model.save_pretrained(folder)
    else:
        # A base in a local folder is found from any working directory.
        base = Path(adapters["default"].base_model_name_or_path)
        if base.is_dir():
            adapters["default"].base_model_name_or_path = str(base.resolve())
        # Embeddings never change size here; left to itself peft would ask the hub whether they did.
        model.save_pretrained(folder, selected_adapters=["default"], save_embedding_layers=False)
        if model.can_generate():
            model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_merged(
    adapter: Path, folder: Path, auto_class: str, trust_remote_code: bool = False
) -> None:
    """Writes an adapter and its base as one plain model, with the adapter's tokenizer.

    The base is opened anew, in float32: merging in place couldn't be undone exactly. An adapter
    that was trained on a quantized base meets weights that differ from those by what rounding them
    to a few bits had changed.

    Args:
        adapter: Folder of the adapter, whose config names the base.
        folder: Where to; made if it isn't there.
        auto_class: Of the base: ``AutoModelForSeq2SeqLM``, …
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
    merged = PeftModel.from_pretrained(base, adapter).merge_and_unload()
    if (adapter / GENERATION_CONFIG_NAME).is_file():
        merged.generation_config = GenerationConfig.from_pretrained(adapter)
    head, words = merged.get_output_embeddings(), merged.get_input_embeddings()
    torn_apart = head is not None and not torch.equal(head.weight, words.weight)
    if torn_apart:  # perhaps tied in the base: such a file would hold but one of them
        merged.config.tie_word_embeddings = False
    save_model(merged, load_tokenizer(str(adapter), **trust), folder)
    if torn_apart and not _same_weights(merged, load_model(auto_class, str(folder), **trust)):
        raise InputError(
            f"export.merged: {base.config.model_type} ties its embeddings, and one of them was "
            f"trained apart (lora.modules_to_save): no plain model holds that. {adapter} does"
        )


def _same_weights(one: Any, other: Any) -> bool:
    saved = other.state_dict()
    return all(torch.equal(saved[name], value) for name, value in one.state_dict().items())
