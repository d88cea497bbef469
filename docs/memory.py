"""Computes the GPU memory for training FLAN-T5-XL and -XXL: the tables of two pages.

``python docs/memory.py`` prints the tables of docs/memory.md and docs/memory_arithmetic.md. It
computes from the models' configs; nothing is downloaded. The script
docs/memory_check.py compares the formulas with a model that runs.
"""

from typing import Any, NamedTuple

import torch

from detox_lightning.algorithm.logprobs import AT_ONCE
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.models.decoding.static_decoder import (
    KEY_BLOCK,
    MIN_PROMPT,
    MIN_ROWS,
    padded_size,
)
from detox_lightning.models.families.encoder_decoder import EncoderDecoder
from detox_lightning.models.lora import LoRA, add_lora
from detox_lightning.models.policy import Policy

GIB = 2**30
BF16, FP32 = 2, 4
FOUR_BIT = 1 / 2 + 1 / 64 + 4 / (64 * 256)  # bytes per weight: nf4, its scales, their scales
LEARNING = 4 * FP32  # bytes per trained parameter: weight, gradient, two moments of Adam
LOGIT = 2 * FP32 + BF16  # bytes per logit in the head: p log p, p, and p for the product
PROMPT, RESPONSE, MINI_BATCH, BATCHES, RANK = 512, 150, 4, (8, 64), 32
SHAPES = {
    "FLAN-T5-XL": {"d_model": 2048, "d_ff": 5120, "num_heads": 32, "num_layers": 24},
    "FLAN-T5-XXL": {"d_model": 4096, "d_ff": 10240, "num_heads": 64, "num_layers": 24},
}


class Sizes(NamedTuple):
    """A model's shape and numbers of parameters.

    Attributes:
        d: Width of the model.
        inner: Number of heads times their width.
        ff: Width of the feed-forward layers.
        heads: Number of attention heads.
        layers: Number of encoder layers, and of decoder layers.
        vocabulary: Number of tokens.
        base: Number of frozen parameters.
        outside: Frozen parameters outside the layers: embeddings, output head, last norms.
        layer: Frozen parameters of the largest layer.
        four_bit: Frozen parameters that ``weights.quantization=4bit`` holds in four bits.
        learning: Parameters of adapter and value head.
    """

    d: int
    inner: int
    ff: int
    heads: int
    layers: int
    vocabulary: int
    base: int
    outside: int
    layer: int
    four_bit: int
    learning: int


def make_policy(device: str, rank: int = RANK, **shape: Any) -> Policy:
    """Makes a random FLAN-T5 with a fresh adapter and a value head.

    Args:
        device: Device of the weights; ``meta`` for shapes only.
        rank: Rank of the adapter.
        shape: Fields of ``T5Config``.
    """
    from transformers import GenerationConfig, T5Config, T5ForConditionalGeneration

    options = {"vocab_size": 32128, "d_kv": 64, "feed_forward_proj": "gated-gelu", **shape}
    with torch.device(device):
        model = T5ForConditionalGeneration(T5Config(**options)).to(torch.bfloat16)
        # transformers ties the head of a model made from a config; FLAN-T5's is untied
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight))
        model.generation_config = GenerationConfig(
            decoder_start_token_id=0, eos_token_id=1, pad_token_id=0
        )
        family = EncoderDecoder()
        return Policy(add_lora(model, LoRA(r=rank), family.task_type), family, Sampling())


def sizes(policy: Policy) -> Sizes:
    """Counts a policy's parameters."""
    from transformers.models.t5.modeling_t5 import T5Block

    config = policy.base.config
    named = list(policy.named_parameters())
    frozen = {id(p): (name, p.numel()) for name, p in named if not p.requires_grad}
    layers = [part for part in policy.base.modules() if isinstance(part, T5Block)]
    held = [sum(p.numel() for p in part.parameters() if not p.requires_grad) for part in layers]
    base = sum(count for _, count in frozen.values())
    # transformers doesn't quantize T5's feed-forward outputs (wo) and head
    kept = ("wo.weight", "shared.weight", "lm_head.weight", "relative_attention_bias.weight")
    linear = [
        count
        for name, count in frozen.values()
        if not name.endswith(kept) and "layer_norm" not in name
    ]
    return Sizes(
        config.d_model,
        config.num_heads * config.d_kv,
        config.d_ff,
        config.num_heads,
        config.num_layers,
        config.vocab_size,
        base,
        base - sum(held),
        max(held),
        sum(linear),
        sum(p.numel() for _, p in named if p.requires_grad),
    )


def encoder_layer(n: Sizes, rows: int, prompt: int) -> int:
    """Bytes that an encoder layer keeps for the backward pass, under bf16-mixed."""
    token = 12 * n.ff + 16 * n.d + 8 * n.inner + 4 * n.heads
    return rows * (prompt * token + BF16 * n.heads * prompt**2)


def decoder_layer(n: Sizes, rows: int, prompt: int, response: int) -> int:
    """Bytes that a decoder layer keeps, including keys and values of the encoder's output."""
    token = 12 * n.ff + 24 * n.d + 12 * n.inner + 8 * n.heads
    crossed = 2 * n.d + 4 * n.inner + BF16 * n.heads * response
    # all rows share the bias between response tokens
    return rows * (response * token + prompt * crossed) + BF16 * n.heads * response**2


def kept(n: Sizes, rows: int, prompt: int, response: int, checkpointing: bool) -> int:
    """Bytes kept for the backward pass: the head's gradient, and all layers or their inputs.

    With checkpointing, a layer keeps only its inputs.
    """
    noted = rows * response * n.d * BF16
    if checkpointing:
        inputs = n.layers * rows * (prompt + response) * n.d * BF16
        return noted + inputs + around(n, rows, prompt, response)
    layers = encoder_layer(n, rows, prompt) + decoder_layer(n, rows, prompt, response)
    return noted + n.layers * layers


def update(n: Sizes, rows: int, prompt: int, response: int, checkpointing: bool) -> int:
    """Bytes at the peak of a mini-batch: in the head, or, with checkpointing, also in a layer."""
    work = head(n, rows, response)
    if checkpointing:
        layers = encoder_layer(n, rows, prompt), decoder_layer(n, rows, prompt, response)
        work = max(work, *layers)
    return kept(n, rows, prompt, response, checkpointing) + work


def around(n: Sizes, rows: int, prompt: int, response: int) -> int:
    """Bytes kept in addition to the layers' inputs: ends of both stacks, biases, masks."""
    biases = BF16 * n.heads * (prompt**2 + prompt * response + response**2)
    masks = rows * prompt * (prompt + response)
    return rows * n.d * (8 * prompt + 10 * response) + biases + masks


def head(n: Sizes, rows: int, response: int, device: str = "cuda") -> int:
    """Bytes of the logits that the head processes at once, and of their temporary tensors."""
    positions = min(rows * response, max(1, AT_ONCE[device] // n.vocabulary))
    return positions * n.vocabulary * LOGIT


def cache(n: Sizes, rows: int, prompt: int, response: int) -> int:
    """Bytes of keys and values of prompt and response in all decoder layers."""
    return rows * (prompt + response) * n.layers * 2 * n.inner * BF16


def room(n: Sizes, rows: int, prompt: int, response: int) -> int:
    """Bytes that captured steps keep for keys and values, whose shapes are padded."""
    response = -(-response // KEY_BLOCK) * KEY_BLOCK
    return cache(n, padded_size(rows, MIN_ROWS), padded_size(prompt, MIN_PROMPT), response)


def rollout(n: Sizes, rows: int, prompt: int, response: int, captured: bool) -> int:
    """Bytes at the peak of a rollout: keys and values, and a layer of the encoder at work.

    Where steps are captured, the prompts' own keys and values exist besides, until they are copied.
    """
    layer = encoder_layer(n, rows, prompt)
    if captured:
        return room(n, rows, prompt, response) + max(layer, cache(n, rows, prompt, 1))
    return cache(n, rows, prompt, response) + layer


def classifier() -> int:
    """Bytes of the reward: RoBERTa-base with two labels, in float32."""
    from transformers import RobertaConfig, RobertaForSequenceClassification

    config = RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1)
    with torch.device("meta"):
        model = RobertaForSequenceClassification(config)
    return sum(p.numel() for p in model.parameters()) * FP32


def per_gpu(n: Sizes, reward: int, gpus: int, four_bit: bool = False) -> dict[str, float]:
    """Computes the bytes that one GPU holds, by content and phase.

    Args:
        n: The model.
        reward: Bytes of the classifier.
        gpus: Number of GPUs that share the base; 1: each holds the whole base (DDP).
        four_bit: Whether the base is quantized.
    """
    whole = n.base * BF16 + (n.four_bit * (FOUR_BIT - BF16) if four_bit else 0)
    held = whole / gpus
    # the trained gradients are averaged over GPUs in one message
    always = held + n.learning * (LEARNING + FP32) + reward
    gathered = whole if gpus > 1 else 0
    # the current layer, the next one, and the message in which that one arrives
    in_update = (n.outside + 3 * n.layer) * BF16 if gpus > 1 else 0
    figures = {"held": held, "always": always}
    captured = gpus == 1 and not four_bit
    for rows in BATCHES:
        work = rollout(n, rows, PROMPT, RESPONSE, captured)
        figures[f"rollout {rows}"] = always + gathered + work
    kept_room = room(n, BATCHES[0], PROMPT, RESPONSE) if captured else 0
    for name, checkpointing in (("update", False), ("checkpointed", True)):
        work = update(n, MINI_BATCH, PROMPT, RESPONSE, checkpointing)
        figures[name] = always + in_update + kept_room + work
    return figures


def table(header: list[str], rows: list[list[str]]) -> str:
    """Formats a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def parts_table(models: dict[str, Sizes], reward: int) -> str:
    """Formats the parts of the figures, in GiB."""
    s, t, m = PROMPT, RESPONSE, MINI_BATCH
    in_bits = FOUR_BIT - BF16
    parts: dict[str, Any] = {
        "frozen parameters, number": lambda n: f"{n.base:,}",
        "parameters that learn, number": lambda n: f"{n.learning:,}",
        "base, bf16: 2 bytes each": lambda n: n.base * BF16,
        "base, 4 bits": lambda n: n.base * BF16 + n.four_bit * in_bits,
        "of that in 4 bits, at 0.516 bytes": lambda n: n.four_bit * FOUR_BIT,
        "what learns, float32: weights": lambda n: n.learning * FP32,
        "gradients": lambda n: n.learning * FP32,
        "Adam's moments": lambda n: 2 * n.learning * FP32,
        "gradients on their way": lambda n: n.learning * FP32,
        "reward classifier, float32": lambda n: reward,
        "FSDP, rollout: gathered base": lambda n: n.base * BF16,
        "FSDP, update: embeddings and head, three layers": lambda n: (
            (n.outside + 3 * n.layer) * BF16
        ),
        **{
            f"rollout, batch {b}: cache of keys and values": lambda n, b=b: cache(n, b, s, t)
            for b in BATCHES
        },
        **{
            f"captured steps, batch {b}: room for keys and values": lambda n, b=b: room(n, b, s, t)
            for b in BATCHES
        },
        **{
            f"rollout, batch {b}: a layer of the encoder": lambda n, b=b: encoder_layer(n, b, s)
            for b in BATCHES
        },
        "update: kept by all layers": lambda n: kept(n, m, s, t, False),
        "update, checkpointed: inputs of all layers": lambda n: kept(n, m, s, t, True),
        "update, checkpointed: a layer at work": lambda n: encoder_layer(n, m, s),
        "update: the head at work": lambda n: head(n, m, t),
        "update: at its peak": lambda n: update(n, m, s, t, False),
        "update, checkpointed: at its peak": lambda n: update(n, m, s, t, True),
    }
    rows = []
    for name, part in parts.items():
        found = [part(n) for n in models.values()]
        rows.append([name, *(x if isinstance(x, str) else gib(x) for x in found)])
    return table(["part", *models], rows)


def gpu_table(models: dict[str, Sizes], reward: int) -> str:
    """Formats the memory of one GPU, in GiB."""
    rows = []
    for name, n in models.items():
        for kind, gpus, four_bit in (
            ("bf16, DDP", 1, False),
            ("bf16, FSDP on 2", 2, False),
            ("bf16, FSDP on 4", 4, False),
            ("bf16, FSDP on 8", 8, False),
            ("4 bits, DDP", 1, True),
        ):
            found = per_gpu(n, reward, gpus, four_bit)
            rows.append([f"{name}, {kind}", *map(gib, found.values())])
    header = ["GiB per GPU", "base", "at rest", *(f"rollout, batch {b}" for b in BATCHES)]
    at = f"batch {BATCHES[0]}"
    return table([*header, f"update, {at}", f"update, checkpointed, {at}"], rows)


def gib(size: float) -> str:
    """Formats bytes as GiB."""
    return f"{size / GIB:.2f}"


def main() -> str:
    """Returns the output of the command."""
    models = {name: sizes(make_policy("meta", **shape)) for name, shape in SHAPES.items()}
    reward = classifier()
    return f"{gpu_table(models, reward)}\n\n{parts_table(models, reward)}"


if __name__ == "__main__":
    print(main())
