"""The policy: a base model, its adapters and a value head."""

from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from detox_lightning.algorithm.logprobs import (
    entropy_of,
    head_output,
    sampler_logits,
    token_logprobs,
)
from detox_lightning.models.critic import ADAPTER, HEAD, Critic
from detox_lightning.models.decoding.decoder import EncodedPrompts
from detox_lightning.models.decoding.loop import Decoded, decode
from detox_lightning.models.decoding.merging import merged
from detox_lightning.models.decoding.sampling import Choose, Sampling
from detox_lightning.models.decoding.static_step import StaticSteps
from detox_lightning.models.decoding.stopping import StopStrings
from detox_lightning.models.families.base import Family, HeadFunction, base_model
from detox_lightning.models.lora import LoRA
from detox_lightning.models.precision import rounds_products
from detox_lightning.models.reference import REFERENCE, ReferencedModel, copy_adapter
from detox_lightning.models.source import CRITIC, VALUE_HEAD, ModelSource
from detox_lightning.models.special_tokens import decoder_start, end_tokens, without_end_marks
from detox_lightning.models.value_head import ValueHead, restore


class PolicyOutput(NamedTuple):
    """Outputs of the policy, or of the reference, for responses. All float32.

    Attributes:
        logprobs: ``[m, t]`` log-probabilities of the response tokens under the sampler's
            distribution.
        values: ``[m, t]`` value head.
        entropy: ``[m, t]`` of that distribution, in nats; 0 where it was not requested.
    """

    logprobs: Tensor
    values: Tensor
    entropy: Tensor


class Policy(ReferencedModel):
    """A language model with trainable adapters and a value head, and the model it began as.

    Args:
        model: See :class:`ReferencedModel`.
        family: The model's family.
        sampling: How responses are sampled, and so what their log-probabilities are.
        value_head: Whether there is a value head; without one, values are 0.
        frozen: See :class:`ReferencedModel`.

    Attributes:
        critic: Estimates values in place of a value head; None: it doesn't.
        is_held: Whether only values get a gradient, not the policy: during the value warm-up.
    """

    def __init__(
        self,
        model: Any,
        family: Family,
        sampling: Sampling,
        value_head: bool = True,
        frozen: Any = None,
    ):
        base = base_model(model)
        base.generation_config.decoder_start_token_id = decoder_start(base)
        super().__init__(model, frozen)
        self.family = family
        self.sampling = sampling
        self.static_steps = StaticSteps()
        self._lean: dict[int, bool] = {}
        self.value_head = ValueHead.of(base) if value_head else None
        self.critic: Critic | None = None
        self.is_held = False
        self.restored_value_head = False  # whether values were learned before
        self.eval()

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The tokens that end a response."""
        return end_tokens(self.base.generation_config)

    def forward(
        self,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        response_ids: Tensor,
        prompts: EncodedPrompts | None = None,
        entropy: bool = True,
        entropy_gradient: bool = False,
        deduplicate: bool = False,
    ) -> PolicyOutput:
        """Log-probabilities, values and entropies of responses; no logits are kept if possible.

        Args:
            prompt_ids: ``[m, s]``.
            prompt_mask: ``[m, s]``.
            response_ids: ``[m, t]``.
            prompts: The same prompts as :meth:`encode_prompts` returned them; None: they are
                encoded here.
            entropy: Whether to compute entropies.
            entropy_gradient: Whether entropies have a gradient.
            deduplicate: Compute each distinct prompt once in half precision, too, where a row's
                rounding then depends on the other rows.
        """
        if not self.avoids_logits:
            return self.with_logits(
                prompt_ids, prompt_mask, response_ids, prompts, entropy_gradient
            )[0]

        head = partial(
            head_output,
            tokens=response_ids,
            temperature=self.sampling.temperature,
            min_new_tokens=self.sampling.min_new_tokens,
            eos_token_ids=self.eos_token_ids,
            entropy=entropy,
            entropy_gradient=entropy_gradient,
        )
        (logprobs, entropies), hidden = self._run(
            prompt_ids, prompt_mask, response_ids, prompts, head, deduplicate
        )
        return PolicyOutput(logprobs, self.values(hidden), entropies)

    def with_logits(
        self,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        response_ids: Tensor,
        prompts: EncodedPrompts | None = None,
        entropy_gradient: bool = False,
    ) -> tuple[PolicyOutput, Tensor]:
        """Like :meth:`forward`; also returns ``[m, t, V]`` logits of the sampler's distribution."""
        raw, hidden = self._run(prompt_ids, prompt_mask, response_ids, prompts)
        logits = sampler_logits(
            raw, self.sampling.temperature, self.sampling.min_new_tokens, self.eos_token_ids
        )
        with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
            entropies = entropy_of(logits)
        logprobs = token_logprobs(logits, response_ids)
        return PolicyOutput(logprobs, self.values(hidden), entropies), logits

    @property
    def is_full_precision(self) -> bool:
        """Whether a response's log-probabilities hardly depend on the rest of its batch."""
        return (
            self.base.dtype in (torch.float32, torch.float64)
            and getattr(self.base, "hf_quantizer", None) is None
            and not torch.is_autocast_enabled(self.base.device.type)
            and not rounds_products(self.base.device)
        )

    @property
    def records_exactly(self) -> bool:
        """Whether log-probabilities noted while sampling equal a forward pass's, to rounding."""
        return self.is_full_precision and self.sampling.is_exact

    @property
    def avoids_logits(self) -> bool:
        """Whether log-probabilities can be computed without keeping logits."""
        model = id(self.base)  # the policy's, or the frozen reference's
        if model not in self._lean:
            self._lean[model] = self.family.has_plain_head(self.base)
        return self._lean[model]

    def _run(
        self,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        response_ids: Tensor,
        prompts: EncodedPrompts | None,
        head: HeadFunction | None = None,
        deduplicate: bool = False,
    ) -> tuple[Any, Tensor]:
        if prompts is None and self.encodes_in_groups:
            prompts = self.family.encode_prompts(self.base, prompt_ids, prompt_mask)
        # A layer that runs again in the backward pass would fill its cache again; and all ranks
        # must run a sharded model equally often.
        runs_again = self.checkpoints_gradients and torch.is_grad_enabled()
        may_deduplicate = not runs_again and not hasattr(self.base, "unshard")
        deduplicate = may_deduplicate and (deduplicate or self.is_full_precision)
        inputs = prompt_ids, prompt_mask, response_ids, prompts, head, deduplicate
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_held):
            return self.family.forward(self.base, *inputs)

    @property
    def encodes_in_groups(self) -> bool:
        """Whether prompts to learn from are encoded in groups of about equal length.

        A GPU would have to report the lengths first; and all ranks must run a sharded encoder
        equally often, and in the model's own forward pass.
        """
        return self.base.device.type == "cpu" and not hasattr(self.base, "unshard")

    @property
    def estimator(self) -> nn.Module | None:
        """What estimates values: the value head or the critic, if there is one."""
        return self.value_head if self.critic is None else self.critic

    def layers(self) -> Iterable[nn.Module]:
        """All parts that gradients may flow through, each once; a critic shares some."""
        return dict.fromkeys([*super().layers(), *(self.critic.modules() if self.critic else ())])

    def values(self, hidden: Tensor) -> Tensor:
        """Returns the values ``[m, t]`` of hidden states ``[m, t, d]``; 0 without a value head."""
        if self.value_head is None:
            return torch.zeros(hidden.shape[:2], device=hidden.device, dtype=torch.float32)
        return self.value_head(hidden)

    @torch.no_grad()
    def encode_prompts(self, prompt_ids: Tensor, prompt_mask: Tensor) -> EncodedPrompts:
        """Computes what does not depend on the responses to prompts ``[b, s]``, equal ones once."""
        return self.family.encode_prompts(self.base, prompt_ids, prompt_mask)

    @torch.no_grad()
    def generate(
        self, prompts: EncodedPrompts, choose: Choose, limit: int, stops: StopStrings | None = None
    ) -> Decoded:
        """Generates responses to ``b`` prompts; see :func:`decode`."""
        steps, longest = self.static_steps, self.sampling.limits[1]
        with merged(self.model, steps.merged_weights if steps.captures(self.base) else None):
            return decode(self.base, self.family, prompts, choose, limit, steps, stops, longest)

    def stop_strings(self, tokenizer: Any, prompts: EncodedPrompts) -> StopStrings | None:
        """Finds the sampling's stop strings in responses to ``b`` prompts; None: there are none."""
        if not (strings := self.sampling.stop_strings):
            return None
        return StopStrings(
            strings, lambda ids, rows: self.decode_texts(tokenizer, prompts.select(rows), ids)
        )

    def decode_texts(
        self, tokenizer: Any, prompts: EncodedPrompts, response_ids: Tensor
    ) -> list[str]:
        """Returns responses ``[b, t]`` as text, without special tokens and end tokens."""
        response_ids = without_end_marks(response_ids, self.eos_token_ids, tokenizer)
        return self.family.decode_texts(tokenizer, prompts, response_ids)

    def parameter_counts(self) -> dict[str, int]:
        """Counts trainable and all parameters, with and without value head; and the reference's."""
        learning, total = Counter[str](), Counter[str]()
        for name, parameter in self.named_parameters():  # each once, of a shared base the policy's
            part = REFERENCE if f".{REFERENCE}." in name else name.partition(".")[0]
            total[part] += parameter.numel()
            learning[part] += parameter.numel() * parameter.requires_grad
        parts = "model", "value_head", "critic"
        counts = {
            "policy_trainable": learning["model"],
            "policy_total": total["model"],
            "with_value_head_trainable": sum(learning[part] for part in parts),
            "with_value_head_total": sum(total[part] for part in parts),
            "reference_trainable": learning[REFERENCE],
        }
        if self.frozen is not None:
            counts["reference_copy_bytes"] = sum(p.nbytes for p in self.frozen.parameters())
        return counts


def load_policy(
    source: ModelSource | str,
    lora: LoRA | None,
    sampling: Sampling,
    value_head: bool = True,
    device: torch.device | None = None,
    tokenizer: Any = None,
    critic: str = HEAD,
) -> Policy:
    """Opens a policy to train; see :meth:`ModelSource.load`.

    The reference of a policy that was trained before, or that is trained whole, is a frozen copy.

    Args:
        source: Where the policy comes from, or its name.
        lora: The fresh adapter; a loaded one keeps its own shape. None: all weights are trained.
        sampling: How responses are sampled.
        value_head: Whether there is a value head.
        device: Where a quantized base goes, which can't move later; None: a GPU if there is one.
        tokenizer: Supplies special tokens that the model's configs lack.
        critic: The value head: ``head``; or an ``adapter`` with a head, or the name of a model.
    """
    source = ModelSource.resolve(source) if isinstance(source, str) else source
    model = source.load(lora, device, tokenizer, with_reference=True)
    policy = Policy(model, source.family, sampling, value_head and critic == HEAD)
    if value_head and critic != HEAD:
        opened = critic != ADAPTER and Critic.of_its_own(critic, device, tokenizer)
        policy.critic = opened or Critic.beside(policy.base, source.family)
    if source.has_adapter:
        copy_adapter(model, source.family)
    if policy.estimator is not None:
        saved = source.load_value_head(VALUE_HEAD if policy.critic is None else CRITIC)
        policy.restored_value_head = restore(policy.estimator, saved)
    return policy
