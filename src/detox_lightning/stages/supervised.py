"""The supervised stage: teaches a language model to answer as people did."""

from typing import Any

import torch
import torch.nn.functional as F
from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, PositiveInt
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torchmetrics import MeanMetric

from detox_lightning.arguments import as_options
from detox_lightning.batches import PromptBatch
from detox_lightning.errors import InputError
from detox_lightning.evaluation.meter import Rouge
from detox_lightning.models.decoding.loop import decode
from detox_lightning.models.decoding.merging import merged
from detox_lightning.models.decoding.sampling import greedy, has_rules
from detox_lightning.models.decoding.static_step import StaticSteps
from detox_lightning.models.families.base import base_model
from detox_lightning.models.loading import Weights
from detox_lightning.models.lora import LoRA
from detox_lightning.models.special_tokens import end_tokens, without_end_marks
from detox_lightning.protocols import data_of
from detox_lightning.rewards.rouge_reward import ROUGE_KINDS
from detox_lightning.stages.devices import choose_kernels
from detox_lightning.stages.optimization import CONSTANT, Schedule
from detox_lightning.stages.run_checks import check_conditions
from detox_lightning.stages.stage_module import AutomaticStage


class SupervisedModule(AutomaticStage):
    """Fine-tunes a language model on prompts and summaries written by people.

    Logs ``train/loss``; under ``val/`` and ``test/`` the loss per token and ROUGE of greedy
    summaries. Dropout is on while it trains. The members are those of
    :class:`~detox_lightning.protocols.Stage`.
    """

    stage_name = "supervised"
    needs = ("summary",)

    def __init__(
        self,
        model: str,
        lora: LoRA | None = None,
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(params, lr=1e-4),
        schedule: Schedule = CONSTANT,
        weights: Weights = Weights(),  # noqa: B008
        max_new_tokens: PositiveInt = 64,
        label_smoothing: ClosedUnitInterval = 0.0,
        max_faults: NonNegativeInt = 10,
    ):
        """Stores names and settings; the weights load when a run begins.

        Args:
            model: Hub id or folder of the model to begin from, or of an adapter to train on; or a
                checkpoint ``*.ckpt`` with an adapter.
            lora: The adapter to train; null trains all weights. An adapter that is trained further
                keeps its own shape.
            optimizer: Optimizer and its learning rate.
            schedule: Warm-up and decay of the learning rate, in optimizer steps.
            weights: How the base's weights are opened.
            max_new_tokens: Longest summary that validation, test and prediction write, in tokens.
            label_smoothing: Share of the target's probability that is spread over the vocabulary,
                in training only.
            max_faults: Steps of the whole run that may be left out because their gradient is not
                finite; their batches are written into the folder ``faults`` of the run. One more
                ends the run.
        """
        super().__init__(model, weights, optimizer, schedule, max_faults)
        self.save_hyperparameters()
        self.model, self.mean_loss = None, MeanMetric()
        self.lora = None if lora is None else as_options(LoRA, lora, "lora")
        self.max_new_tokens = max_new_tokens
        self.label_smoothing = label_smoothing
        self.metrics = Rouge()
        self._static_steps = StaticSteps()

    def setup(self, stage: str) -> None:
        """Checks the trainer's options and the model's positions before any model is opened."""
        check_conditions(self, stage, ("loss", *ROUGE_KINDS))
        if (data := data_of(self.trainer)) is not None:
            limits = {
                "model.max_new_tokens": self.max_new_tokens,
                "data.max_target_tokens": data.max_target_tokens,
            }
            self.source.check_positions(data.max_prompt_tokens, limits)

    def configure_model(self) -> None:
        """Loads the weights and the tokenizer, once."""
        if self.model is None:
            choose_kernels()
            self.tokenizer = self.source.load_tokenizer()
            self.train_model(self.source.load(self.lora, self.root_device, self.tokenizer))

    def training_step(self, batch: PromptBatch, batch_idx: int) -> Tensor:
        """Returns the cross-entropy of the reference summaries, mean over their tokens."""
        loss = self._loss(batch, self.label_smoothing)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.prompts))
        return loss

    def validation_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Adds a batch to the loss per token and to ROUGE."""
        self.mean_loss.update(self._loss(batch), weight=batch.target_mask.sum())
        self.metrics.update(self.summarize(batch), batch.all_references)

    test_step = validation_step

    def predict_step(self, batch: PromptBatch, batch_idx: int) -> list[str]:
        """Returns the batch's summaries."""
        return self.summarize(batch)

    def answer(self, texts: list[str], data: Any = None) -> list[str]:
        """Answers texts greedily; ``data`` makes prompts of them, None: the trainer's data."""
        batch = self.prompts_of(texts, data)
        self.model.eval()
        answers = self.summarize(batch)
        self.model.train()  # as it was opened
        return answers

    @torch.no_grad()
    def summarize(self, batch: PromptBatch) -> list[str]:
        """Writes greedy summaries of ``b`` prompts, without special tokens.

        They are those of transformers' ``generate``, which itself writes them if the model's
        generation config has rules for which token may follow.
        """
        family, base = self.source.family, base_model(self.model)
        if has_rules(base.generation_config):
            inputs = {"input_ids": batch.prompt_ids, "attention_mask": batch.prompt_mask}
            options = {"do_sample": False, "num_beams": 1, "max_new_tokens": self.max_new_tokens}
            found = family.strip_prompt(self.model.generate(**inputs, **options), batch.prompt_ids)
        else:
            steps, limit = self._static_steps, self.max_new_tokens
            with merged(self.model, steps.merged_weights if steps.captures(base) else None):
                prompts = family.encode_prompts(base, batch.prompt_ids, batch.prompt_mask)
                found = decode(base, family, prompts, greedy, limit, steps).ids
        found = without_end_marks(found, end_tokens(base.generation_config), self.tokenizer)
        texts: list[str] = self.tokenizer.batch_decode(found, skip_special_tokens=True)
        return texts

    def on_validation_epoch_end(self) -> None:
        """Logs the figures, and frees the memory that decode steps were recorded with."""
        super().on_validation_epoch_end()
        self._forget_steps()

    on_test_epoch_end = on_validation_epoch_end

    def on_predict_epoch_end(self) -> None:
        """Frees the memory that decode steps were recorded with."""
        self._forget_steps()

    def _forget_steps(self) -> None:
        self._static_steps.free()
        self._static_steps = StaticSteps()

    def _loss(self, batch: PromptBatch, label_smoothing: float = 0.0) -> Tensor:
        """Returns the cross-entropy of a batch's targets, mean over their tokens."""
        if not batch.target_ids.shape[1]:
            raise InputError(
                "--data: these prompts have no answers to learn from; the supervised stage takes "
                "data with them, such as DialogueDataModule's"
            )
        logits, _ = self.source.family.forward(
            base_model(self.model), batch.prompt_ids, batch.prompt_mask, batch.target_ids
        )
        # By the mask and not by the id: T5's pad is also its decoder start.
        labels = batch.target_ids.masked_fill(~batch.target_mask, -100)
        return F.cross_entropy(
            logits.flatten(0, 1).float(), labels.flatten(), label_smoothing=label_smoothing
        )
