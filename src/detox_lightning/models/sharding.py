"""A frozen base in shards: each process holds its part, and gathers the rest when it is needed.

PyTorch's FSDP2 does the work (https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html).
Trainable parts, an adapter and a value head, are small and stay whole in every process.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from detox_lightning.models.policy import Policy


def shard(policy: Policy, mesh: Any) -> None:
    """Splits the base's parameters over processes, layer by layer.

    A layer's parameters are gathered at the beginning of its forward or backward pass and released
    at its end; those of embeddings and output head are gathered for the whole pass.

    Args:
        policy: An adapter on a frozen base; it is changed in place.
        mesh: The processes, in one dimension.
    """
    from torch.distributed.fsdp import fully_shard
    from transformers.modeling_layers import GradientCheckpointingLayer

    base = policy.base
    adapters = set(policy.model.peft_config)
    options: dict[str, Any] = {
        "mesh": mesh,
        "reshard_after_forward": True,
        "ignored_params": {
            p for name, p in base.named_parameters() if adapters & set(name.split("."))
        },
    }
    for layer in base.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            fully_shard(layer, **options)
    fully_shard(base, **options)
    # The first module that runs would become the root; in generate that is a layer.
    base._get_fsdp_state()._lazy_init()


def gather(module: nn.Module) -> None:
    """Makes all parameters whole in every process, until :func:`release`; collective.

    In between, forward passes don't communicate: processes may run different numbers of them.
    """
    for part in _shards(module):
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()


def release(module: nn.Module) -> None:
    """Splits the parameters again that :func:`gather` made whole."""
    for part in _shards(module):
        part.set_reshard_after_forward(True, recurse=False)
        part.reshard()


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Inside the block all parameters are whole; see :func:`gather`."""
    gather(module)
    try:
        yield
    finally:
        release(module)


def _shards(module: nn.Module) -> Iterator[Any]:
    from torch.distributed.fsdp import FSDPModule

    return (part for part in module.modules() if isinstance(part, FSDPModule))
