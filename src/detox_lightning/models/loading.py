"""Opens models and tokenizers by name: hub id, local folder, or ``demo:NAME``.

Safetensors are read, or else pickled tensors and nothing more. Code that comes with a model runs
only if the user asks for it.
"""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from detox_lightning.demo import locate
from detox_lightning.errors import InputError
from detox_lightning.models.completeness import (
    check_complete,
    check_shapes,
    check_untied_head,
    find_mismatches,
)
from detox_lightning.models.model_files import check_configs, find_weights, weights_hash
from detox_lightning.models.opening import open_by_name
from detox_lightning.models.precision import check_finite_model

TOKENIZER_FILES = ("*token*", "*vocab*", "*spiece*", "*.model", "*.spm", "*.tiktoken")
SAMPLING_FIELDS = ("temperature", "top_k", "top_p", "min_p", "typical_p")
NO_CODE = {"trust_remote_code": False}  # left open, transformers would ask on the terminal
FOUR_BITS_NEED_CUDA = (
    "weights.quantization=4bit needs a CUDA GPU: on a CPU, bitsandbytes computes no gradients "
    "through such layers; give 8bit, or leave it null"
)


# what judges texts: its auto class, endings of its classes' names, what they do
JUDGES = {
    "classifier": (
        "AutoModelForSequenceClassification",
        ("ForSequenceClassification",),
        "classify texts: give one such as RobertaForSequenceClassification",
    ),
    "language model": (
        "AutoModelForCausalLM",
        ("CausalLM", "LMHeadModel"),
        "write text alone: give one such as GPT2LMHeadModel",
    ),
    "sentence encoder": (
        "AutoModel",
        ("Model",),
        "encode sentences: give one such as BertModel, without a head",
    ),
}


@dataclass(frozen=True)
class Weights:
    """How a model's weights are opened.

    Raises:
        InputError: If the machine can't quantize.

    Attributes:
        dtype: Type that holds the base's weights; what is trained beside them is float32.
        quantization: ``4bit`` or ``8bit`` stores the linear layers of a frozen base in 4 or 8 bits
            per weight (bitsandbytes); null: no quantization.
        revision: Branch, tag or commit, on the hub, of the model that is named. An adapter's
            config says which revision of its base is used.
        attn_implementation: ``sdpa``, ``eager``, …; null: transformers' choice.
        trust_remote_code: Run code that comes with the model.
    """

    dtype: Literal["float32", "bfloat16"] = "float32"
    quantization: Literal["4bit", "8bit"] | None = None
    revision: str | None = None
    attn_implementation: str | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.quantization and importlib.util.find_spec("bitsandbytes") is None:
            raise InputError(
                f"weights.quantization={self.quantization} needs bitsandbytes: "
                "pip install 'detox-lightning[quantized]', or leave it null"
            )
        if self.quantization == "4bit" and not torch.cuda.is_available():
            raise InputError(FOUR_BITS_NEED_CUDA)

    def check_trainable(self, is_classifier: bool = False) -> None:
        """Raises an InputError if weights that are opened like this can't all be trained."""
        kind, lora = ("classifier", "") if is_classifier else ("base", "give lora, or ")
        if self.quantization:
            raise InputError(
                f"weights.quantization={self.quantization}: a quantized {kind} can't be trained; "
                f"{lora}leave quantization null"
            )
        if self.dtype != "float32":
            raise InputError(
                f"weights.dtype={self.dtype}: small steps are lost in weights that are trained in "
                f"it; {lora or 'give '}float32 with trainer.precision=bf16-mixed"
            )

    @property
    def options(self) -> dict[str, Any]:
        """Options for :func:`load_model`."""
        options = {
            "dtype": self.dtype,
            "attn_implementation": self.attn_implementation,
            **self.file_options,
        }
        if self.quantization:
            from transformers import BitsAndBytesConfig

            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=self.quantization == "4bit",
                load_in_8bit=self.quantization == "8bit",
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=getattr(torch, self.dtype),
            )
        return options

    @property
    def file_options(self) -> dict[str, Any]:
        """Options for :func:`load_tokenizer` and :func:`load_config`."""
        return {"revision": self.revision, "trust_remote_code": self.trust_remote_code}


def load_tokenizer(name: str, **options: Any) -> Any:
    """Opens the tokenizer that belongs to a model.

    Args:
        name: Hub id, local folder or ``demo:NAME``.
        options: For ``from_pretrained``: ``padding_side``, ``revision``, …

    Raises:
        InputError: If there is no tokenizer of that name.
    """
    from transformers import AutoTokenizer

    folder = Path(locate(name))
    if folder.is_dir() and not any(file for kind in TOKENIZER_FILES for file in folder.glob(kind)):
        raise InputError(  # transformers would make one that knows no words
            f"can't open the tokenizer {name!r}: the folder has none of its files, such as "
            "tokenizer.json; copy them from the base model, or give --data.tokenizer"
        )

    options = {**NO_CODE, **options}
    tokenizer: Any = open_by_name("tokenizer", name, AutoTokenizer.from_pretrained, **options)
    limit = tokenizer.model_max_length
    if not isinstance(limit, int | float) or limit <= 0:
        raise InputError(
            f"can't open the tokenizer {name!r}: its tokenizer_config.json says model_max_length: "
            f"{limit!r}, where a number of tokens is expected; correct it"
        )
    return tokenizer


def load_config(name: str, **options: Any) -> Any:
    """Opens a model's config, without its weights; see :func:`load_tokenizer`."""
    from transformers import AutoConfig

    def load(located: str, **options: Any) -> Any:
        check_configs(located, options.get("revision"), options["trust_remote_code"])
        return AutoConfig.from_pretrained(located, **options)

    return open_by_name("config of", name, load, **{**NO_CODE, **options})


def load_model(
    auto_class: str,
    name: str,
    dtype: str = "float32",
    device: torch.device | None = None,
    fresh_head: bool = False,
    **options: Any,
) -> Any:
    """Opens a model in eval mode.

    Args:
        auto_class: ``AutoModelForSeq2SeqLM``, ``AutoModelForSequenceClassification``, …
        name: Hub id, local folder or ``demo:NAME``.
        dtype: Type that holds the weights, ``float32`` or ``bfloat16``.
        device: Place of quantized weights, which can't move later; None: a GPU if there is one.
        fresh_head: Whether a head that the files lack may be initialized randomly.
        options: For ``from_pretrained``: ``revision``, ``attn_implementation``, ``num_labels``, …

    Raises:
        InputError: If there is no such model, it is an adapter, its files lack weights or hold
            others than its config says, or they hold more than tensors.
    """
    import transformers

    def load(located: str, **options: Any) -> Any:
        revision = options.get("revision")
        config = check_configs(located, revision, options["trust_remote_code"])
        files = find_weights(located, revision)
        try:
            model, found = getattr(transformers, auto_class).from_pretrained(
                located,
                output_loading_info=True,
                use_safetensors=all(file.suffix == ".safetensors" for file in files),
                ignore_mismatched_sizes=True,  # check_complete refuses them by name
                **options,
            )
        except Exception:
            check_shapes(find_mismatches(auto_class, located, files, **options))
            raise
        check_complete(model, found, fresh_head)
        model.weight_files = files
        if config.get("tie_word_embeddings") is False:
            check_untied_head(model, files)
        return model

    # transformers would ask the hub to convert pickled weights, and wait for it
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    options = {"dtype": getattr(torch, dtype), **NO_CODE, **options}
    if device is not None and (quantized := options.get("quantization_config")):
        if quantized.load_in_4bit and device.type == "cpu":
            raise InputError(FOUR_BITS_NEED_CUDA)
        options["device_map"] = {"": str(device)}
    model = open_by_name("model", name, load, **options).eval()
    generation = getattr(model, "generation_config", None)
    if generation and any(getattr(generation, name, None) is not None for name in SAMPLING_FIELDS):
        generation.do_sample = True  # transformers doesn't save an older config without it
    fuse_activations(model)
    return model


def load_frozen(kind: str, name: str) -> tuple[Any, Any]:
    """Opens the tokenizer and the model, without gradients, that judge texts.

    ``kind`` is a key of :data:`JUDGES`. The model's ``identity`` tells it from others of its name:
    the hub's revision, if there is one, and a hash of the weights (3 seconds for 1 GB).

    Raises:
        InputError: If there is no such model, or its class would do this with random weights.
    """
    from transformers.utils.hub import extract_commit_hash

    tokenizer = load_tokenizer(name)
    load_judge_config(kind, name)
    model = load_model(JUDGES[kind][0], name).requires_grad_(False)
    check_finite_model(f"the {kind}", name, model)
    commit = extract_commit_hash(str(model.weight_files[0]), None)
    revision = f"revision {commit[:12]}, " if commit else ""
    model.identity = f"{revision}weights {weights_hash(model.weight_files)}"
    return tokenizer, model


def load_judge_config(kind: str, name: str) -> Any:
    """Opens the config of a model that judges texts; InputError if its class doesn't do this."""
    config = load_config(name)
    check_class(name, config, *JUDGES[kind][1:])
    return config


def check_class(name: str, config: Any, endings: tuple[str, ...], use: str) -> None:
    """Raises an InputError if none of a model's classes has one of the accepted ``endings``.

    ``use`` says for the message what such classes do, and gives an example.
    """
    classes = config.architectures or []
    if classes and not any(one.endswith(endings) for one in classes):
        raise InputError(f"the model {name!r} is a {classes[0]}, which doesn't {use}")


def check_vocabulary(name: str, tokenizer: Any, model: Any) -> None:
    """Makes sure that a model has an embedding for each token of its tokenizer.

    Added tokens without an embedding, of which some models have a few that they never use, pass.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    special = (tokenizer.pad_token_id, tokenizer.eos_token_id)
    needed = max(tokenizer.vocab_size, *(token + 1 for token in special if token is not None), 0)
    if needed > rows:
        raise InputError(
            f"the model {name!r} has embeddings of {rows} tokens, and its tokenizer has {needed}: "
            "that is another model's. Give --data.tokenizer, or the folder that both were saved in"
        )


def fuse_activations(model: Any) -> None:
    """Lets torch compute the GELU that transformers writes out step by step; changes the model.

    Written out, each of eight steps is a tensor of the feed-forward layer's size, most of which
    are kept for the backward pass. Results differ by rounding.
    """
    from transformers.activations import NewGELUActivation

    for name, layer in list(model.named_modules(remove_duplicate=False)):
        if isinstance(layer, NewGELUActivation):
            model.set_submodule(name, nn.GELU(approximate="tanh"))
