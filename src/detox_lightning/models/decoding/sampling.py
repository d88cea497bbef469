"""Sampling: which token comes next, given the logits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import pad

from detox_lightning.algorithm.logprobs import sampler_logits
from detox_lightning.errors import InputError
from detox_lightning.models.decoding.draws import GumbelDraws, TorchDraws, running_sums

CANDIDATES = 512  # likeliest tokens among which a CPU first looks for the nucleus
WIDENING = 8  # factor by which it looks further, in rows whose nucleus is larger
# Fields of a generation config that change which token is the likeliest, and what changes nothing.
RULES = {
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size"), 0),
    **dict.fromkeys(("min_length", "min_new_tokens"), 0),
    **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty", "guidance_scale"), 1),
    **dict.fromkeys(("forced_bos_token_id", "forced_eos_token_id", "bad_words_ids")),
    **dict.fromkeys(("suppress_tokens", "begin_suppress_tokens", "sequence_bias")),
    **dict.fromkeys(("exponential_decay_length_penalty", "watermarking_config", "stop_strings")),
}

Choose = Callable[[Tensor, Tensor, int], Tensor]
"""Picks the next tokens ``[r]`` from logits ``[r, V]``, the rows' places ``[r]`` and the step."""


@dataclass(frozen=True)
class Sampling:
    """How responses are sampled.

    With ``top_k`` 0 and ``top_p`` 1 the sampler's distribution is the policy; temperature and
    minimum length are applied wherever a log-probability is taken. Other values of ``top_k`` and
    ``top_p`` make the ratio of new to old probability approximate.

    Attributes:
        max_new_tokens: Longest response, in tokens; ``[low, high]`` draws each rollout's limit from
            that range, both ends included.
        min_new_tokens: EOS is impossible before this many tokens.
        temperature: Divides the logits.
        top_k: Sample among the k likeliest tokens only; 0 for all.
        top_p: Sample among the likeliest tokens that make up this probability only; 1 for all.
        stop_strings: Texts at which a response ends, as at EOS; the text that is scored ends before
            the first of them. ``min_new_tokens`` doesn't delay them.
    """

    max_new_tokens: PositiveInt | tuple[PositiveInt, PositiveInt] = 100
    min_new_tokens: NonNegativeInt = 0
    temperature: PositiveFloat = 1.0
    top_k: NonNegativeInt = 0
    top_p: ClosedUnitInterval = 1.0
    stop_strings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        low, high = self.limits
        if low > high:
            raise InputError(
                f"sampling.max_new_tokens={[low, high]}: the low end is above the high"
            )
        if self.min_new_tokens > low:
            raise InputError(
                f"sampling.min_new_tokens={self.min_new_tokens} is above max_new_tokens={low}"
            )
        if self.top_p == 0:
            raise InputError("sampling.top_p=0 leaves no token to sample; 1 is all of them")
        if any(not string or r"\n" in string for string in self.stop_strings):
            raise InputError(
                r"sampling.stop_strings: a text is empty, or has \n as two characters, which flags "
                "hand on so; write line breaks into a YAML file"
            )

    @property
    def limits(self) -> tuple[int, int]:
        """Both ends of the range that a rollout's length limit is drawn from."""
        if isinstance(self.max_new_tokens, int):
            return self.max_new_tokens, self.max_new_tokens
        low, high = self.max_new_tokens
        return low, high

    @property
    def is_exact(self) -> bool:
        """Whether log-probabilities can be those of the sampler."""
        return self.top_k == 0 and self.top_p == 1

    def draw_limit(self, seed: int) -> int:
        """One rollout's length limit, a function of ``seed``."""
        low, high = self.limits
        generator = torch.Generator().manual_seed(seed)
        return int(torch.randint(low, high + 1, (), generator=generator))

    def choose(
        self,
        eos_token_ids: Sequence[int],
        draws: TorchDraws | GumbelDraws | None = None,
        top_p: float | None = None,
    ) -> Choose:
        """A function that picks the next tokens; by default it draws with :class:`TorchDraws`.

        ``top_p``, if given, replaces that of this sampling.
        """
        top_p = self.top_p if top_p is None else top_p
        draws = draws or TorchDraws()

        def choose(logits: Tensor, rows: Tensor, step: int) -> Tensor:
            scores = sampler_logits(
                logits[:, None], self.temperature, self.min_new_tokens - step, eos_token_ids
            )[:, 0]
            if not self.top_k and top_p == 1:
                return draws(scores, rows, step)
            scores, tokens = truncated(scores, self.top_k, float(top_p))
            return tokens.gather(1, draws(scores, rows, step, tokens)[:, None])[:, 0]

        return choose


def truncated(scores: Tensor, top_k: int, top_p: float) -> tuple[Tensor, Tensor]:
    """Finds each row's candidates by ``scores`` (``[r, V]``), ``top_k`` and ``top_p``.

    A few hundred tokens nearly always hold ``top_p`` of the probability, and are found in a
    fraction of the time that sorting a large vocabulary takes; rows where they don't hold it are
    searched again.

    Returns:
        ``[r, n]`` scores, -inf at places without a candidate, and ``[r, n]`` tokens.
    """
    if top_k:
        scores, tokens = scores.topk(min(top_k, scores.shape[1]), dim=1)
        kept, places = _nucleus(scores, top_p, scores.shape[1])
        return kept, tokens.gather(1, places)
    return _nucleus(scores, top_p, CANDIDATES if scores.device.type == "cpu" else scores.shape[1])


def _nucleus(scores: Tensor, top_p: float, count: int) -> tuple[Tensor, Tensor]:
    """Truncates to ``top_p`` among the ``count`` likeliest tokens, and more where they are few."""
    values, tokens = scores.topk(min(count, scores.shape[1]), dim=1)
    if top_p == 1:
        return values, tokens
    p = (values - scores.logsumexp(dim=1, keepdim=True)).exp()
    reached = running_sums(p, p.dtype)
    before = reached.roll(1, dims=1)
    before[:, 0] = 0
    kept = values.masked_fill(before >= top_p, -torch.inf)
    rows = (reached[:, -1] < top_p).nonzero()[:, 0] if count < scores.shape[1] else ()
    if not len(rows):
        return kept, tokens
    wider, wider_tokens = _nucleus(scores[rows], top_p, WIDENING * count)
    more = wider.shape[1] - count
    kept, tokens = pad(kept, (0, more), value=-torch.inf), pad(tokens, (0, more))
    kept[rows], tokens[rows] = wider, wider_tokens
    return kept, tokens


def greedy(logits: Tensor, rows: Tensor, step: int) -> Tensor:
    """Picks each row's likeliest token; a :data:`Choose`."""
    return logits.argmax(dim=-1)


def has_rules(config: Any) -> bool:
    """Whether a generation config has rules by which ``generate`` changes the likeliest token."""
    return any(
        getattr(config, name, None) not in (None, neutral) for name, neutral in RULES.items()
    )
