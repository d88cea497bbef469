"""A frozen base in shards: each process holds its part, and gathers the rest when it is needed.

PyTorch's FSDP2 does the work (https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html).
What learns, an adapter and a value head, is small and stays whole on every process.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from detox_lightning.errors import InputError
from detox_lightning.models.policy import Policy


def shard(policy: Policy, mesh: Any) -> None:
    """Splits the base's parameters over processes, layer by layer.

    A layer's parameters are gathered where its forward or backward pass begins, and given back
    where it ends; embeddings and output head likewise, around the whole pass.

    Args:
        policy: An adapter on a frozen base; it is changed in place.
        mesh: The processes, in one dimension.

    Raises:
        InputError: If this PyTorch can't leave the adapter whole.
    """
    from torch.distributed.fsdp import fully_shard
    from transformers.modeling_layers import GradientCheckpointingLayer

    if "ignored_params" not in inspect.signature(fully_shard).parameters:
        raise InputError(
            f"trainer.strategy=sharded needs torch 2.7 or later, this is {torch.__version__}: "
            "update it, or give ddp"
        )
    base = policy.base
    adapters = set(policy.model.peft_config)
    small = {p for name, p in base.named_parameters() if adapters & set(name.split("."))}
    options: dict[str, Any] = {
        "mesh": mesh,
        "reshard_after_forward": True,
        "ignored_params": small,
    }
    for layer in base.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            fully_shard(layer, **options)
    fully_shard(base, **options)
    # The first part that runs would become the root; in generate that is a layer.
    base._get_fsdp_state()._lazy_init()


def gather(module: nn.Module) -> None:
    """Makes all parameters whole in every process, until :func:`release`; collective.

    In between, forward passes are free of communication: processes may make unequal numbers.

    Args:
        module: With a sharded base somewhere inside; nothing happens if there is none.
    """
    for part in shards(module):
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()


def release(module: nn.Module) -> None:
    """Gives back what :func:`gather` brought.

    Args:
        module: As there.
    """
    for part in shards(module):
        part.set_reshard_after_forward(True, recurse=False)
        part.reshard()


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """A block in which all parameters are whole; see :func:`gather`.

    Args:
        module: As there.
    """
    gather(module)
    try:
        yield
    finally:
        release(module)


def shards(module: nn.Module) -> Iterator[Any]:
    """The parts of a module that are sharded on their own.

    Args:
        module: Any.
    """
    from torch.distributed.fsdp import FSDPModule

    return (part for part in module.modules() if isinstance(part, FSDPModule))
