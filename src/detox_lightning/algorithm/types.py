"""The two tuples of a training step: the measured rollout, and what the update reads."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor


class Rollout(NamedTuple):
    """Sampled responses, and their figures under policy, reference and reward.

    Attributes:
        prompt_ids: ``[b, s]`` token ids.
        prompt_mask: ``[b, s]``, True at real tokens.
        response_ids: ``[b, t]`` sampled tokens, without the decoder start token.
        response_mask: ``[b, t]``, True at real tokens, EOS included.
        old_logprobs: ``[b, t]`` log-probabilities of the sampled tokens under the policy that
            sampled them.
        ref_logprobs: ``[b, t]`` the same under the reference.
        kl: ``[b, t]`` estimate of the KL divergence from the reference at each token, in nats.
        values: ``[b, t]`` value head at rollout.
        scores: ``[b]`` the reward of each response, raw.
        has_eos: ``[b]``, True where the response ended by itself, by EOS or a stop string.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    response_ids: Tensor
    response_mask: Tensor
    old_logprobs: Tensor
    ref_logprobs: Tensor
    kl: Tensor
    values: Tensor
    scores: Tensor
    has_eos: Tensor


class Experience(NamedTuple):
    """What the update reads: sampled tokens, and how much better each was than expected.

    Attributes:
        prompt_ids: ``[b, s]``.
        prompt_mask: ``[b, s]``.
        response_ids: ``[b, t]``.
        response_mask: ``[b, t]``, True at the tokens to learn from.
        old_logprobs: ``[b, t]`` under the policy that sampled them.
        ref_logprobs: ``[b, t]`` under the reference.
        old_values: ``[b, t]`` value head at rollout.
        advantages: ``[b, t]``.
        returns: ``[b, t]``, the value head's target.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    response_ids: Tensor
    response_mask: Tensor
    old_logprobs: Tensor
    ref_logprobs: Tensor
    old_values: Tensor
    advantages: Tensor
    returns: Tensor

    def rows(self, index: Tensor) -> "Experience":
        """Returns the rows of ``index`` (``[m]``), in its order."""
        return Experience(*(field[index] for field in self))

    def batches(self, order: Tensor, size: int, widths: Tensor) -> Iterator["Experience"]:
        """Cuts rows into consecutive batches, each as wide as the largest of its ``widths``.

        Args:
            order: ``[m]`` the rows, on the CPU.
            size: Rows of a batch.
            widths: ``[b]`` tokens of each response, on the CPU, so that a GPU is not waited for.
        """
        for index in order.split(size):
            width = max(1, int(widths[index].max()))
            batch = self.rows(index.to(self.returns.device, non_blocking=True))
            yield Experience(*batch[:2], *(field[:, :width] for field in batch[2:]))
