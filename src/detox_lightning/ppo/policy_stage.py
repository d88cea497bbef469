"""The policy as a stage: how it is opened, evaluated, saved and exported, however it is trained."""

from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from safetensors.torch import save_file
from torch import Tensor

from detox_lightning.algorithm.advantages import AdvantageEstimator
from detox_lightning.algorithm.constraint import Multiplier
from detox_lightning.algorithm.experience import RunningMoments, ScoreShaping
from detox_lightning.algorithm.kl import KLPenalty
from detox_lightning.algorithm.types import Rollout
from detox_lightning.batches import PromptBatch
from detox_lightning.errors import check_divides
from detox_lightning.evaluation.comparison import Comparison
from detox_lightning.evaluation.evaluator import Evaluator
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.models.loading import load_tokenizer
from detox_lightning.models.policy import load_policy
from detox_lightning.models.precision import check_finite_model
from detox_lightning.models.saving import save_model
from detox_lightning.models.sharding import shard
from detox_lightning.models.source import CRITIC, VALUE_HEAD
from detox_lightning.models.value_head import learned
from detox_lightning.ppo.checks import (
    check_learns,
    check_length,
    check_shards,
    warn_of_bias,
    warn_of_discount,
    warn_of_warmup,
)
from detox_lightning.ppo.critic_options import CriticOptions
from detox_lightning.ppo.learner import UpdateOptions
from detox_lightning.ppo.micro_batches import MicroBatches
from detox_lightning.protocols import Samples, data_of
from detox_lightning.rewards import Reward
from detox_lightning.rewards.interface import check_name
from detox_lightning.rollout import NO_GRADIENT, Responses
from detox_lightning.stages.checkpoint import load_stage, save_stage
from detox_lightning.stages.devices import choose_kernels
from detox_lightning.stages.run_checks import check_conditions
from detox_lightning.stages.stage_module import StageModule, say_what_learns
from detox_lightning.stages.strategy import check_strategy


class PolicyStage(StageModule):
    """Opens, evaluates, saves and exports a policy; its subclass trains the policy.

    Attributes:
        policy: The model, opened by :meth:`configure_model`; None before.
        tokenizer: The policy's.
        rollouts: Rollouts done.
        kl_coef: The coefficient of the KL penalty.
        moments: Running mean and variance of the scores.
        multiplier: Holds the constraint, if there is one.
        evaluator: Evaluates the policy.
    """

    stage_name = "ppo"
    policy_name: str
    sampling: Sampling
    reward: Reward
    needs: Collection[str]
    columns: Mapping[str, str]
    seed: int
    kl: KLPenalty
    advantage: AdvantageEstimator
    options: UpdateOptions
    micro_batches: MicroBatches
    evaluator: Evaluator
    gradient_checkpointing: bool
    values: CriticOptions
    kl_coef: float
    moments: RunningMoments
    multiplier: Multiplier
    shaping: ScoreShaping
    policy: Any
    rollouts: int = 0
    newest: tuple[PromptBatch, Responses, Rollout] | None = None

    @property
    def kl_target(self) -> float | None:
        """Target of the adaptive KL coefficient, if it adapts."""
        return self.kl.target

    def setup(self, stage: str) -> None:
        """Refuses flags, names and data that can't work, before any model is opened."""
        check_conditions(self, stage, self.evaluator.validation.names)
        for part in self.reward.modules():
            if isinstance(part, Reward):
                check_name(part.name)
        check_strategy(type(self.trainer.strategy).__name__)
        sources = (self.source, *self.values.sources(self.source, self.has_adapter))
        data = data_of(self.trainer)
        if data is not None:
            limits = {
                "model.sampling.max_new_tokens": self.sampling.limits[1],
                "model.evaluation.max_new_tokens": self.evaluator.plan.max_new_tokens or 0,
            }
            for source in sources:
                source.check_positions(data.max_prompt_tokens, limits)
        if stage == "test":
            references = data.rows("test")["reference"] if data else None
            self.evaluator.rewriting.prepare(references)
        if stage == "fit":
            warn_of_bias(self.kl, self.sampling, self.multiplier.measure)
            check_length(self.schedule, self.trainer.max_steps)
            check_learns(self.options.loss, self.values)
            warn_of_discount(self.advantage, self.reward)
            if data is not None:
                self.check_batch_size(data.batch_size)

    def check_batch_size(self, prompts: int) -> None:
        """Raises an InputError if a rank's responses don't split into mini-batches."""
        k = self.advantage.responses_per_prompt
        flag = "data.batch_size" + (f" × {k} responses" if k > 1 else "")
        size = self.options.mini_batch_size
        check_divides("model.mini_batch_size", size, flag, prompts * k)

    def check_shardable(self) -> None:
        """Refuses a base that can't be sharded, before it is opened."""
        check_shards(self.has_adapter, self.weights)
        self.values.check_shardable()

    def configure_model(self) -> None:
        """Opens the policy and what judges it, once."""
        if self.policy is not None:
            return
        choose_kernels()
        self.tokenizer = load_tokenizer(self.source.base, **self.source.tokenizer_options)
        self.policy = load_policy(
            self.source,
            self.lora,
            self.sampling,
            self.advantage.uses_values,
            self.root_device,
            self.tokenizer,
            self.values.critic,
        )
        check_finite_model("model.policy", self.policy_name, self.policy)
        if self.gradient_checkpointing:
            self.policy.enable_gradient_checkpointing()
        if self.device_mesh is not None:
            shard(self.policy, self.device_mesh["data_parallel"])
        size = NO_GRADIENT * self.micro_batches.size
        self.evaluator.load(self.policy, self.tokenizer, size)
        rank_zero_info(self.evaluator.judge.describe_heads())
        # no buffer changes, and evaluation steps must not wait for other ranks
        self._ddp_params_and_buffers_to_ignore = [name for name, _ in self.named_buffers()]

    def parameter_groups(self) -> list[Any]:
        """Returns what the optimizer gets; see :meth:`CriticOptions.groups`."""
        return self.values.groups(self.policy)

    def on_fit_start(self) -> None:
        """Says what is rewarded, and how many parameters learn; warns of a toxic aim."""
        rank_zero_info(self.evaluator.judge.describe_aim())
        for label in self.evaluator.judge.toxic_aims():
            rank_zero_warn(
                f"model.reward: it rewards the label {label!r}, which counts as toxic: texts will "
                "become more toxic. Give model.reward.label the opposite label, or the term a "
                f"weight of the other sign in a WeightedReward; if {label!r} is not toxic, correct "
                "model.evaluation.toxic_label"
            )
        counts = self.policy.parameter_counts()
        say_what_learns(counts["with_value_head_trainable"], counts["with_value_head_total"])
        warn_of_warmup(self.values.value_warmup, self.trainer.estimated_stepping_batches)
        if self.policy.restored_value_head and not self.rollouts:
            rank_zero_info(f"The value head goes on from that of {self.policy_name}")
        for logger in [] if self.rollouts else self.loggers:  # a resumed run has logged them
            logger.log_metrics({f"size/{name}": n for name, n in counts.items()}, step=0)

    def teardown(self, stage: str) -> None:
        """Gives back the device's memory that decoding has kept for later batches."""
        if self.policy is not None:
            self.policy.static_steps.free()

    def steer(self, metrics: dict[str, float], responses: int) -> None:
        """Lets both controllers answer to a rollout of so many ``responses`` on all ranks."""
        scale = self.moments.std if self.shaping.scale else 1.0
        score_std = metrics["objective/scores_std"] / (scale or 1)
        if line := self.multiplier.update(metrics, score_std, self.kl_coef):
            rank_zero_warn(line)
        self.kl_coef = self.kl.next_coef(self.kl_coef, metrics["objective/kl"], responses)

    @property
    def samples(self) -> Samples | None:
        """The newest rollout's texts with their figures; None before the first."""
        if self.newest is None:
            return None
        prompts, responses, rollout = self.newest
        return Samples(
            prompts.prompts,
            responses.texts,
            rollout.scores.tolist(),
            rollout.response_mask.sum(dim=1).tolist(),
            torch.where(rollout.response_mask, rollout.kl, 0).sum(dim=1).tolist(),
        )

    # -- evaluation

    def validation_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Evaluates a sampled response of the policy to each prompt."""
        self.evaluator.validate(batch)

    def on_validation_epoch_end(self) -> None:
        """Logs ``val/…``."""
        self.log_global(self.evaluator.validation.finish())

    def log_global(self, figures: Mapping[str, float | Tensor]) -> None:
        """Logs figures that are the same on all ranks, at the rollouts done."""
        self.log_dict({**figures, "step": float(self.rollouts)}, sync_dist=True)

    def on_test_start(self) -> None:
        """Warns if the policy is still as it was before training."""
        if not self.rollouts:
            rank_zero_warn(
                "the policy is as it was before training: give the trained one's --ckpt_path, "
                "such as last"
            )

    on_predict_start = on_test_start

    def test_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Evaluates responses of reference and policy."""
        data = data_of(self.trainer)
        self.evaluator.test(batch, data.template if data else "")

    def on_test_epoch_end(self) -> None:
        """Puts the comparison together and logs it: ``test/…``, ``test/greedy/…``."""
        data = data_of(self.trainer)
        self.log_global(self.evaluator.finish_test(data.template if data else ""))

    def predict_step(self, batch: PromptBatch, batch_idx: int) -> list[dict[str, Any]]:
        """Answers prompts; see :meth:`Evaluator.predict`."""
        return self.evaluator.predict(batch)

    @torch.no_grad()
    def answer(self, texts: list[str], data: Any = None, before: bool = False) -> list[str]:
        """Answers texts as ``predict`` does; ``before`` asks the model before training.

        ``data`` is the data module whose template makes prompts of the texts; None: the trainer's.
        """
        batch = self.prompts_of(texts, data)
        return self.evaluator.answer(batch, "before" if before else "after")

    @property
    def comparison(self) -> Comparison | None:
        """The result of the last test; None before it."""
        return self.evaluator.comparison

    @property
    def about(self) -> dict[str, Any]:
        """What a test compares, and how: for its report."""
        return {"policy": self.policy_name, **self.evaluator.describe()}

    # -- checkpoints and export

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Saves the parameters that learn, and the state of controller and moments."""
        save_stage(
            self,
            checkpoint,
            policy=self.policy_name,
            lora=self.lora,
            **self.origin(self.policy.model),
            rollouts=self.rollouts,
            kl_coef=self.kl_coef,
            moments=asdict(self.moments),
            multiplier=self.multiplier.state(),
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Checks that the checkpoint fits this policy, and restores the controller's state."""
        facts = load_stage(self, checkpoint, **self.origin(self.policy.model))
        if self._trainer is not None and self._trainer.state.fn == "fit":
            self.values.check_goes_on(checkpoint)
        self.rollouts = facts["rollouts"]
        if self.kl.target is not None:  # a fixed coefficient is a flag, and flags win
            self.kl_coef = facts["kl_coef"]
        if facts["policy"] != self.policy_name:
            rank_zero_warn(
                f"the checkpoint began from {facts['policy']!r}, this run's reference is "
                f"{self.policy_name!r}: KL and rewards mean something else from here on"
            )
        self.moments = RunningMoments(**facts["moments"])
        self.multiplier.load(facts.get("multiplier"))

    def export(self, folder: str | Path) -> None:
        """Writes the adapter (or the whole model), the tokenizer, and the value head or critic."""
        save_model(self.policy.model, self.tokenizer, folder)
        if (estimator := self.policy.estimator) is not None:
            name = VALUE_HEAD if self.policy.critic is None else CRITIC
            save_file(learned(estimator), Path(folder) / name)
