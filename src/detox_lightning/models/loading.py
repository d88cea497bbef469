"""Opens and saves models and tokenizers. A name is a hub id, a local folder, or ``demo:NAME``.

Safetensors are read, or else pickled tensors and nothing more; code that comes with a model runs
only where the user asks for it.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from detox_lightning.demo import locate
from detox_lightning.errors import InputError
from detox_lightning.models.completeness import (
    check_complete,
    check_own_head,
    check_shapes,
    find_mismatched,
)
from detox_lightning.models.fusing import fuse_activations
from detox_lightning.models.model_configs import check_configs, refuse_adapter
from detox_lightning.models.opening import Unusable, open_by_name
from detox_lightning.models.weight_files import find_weights, without_conversion

ITS_FILES = ("*token*", "*vocab*", "*spiece*", "*.model", "*.spm", "*.tiktoken")
NO_CODE = {"trust_remote_code": False}  # left open, transformers would ask on the terminal
NO_GRADIENT = (
    "weights.quantization=4bit needs a CUDA GPU: on a CPU, bitsandbytes lets no gradient through "
    "such layers; give 8bit, or leave it null"
)


@dataclass(frozen=True)
class Weights:
    """How a model's weights are opened.

    Raises:
        InputError: If the machine can't quantize.

    Attributes:
        dtype: What the base's weights are held in; what is trained beside them is float32.
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
            raise InputError(NO_GRADIENT)

    @property
    def options(self) -> dict[str, Any]:
        """What :func:`load_model` is told."""
        return {
            "dtype": self.dtype,
            "attn_implementation": self.attn_implementation,
            **self.file_options,
            **({"quantization_config": self._in_bits()} if self.quantization else {}),
        }

    @property
    def file_options(self) -> dict[str, Any]:
        """What :func:`load_tokenizer` is told."""
        return {
            "revision": self.revision,
            "trust_remote_code": self.trust_remote_code,
        }

    def _in_bits(self) -> Any:
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(
            load_in_4bit=self.quantization == "4bit",
            load_in_8bit=self.quantization == "8bit",
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, self.dtype),
        )


def load_tokenizer(name: str, **options: Any) -> Any:
    """Opens the tokenizer that belongs to a model.

    Args:
        name: Hub id, local folder or ``demo:NAME``.
        options: For ``AutoTokenizer.from_pretrained``: ``padding_side``, ``revision``,
            ``trust_remote_code``, …

    Raises:
        InputError: If there is no tokenizer of that name.
    """
    from transformers import AutoTokenizer

    folder = Path(locate(name))
    if folder.is_dir() and not any(file for kind in ITS_FILES for file in folder.glob(kind)):
        raise InputError(  # transformers would make one that knows no words
            f"can't open the tokenizer {name!r}: the folder has none of its files, such as "
            "tokenizer.json; copy them from the base model, or give --data.tokenizer"
        )

    def opened(located: str, **given: Any) -> Any:
        tokenizer = AutoTokenizer.from_pretrained(located, **given)
        limit = tokenizer.model_max_length
        if not isinstance(limit, int | float) or limit <= 0:
            raise Unusable(
                f"its tokenizer_config.json says model_max_length: {limit!r}, where a number of "
                "tokens is expected; mend it"
            )
        return tokenizer

    return open_by_name("tokenizer", name, opened, **{**NO_CODE, **options})


def check_kind(name: str, config: Any, endings: tuple[str, ...], does: str, example: str) -> None:
    """Refuses a model that was saved as another kind: parts of it would be random numbers.

    Args:
        name: Of the model, for the message.
        config: The model's.
        endings: Of the names of classes that will do.
        does: What such a model does.
        example: One that will do.

    Raises:
        InputError: If its config names other classes alone.
    """
    kinds = config.architectures or []
    if kinds and not any(kind.endswith(endings) for kind in kinds):
        raise InputError(
            f"the model {name!r} is a {kinds[0]}, which doesn't {does}: give one such as {example}"
        )


def check_vocabulary(name: str, tokenizer: Any, model: Any) -> None:
    """Makes sure that a model has an embedding for each word of its tokenizer.

    Added tokens beyond them, of which some models have a few that they never use, are let pass.

    Args:
        name: Of the model, for the message.
        tokenizer: What makes its tokens.
        model: From transformers.

    Raises:
        InputError: If it hasn't.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    used = [
        token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id) if token is not None
    ]
    needed = max([tokenizer.vocab_size, *(token + 1 for token in used)])
    if needed > rows:
        raise InputError(
            f"the model {name!r} knows {rows} tokens, and its tokenizer makes {needed}: it is "
            "another model's. Give --data.tokenizer, or the folder that both were saved in"
        )


def load_config(name: str, **options: Any) -> Any:
    """Opens a model's config, and none of its weights.

    Args:
        name: Hub id, local folder or ``demo:NAME``.
        options: ``revision``, ``trust_remote_code``.

    Raises:
        InputError: If there is no such model.
    """
    from transformers import AutoConfig

    def opened(located: str, **given: Any) -> Any:
        check_configs(located, given.get("revision"), given["trust_remote_code"])
        return AutoConfig.from_pretrained(located, **given)

    return open_by_name("config of", name, opened, **{**NO_CODE, **options})


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
        dtype: ``float32`` or ``bfloat16``; what the weights are held in.
        device: Where quantized weights go, which can't move later; None: a GPU if there is one.
        fresh_head: Whether a head that its files lack begins anew.
        options: For ``from_pretrained``: ``revision``, ``attn_implementation``, ``num_labels``, …

    Raises:
        InputError: If there is no such model, it is an adapter, its files lack weights or hold
            others than its config says, or they hold more than tensors.
    """
    import transformers

    loader = getattr(transformers, auto_class).from_pretrained

    def opened(located: str, **given: Any) -> Any:
        refuse_adapter(located, given.get("revision"))
        facts = check_configs(located, given.get("revision"), given["trust_remote_code"])
        files = find_weights(located, given.get("revision"))
        given["use_safetensors"] = all(file.suffix == ".safetensors" for file in files)
        given["ignore_mismatched_sizes"] = True  # they are told with their names, and refused
        try:
            with without_conversion():
                model, found = loader(located, output_loading_info=True, **given)
        except Exception:
            check_shapes(find_mismatched(auto_class, located, files, **given))
            raise
        check_complete(model, found, fresh_head)
        check_own_head(model, facts.get("tie_word_embeddings") is not False, files)
        return model

    options = {"dtype": getattr(torch, dtype), **NO_CODE, **options}
    if quantized := options.get("quantization_config"):
        device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if quantized.load_in_4bit and device.type == "cpu":
            raise InputError(NO_GRADIENT)
        on_gpu = device.type == "cuda"
        index = torch.cuda.current_device() if on_gpu and device.index is None else device.index
        options["device_map"] = {"": index if on_gpu else device.type}
    model = open_by_name("model", name, opened, **options).eval()
    heal(getattr(model, "generation_config", None))
    return fuse_activations(model)


def heal(config: Any) -> None:
    """Makes a generation config one that can be saved: older ones name a temperature and no more.

    Args:
        config: From transformers, changed in place; None: nothing is done.
    """
    fields = ("temperature", "top_k", "top_p", "min_p", "typical_p")
    if config is not None and any(getattr(config, name, None) is not None for name in fields):
        config.do_sample = True
