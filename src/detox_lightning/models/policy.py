"""The policy: a base model, its adapters and a value head."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from detox_lightning.algorithm.lm_head import head_output
from detox_lightning.algorithm.logprobs import entropy as entropy_of
from detox_lightning.algorithm.logprobs import sampler_logits, token_logprobs
from detox_lightning.models.adapter_config import check_adapter_kind
from detox_lightning.models.adapter_copy import copy_adapter
from detox_lightning.models.decoding.encoded_prompts import EncodedPrompts
from detox_lightning.models.decoding.loop import Decoded, decode
from detox_lightning.models.decoding.merging import MergedWeights, merged
from detox_lightning.models.decoding.sampling import Choose, Sampling
from detox_lightning.models.decoding.static_step import StaticSteps
from detox_lightning.models.families.base import Family, check_model, family_of
from detox_lightning.models.families.headless import HeadFunction, has_plain_head
from detox_lightning.models.loading import Weights, check_vocabulary
from detox_lightning.models.lora import LoRA
from detox_lightning.models.source import Start, find_start, open_start, saved_value_head
from detox_lightning.models.special_tokens import (
    complete_special_tokens,
    end_tokens,
    plain_generation_config,
    without_marks,
)
from detox_lightning.models.value_head import ValueHead

REFERENCE = "reference"


class PolicyOutput(NamedTuple):
    """What the policy, or the reference, says of responses. All float32.

    Attributes:
        logprobs: ``[m, t]`` log-probabilities of the response tokens under the sampler's
            distribution.
        values: ``[m, t]`` value head.
        entropy: ``[m, t]`` of that distribution, in nats; 0 where it isn't asked for.
    """

    logprobs: Tensor
    values: Tensor
    entropy: Tensor


class Policy(nn.Module):
    """A language model with trainable adapters and a value head, and the model it began as.

    It is always in eval mode: dropout would make the ratio of new to old probability noise.
    """

    def __init__(self, model: Any, family: Family, sampling: Sampling, value_head: bool = True):
        """Wraps a model with adapters.

        Args:
            model: A ``PeftModel`` with the adapter ``default`` to train, and perhaps a frozen
                ``reference``; or a model that is trained whole, which costs a frozen copy of it.
            family: What kind of model it is.
            sampling: How responses are sampled, and so what their log-probabilities are.
            value_head: Whether there is a value head; without one, values are 0.
        """
        super().__init__()
        self.model = model
        self.family = family
        self.sampling = sampling
        self.generation_config = self.base.generation_config
        self.base.generation_config = plain_generation_config(self.base)
        self.frozen = None if self.has_adapter else deepcopy(model).requires_grad_(False)
        self.static_steps = StaticSteps()
        self.merged_weights: MergedWeights = {}  # where a captured step finds them
        self._lean: dict[int, bool] = {}
        self.value_head = ValueHead(_hidden_size(self.base)) if value_head else None
        self.checkpoints_gradients = False
        self.began_with_values = False  # whether the value head was trained before
        self.eval()

    @property
    def base(self) -> Any:
        """The transformers model inside the adapters."""
        return self.model.get_base_model() if self.has_adapter else self.model

    @property
    def has_adapter(self) -> bool:
        """Whether an adapter is trained, rather than the whole model."""
        return hasattr(self.model, "peft_config")

    def train(self, mode: bool = True) -> "Policy":
        """Stays in eval mode; gradients flow all the same."""
        return super().train(False)

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
        share: bool = False,
    ) -> PolicyOutput:
        """Log-probabilities, values and entropies of responses; no logits are kept if possible.

        Args:
            prompt_ids: ``[m, s]``.
            prompt_mask: ``[m, s]``.
            response_ids: ``[m, t]``.
            prompts: What :meth:`read` gave for the prompts; None: they are read now.
            entropy: Whether entropies are asked for.
            entropy_gradient: Whether they have a gradient.
            share: Whether what is the same in several rows may be worked out once in half
                precision, too, where a row's rounding then depends on the others.
        """
        given = prompt_ids, prompt_mask, response_ids, prompts
        if not self.is_lean:
            return self.with_logits(*given, entropy_gradient)[0]
        asked = *self._sampler, entropy, entropy_gradient

        def head(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
            return head_output(x, weight, bias, response_ids, *asked)

        (logprobs, entropies), hidden = self._states(*given, head, share)
        return PolicyOutput(logprobs, self.values(hidden), entropies)

    def with_logits(
        self,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        response_ids: Tensor,
        prompts: EncodedPrompts | None = None,
        entropy_gradient: bool = False,
    ) -> tuple[PolicyOutput, Tensor]:
        """As :meth:`forward`, and ``[m, t, V]`` logits of the sampler's distribution."""
        made, hidden = self._states(prompt_ids, prompt_mask, response_ids, prompts)
        logits = sampler_logits(made, *self._sampler)
        with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
            entropies = entropy_of(logits)
        logprobs = token_logprobs(logits, response_ids)
        return PolicyOutput(logprobs, self.values(hidden), entropies), logits

    @property
    def is_full_precision(self) -> bool:
        """Whether a response's log-probabilities hardly depend on what else is in its batch."""
        return (
            self.base.dtype in (torch.float32, torch.float64)
            and getattr(self.base, "hf_quantizer", None) is None
            and not torch.is_autocast_enabled(self.base.device.type)
        )

    @property
    def notes_exactly(self) -> bool:
        """Whether log-probabilities noted while sampling are, to rounding, a forward pass's."""
        return self.is_full_precision and self.sampling.is_exact

    @property
    def is_lean(self) -> bool:
        """Whether log-probabilities can be had without keeping logits."""
        model = id(self.base)  # the policy's, or the frozen reference's
        if model not in self._lean:
            self._lean[model] = has_plain_head(self.base, self.family)
        return self._lean[model]

    @property
    def _sampler(self) -> tuple[float, int, tuple[int, ...]]:
        return self.sampling.temperature, self.sampling.min_new_tokens, self.eos_token_ids

    def _states(
        self,
        ids: Tensor,
        mask: Tensor,
        response: Tensor,
        prompts: EncodedPrompts | None,
        head: HeadFunction | None = None,
        share: bool = False,
    ) -> tuple[Any, Tensor]:
        if prompts is None and self.reads_apart:
            prompts = self.family.read(self.base, ids, mask)
        # a layer that is asked again in the backward pass would fill its cache again; and all ranks
        # must ask a sharded model equally often
        again = self.checkpoints_gradients and torch.is_grad_enabled()
        may_share = not again and not hasattr(self.base, "unshard")
        share = may_share and (share or self.is_full_precision)
        return self.family.forward(self.base, ids, mask, response, prompts, head, share)

    @property
    def reads_apart(self) -> bool:
        """Whether prompts that are learned from are read in groups of like length.

        A GPU would have to tell the lengths first; and all ranks must ask a sharded encoder equally
        often, and in the model's own forward pass.
        """
        return self.base.device.type == "cpu" and not hasattr(self.base, "unshard")

    def values(self, hidden: Tensor) -> Tensor:
        """``[m, t]`` what the value head says of hidden states ``[m, t, d]``; 0 without one."""
        if self.value_head is None:
            return torch.zeros(hidden.shape[:2], device=hidden.device, dtype=torch.float32)
        return self.value_head(hidden)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Inside the block the model is the reference: the policy as it was when training began."""
        if self.frozen is not None:
            self.model, self.frozen = self.frozen, self.model
            try:
                yield
            finally:
                self.model, self.frozen = self.frozen, self.model
            return
        if REFERENCE not in self.model.peft_config:
            with self.model.disable_adapter():
                yield
            return
        self.model.set_adapter(REFERENCE, inference_mode=True)
        try:
            yield
        finally:
            self.model.set_adapter("default")

    def reference_if(self, wanted: bool) -> AbstractContextManager[None]:
        """:meth:`reference` if wanted, else a block that changes nothing."""
        return self.reference() if wanted else nullcontext()

    def enable_gradient_checkpointing(self) -> None:
        """Computes the layers' activations again in the backward pass.

        transformers' own switch acts in train mode only, and this policy stays in eval mode.
        """
        from transformers.modeling_layers import GradientCheckpointingLayer

        self.checkpoints_gradients = True
        for layer in self.base.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                layer.forward = partial(_checkpointed, layer.forward)

    @torch.no_grad()
    def read(self, prompt_ids: Tensor, prompt_mask: Tensor) -> EncodedPrompts:
        """Lets the model read prompts as far as it can without the responses, equal ones once.

        Args:
            prompt_ids: ``[b, s]``.
            prompt_mask: ``[b, s]``.
        """
        return self.family.read(self.base, prompt_ids, prompt_mask)

    @torch.no_grad()
    def generate(self, prompts: EncodedPrompts, choose: Choose, limit: int) -> Decoded:
        """Responses to prompts.

        Args:
            prompts: ``b`` of them, as :meth:`read` gave them.
            choose: Picks the tokens; see :meth:`Sampling.choose`.
            limit: The longest response, in tokens.
        """
        kept = self.merged_weights if self.static_steps.captures(self.base) else None
        with merged(self.model, kept):
            return decode(self.base, self.family, prompts, choose, limit, self.static_steps)

    def texts(self, tokenizer: Any, prompts: EncodedPrompts, response_ids: Tensor) -> list[str]:
        """Responses as text, special tokens and those that ended them left out.

        Args:
            tokenizer: The model's.
            prompts: ``b`` of them, as :meth:`read` gave them.
            response_ids: ``[b, t]``.
        """
        said = without_marks(response_ids, self.eos_token_ids, tokenizer)
        return self.family.texts(tokenizer, prompts, said)

    def parameter_counts(self) -> dict[str, int]:
        """Trainable and all parameters, with and without value head; the reference's trainable."""
        model = [(n, p) for n, p in self.model.named_parameters() if f".{REFERENCE}." not in n]
        head = sum(p.numel() for p in self.value_head.parameters()) if self.value_head else 0
        trainable = sum(p.numel() for _, p in model if p.requires_grad)
        total = sum(p.numel() for _, p in model)
        return {
            "policy_trainable": trainable,
            "policy_total": total,
            "with_value_head_trainable": trainable + head,
            "with_value_head_total": total + head,
            "reference_trainable": self._reference_trainable(),
            **({} if self.frozen is None else {"reference_copy_bytes": _bytes(self.frozen)}),
        }

    def _reference_trainable(self) -> int:
        named = self.model.named_parameters()
        return sum(p.numel() for n, p in named if f".{REFERENCE}." in n and p.requires_grad)


def load_policy(
    start: Start | str,
    lora: LoRA | None,
    sampling: Sampling,
    value_head: bool = True,
    weights: Weights = Weights(),  # noqa: B008
    device: torch.device | None = None,
    tokenizer: Any = None,
) -> Policy:
    """Opens a policy to train.

    Args:
        start: Where it begins, or the name of it. What was trained already goes on learning; its
            reference is then a frozen copy of it.
        lora: The fresh adapter; a loaded one keeps its own shape. None: all weights of the base
            are trained, and the reference is a frozen copy of the model.
        sampling: How responses are sampled.
        value_head: Whether there is a value head.
        weights: How the base's are opened; adapters and value head are float32.
        device: Where a quantized base goes, which can't move later; None: a GPU if there is one.
        tokenizer: Names the special tokens that the model doesn't; None: they stay as they are.

    Raises:
        InputError: If there is no such model or adapter, the tokenizer is another model's, or a
            base is to be trained in another precision than float32.
    """
    start = find_start(start) if isinstance(start, str) else start
    family = family_of(start.base, **weights.file_options | {"revision": start.base_revision})
    if start.adapter is not None:
        check_adapter_kind(start.adapter, start.adapter_revision, beside=True)
    model = open_start(start, lora, weights, family.auto_class, family.task_type, device)
    if tokenizer is not None:
        check_vocabulary(start.base, tokenizer, model)
        complete_special_tokens(model, tokenizer, start.base)
    check_model(family, model, start.base)
    policy = Policy(model, family, sampling, value_head)
    if start.has_adapter:
        copy_adapter(model, REFERENCE, family)
    if policy.value_head is not None:
        policy.began_with_values = policy.value_head.take(saved_value_head(start))
    return policy


def _checkpointed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if torch.is_grad_enabled():
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)
    return forward(*args, **kwargs)


def _bytes(model: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def _hidden_size(model: Any) -> int:
    """What the model's head reads, which may be narrower than its layers."""
    width = getattr(model.get_output_embeddings(), "in_features", None)
    decoder = getattr(model.config, "decoder", None) or model.config.get_text_config(decoder=True)
    return int(width or decoder.hidden_size)
