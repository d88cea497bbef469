"""Sizes of the models and batches that are measured, and random Llama models."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from peer.world import ROBERTA_BASE, SHAPES, Shape, _roberta, _t5, build_policy, save_tokenizer


class Model(NamedTuple):
    """A model that is measured.

    Attributes:
        name: Its name in tables, and its folder's.
        shape: Sizes of the model, and of the classifier that scores its texts.
        adapted: Layers that get adapters.
        make: Writes the model into a folder, given its shape and its longest text.
    """

    name: str
    shape: Shape
    adapted: tuple[str, str]
    make: Callable[[Path, Shape, int], None]


class Scale(NamedTuple):
    """How much is measured.

    Attributes:
        t5: The encoder-decoder model.
        llama: The decoder-only model.
        prompt: Fewest and most tokens of a prompt.
        tokens: Tokens of every response.
        few: Tokens of a shorter response, for what generates slowly.
        least: Tokens of the shortest response, whose time is subtracted.
        batches: Mini-batch size by number of responses.
        rollouts: Rollouts of a run by number of responses; the first one warms up.
        copied: Numbers of the tensor whose copy shows the memory bandwidth.
        product: Rows and columns of the matrices whose product shows the computing speed.
    """

    t5: Model
    llama: Model
    prompt: tuple[int, int]
    tokens: int
    few: int
    least: int
    batches: dict[int, int]
    rollouts: dict[int, int]
    copied: int
    product: int

    @property
    def models(self) -> tuple[Model, Model]:
        """Both models."""
        return self.t5, self.llama


def make_llama(folder: Path, shape: Shape, positions: int) -> None:
    """Saves a random Llama whose head shares the embeddings' weights.

    Args:
        folder: Folder to write into.
        shape: Sizes, with fields of ``LlamaConfig`` as ``policy``.
        positions: Longest text, in tokens.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        max_position_embeddings=2 * positions,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=3,
        tie_word_embeddings=True,
        **shape.policy,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    save_tokenizer(folder, shape.vocabulary, positions, "$A", eos_token="</s>")


def _llama(
    hidden: int, layers: int, heads: int, key_value_heads: int, inner: int
) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
    }


T5_LAYERS, LLAMA_LAYERS = ("q", "v"), ("q_proj", "v_proj")
SMALL = _roberta(16, 1, 2)
FULL = Scale(
    t5=Model("FLAN-T5-base", SHAPES["base"], T5_LAYERS, build_policy),
    # SmolLM2-360M's sizes
    llama=Model(
        "Llama-360M",
        Shape(49152, _llama(960, 32, 15, 5, 2560), ROBERTA_BASE),
        LLAMA_LAYERS,
        make_llama,
    ),
    prompt=(180, 220),
    tokens=100,
    few=24,
    least=4,
    batches={8: 4, 64: 16},
    rollouts={8: 5, 64: 3},
    copied=2**28,
    product=8192,
)
DRY = Scale(
    t5=Model("tiny-T5", Shape(200, _t5(16, 16, 1, 2, 8), SMALL), T5_LAYERS, build_policy),
    llama=Model("tiny-Llama", Shape(200, _llama(16, 1, 2, 1, 16), SMALL), LLAMA_LAYERS, make_llama),
    prompt=(8, 12),
    tokens=6,
    few=4,
    least=2,
    batches={2: 1, 4: 2},
    rollouts={2: 2, 4: 2},
    copied=2**16,
    product=64,
)
