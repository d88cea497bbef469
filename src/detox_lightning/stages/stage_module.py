"""What the training stages have in common."""

import math
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import MeanMetric

from detox_lightning.batches import LabeledBatch, PromptBatch
from detox_lightning.models.adapters import adapter_facts
from detox_lightning.models.families.base import Family
from detox_lightning.models.finite import check_finite_model
from detox_lightning.models.loading import Weights
from detox_lightning.models.lora import LoRA
from detox_lightning.models.saving import save_model
from detox_lightning.models.source import ModelSource
from detox_lightning.seeding import derive_seed, global_seed
from detox_lightning.stages.checkpoint import load_stage, save_stage
from detox_lightning.stages.faults import CAUSES_ELSEWHERE, Faults
from detox_lightning.stages.optimization import (
    Schedule,
    build_schedule,
    naming_option,
    trainable_parameters,
)
from detox_lightning.stages.strategy import not_shardable


class StageModule(LightningModule):
    """The members of a :class:`~detox_lightning.protocols.Stage` that all stages have.

    Attributes:
        model_name: The model to begin from: a base, an adapter or a checkpoint with an adapter.
        adapter: An adapter on that model; None if the model's name is enough.
        weights: How the base's weights are opened.
        lora: The fresh adapter; None: all weights are trained, unless there is an adapter already.
        tokenizer: The model's; None before it is opened.
    """

    stage_name: str
    labels: list[str] | None = None
    adapter: str | None = None
    lora: LoRA | None = None

    def __init__(
        self,
        model_name: str,
        weights: Weights,
        make_optimizer: OptimizerCallable,
        schedule: Schedule,
        max_faults: int,
    ):
        super().__init__()
        self.strict_loading = False
        self.model_name = model_name
        # a checkpoint holds a dictionary
        self.weights = Weights(**weights) if isinstance(weights, dict) else weights
        self.make_optimizer, self.schedule = make_optimizer, schedule
        self.faults = Faults(max_faults)
        self.tokenizer: Any = None

    @cached_property
    def source(self) -> ModelSource:
        """Where the model comes from; resolved on first use, as this may contact the hub."""
        return ModelSource.resolve(self.model_name, self.adapter, self.weights)

    @property
    def family(self) -> Family | None:
        """The language model's family; None for a classifier."""
        return self.source.family

    @property
    def auto_class(self) -> str:
        """Name of the ``transformers`` class that opens the model."""
        return self.source.family.auto_class

    @property
    def has_adapter(self) -> bool:
        """Whether an adapter is trained, and not the base."""
        return self.lora is not None or self.source.has_adapter

    @property
    def export_name(self) -> str:
        """Name of the folder that ``export`` writes: ``adapter`` or ``model``."""
        return "adapter" if self.has_adapter else "model"

    @property
    def root_device(self) -> torch.device | None:
        """The trainer's device; None without a trainer."""
        return None if self._trainer is None else self._trainer.strategy.root_device

    def origin(self, model: Any) -> dict[str, Any]:
        """Returns facts about the base and the adapter of a model of ``transformers`` or ``peft``.

        They show whether a checkpoint belongs to this base and this kind of adapter.
        """
        return {"base_revision": self.source.base_revision, "adapter": adapter_facts(model)}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Returns the optimizer and its schedule; InputError if the optimizer can't be made."""
        with naming_option():
            optimizer = self.make_optimizer(trainable_parameters(self))
        scheduler = build_schedule(
            optimizer, self.schedule, self.trainer.estimated_stepping_batches
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


class AutomaticStage(StageModule):
    """A stage whose optimizer steps Lightning takes: the supervised and the reward stage.

    Attributes:
        model: The model from ``transformers`` or ``peft``; None before it is opened.
        mean_loss: The mean loss of a validation or test.
        metrics: Its other figures, which have the names by which they are logged.
    """

    model: Any
    mean_loss: MeanMetric
    metrics: Any
    rollouts = samples = kl_target = comparison = None

    @property
    def about(self) -> dict[str, Any]:
        """Empty, as a test of this stage compares nothing."""
        return {}

    @property
    def seed(self) -> int:
        """The seed of ``--seed_everything``."""
        return global_seed()

    def check_shardable(self) -> None:
        """Refuses ``trainer.strategy=sharded``, which is made for PPO alone."""
        raise not_shardable(self)

    def train_model(self, model: Any) -> None:
        """Checks that a model's weights are finite, and puts it into train mode."""
        check_finite_model("model.model", self.model_name, model)
        # models open in eval mode, and Lightning doesn't change the mode of a module's parts
        self.model = model.train()

    def on_train_batch_start(self, batch: PromptBatch | LabeledBatch, batch_idx: int) -> None:
        """Seeds dropout by the place in the run, so that a resumed run has the same dropout."""
        place = (self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(derive_seed(self.seed, "dropout", *place))
        fields = batch._asdict()
        fields.pop("places", None)
        tensors = {name: x for name, x in fields.items() if isinstance(x, Tensor)}
        texts = {name: x for name, x in fields.items() if name not in tensors}
        self.faults.begin(f"step {self.global_step}", texts, **tensors)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Leaves the step out if its gradient is not finite."""
        gradients = [p.grad for p in trainable_parameters(self) if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if not math.isfinite(norm):
            optimizer.zero_grad()
            self.faults.leave_out(f"the gradient's norm is {norm}", CAUSES_ELSEWHERE)
        self.log("train/faults", float(self.faults.count))

    def on_validation_epoch_end(self) -> None:
        """Logs the mean loss and the metrics under ``val/``, or ``test/`` at the end of a test."""
        prefix = "test" if self.trainer.testing else "val"
        if not self.trainer.sanity_checking:  # its few batches may hold a single class
            figures = {"loss": self.mean_loss.compute(), **self.metrics.compute()}
            self.log_dict({f"{prefix}/{name}": figure for name, figure in figures.items()})
        self.mean_loss.reset()
        self.metrics.reset()

    on_test_epoch_end = on_validation_epoch_end

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Reduces the checkpoint to the parameters that learn, and adds the facts of the run."""
        facts = {"model": self.model_name, "lora": self.lora, "labels": self.labels}
        save_stage(self, checkpoint, **facts, **self.origin(self.model))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Checks that the checkpoint fits this model; see :func:`load_stage`."""
        load_stage(self, checkpoint, **self.origin(self.model))

    def export(self, folder: str | Path) -> None:
        """Writes the model, or the adapter, with its tokenizer as a Hugging Face folder."""
        save_model(self.model, self.tokenizer, folder)
