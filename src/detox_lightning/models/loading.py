"""Opens models and tokenizers by name: hub id, local folder, or ``demo:NAME``.

Safetensors are read, or else pickled tensors and nothing more; code that comes with a model runs
only where the user asks for it.
"""

import importlib.util
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
from detox_lightning.models.finite import check_finite_model
from detox_lightning.models.model_configs import check_configs, refuse_adapter
from detox_lightning.models.opening import Unusable, open_by_name
from detox_lightning.models.weight_files import find_weights, without_conversion

TOKENIZER_FILES = ("*token*", "*vocab*", "*spiece*", "*.model", "*.spm", "*.tiktoken")
NO_CODE = {"trust_remote_code": False}  # left open, transformers would ask on the terminal
FOUR_BITS_NEED_CUDA = (
    "weights.quantization=4bit needs a CUDA GPU: on a CPU, bitsandbytes lets no gradient through "
    "such layers; give 8bit, or leave it null"
)


@dataclass(frozen=True)
class Weights:
    """How a model's weights are opened.

    Raises:
        InputError: If the machine can't quantize.

    Attributes:
        dtype: Type that holds the base's weights; what is trained beside them is float32.
        quantization: ``4bit`` or ``8bit`` holds the linear layers of a frozen base in so many bits
            (bitsandbytes); null for none.
        revision: Branch, tag or commit, on the hub, of the model that is named; where that is an
            adapter, its config names its base's.
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

    def load(located: str, **options: Any) -> Any:
        tokenizer = AutoTokenizer.from_pretrained(located, **options)
        limit = tokenizer.model_max_length
        if not isinstance(limit, int | float) or limit <= 0:
            raise Unusable(
                f"its tokenizer_config.json says model_max_length: {limit!r}, where a number of "
                "tokens is expected; mend it"
            )
        return tokenizer

    return open_by_name("tokenizer", name, load, **{**NO_CODE, **options})


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
        fresh_head: Whether a head that the files lack may begin anew.
        options: For ``from_pretrained``: ``revision``, ``attn_implementation``, ``num_labels``, …

    Raises:
        InputError: If there is no such model, it is an adapter, its files lack weights or hold
            others than its config says, or they hold more than tensors.
    """
    import transformers

    def load(located: str, **options: Any) -> Any:
        revision = options.get("revision")
        refuse_adapter(located, revision)
        config = check_configs(located, revision, options["trust_remote_code"])
        files = find_weights(located, revision)
        try:
            with without_conversion():
                model, found = getattr(transformers, auto_class).from_pretrained(
                    located,
                    output_loading_info=True,
                    use_safetensors=all(file.suffix == ".safetensors" for file in files),
                    ignore_mismatched_sizes=True,  # check_complete refuses them by name
                    **options,
                )
        except Exception:
            keys = {"revision", "trust_remote_code", "id2label", "label2id"} & options.keys()
            config_options = {key: options[key] for key in keys}
            check_shapes(find_mismatches(auto_class, located, files, **config_options))
            raise
        check_complete(model, found, fresh_head)
        if config.get("tie_word_embeddings") is False:
            check_untied_head(model, files)
        return model

    options = {"dtype": getattr(torch, dtype), **NO_CODE, **options}
    if quantized := options.get("quantization_config"):
        device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if quantized.load_in_4bit and device.type == "cpu":
            raise InputError(FOUR_BITS_NEED_CUDA)
        on_gpu = device.type == "cuda"
        index = torch.cuda.current_device() if on_gpu and device.index is None else device.index
        options["device_map"] = {"": index if on_gpu else device.type}
    model = open_by_name("model", name, load, **options).eval()
    make_saveable(getattr(model, "generation_config", None))
    fuse_activations(model)
    return model


def load_frozen(
    auto_class: str, name: str, what: str, endings: tuple[str, ...], does: str, example: str
) -> tuple[Any, Any]:
    """Opens a model that judges texts, without gradients, and its tokenizer.

    Args:
        auto_class: ``AutoModelForSequenceClassification``, …
        name: Hub id, local folder or ``demo:NAME``.
        what: Kind of model, for messages.
        endings: Accepted suffixes of its class's name; of another class, weights would be random.
        does: Verb phrase for the message, such as ``classify texts``.
        example: An accepted class.

    Returns:
        The tokenizer and the model.
    """
    tokenizer = load_tokenizer(name)
    kinds = load_config(name).architectures or []
    if kinds and not any(kind.endswith(endings) for kind in kinds):
        raise InputError(
            f"the model {name!r} is a {kinds[0]}, which doesn't {does}: give one such as {example}"
        )
    model = load_model(auto_class, name).requires_grad_(False)
    check_finite_model(what, name, model)
    return tokenizer, model


def check_vocabulary(name: str, tokenizer: Any, model: Any) -> None:
    """Makes sure that a model has an embedding for each token of its tokenizer.

    Added tokens without an embedding, of which some models have a few that they never use, pass.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    special = (tokenizer.pad_token_id, tokenizer.eos_token_id)
    needed = max(tokenizer.vocab_size, *(token + 1 for token in special if token is not None), 0)
    if needed > rows:
        raise InputError(
            f"the model {name!r} knows {rows} tokens, and its tokenizer makes {needed}: it is "
            "another model's. Give --data.tokenizer, or the folder that both were saved in"
        )


def make_saveable(config: Any) -> None:
    """Sets ``do_sample`` in an older generation config that has a temperature or the like alone.

    transformers refuses to save such a config. None: nothing is done.
    """
    fields = ("temperature", "top_k", "top_p", "min_p", "typical_p")
    if config is not None and any(getattr(config, name, None) is not None for name in fields):
        config.do_sample = True


def fuse_activations(model: Any) -> None:
    """Lets torch compute the GELU that transformers writes out step by step; changes the model.

    Written out, each of eight steps is a tensor of the feed-forward layer's size, most of which
    are kept for the backward pass. Results differ by rounding.
    """
    from transformers.activations import NewGELUActivation

    for layer in list(model.modules()):
        for name, part in list(layer.named_children()):
            if isinstance(part, NewGELUActivation):
                setattr(layer, name, nn.GELU(approximate="tanh"))
