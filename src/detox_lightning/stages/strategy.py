"""Strategies for several devices: Lightning's own, and one that shards a frozen base."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy, StrategyRegistry
from torch import Tensor

from detox_lightning.errors import InputError
from detox_lightning.models.sharding import gather, release
from detox_lightning.protocols import as_stage
from detox_lightning.stages.optimization import trainable_parameters

NAME = "sharded"
OVERLAY = "configs/overlays/fsdp.yaml"
REFUSED = {
    "deepspeed": "DeepSpeed keeps gradients to itself, but PPO must clip them and may skip a step; "
    "with an adapter ZeRO-2 has little to split, and FSDP2 splits what ZeRO-3 would split",
    "fsdp": "FSDP1 would shard what learns, too, and gathers nothing for rollouts; FSDP2 does",
    "modelparallel": "this would assemble the whole base for each checkpoint, and can't resume "
    "from a checkpoint of this package",
}


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 for a frozen base: in shards over all devices, gathered where it is needed.

    The parameters that learn are whole on each device: they begin as copies of the first process's
    and get the mean of all processes' gradients, as in DDP. Checkpoints are the same as with DDP.
    During rollouts and evaluation the base is gathered, so that processes need not keep in step.

    Args:
        options: ``process_group_backend`` and ``timeout``, for Lightning's ModelParallelStrategy.
    """

    def __init__(self, **options: Any):
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, **options)
        self.in_sync = True

    # Everything that is saved is whole on each device, so these work as without sharding.
    restore_checkpoint_after_setup = Strategy.restore_checkpoint_after_setup
    lightning_restore_optimizer = Strategy.lightning_restore_optimizer
    lightning_module_state_dict = Strategy.lightning_module_state_dict
    load_model_state_dict = Strategy.load_model_state_dict
    optimizer_state = Strategy.optimizer_state
    load_optimizer_state_dict = Strategy.load_optimizer_state_dict
    save_checkpoint = Strategy.save_checkpoint
    load_checkpoint = Strategy.load_checkpoint

    def setup_environment(self) -> None:
        """Checks that the module can be sharded, before any model is opened."""
        stage = as_stage(self._module)
        if stage is None:
            raise not_shardable(self._module)
        stage.check_shardable()
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        """Broadcasts the first process's adapter and value head."""
        super().setup(trainer)
        for parameter in trainable_parameters(self._module):
            torch.distributed.broadcast(parameter.data, src=0)

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """A block in which gradients add up on each device without being averaged."""
        self.in_sync = False
        try:
            yield
        finally:
            self.in_sync = True

    def post_backward(self, closure_loss: Tensor) -> None:
        """Averages the accumulated gradients over processes, in one message."""
        grads = [p.grad for p in trainable_parameters(self._module) if p.grad is not None]
        if not self.in_sync or not grads:
            return
        flat = torch.cat([grad.flatten() for grad in grads])
        flat /= torch.distributed.get_world_size()
        torch.distributed.all_reduce(flat)
        for grad, mean in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(mean.view_as(grad))

    def on_validation_start(self) -> None:
        """Gathers the base, as processes may have unequal numbers of batches."""
        gather(self._module)

    on_test_start = on_predict_start = on_validation_start

    def on_validation_end(self) -> None:
        """Shards the base again."""
        release(self._module)

    on_test_end = on_predict_end = on_validation_end

    @property
    def _module(self) -> torch.nn.Module:
        assert self.lightning_module is not None
        return self.lightning_module


def not_shardable(module: object) -> InputError:
    """Returns the error of a module that trains no frozen base."""
    return InputError(
        f"trainer.strategy={NAME}: {type(module).__name__} trains models that fit on one "
        "device; give ddp"
    )


def check_strategy(name: str) -> None:
    """Raises an InputError for a strategy (its name or its class's) that can't train here."""
    for kind, reason in REFUSED.items():
        if kind in name.lower():
            raise InputError(f"trainer.strategy={name}: {reason}. Give {NAME} ({OVERLAY}) or ddp")


StrategyRegistry.register(NAME, ShardedStrategy, description="a frozen base in shards (FSDP2)")
