"""Training stage 3: PPO on the policy's adapters, with a value head and a KL penalty."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from safetensors.torch import save_file
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from detox_lightning.algorithm.advantages import GAE, AdvantageEstimator
from detox_lightning.algorithm.experience import to_experience
from detox_lightning.algorithm.kl import KLPenalty
from detox_lightning.algorithm.losses import PolicyLoss, PPOLoss
from detox_lightning.algorithm.shaping import RunningMoments, ScoreShaping
from detox_lightning.algorithm.types import Rollout
from detox_lightning.batches import PromptBatch
from detox_lightning.errors import check_divides
from detox_lightning.evaluation.comparison import Comparison
from detox_lightning.evaluation.examiner import Examiner
from detox_lightning.evaluation.meter import NAMES
from detox_lightning.evaluation.plan import EvaluationPlan
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.models.families.base import Family, check_positions, family_of
from detox_lightning.models.finite import refuse_broken_model
from detox_lightning.models.loading import Weights, load_tokenizer
from detox_lightning.models.lora import LoRA
from detox_lightning.models.policy import load_policy
from detox_lightning.models.saving import save_model
from detox_lightning.models.sharding import shard
from detox_lightning.models.source import VALUE_HEAD, Start, adapter_facts, find_start
from detox_lightning.ppo import checks
from detox_lightning.ppo.actor import Actor, place_of
from detox_lightning.ppo.clock import Clock
from detox_lightning.ppo.learner import Learner, Ranks
from detox_lightning.ppo.micro_batches import MicroBatches
from detox_lightning.ppo.reporting import (
    Curves,
    NewestRollout,
    progress_bar,
    rollout_report,
    without_values,
)
from detox_lightning.protocols import data_of
from detox_lightning.rewards import Reward
from detox_lightning.rollout import (
    NO_GRADIENT,
    Samples,
)
from detox_lightning.seeding import derive_seed, global_seed
from detox_lightning.stages.checkpoint import check_stamp, check_trainable, keep_trainable, stamp
from detox_lightning.stages.devices import choose_kernels
from detox_lightning.stages.faults import CAUSES_IN_PPO, Faults
from detox_lightning.stages.optimization import CONSTANT, Schedule, StepwiseOptimization
from detox_lightning.stages.run_checks import check_conditions
from detox_lightning.stages.stop_iteration import not_the_end
from detox_lightning.stages.strategy import check_strategy


class PPOModule(LightningModule):
    """Makes a model write what a reward likes, without going far from how it began.

    Proximal policy optimization (https://arxiv.org/abs/1707.06347) on LoRA adapters with a value
    head: sample responses, score them, charge for the KL divergence from the reference, and take
    clipped steps. The constructor only takes names; models are opened when a run begins.

    Args:
        policy: The model to begin from, which is also the reference: a base or fine-tuned
            model, which gets a fresh adapter; an adapter, which is trained on (its base is
            found in its config); or a checkpoint ``*.ckpt`` with an adapter, of the supervised
            stage or of this one. Hub id, local folder, file or ``demo:NAME``.
        reward: What a response is worth.
        lora: The fresh adapter; a loaded adapter keeps its own shape. null: all weights are
            trained, at the price of a frozen copy of the model as reference.
        adapter: An adapter on ``policy`` to train on, where its config doesn't name its base.
        weights: How the base's weights are opened.
        sampling: How responses are sampled.
        ppo_epochs: Passes over each rollout.
        mini_batch_size: Responses per optimizer step, on each rank.
        micro_batch_size: Responses per forward pass, to save memory; the gradient is that of
            the mini-batch. null: the mini-batch.
        kl: The KL penalty and its controller.
        scores: What happens to the scores before they become rewards.
        advantage: How advantages are estimated; null: :class:`GAE` with its defaults.
        loss: What the update descends; null: :class:`PPOLoss` with its defaults. Options without a
            class path are those of :class:`PPOLoss`.
        max_grad_norm: The gradient's norm is clipped to this at every optimizer step; null for
            never.
        ratio_threshold: A mini-batch whose mean ratio is above this is skipped.
        early_stop_kl: A rollout's epochs end where the mean KL from the rollout's policy is
            above 1.5 times this many nats a token; null for never.
        max_faults: Rollouts of the whole run that may be left out, or some of their
            mini-batches, because a score, a loss or a gradient is not finite; what they were
            made of is written into the folder ``faults`` of the run. One more ends the run.
        optimizer: Gets the adapters' and the value head's parameters.
        schedule: Of the learning rate; a step is a rollout.
        evaluation: How ``validate``, ``test`` and ``predict`` ask and judge.
        gradient_checkpointing: Compute activations again in the backward pass, to save memory.
        seed: Of rollouts and shuffles; null: that of ``--seed_everything``.

    Raises:
        InputError: If sizes do not divide, if nothing measures toxicity, or if loss and advantage
            do not go together.
    """

    stage_name = "ppo"
    labels = None

    def __init__(
        self,
        policy: str,
        reward: Reward,
        lora: LoRA | None = LoRA(),  # noqa: B008
        adapter: str | None = None,
        weights: Weights = Weights(),  # noqa: B008
        sampling: Sampling = Sampling(),  # noqa: B008
        ppo_epochs: PositiveInt = 4,
        mini_batch_size: PositiveInt = 4,
        micro_batch_size: PositiveInt | None = None,
        kl: KLPenalty = KLPenalty(),  # noqa: B008
        scores: ScoreShaping = ScoreShaping(),  # noqa: B008
        advantage: AdvantageEstimator | None = None,
        loss: PPOLoss | PolicyLoss | None = None,
        max_grad_norm: PositiveFloat | None = 1.0,
        ratio_threshold: PositiveFloat = 10.0,
        early_stop_kl: PositiveFloat | None = None,
        max_faults: NonNegativeInt = 10,
        optimizer: OptimizerCallable = lambda params: torch.optim.Adam(params, lr=1.41e-5),
        schedule: Schedule = CONSTANT,
        evaluation: EvaluationPlan = EvaluationPlan(),  # noqa: B008
        gradient_checkpointing: bool = False,
        seed: NonNegativeInt | None = None,
    ):
        super().__init__()
        with warnings.catch_warnings():  # a reward holds a name until it loads: it may be copied
            warnings.filterwarnings("ignore", "Attribute 'reward' is an instance")
            self.save_hyperparameters()
        self.automatic_optimization = False
        self.strict_loading = False
        self.base_or_policy, self.adapter = policy, adapter
        self.policy_name = policy if adapter is None else adapter
        self.weights, self.lora, self.sampling = weights, lora, sampling
        self.reward, self.needs = reward, reward.needs
        self.kl, self.shaping, self.moments = kl, scores, RunningMoments()
        self.advantage, self.loss = advantage or GAE(), loss or PPOLoss()
        self.ppo_epochs, self.mini_batch_size = ppo_epochs, mini_batch_size
        self.micro_batches = MicroBatches(micro_batch_size or mini_batch_size)
        self.max_grad_norm, self.ratio_threshold = max_grad_norm, ratio_threshold
        self.early_stop_kl, self.schedule = early_stop_kl, schedule
        self.faults = Faults(max_faults)
        self.optimization = StepwiseOptimization(optimizer, schedule)
        self.gradient_checkpointing = gradient_checkpointing
        self.seed = seed if seed is not None else global_seed()
        self.examiner = Examiner(evaluation, reward, sampling, self.seed)
        self.curves = Curves()
        self.kl_coef: float = kl.coef
        self.rollouts = 0
        self.newest: NewestRollout | None = None
        self.policy: Any = None
        self.tokenizer: Any = None
        size = self.micro_batches.size
        check_divides("model.micro_batch_size", size, "model.mini_batch_size", mini_batch_size)
        checks.check_loss(self.loss, self.advantage)

    # -- the algorithm

    @not_the_end
    def training_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Samples one rollout, scores it, and takes the steps that it is good for.

        Args:
            batch: Prompts; each gets ``advantage.responses_per_prompt`` responses, which makes
                ``b`` responses of up to ``t`` tokens.
            batch_idx: Place in the epoch.
        """
        clock, moments, number = Clock(self.device), replace(self.moments), self.rollouts
        prompts = self.repeated(batch)

        # 1. Sample responses; the noise is a function of (seed, rollout, rank).
        with clock("rollout"):
            responses = self.actor.respond_to(prompts, number)

        # 2. Score the texts: every part of the reward, and their total, [b].
        with clock("score"):
            scores = self.actor.scores_of(prompts, responses, number)

        with clock("update"):
            # 3. Log-probabilities under policy and reference, values, KL: all [b, t].
            rollout, is_finite = self.actor.rollout_of(prompts, responses, scores, number)
            if is_finite:
                # 4. Token rewards r_j = -β·kl_j, plus the score at the last token; advantages.
                experience = to_experience(
                    rollout, self.kl_coef, self.advantage, self.shaping, moments, self.ranks.sum
                )
                self.faults.add(advantages=experience.advantages, returns=experience.returns)
                # 5. ppo_epochs × mini-batches × micro-batches; steps on sums over all ranks.
                update = self.learner.learn(experience, self.orders(rollout), place_of(number))

        # 6. β ← β·(1 + clip(KL/target - 1, ±0.2)·n/horizon), for n responses on all ranks.
        metrics: dict[str, float] = {}
        if is_finite:
            metrics = rollout_report(
                rollout, experience, scores, update, self.kl_coef, self.ranks.sum
            )
            count = len(rollout.scores) * self.ranks.number
            self.kl_coef = self.kl.next_coef(self.kl_coef, metrics["objective/kl"], count)
            if update.rows:  # scores that nothing was learned from change nothing later
                self.moments = moments
        self.log_rollout(metrics, clock)
        self.learning_rate.step()
        self.newest = NewestRollout(prompts, responses, rollout)
        self.rollouts += 1

    def repeated(self, batch: PromptBatch) -> PromptBatch:
        """Repeats each prompt as often as it is answered.

        Raises:
            InputError: If the responses do not split into mini-batches.
        """
        k = self.advantage.responses_per_prompt
        checks.check_batch_size(self.mini_batch_size, len(batch.prompts), k)
        return batch.repeated(k)

    @property
    def place(self) -> str:
        """Where in the run it is, for messages."""
        return place_of(self.rollouts)

    def orders(self, rollout: Rollout) -> Iterator[Tensor]:
        """The order of this rank's responses in each epoch of the update: ``[b]``, on the CPU."""
        for epoch in range(self.ppo_epochs):
            seed = derive_seed(self.seed, "shuffle", self.rollouts, epoch, self.global_rank)
            generator = torch.Generator().manual_seed(seed)
            yield torch.randperm(len(rollout.scores), generator=generator)

    @property
    def ranks(self) -> Ranks:
        """The processes that learn together; a sum has no barrier that a GPU would wait at."""

        def sum_over_ranks(x: Tensor) -> Tensor:
            total = x.clone()
            if self.trainer.world_size > 1:
                torch.distributed.all_reduce(total)
            return total

        unsynced = getattr(self.trainer.strategy, "block_backward_sync", nullcontext)
        return Ranks(self.trainer.world_size, sum_over_ranks, unsynced)

    @property
    def learning_rate(self) -> LambdaLR:
        """The schedule, stepped once a rollout."""
        schedule = self.lr_schedulers()
        assert isinstance(schedule, LambdaLR)
        return schedule

    @property
    def samples(self) -> Samples | None:
        """The newest rollout's texts; None before the first."""
        return None if self.newest is None else self.newest.samples()

    def log_rollout(self, metrics: dict[str, float], clock: Clock) -> None:
        """Logs a rollout; a few figures go to the progress bar, too.

        Args:
            metrics: Its figures; empty if it was left out.
            clock: Timed its parts.
        """
        if not self.advantage.uses_values:
            metrics = without_values(metrics)
        metrics = self.curves.complete(metrics)
        metrics["ppo/learning_rate"] = float(self.learning_rate.get_last_lr()[0])
        metrics["ppo/faults"] = float(self.faults.count)
        metrics["step"] = self.rollouts + 1.0  # the x-axis: rollouts done
        self.log_dict({**metrics, **clock.metrics(metrics.get("tokens/total"))}, batch_size=1)
        bar = {**progress_bar(metrics), "rollouts": self.rollouts + 1.0}
        self.log_dict(bar, prog_bar=True, logger=False, batch_size=1)

    # -- evaluation

    def validation_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Judges a sampled response of the policy to each prompt."""
        self.examiner.validate(batch)

    def on_validation_epoch_end(self) -> None:
        """Logs ``val/…``."""
        self.log_global(self.examiner.finish_validation())

    def log_global(self, figures: Mapping[str, float | Tensor]) -> None:
        """Logs figures that are the same on all ranks, at the rollouts done."""
        self.log_dict({**figures, "step": float(self.rollouts)}, sync_dist=True)

    def on_test_start(self) -> None:
        """Warns where nothing was trained."""
        self.warn_untrained()

    def on_predict_start(self) -> None:
        """Warns where nothing was trained."""
        self.warn_untrained()

    def warn_untrained(self) -> None:
        """Says so if the policy is still what it began as."""
        if not self.rollouts:
            rank_zero_warn(
                "the policy is as it was before training: give the trained one's --ckpt_path, "
                "such as last"
            )

    def test_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Judges responses of reference and policy."""
        self.examiner.test(batch)

    def on_test_epoch_end(self) -> None:
        """Puts the comparison together and logs it: ``test/…``, ``test/greedy/…``."""
        self.log_global(self.examiner.finish_test())

    def predict_step(self, batch: PromptBatch, batch_idx: int) -> list[dict[str, Any]]:
        """Answers prompts; see :meth:`Examiner.predict`."""
        return self.examiner.predict(batch)

    @property
    def comparison(self) -> Comparison | None:
        """The result of the last test; None before it."""
        return self.examiner.comparison

    @property
    def about(self) -> dict[str, Any]:
        """What a test compares, and how: for its report."""
        return {"policy": self.policy_name, **self.examiner.describe()}

    # -- models and state

    @cached_property
    def start(self) -> Start:
        """Where the policy begins; found out when first asked for, which may take the hub."""
        return find_start(self.base_or_policy, self.adapter, self.weights.revision)

    @cached_property
    def family(self) -> Family:
        """What kind of model the policy is, by its base's config."""
        return family_of(self.start.base, **self.tokenizer_options)

    @property
    def tokenizer_name(self) -> str:
        """The model whose tokenizer the data must use: of an adapter, its base."""
        return self.start.base

    @property
    def tokenizer_options(self) -> dict[str, Any]:
        """How the data must open it."""
        return {**self.weights.file_options, "revision": self.start.base_revision}

    @property
    def auto_class(self) -> str:
        """The class of transformers that opens the policy's base."""
        return self.family.auto_class

    @property
    def kl_target(self) -> float | None:
        """Target of the adaptive KL coefficient, if it adapts."""
        return self.kl.target

    @property
    def padding_side(self) -> Literal["left", "right"]:
        """The side on which prompts are padded."""
        return self.family.padding_side

    @property
    def export_name(self) -> str:
        """What the folder is called that :meth:`export` writes."""
        return "adapter" if self.policy.has_adapter else "model"

    def setup(self, stage: str) -> None:
        """Refuses what can't work, before any model is opened.

        Raises:
            InputError: If sizes do not divide, the precision loses steps, the strategy or the
                schedule can't work, a reward's name can't be shown, or the model has too few
                positions.
        """
        check_conditions(self, stage, NAMES)
        checks.check_reward_names(self.reward)
        check_strategy(type(self.trainer.strategy).__name__)
        data = data_of(self.trainer)
        if data is not None:
            limits = {
                "model.sampling.max_new_tokens": self.sampling.limits[1],
                "model.evaluation.max_new_tokens": self.examiner.plan.max_new_tokens or 0,
            }
            base, options = self.start.base, self.tokenizer_options
            check_positions(self.family, base, data.max_prompt_tokens, limits, **options)
        if stage == "fit":
            checks.warn_of_narrow_sampling(self.sampling)
            checks.check_schedule(self.schedule.name, self.trainer.max_steps)
            if data is not None:
                k = self.advantage.responses_per_prompt
                checks.check_batch_size(self.mini_batch_size, data.batch_size, k)

    def check_shardable(self) -> None:
        """Refuses a base that can't be sharded, before it is opened.

        Raises:
            InputError: If the base itself is trained, or quantized.
        """
        begins_with_adapter = self.start.adapter is not None or self.start.checkpoint is not None
        trains_whole_base = self.lora is None and not begins_with_adapter
        checks.check_shardable(trains_whole_base, self.weights.quantization)

    def configure_model(self) -> None:
        """Opens policy, reward and toxicity classifier, once."""
        if self.policy is not None:
            return
        choose_kernels()
        self.tokenizer = load_tokenizer(self.tokenizer_name, **self.tokenizer_options)
        self.policy = load_policy(
            self.start,
            self.lora,
            self.sampling,
            self.advantage.uses_values,
            self.weights,
            None if self._trainer is None else self.trainer.strategy.root_device,
            self.tokenizer,
        )
        refuse_broken_model("model.policy", self.policy_name, self.policy)
        if self.gradient_checkpointing:
            self.policy.enable_gradient_checkpointing()
        if self.device_mesh is not None:
            shard(self.policy, self.device_mesh["data_parallel"])
        size = NO_GRADIENT * self.micro_batches.size
        self.examiner.load(self.policy, self.tokenizer, size)
        rank_zero_info(self.examiner.judge.heads())
        # nothing changes them, and evaluation steps may not wait for other ranks
        self._ddp_params_and_buffers_to_ignore = [name for name, _ in self.named_buffers()]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One optimizer of adapters and value head, and its schedule."""
        return self.optimization.configure(self)

    def on_fit_start(self) -> None:
        """Prints and logs how many parameters there are, and how many learn."""
        counts = self.policy.parameter_counts()
        rank_zero_info("\n".join(f"{name}: {count:,}" for name, count in counts.items()))
        if self.policy.began_with_values and not self.rollouts:
            rank_zero_info(f"The value head goes on from that of {self.policy_name}")
        for logger in [] if self.rollouts else self.loggers:  # a run that goes on has logged them
            logger.log_metrics({f"parameters/{name}": n for name, n in counts.items()}, step=0)

    def on_train_start(self) -> None:
        """Lets the flags win over a checkpoint, and evaluates before the first update."""
        self.optimization.let_flags_win(self)
        self.actor = Actor(
            self.policy,
            self.tokenizer,
            self.reward,
            self.sampling,
            self.kl.estimator,
            self.ranks,
            self.global_rank,
            self.seed,
            self.micro_batches,
            self.faults,
        )
        self.learner = Learner(
            self.policy,
            self.optimizers(),
            self.loss,
            self.ranks,
            backward=self.manual_backward,
            leave_out=lambda what, rows: self.faults.leave_out(what, CAUSES_IN_PPO, rows),
            micro_batches=self.micro_batches,
            mini_batch_size=self.mini_batch_size,
            longest=self.sampling.limits[1],
            max_grad_norm=self.max_grad_norm,
            ratio_threshold=self.ratio_threshold,
            early_stop_kl=self.early_stop_kl,
        )
        if self.rollouts == 0 and self.trainer.enable_validation:
            self.trainer.validating = True
            self.trainer.fit_loop.epoch_loop.val_loop.run()
            self.trainer.training = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps what learns, and the state of controller and moments."""
        keep_trainable(self, checkpoint)
        stamp(
            checkpoint,
            self.stage_name,
            self.tokenizer_name,
            policy=self.policy_name,
            base_revision=self.start.base_revision,
            lora=self.lora,
            adapter=adapter_facts(self.policy.model),
            rollouts=self.rollouts,
            kl_coef=self.kl_coef,
            moments=asdict(self.moments),
            faults=self.faults.count,
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Makes sure that the checkpoint is one of this policy's, and goes on from its state."""
        facts = check_stamp(checkpoint, self.stage_name, self.tokenizer_name)
        check_trainable(
            self,
            checkpoint,
            base=self.start.base,
            base_revision=self.start.base_revision,
            adapter=adapter_facts(self.policy.model),
        )
        self.rollouts = facts["rollouts"]
        self.faults.count = facts.get("faults", 0)
        if self.kl.target is not None:  # a fixed coefficient is a flag, and flags win
            self.kl_coef = facts["kl_coef"]
        if facts["policy"] != self.policy_name:
            rank_zero_warn(
                f"the checkpoint began from {facts['policy']!r}, this run's reference is "
                f"{self.policy_name!r}: KL and rewards mean something else from here on"
            )
        self.moments = RunningMoments(**facts["moments"])

    def export(self, folder: str | Path) -> None:
        """Writes the adapter, the tokenizer and the value head as a folder that peft opens.

        Args:
            folder: Where to.
        """
        save_model(self.policy.model, self.tokenizer, folder)
        self.policy.generation_config.save_pretrained(folder)
        if self.policy.value_head is not None:
            save_file(self.policy.value_head.state_dict(), Path(folder) / VALUE_HEAD)
