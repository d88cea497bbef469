"""A critic of its own: a model beside the policy, whose value head estimates returns."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from detox_lightning.algorithm.masks import passes
from detox_lightning.models.families.base import Family
from detox_lightning.models.precision import check_finite_model
from detox_lightning.models.source import ModelSource
from detox_lightning.models.value_head import ValueHead

HEAD, ADAPTER = "head", "adapter"  # what estimates values, beside the name of a model


class Critic(nn.Module):
    """A model with a value head, which reads the policy's tokens and learns apart from it.

    Args:
        model: A language model, perhaps with adapters in it, of the policy's tokenizer. What it
            predicts isn't used, so its output layer doesn't learn.
        family: The model's family.
    """

    def __init__(self, model: Any, family: Family):
        super().__init__()
        self.model, self.family = model, family
        self.value_head = ValueHead.of(model)
        output = model.get_output_embeddings().requires_grad_(False)
        self.head = _no_logits if isinstance(output, nn.Linear) else None

    @classmethod
    def beside(cls, base: Any, family: Family) -> "Critic":
        """Makes a critic of a base with a policy's adapter: the base is shared, not the adapter.

        Parts of the base without anything that learns are the same objects in both.
        """
        frozen = [x for x in base.modules() if not any(p.requires_grad for p in x.parameters())]
        frozen += [p for p in base.parameters() if not p.requires_grad]
        return cls(deepcopy(base, {id(x): x for x in frozen}), family)

    @classmethod
    def of_its_own(cls, name: str, device: torch.device | None, tokenizer: Any) -> "Critic":
        """Opens another model, which learns but for its output layer."""
        source = ModelSource(name)
        model = source.load(None, device, tokenizer)
        check_finite_model("model.critic", name, model)
        return cls(model, source.family)

    def forward(self, prompt_ids: Tensor, prompt_mask: Tensor, response_ids: Tensor) -> Tensor:
        """Estimates the values ``[m, t]`` of responses ``[m, t]`` to prompts ``[m, s]``."""
        prompts = None
        if prompt_ids.device.type == "cpu":  # in groups of about equal length
            prompts = self.family.encode_prompts(self.model, prompt_ids, prompt_mask)
        inputs = prompt_ids, prompt_mask, response_ids, prompts, self.head
        return self.value_head(self.family.forward(self.model, *inputs)[1])

    @torch.no_grad()
    def values(
        self, prompt_ids: Tensor, prompt_mask: Tensor, ids: Tensor, mask: Tensor, size: int | None
    ) -> Tensor:
        """Estimates values ``[b, t]``, 0 at padding, in passes of ``size`` rows; None: of all."""
        values = torch.zeros(ids.shape, device=ids.device, dtype=torch.float32)
        for rows, width in passes(mask, size):
            values[rows, :width] = self(prompt_ids[rows], prompt_mask[rows], ids[rows, :width])
        return values.where(mask, 0)


def _no_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Takes the place of a head whose logits nobody reads."""
