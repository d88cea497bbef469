"""The policy: a base model, its adapters and a value head."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from detox_lightning.algorithm.logprobs import entropy, sampler_logits, token_logprobs
from detox_lightning.errors import InputError
from detox_lightning.models.family import EncoderDecoder
from detox_lightning.models.loading import Weights, load_model
from detox_lightning.models.lora import LoRA, add_lora, copy_adapter, load_adapter
from detox_lightning.models.sampling import Sampling
from detox_lightning.models.start import Start, find_start, restore_adapter
from detox_lightning.models.value_head import ValueHead

REFERENCE = "reference"


class PolicyOutput(NamedTuple):
    """What the policy, or the reference, says of responses. All float32.

    Attributes:
        logprobs: ``[m, t]`` log-probabilities of the response tokens under the sampler's
            distribution.
        values: ``[m, t]`` value head.
        logits: ``[m, t, V]`` of that distribution.
    """

    logprobs: Tensor
    values: Tensor
    logits: Tensor

    @property
    def entropy(self) -> Tensor:
        """``[m, t]`` of the sampler's distribution, in nats; computed anew each time."""
        return entropy(self.logits)


class Policy(nn.Module):
    """A language model with trainable adapters and a value head, and the model it began as.

    It is always in eval mode: dropout would make the ratio of new to old probability noise.
    """

    def __init__(
        self, model: Any, family: EncoderDecoder, sampling: Sampling, value_head: bool = True
    ):
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
        self.value_head = ValueHead(_hidden_size(model.config)) if value_head else None
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
    def eos_token_id(self) -> int:
        """The token that ends a response."""
        eos = self.base.generation_config.eos_token_id
        return eos[0] if isinstance(eos, list) else eos

    def forward(
        self, prompt_ids: Tensor, prompt_mask: Tensor, response_ids: Tensor
    ) -> PolicyOutput:
        """Log-probabilities and values of responses.

        Args:
            prompt_ids: ``[m, s]``.
            prompt_mask: ``[m, s]``.
            response_ids: ``[m, t]``.
        """
        logits, hidden = self.family.forward(self.base, prompt_ids, prompt_mask, response_ids)
        logits = sampler_logits(
            logits, self.sampling.temperature, self.sampling.min_new_tokens, self.eos_token_id
        )
        return PolicyOutput(
            logprobs=token_logprobs(logits, response_ids),
            values=self._values(hidden),
            logits=logits,
        )

    def _values(self, hidden: Tensor) -> Tensor:
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

        for layer in self.base.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                layer.forward = partial(_checkpointed, layer.forward)

    @torch.no_grad()
    def generate(self, prompt_ids: Tensor, prompt_mask: Tensor, **options: Any) -> Tensor:
        """Responses to prompts, as transformers' ``generate`` gives them.

        Args:
            prompt_ids: ``[b, s]``.
            prompt_mask: ``[b, s]``.
            options: For ``generate``.

        Returns:
            ``[b, t]`` tokens, padded after EOS; ``t`` is at most ``max_new_tokens``.
        """
        # a sharded base is gathered by now: processes need not walk in step, which is the default
        options = {"use_cache": True, "synced_gpus": False, **options}
        generated = self.model.generate(input_ids=prompt_ids, attention_mask=prompt_mask, **options)
        return self.family.responses(generated, prompt_ids)

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

    Raises:
        InputError: If there is no such model or adapter, or a base is to be trained in another
            precision than float32.
    """
    start = find_start(start) if isinstance(start, str) else start
    family = EncoderDecoder()
    options = {**weights.options, "revision": start.base_revision}
    base = load_model(family.auto_class, start.base, **options)
    if start.checkpoint is not None:
        model = restore_adapter(base, start.checkpoint)
    elif start.adapter is not None:
        model = load_adapter(base, start.adapter, revision=start.adapter_revision)
    elif lora is not None:
        return Policy(add_lora(base, lora, family.task_type), family, sampling, value_head)
    elif weights.quantization:
        raise InputError(
            f"weights.quantization={weights.quantization}: a quantized base can't be trained; give "
            "lora, or leave quantization null"
        )
    elif weights.dtype != "float32":
        raise InputError(
            f"weights.dtype={weights.dtype}: small steps are lost in weights that are trained in "
            "it; give lora, or float32 with trainer.precision=bf16-mixed"
        )
    else:
        return Policy(base.requires_grad_(True), family, sampling, value_head)
    copy_adapter(model, REFERENCE)
    return Policy(model, family, sampling, value_head)


def plain_generation_config(model: Any) -> Any:
    """A generation config that only knows the special tokens.

    A model's own may hold beams, forced tokens or penalties, and ``generate`` would take them up:
    the sampler would no longer be the policy.
    """
    from transformers import GenerationConfig

    config = model.generation_config
    start = config.decoder_start_token_id
    return GenerationConfig(
        decoder_start_token_id=start if start is not None else model.config.decoder_start_token_id,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )


def _checkpointed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if torch.is_grad_enabled():
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)
    return forward(*args, **kwargs)


def _bytes(model: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def _hidden_size(config: Any) -> int:
    decoder = getattr(config, "decoder", None)
    return int((decoder or config).hidden_size)
