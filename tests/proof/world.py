"""A world small enough to list every response, so that all of its figures are exact.

A model with a vocabulary of five tokens, a few prompts, and responses of at most three tokens. The
probability of every response is computed by the package's own :meth:`Policy.forward`, and a fixed
random table says what each is worth. So the expected reward, the KL divergence and the objective
J = E[r] - β·KL are sums, and the best policy is known in closed form:

    π*(y|x) = π_ref(y|x)·exp(r(x, y)/β) / Z(x),    J* = β·mean over x of log Z(x)

Shapes: ``p`` prompts, ``n`` responses, ``t`` response positions, ``c`` prefixes. Distributions are
log-probabilities ``[p, n]``; a row sums up to 1. Means over prompts weigh them alike.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from detox_lightning.algorithm.kl import Estimator
from detox_lightning.algorithm.masks import mask_from_lengths, response_lengths
from detox_lightning.algorithm.types import Rollout
from detox_lightning.batches import PromptBatch
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.models.lora import LoRA
from detox_lightning.models.policy import Policy, load_policy
from detox_lightning.models.source import ModelSource
from detox_lightning.rewards import Reward
from detox_lightning.rollout import Responses, measure

Kind = Literal["t5", "llama"]
KINDS: tuple[Kind, ...] = ("t5", "llama")
PAD, EOS = 0, 1
WORDS = ("a", "b", "c")
PROMPTS = ("a", "b c", "c a b", "b")
SHORT = Sampling(max_new_tokens=3)


class TableReward(Reward):
    """Scores a response by a fixed table.

    Args:
        table: Score by prompt and by response, both as words with one blank between them.
    """

    name = "table"

    def __init__(self, table: dict[tuple[str, str], float]):
        super().__init__()
        self.table = table

    def forward(self, prompts: list[str], responses: list[str], references: list[str]) -> Tensor:
        """Looks ``b`` responses up."""
        pairs = zip(prompts, responses, strict=True)
        scores = [self.table[prompt, words(response)] for prompt, response in pairs]
        return torch.tensor(scores, dtype=torch.float32)


class Figures(NamedTuple):
    """Exact figures of a policy, each a mean over prompts with a gradient.

    Attributes:
        reward: E[r].
        kl: KL(π‖π_ref) of whole responses, in nats.
        objective: J = E[r] - β·KL.
    """

    reward: Tensor
    kl: Tensor
    objective: Tensor


@dataclass(frozen=True)
class World:
    """A model on disk, prompts, all responses, and what each is worth.

    Attributes:
        folder: Model and tokenizer, for :class:`PPOModule` or :func:`load_policy`.
        sampling: How responses are sampled: their limit, minimum length and temperature count.
        prompts: The ``p`` prompts, padded on the family's side.
        ids: ``[n, t]`` all possible responses, each once: it ends by EOS or at the limit.
        mask: ``[n, t]``, True at real tokens, EOS included; pad is a token that can be sampled.
        texts: The ``n`` responses as words; several may read alike, as pad is stripped.
        rewards: ``[p, n]`` float64 what each response is worth, a function of its text.
    """

    folder: Path
    sampling: Sampling
    prompts: PromptBatch
    ids: Tensor
    mask: Tensor
    texts: list[str]
    rewards: Tensor

    @property
    def reward(self) -> TableReward:
        """The rewards for ``PPOModule``."""
        rows = zip(self.prompts.prompts, self.rewards.tolist(), strict=True)
        return TableReward(
            {(x, y): r for x, row in rows for y, r in zip(self.texts, row, strict=True)}
        )

    @cached_property
    def prefixes(self) -> Tensor:
        """``[n, t]`` the number, below ``c``, of what each response says up to that token.

        A table ``[p, c]`` of what a token is worth after its prefix becomes ``[p, n, t]`` by
        ``table[:, world.prefixes]``; padding has the number of the whole response.
        """
        known: dict[tuple[int, ...], int] = {}
        rows = [
            [tuple(row[: min(j + 1, length)]) for j in range(len(row))]
            for row, length in zip(self.ids.tolist(), self.lengths.tolist(), strict=True)
        ]
        return torch.tensor([[known.setdefault(x, len(known)) for x in row] for row in rows])

    @property
    def lengths(self) -> Tensor:
        """``[n]`` real tokens of each response."""
        return self.mask.sum(dim=1)

    def policy(
        self,
        lora: LoRA | None = None,
        value_head: bool = True,
        sampling: Sampling | None = None,
    ) -> Policy:
        """Opens the model as a policy; without ``lora`` all weights are trained.

        For equalities, work inside ``numerics.in_float64(policy)``.
        """
        tokenizer = ModelSource.resolve(str(self.folder)).load_tokenizer()
        return load_policy(
            str(self.folder), lora, sampling or self.sampling, value_head, tokenizer=tokenizer
        )

    def loader(self, repeats: int = 1) -> Any:
        """A data loader for ``fit``: one batch of each prompt ``repeats`` times."""
        batch = self.prompts.repeated(repeats)
        batch = batch._replace(places=torch.arange(len(batch.prompts)))
        return DataLoader([batch], batch_size=None)

    def pairs(self) -> tuple[PromptBatch, Responses]:
        """Every prompt with every response, ``p·n`` rows, prompt by prompt."""
        p, n = self.rewards.shape
        ids, mask = self.ids.repeat(p, 1), self.mask.repeat(p, 1)
        return self.prompts.repeated(n), Responses(ids, mask, self.texts * p)

    def token_logprobs(self, policy: Policy) -> Tensor:
        """``[p, n, t]`` log-probabilities of all tokens with a gradient; 0 at padding."""
        prompts, responses = self.pairs()
        output = policy(prompts.prompt_ids, prompts.prompt_mask, responses.ids, entropy=False)
        logprobs = torch.where(responses.mask, output.logprobs, 0)
        return logprobs.view(*self.rewards.shape, -1)

    def logprobs(self, policy: Policy) -> Tensor:
        """``[p, n]`` the policy with a gradient."""
        return self.token_logprobs(policy).sum(dim=2)

    @torch.no_grad()
    def reference_logprobs(self, policy: Policy) -> Tensor:
        """``[p, n]`` the policy's reference."""
        with policy.reference():
            return self.logprobs(policy)

    def rollout(self, policy: Policy, estimator: Estimator = "k1") -> Rollout:
        """Every prompt with every response as the package measures them: ``p·n`` rows.

        Take samples out of it by ``chosen(rollout, rows)``, where prompt i with response j is row
        ``i·n + j``.
        """
        scores = self.rewards.flatten().to(torch.get_default_dtype())
        return measure(policy, *self.pairs(), scores, estimator)


def chosen(rollout: Rollout, rows: Tensor) -> Rollout:
    """Returns the rows with these indices (``[b]``)."""
    return Rollout(*(field[rows] for field in rollout))


def figures(logprobs: Tensor, reference: Tensor, rewards: Tensor, beta: float) -> Figures:
    """Exact figures of a policy, all arguments ``[p, n]``."""
    p = logprobs.exp()
    reward = (p * rewards).sum(dim=1).mean()
    divergence = kl(logprobs, reference)
    return Figures(reward, divergence, reward - beta * divergence)


def kl(logprobs: Tensor, other: Tensor) -> Tensor:
    """KL of two policies ``[p, n]`` in nats, a mean over prompts."""
    return (logprobs.exp() * (logprobs - other)).sum(dim=1).mean()


def optimum(reference: Tensor, rewards: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """The policy with the largest J, ``[p, n]``, and that J; arguments are ``[p, n]``."""
    tilted = reference + rewards / beta
    log_z = tilted.logsumexp(dim=1, keepdim=True)
    return tilted - log_z, beta * log_z.mean()


def best_of(reference: Tensor, rewards: Tensor, n: int) -> Tensor:
    """The distribution ``[p, n]`` of the best of ``n`` responses of the reference.

    A tie goes to any of the best alike. With F(r) the probability of a reward up to r, and F⁻(r) of
    a lower one, the best has the reward r with probability F(r)ⁿ - F⁻(r)ⁿ, shared among responses
    of that reward by their probabilities.
    """
    p = reference.exp()
    order = rewards[:, :, None] >= rewards[:, None, :]
    ties = rewards[:, :, None] == rewards[:, None, :]
    up_to = (order * p[:, None, :]).sum(dim=2).clamp(max=1)
    here = (ties * p[:, None, :]).sum(dim=2)
    return ((up_to**n - (up_to - here).clamp(min=0) ** n) * p / here).log()


def make_world(
    folder: Path,
    kind: Kind = "t5",
    sampling: Sampling = SHORT,
    seed: int = 0,
    spread: float = 1.0,
    d_model: int = 32,
    layers: int = 2,
) -> World:
    """Makes a world with a random model, whose rewards are normal numbers.

    The model can come near the best policy: with responses of two tokens (``Sampling(2)``), 250
    steps of Adam (lr 3e-3, cosine decay) along the gradient of J with all weights gain more than
    99.5 % of what π* gains over the reference, for β of 0.5 and 1; with β 0.25, rare good responses
    take far more steps. With three tokens, 400 steps do for Llama, and give 97 to 99.5 % for T5.

    Args:
        folder: Where model and tokenizer are written.
        kind: An encoder-decoder or a decoder-only model.
        sampling: See :class:`World`.
        seed: Of the weights and the rewards.
        spread: Standard deviation of the rewards.
        d_model: Width of the model.
        layers: Layers of the model (of each half of an encoder-decoder).
    """
    tokenizer = small_tokenizer()
    torch.manual_seed(seed)
    model = {"t5": _t5, "llama": _llama}[kind](len(tokenizer), d_model, layers)
    with torch.no_grad():  # unlike likely responses, but none so rare that it is never sampled
        model.lm_head.weight *= 0.5 / d_model**0.5 / model.lm_head.weight.std()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ids = all_responses(len(tokenizer), sampling)
    mask = mask_from_lengths(response_lengths(ids, [EOS]), ids.shape[1])
    texts = [words(x) for x in tokenizer.batch_decode(ids, skip_special_tokens=True)]
    generator = torch.Generator().manual_seed(seed)
    distinct = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    table = spread * torch.randn(
        len(PROMPTS), len(distinct), generator=generator, dtype=torch.float64
    )
    rewards = table.float().double()[:, [distinct[text] for text in texts]]  # as fit sees them
    side = ModelSource.resolve(str(folder)).family.padding_side
    return World(folder, sampling, _prompts(tokenizer, side), ids, mask, texts, rewards)


def all_responses(vocabulary: int, sampling: Sampling) -> Tensor:
    """``[n, t]`` every response that can be sampled, once: up to its EOS, then pad."""
    _, limit = sampling.limits
    earliest, going_on = sampling.min_new_tokens, [x for x in range(vocabulary) if x != EOS]
    ended = [
        [*before, EOS] + [PAD] * (limit - 1 - length)
        for length in range(earliest, limit)
        for before in product(going_on, repeat=length)
    ]
    return torch.tensor([*ended, *map(list, product(going_on, repeat=limit))])


def words(text: str) -> str:
    """The words of a text with one blank between them."""
    return " ".join(text.split())


def small_tokenizer() -> Any:
    """Five tokens: pad, EOS and three words; appends EOS, as T5's does."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(("<pad>", "</s>", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", EOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", model_max_length=16
    )


def _prompts(tokenizer: Any, side: str) -> PromptBatch:
    encoded = tokenizer(list(PROMPTS), padding=True, padding_side=side, return_tensors="pt")
    empty = torch.zeros(len(PROMPTS), 0, dtype=torch.long)
    return PromptBatch(
        encoded["input_ids"],
        encoded["attention_mask"].bool(),
        empty,
        empty.bool(),
        list(PROMPTS),
        [""] * len(PROMPTS),
        torch.arange(len(PROMPTS)),
    )


def _t5(vocabulary: int, d_model: int, layers: int) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=vocabulary,
        d_model=d_model,
        d_kv=d_model // 2,
        d_ff=4 * d_model,
        num_layers=layers,
        num_decoder_layers=layers,
        num_heads=2,
        # a start that no response has inside it: after it, `pad`, `pad pad` and nothing were alike
        decoder_start_token_id=EOS,
        pad_token_id=PAD,
        eos_token_id=EOS,
        dropout_rate=0.0,
        tie_word_embeddings=False,
    )
    model = T5ForConditionalGeneration(config)
    # transformers ties the head of a model made from a config, whatever the config says
    model.lm_head.weight = torch.nn.Parameter(torch.randn(vocabulary, d_model))
    model.config.tie_word_embeddings = False
    for half in (model.encoder, model.decoder):  # a place shows as clearly as a token
        torch.nn.init.normal_(half.block[0].layer[0].SelfAttention.relative_attention_bias.weight)
    return model


def _llama(vocabulary: int, d_model: int, layers: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=d_model,
        intermediate_size=4 * d_model,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=32,
        pad_token_id=PAD,
        bos_token_id=EOS,
        eos_token_id=EOS,
        initializer_range=d_model**-0.5,  # the usual range is for wide models: all tokens alike
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config)
