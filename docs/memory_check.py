"""Compares the formulas of docs/memory.py with a small random model that runs on the CPU.

``python docs/memory_check.py`` prints the last table of docs/memory_arithmetic.md.
"""

from typing import Any

import torch
from memory import (
    BF16,
    LEARNING,
    RESPONSE,
    cache,
    head,
    kept,
    make_policy,
    room,
    sizes,
    table,
    update,
)
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from detox_lightning.algorithm.logprobs import head_output
from detox_lightning.models.decoding.sampling import Sampling, greedy
from detox_lightning.models.decoding.static_step import StaticSteps
from detox_lightning.models.policy import Policy


def main() -> str:
    """Returns the output of the command."""
    shape = {"d_model": 128, "d_ff": 256, "num_heads": 4, "num_layers": 3, "vocab_size": 500}
    rows, prompt, response = 4, 96, 40
    torch.manual_seed(0)
    policy = make_policy("cpu", rank=4, **shape)
    n = sizes(policy)
    batch = make_batch(rows, prompt, response)
    saved = {False: saved_bytes(policy, batch)}
    learning = [p for p in policy.parameters() if p.requires_grad]
    adam = torch.optim.Adam(learning)
    adam.step()
    moments = [x for state in adam.state.values() for x in state.values() if x.dim()]
    states = [*learning, *(p.grad for p in learning if p.grad is not None), *moments]
    made = policy.model.generate(
        input_ids=batch[0],
        attention_mask=batch[1],
        min_new_tokens=response,
        max_new_tokens=response,
        return_dict_in_generate=True,
    )
    held = [made.past_key_values.self_attention_cache, made.past_key_values.cross_attention_cache]
    keys_values = sum(
        _bytes(x) for c in held for layer in c.layers for x in (layer.keys, layer.values)
    )
    frozen = sum(_bytes(p) for p in policy.parameters() if not p.requires_grad)
    peak = {False: peak_bytes(policy, batch)}
    policy.enable_gradient_checkpointing()
    saved[True], peak[True] = saved_bytes(policy, batch), peak_bytes(policy, batch)
    size = n, rows, prompt, response
    wide = n._replace(vocabulary=32128, d=16)
    pairs = {
        "frozen parameters": (n.base * BF16, frozen),
        "what learns, with gradients and moments": (
            n.learning * LEARNING,
            sum(map(_bytes, states)),
        ),
        "cache of keys and values": (cache(*size), keys_values),
        "room that captured steps keep": (room(*size), room_bytes(policy, batch, response)),
        "kept for the backward pass": (kept(*size, False), saved[False]),
        "the same, checkpointed": (kept(*size, True), saved[True]),
        "peak of an update": (update(*size, False), peak[False]),
        "peak of an update, checkpointed": (update(*size, True), peak[True]),
        "the head with FLAN-T5's vocabulary": (
            head(wide, rows, RESPONSE, "cpu"),
            head_bytes(wide.d, wide.vocabulary, rows, RESPONSE),
        ),
    }
    lines = [
        [name, f"{formula:,}", f"{found:,}", f"{formula / found - 1:+.1%}"]
        for name, (formula, found) in pairs.items()
    ]
    return table(["bytes", "formula", "measured", "deviation"], lines)


def make_batch(rows: int, prompt: int, response: int) -> tuple[Tensor, Tensor, Tensor]:
    """Makes random prompts of unequal lengths, their mask, and responses."""
    mask = torch.arange(prompt) < torch.arange(prompt, prompt - rows, -1)[:, None]
    ids = torch.randint(2, 400, (rows, prompt)) * mask
    return ids, mask, torch.randint(2, 400, (rows, response))


def room_bytes(policy: Policy, batch: tuple[Tensor, Tensor, Tensor], response: int) -> int:
    """Measures what captured steps keep after a rollout, with masks and tokens."""
    policy.static_steps = StaticSteps(capturing=True)
    policy.sampling = Sampling(max_new_tokens=response)
    with torch.autocast("cpu", torch.bfloat16):
        policy.generate(policy.encode_prompts(*batch[:2]), greedy, response)
    return policy.static_steps.arena.size


def saved_bytes(policy: Policy, batch: tuple[Tensor, Tensor, Tensor]) -> int:
    """Measures what a forward pass keeps for the backward pass; sets gradients."""
    own = {p.untyped_storage().data_ptr() for p in policy.parameters()}
    storages: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        loss = answered(policy, batch)
    loss.backward()
    return sum(storages.values())


def answered(policy: Policy, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Returns a sum of log-probabilities and values under bf16-mixed, in place of PPO's loss."""
    with torch.autocast("cpu", torch.bfloat16):
        output = policy(*batch)
        return output.logprobs.sum() + output.values.sum()


class Peak(TorchDispatchMode):
    """Measures the peak of the bytes that the results of operations hold together."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self.known = known
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.bytes = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Runs the operation, and adds up the tensors that exist after it."""
        made = operation(*args, **(kwargs or {}))
        for x in tree_leaves(made):
            if isinstance(x, Tensor):
                reference = StorageWeakRef(x.untyped_storage())
                if reference.cdata not in self.known:
                    self.live[reference.cdata] = reference, _bytes(x)
        self.live = {key: live for key, live in self.live.items() if not live[0].expired()}
        self.bytes = max(self.bytes, sum(size for _, size in self.live.values()))
        return made


def peak_bytes(policy: Policy, batch: tuple[Tensor, Tensor, Tensor]) -> int:
    """Measures the peak of a mini-batch's forward and backward pass, without parameters."""
    for parameter in policy.parameters():
        if parameter.grad is not None:
            parameter.grad.zero_()
    with Peak({p.untyped_storage()._cdata for p in policy.parameters()}) as peak:
        answered(policy, batch).backward()
    return peak.bytes


def head_bytes(d: int, vocabulary: int, rows: int, response: int) -> int:
    """Measures the peak of a bf16 head under bf16-mixed, without its input and weight."""
    weight = torch.randn(vocabulary, d, dtype=torch.bfloat16)
    hidden = torch.randn(rows, response, d, dtype=torch.bfloat16, requires_grad=True)
    tokens = torch.randint(2, vocabulary, (rows, response))
    known = {x.untyped_storage()._cdata for x in (weight, hidden)}
    with Peak(known) as peak, torch.autocast("cpu", torch.bfloat16):
        head_output(hidden, weight, None, tokens)
    return peak.bytes


def _bytes(x: Tensor) -> int:
    return x.untyped_storage().nbytes()


if __name__ == "__main__":
    print(main())
