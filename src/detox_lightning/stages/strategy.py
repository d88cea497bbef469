"""How several devices share the work: Lightning's strategies, and one with a sharded base."""

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
    "deepspeed": "DeepSpeed keeps gradients to itself, and PPO clips them and may skip a step; "
    "with an adapter ZeRO-2 has little to split, and what ZeRO-3 splits FSDP2 does",
    "fsdp": "FSDP1 would shard what learns, too, and gathers nothing for rollouts; FSDP2 does",
    "modelparallel": "this would assemble the whole base for each checkpoint, and can't go on from "
    "a checkpoint of this package",
}


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 for a frozen base: in shards over all devices, gathered where it is needed.

    What learns is whole on each device, begins as the first process's and gets the mean of all
    processes' gradients, as in DDP; checkpoints are those of DDP. Throughout rollouts and
    evaluation the base is gathered: processes may then be at different places.
    """

    def __init__(self, **options: Any):
        """Puts all devices in one row.

        Args:
            options: ``process_group_backend`` and ``timeout``, for Lightning's
                ModelParallelStrategy.
        """
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, **options)
        self.in_sync = True

    # what is saved is whole on each device: as if nothing were sharded
    restore_checkpoint_after_setup = Strategy.restore_checkpoint_after_setup
    lightning_restore_optimizer = Strategy.lightning_restore_optimizer
    lightning_module_state_dict = Strategy.lightning_module_state_dict
    load_model_state_dict = Strategy.load_model_state_dict
    optimizer_state = Strategy.optimizer_state
    load_optimizer_state_dict = Strategy.load_optimizer_state_dict
    save_checkpoint = Strategy.save_checkpoint
    load_checkpoint = Strategy.load_checkpoint

    def setup_environment(self) -> None:
        """Refuses what can't be sharded, before anything is opened.

        Raises:
            InputError: If the module says so, or isn't made for it.
        """
        stage = as_stage(self.lightning_module)
        if stage is None:
            raise not_shardable(self.lightning_module)
        stage.check_shardable()
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        """Gives all processes the first one's adapter and value head to begin with."""
        super().setup(trainer)
        for parameter in self.learning:
            torch.distributed.broadcast(parameter.data, src=0)

    @property
    def learning(self) -> list[torch.nn.Parameter]:
        """What is whole on each device."""
        assert self.lightning_module is not None
        return trainable_parameters(self.lightning_module)

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Inside the block gradients add up without travelling."""
        self.in_sync = False
        try:
            yield
        finally:
            self.in_sync = True

    def post_backward(self, closure_loss: Tensor) -> None:
        """Averages the gradients that have added up, over processes."""
        if self.in_sync:
            average([p.grad for p in self.learning if p.grad is not None])

    def on_validation_start(self) -> None:
        """Gathers the base: processes may have unequal numbers of batches."""
        gather(self._module)

    on_test_start = on_predict_start = on_validation_start

    def on_validation_end(self) -> None:
        """Gives it back."""
        release(self._module)

    on_test_end = on_predict_end = on_validation_end

    @property
    def _module(self) -> torch.nn.Module:
        assert self.lightning_module is not None
        return self.lightning_module


def not_shardable(module: object) -> InputError:
    """The error of a module that trains no frozen base."""
    return InputError(
        f"trainer.strategy={NAME}: {type(module).__name__} trains models that fit on one "
        "device; give ddp"
    )


def average(tensors: list[Tensor]) -> None:
    """Replaces tensors by their means over processes, in one message.

    Args:
        tensors: Changed in place; as many in each process, of the same shapes.
    """
    if not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    flat /= torch.distributed.get_world_size()
    torch.distributed.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


def check_strategy(name: str) -> None:
    """Refuses strategies that this package can't train with, before they are made.

    Args:
        name: ``trainer.strategy``, or the name of its class.

    Raises:
        InputError: If it is one of them.
    """
    for kind, reason in REFUSED.items():
        if kind in name.lower():
            raise InputError(f"trainer.strategy={name}: {reason}. Give {NAME} ({OVERLAY}) or ddp")


StrategyRegistry.register(NAME, ShardedStrategy, description="a frozen base in shards (FSDP2)")
