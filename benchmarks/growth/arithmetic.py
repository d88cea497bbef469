"""Counts the operations of a PPO step: multiplications and additions of its matrix products.

The formulas count what the algorithm needs, whatever the program does: no padding, no repeated
work, and a cache of keys and values while sampling. They leave out norms, softmax and embeddings,
which need far fewer operations.
"""

from typing import NamedTuple

from peer.world import Shape

RANK = 16  # rank of the adapters on queries and values, as in peer/ours.py


class Setting(NamedTuple):
    """The sizes that the cost of a step depends on.

    Attributes:
        batch: Number of responses per rollout.
        prompt: Tokens of each prompt, including EOS.
        response: Tokens of each response.
        epochs: Passes over the rollout.
        width: Width of policy and classifier; feed-forward layers are 2 and 4 times as wide.
        layers: Number of layers of encoder, decoder and classifier, each.
    """

    batch: int
    prompt: int
    response: int
    epochs: int
    width: int
    layers: int


class Flops(NamedTuple):
    """Floating point operations of a forward pass.

    Attributes:
        linear: Operations of products with frozen weights.
        attention: Operations of queries with keys, and of attention weights with values.
        adapters: Operations of products with trained weights.
    """

    linear: int = 0
    attention: int = 0
    adapters: int = 0

    def __add__(self, other: "Flops") -> "Flops":  # type: ignore[override]
        return Flops(*(one + another for one, another in zip(self, other, strict=True)))

    def __mul__(self, times: int) -> "Flops":  # type: ignore[override]
        return Flops(*(one * times for one in self))

    @property
    def forward(self) -> int:
        """All operations."""
        return sum(self)

    @property
    def frozen(self) -> int:
        """Operations without adapters, which are merged into the weights or off."""
        return self.linear + self.attention

    @property
    def backward(self) -> int:
        """Operations of the backward pass, in which frozen weights get no gradient."""
        return self.linear + 2 * (self.attention + self.adapters)


def product(rows: int, inside: int, outside: int) -> int:
    """Counts the operations of ``[rows, inside] @ [inside, outside]``."""
    return 2 * rows * inside * outside


def attention(pairs: int, inner: int) -> Flops:
    """Counts the products of queries with keys and of attention weights with values.

    Args:
        pairs: Number of pairs of a query and a key.
        inner: Total width of all heads.
    """
    return Flops(attention=2 * product(pairs, inner, 1))


def adapter(rows: int, inside: int, outside: int) -> Flops:
    """Counts a low-rank adapter beside a linear layer."""
    return Flops(adapters=product(rows, inside, RANK) + product(rows, RANK, outside))


def encoder(prompt: int, t5: dict[str, int]) -> Flops:
    """Counts a T5's encoder for one prompt.

    Args:
        prompt: Number of tokens.
        t5: The policy's sizes, as in :class:`Shape`.
    """
    d, inner = t5["d_model"], t5["num_heads"] * t5["d_kv"]
    linear = product(prompt, d, 4 * inner) + product(prompt, d, 3 * t5["d_ff"])
    layer = Flops(linear) + attention(prompt**2, inner) + adapter(prompt, d, inner) * 2
    return layer * t5["num_layers"]


def decoder(prompt: int, response: int, pairs: int, t5: dict[str, int]) -> Flops:
    """Counts a T5's decoder for one response, without its head.

    Args:
        prompt: Number of prompt tokens.
        response: Number of response tokens.
        pairs: Number of computed pairs of a query and a key within the response.
        t5: The policy's sizes, as in :class:`Shape`.
    """
    d, inner = t5["d_model"], t5["num_heads"] * t5["d_kv"]
    own = Flops(product(response, d, 4 * inner)) + adapter(response, d, inner) * 2
    cross = Flops(product(response, d, 2 * inner) + product(prompt, d, 2 * inner))
    cross += adapter(response, d, inner) + adapter(prompt, d, inner)
    feed = Flops(product(response, d, 3 * t5["d_ff"]))
    layer = own + cross + feed + attention(pairs + prompt * response, inner)
    return layer * t5["num_decoder_layers"]


def head(response: int, shape: Shape) -> Flops:
    """Counts the logits at each position of one response."""
    return Flops(product(response, shape.policy["d_model"], shape.vocabulary))


def classifier(tokens: int, roberta: dict[str, int]) -> Flops:
    """Counts a RoBERTa with two labels for one text.

    Args:
        tokens: Number of tokens.
        roberta: The classifier's sizes, as in :class:`Shape`.
    """
    d = roberta["hidden_size"]
    linear = product(tokens, d, 4 * d) + product(tokens, d, 2 * roberta["intermediate_size"])
    layers = (Flops(linear) + attention(tokens**2, d)) * roberta["num_hidden_layers"]
    return layers + Flops(product(1, d, d + 2))


def stages(setting: Setting, shape: Shape) -> dict[str, dict[str, int]]:
    """Counts the operations of a step, by its parts and by their stages.

    Sampling goes token by token, and each token attends to those before it. The update processes
    all positions at once and masks later keys: first with the policy before the update and with
    the reference, then in each epoch with the trained policy.

    Args:
        setting: Batch, lengths and epochs.
        shape: Sizes of the models.
    """
    b, s, t = setting.batch, setting.prompt, setting.response
    read, logits = encoder(s, shape.policy), head(t, shape)
    sampled = decoder(s, t, t * (t + 1) // 2, shape.policy) + logits
    answered = decoder(s, t, t * t, shape.policy) + logits
    epochs = b * setting.epochs
    return {
        "rollout": {"encoder": b * read.frozen, "decoder": b * sampled.frozen},
        "score": {"classifier": b * classifier(s + t, shape.classifier).forward},
        "update": {
            "encoder, before": b * (read.forward + read.frozen),
            "decoder, before": b * (answered.forward + answered.frozen),
            "encoder, learning": epochs * (read.forward + read.backward),
            "decoder, learning": epochs * (answered.forward + answered.backward),
        },
    }
