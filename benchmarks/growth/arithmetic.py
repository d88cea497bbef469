"""The arithmetic that a step of PPO asks for: multiplications and additions of its matrix products.

Counted is what the algorithm needs, whatever the program does: no padding, no step done twice, keys
and values kept while sampling. The rest (norms, softmax, embeddings) is far less, and left out.
"""

from typing import NamedTuple

from peer.world import Shape

RANK = 16  # of the adapters on queries and values, as in peer/ours.py


class Setting(NamedTuple):
    """What a step's cost depends on.

    Attributes:
        batch: Responses of a rollout.
        prompt: Tokens of each prompt, EOS included.
        response: Tokens of each response.
        epochs: Passes over the rollout.
        width: Of the policy and of its classifier; feed-forward layers are 2 and 4 times as wide.
        layers: Of encoder, decoder and classifier, each.
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
        linear: Of products with frozen weights.
        attention: Of queries with keys, and of what comes out with values.
        adapters: Of products with weights that learn.
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
        """All."""
        return sum(self)

    @property
    def frozen(self) -> int:
        """Without adapters: merged into the weights, or off."""
        return self.linear + self.attention

    @property
    def backward(self) -> int:
        """Of the backward pass: frozen weights get no gradient, both factors of others do."""
        return self.linear + 2 * (self.attention + self.adapters)


def product(rows: int, inside: int, outside: int) -> int:
    """Operations of ``[rows, inside] @ [inside, outside]``."""
    return 2 * rows * inside * outside


def attention(pairs: int, inner: int) -> Flops:
    """Attention's own products.

    Args:
        pairs: Of a query and a key.
        inner: Width of all heads together.
    """
    return Flops(attention=2 * product(pairs, inner, 1))


def adapter(rows: int, inside: int, outside: int) -> Flops:
    """A low-rank adapter beside a linear layer."""
    return Flops(adapters=product(rows, inside, RANK) + product(rows, RANK, outside))


def encoder(prompt: int, t5: dict[str, int]) -> Flops:
    """A T5's encoder reads one prompt.

    Args:
        prompt: Tokens.
        t5: As in :class:`Shape`.
    """
    d, inner = t5["d_model"], t5["num_heads"] * t5["d_kv"]
    linear = product(prompt, d, 4 * inner) + product(prompt, d, 3 * t5["d_ff"])
    layer = Flops(linear) + attention(prompt**2, inner) + adapter(prompt, d, inner) * 2
    return layer * t5["num_layers"]


def decoder(prompt: int, response: int, pairs: int, t5: dict[str, int]) -> Flops:
    """A T5's decoder answers one prompt, without its head.

    Args:
        prompt: Tokens.
        response: Tokens.
        pairs: Of a query and a key of the response: those that are computed.
        t5: As in :class:`Shape`.
    """
    d, inner = t5["d_model"], t5["num_heads"] * t5["d_kv"]
    own = Flops(product(response, d, 4 * inner)) + adapter(response, d, inner) * 2
    cross = Flops(product(response, d, 2 * inner) + product(prompt, d, 2 * inner))
    cross += adapter(response, d, inner) + adapter(prompt, d, inner)
    feed = Flops(product(response, d, 3 * t5["d_ff"]))
    layer = own + cross + feed + attention(pairs + prompt * response, inner)
    return layer * t5["num_decoder_layers"]


def head(response: int, shape: Shape) -> Flops:
    """The words' logits at each position of one response."""
    return Flops(product(response, shape.policy["d_model"], shape.vocabulary))


def classifier(tokens: int, roberta: dict[str, int]) -> Flops:
    """A RoBERTa judges one text, by two labels.

    Args:
        tokens: Of the text.
        roberta: As in :class:`Shape`.
    """
    d = roberta["hidden_size"]
    linear = product(tokens, d, 4 * d) + product(tokens, d, 2 * roberta["intermediate_size"])
    layers = (Flops(linear) + attention(tokens**2, d)) * roberta["num_hidden_layers"]
    return layers + Flops(product(1, d, d + 2))


def stages(setting: Setting, shape: Shape) -> dict[str, dict[str, int]]:
    """Operations of a step: its parts, by their names in its times, and their stages.

    Sampling goes token by token, each looking at those before. In the update, all positions are
    looked at together (and their pairs masked afterwards) by the policy as it was and by the
    reference, and in each epoch by the policy as it is, which then learns.

    Args:
        setting: All that counts but sizes.
        shape: The models' sizes.
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
