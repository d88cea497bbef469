"""Training stage 3: PPO with a KL penalty, on a policy's adapters or on all of its weights."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import torch
from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from detox_lightning.algorithm import group_losses  # noqa: F401  (so that class_path takes short names)
from detox_lightning.algorithm.advantages import GAE, AdvantageEstimator
from detox_lightning.algorithm.constraint import Constraint, Multiplier
from detox_lightning.algorithm.experience import RunningMoments, ScoreShaping, to_experience
from detox_lightning.algorithm.kl import KLPenalty
from detox_lightning.algorithm.losses import PolicyLoss, PPOLoss
from detox_lightning.algorithm.metrics import rollout_metrics
from detox_lightning.algorithm.types import Rollout
from detox_lightning.arguments import as_options
from detox_lightning.batches import PromptBatch
from detox_lightning.errors import check_divides
from detox_lightning.evaluation.evaluator import Evaluator
from detox_lightning.evaluation.plan import EvaluationPlan
from detox_lightning.evaluation.validation import Validation
from detox_lightning.models.critic import HEAD
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.models.loading import Weights
from detox_lightning.models.lora import LoRA
from detox_lightning.ppo.actor import Actor, no_stop_iteration, place_of
from detox_lightning.ppo.checks import check_pairs
from detox_lightning.ppo.clock import Clock
from detox_lightning.ppo.critic_options import critic_options
from detox_lightning.ppo.learner import Learner, UpdateOptions
from detox_lightning.ppo.micro_batches import MicroBatches
from detox_lightning.ppo.policy_stage import PolicyStage
from detox_lightning.ppo.ranks import ranks_of
from detox_lightning.rewards import Reward
from detox_lightning.rewards.function_reward import RewardFunction, as_reward
from detox_lightning.rewards.measures import with_measure
from detox_lightning.seeding import derive_seed, global_seed
from detox_lightning.stages.faults import CAUSES_IN_PPO
from detox_lightning.stages.optimization import CONSTANT, Schedule

OF_VALUES = ("ppo/val/", "ppo/returns/", "ppo/loss/value")  # curves that need a value head
PROGRESS_BAR = {"kl": "objective/kl", "score": "objective/scores_mean"}


class PPOModule(PolicyStage):
    """Trains a model to write what a reward likes, without moving far from how it began.

    Proximal policy optimization (https://arxiv.org/abs/1707.06347) on LoRA adapters with a value
    head: sample responses, score them, subtract a penalty for the KL divergence from the reference,
    and take clipped steps. The constructor only takes names; models open when a run begins.

    Args:
        policy: The model to begin from, which is also the reference: a base or fine-tuned
            model, which gets a fresh adapter; an adapter, which is trained on (its base is
            found in its config); or a checkpoint ``*.ckpt`` with an adapter, of the supervised
            stage or of this one. Hub id, local folder, file or ``demo:NAME``.
        reward: What a response is worth: a reward, or a function such as ``my_file.my_function``.
        lora: The fresh adapter; a loaded adapter keeps its own shape. null: all weights are
            trained, at the price of a frozen copy of the model as reference.
        adapter: An adapter on ``policy`` to train on, where its config doesn't name its base.
        weights: How the base's weights are opened.
        sampling: How responses are sampled.
        ppo_epochs: Passes over each rollout.
        mini_batch_size: Responses per optimizer step, on each rank.
        micro_batch_size: Responses per forward pass, to save memory; the gradient is that of
            the mini-batch. null: the mini-batch, which is halved once if memory runs out; auto:
            it is halved until it fits.
        kl: The KL penalty and its controller.
        scores: What happens to the scores before they become rewards.
        constraint: A limit that the policy shall keep, such as a ROUGE-L, while it maximizes the
            reward; null for none.
        advantage: How advantages are estimated; null: :class:`GAE` with its defaults.
        critic: What estimates values for GAE: ``head``, a layer on the policy's hidden states;
            ``adapter``, a further adapter on the policy's base, with a head; or the name of a
            model with the policy's tokenizer, which gets a head.
        critic_lr: Learning rate of what estimates values; null: that of the optimizer.
        value_warmup: Rollouts at the start in which only what estimates values learns.
        loss: The loss that the update minimizes; null: :class:`PPOLoss` with its defaults. Options
            without a class path are those of :class:`PPOLoss`.
        max_grad_norm: The gradient's norm is clipped to this at every optimizer step; null for
            never.
        ratio_threshold: A mini-batch whose mean ratio is above this is skipped.
        early_stop_kl: No further epoch begins once an epoch's last mini-batch has a mean KL from
            the rollout's policy above 1.5 times this many nats a token; null for never.
        max_faults: How many rollouts of the whole run may be left out, or lose a mini-batch,
            because a score, a loss or a gradient is not finite. What was left out is written into
            the folder ``faults`` of the run. One more ends the run.
        optimizer: Optimizer of the parameters that learn. The default, Adam at 1e-4, is meant for
            adapters; all weights need a lower rate.
        schedule: Schedule of the learning rate; a step is a rollout.
        evaluation: How ``validate``, ``test`` and ``predict`` sample and evaluate responses.
        gradient_checkpointing: Compute activations again in the backward pass, to save memory.
        seed: Seed of rollouts and shuffles; null: that of ``--seed_everything``.

    Raises:
        InputError: If sizes do not divide, or if loss and advantage do not go together.
    """

    def __init__(
        self,
        policy: str,
        reward: Reward | RewardFunction,
        lora: LoRA | None = LoRA(),  # noqa: B008
        adapter: str | None = None,
        weights: Weights = Weights(),  # noqa: B008
        sampling: Sampling = Sampling(),  # noqa: B008
        ppo_epochs: PositiveInt = 4,
        mini_batch_size: PositiveInt = 4,
        micro_batch_size: PositiveInt | Literal["auto"] | None = None,
        kl: KLPenalty = KLPenalty(),  # noqa: B008
        scores: ScoreShaping = ScoreShaping(),  # noqa: B008
        constraint: Constraint | None = None,
        advantage: AdvantageEstimator | None = None,
        critic: str = HEAD,
        critic_lr: PositiveFloat | None = None,
        value_warmup: NonNegativeInt = 0,
        loss: PPOLoss | PolicyLoss | None = None,
        max_grad_norm: PositiveFloat | None = 1.0,
        ratio_threshold: PositiveFloat = 10.0,
        early_stop_kl: PositiveFloat | None = None,
        max_faults: NonNegativeInt = 10,
        optimizer: OptimizerCallable = lambda params: torch.optim.Adam(params, lr=1e-4),
        schedule: Schedule = CONSTANT,
        evaluation: EvaluationPlan = EvaluationPlan(),  # noqa: B008
        gradient_checkpointing: bool = False,
        seed: NonNegativeInt | None = None,
    ):
        super().__init__(policy, weights, optimizer, schedule, max_faults)
        self.save_hyperparameters()  # a reward holds a name until it loads: it may be copied
        self.automatic_optimization, self.policy = False, None
        self.policy_name = self.model_name if adapter is None else adapter
        self.adapter, self.sampling = adapter, as_options(Sampling, sampling, "sampling")
        self.lora = None if lora is None else as_options(LoRA, lora, "lora")
        self.reward = as_reward(reward)
        self.multiplier = Multiplier(
            constraint and as_options(Constraint, constraint, "constraint")
        )
        self.advantage = as_options(AdvantageEstimator, advantage or GAE(), "advantage")
        self.reward = with_measure(self.reward, self.multiplier.measure)
        self.kl, self.moments = as_options(KLPenalty, kl, "kl"), RunningMoments()
        self.shaping = as_options(ScoreShaping, scores, "scores")
        limits = max_grad_norm, ratio_threshold, early_stop_kl
        sizes = ppo_epochs, mini_batch_size, self.sampling.limits[1]
        chosen = as_options(PolicyLoss, loss or PPOLoss(), "loss")
        self.options = UpdateOptions(chosen, *sizes, *limits)
        self.values = critic_options(critic, critic_lr, value_warmup, self.advantage)
        size = mini_batch_size if micro_batch_size in (None, "auto") else int(micro_batch_size)
        self.micro_batches = MicroBatches(size, math.inf if micro_batch_size == "auto" else 1)
        self.gradient_checkpointing = gradient_checkpointing
        self.seed = seed if seed is not None else global_seed()
        plan = as_options(EvaluationPlan, evaluation, "evaluation")
        asked = dict.fromkeys(self.reward.data_columns, "model.reward's argument")
        self.needs, self.columns = self.reward.needs, asked
        self.evaluator = Evaluator(plan, self.reward, self.sampling, self.seed)
        self.curves: list[str] = []  # names of the figures that rollouts have logged
        self.kl_coef = self.kl.coef
        check_divides("model.micro_batch_size", size, "model.mini_batch_size", mini_batch_size)
        check_pairs(self.advantage, self.options.loss, self.reward)

    @no_stop_iteration
    def training_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Samples one rollout, scores it and updates the policy on it.

        On a GPU, the host waits for it at about a dozen places, once a mini-batch, and at each
        eighth token. tests/test_pretended_gpu.py lists these places.

        Args:
            batch: Prompts; each gets ``advantage.responses_per_prompt`` responses, which makes
                ``b`` responses of up to ``t`` tokens.
            batch_idx: Place in the epoch.
        """
        clock, moments, number = Clock(self.device), replace(self.moments), self.rollouts
        self.check_batch_size(len(batch.prompts))
        prompts = batch.repeated(self.advantage.responses_per_prompt)

        # 1. Sample responses; the noise is a function of (seed, rollout, rank).
        with clock("rollout"):
            responses = self.actor.respond_to(prompts, number)

        # 2. Score the texts: every part of the reward, and their total, [b]; some rewards tell
        # what each token earned of it, [b, t].
        with clock("score"):
            scores = self.actor.scores_of(prompts, responses, number)

        with clock("update"):
            # 3. Log-probabilities under policy and reference, values, KL: all [b, t].
            rollout, is_finite = self.actor.rollout_of(prompts, responses, scores, number)
            if is_finite:
                # 4. Token rewards r_j = -β·kl_j, plus the score at the last token; advantages.
                measured = self.multiplier.measured(rollout, scores.parts)
                kl_coef, term = self.multiplier.charge(self.kl_coef, measured)
                learnt = self.advantage.scores(scores.total, scores.parts, self.reward.total)
                given = kl_coef, self.advantage, self.shaping, moments, self.ranks.sum
                shaped = rollout._replace(scores=learnt)
                experience = to_experience(shaped, *given, scores.tokens, term)
                self.faults.add(advantages=experience.advantages, returns=experience.returns)
                self.policy.is_held = number < self.values.value_warmup
                # 5. Epochs × mini-batches × micro-batches; each step is on sums over all ranks.
                update = self.learner.learn(experience, self.orders(rollout), place_of(number))

        # 6. β ← β·(1 + clip(KL/target - 1, ±0.2)·n/horizon), for n responses on all ranks; and λ.
        metrics: dict[str, float] = {}
        if is_finite:
            k = self.advantage.responses_per_prompt
            metrics = rollout_metrics(
                rollout, experience, scores.parts, kl_coef, self.ranks.sum, k, measured
            )
            metrics |= update.metrics(metrics["ppo/returns/var"]) | self.multiplier.metrics()
            if update.rows:  # if no mini-batch was finite, forget its scores
                self.moments = moments
            if not self.policy.is_held:  # no KL and no measure says anything yet
                self.steer(metrics, len(rollout.scores) * self.ranks.number)
        self.log_rollout(metrics, clock)
        self.learning_rate.step()
        self.newest = prompts, responses, rollout
        self.rollouts += 1

    def orders(self, rollout: Rollout) -> Iterator[Tensor]:
        """The order of this rank's responses in each epoch of the update: ``[b]``, on the CPU."""
        for epoch in range(self.options.epochs):
            seed = derive_seed(self.seed, "shuffle", self.rollouts, epoch, self.global_rank)
            generator = torch.Generator().manual_seed(seed)
            yield torch.randperm(len(rollout.scores), generator=generator)

    @property
    def validation(self) -> Validation:
        """What the newest validation found."""
        return self.evaluator.validation

    @property
    def learning_rate(self) -> LambdaLR:
        """The schedule, stepped once a rollout."""
        schedule = self.lr_schedulers()
        assert isinstance(schedule, LambdaLR)
        return schedule

    def log_rollout(self, metrics: dict[str, float], clock: Clock) -> None:
        """Logs a rollout's figures (none if it was left out), some of them in the progress bar.

        Figures that earlier rollouts had and this one lacks are NaN: otherwise Lightning would log
        the earlier ones again.
        """
        if not self.advantage.uses_values:
            metrics = {name: x for name, x in metrics.items() if not name.startswith(OF_VALUES)}
        metrics = {**dict.fromkeys(self.curves, math.nan), **metrics}
        self.curves = list(metrics)
        metrics["ppo/learning_rate"] = float(self.learning_rate.get_last_lr()[0])
        metrics["ppo/faults"] = float(self.faults.count)
        metrics["step"] = float(self.rollouts + 1)  # the x-axis: rollouts done, with this one
        metrics |= clock.metrics(metrics.get("tokens/total"))
        # Lightning would send each number to the GPU, and fetch it again
        figures = {name: torch.tensor(x) for name, x in metrics.items()}
        self.log_dict(figures, batch_size=1)
        bar = {short: figures[name] for short, name in PROGRESS_BAR.items() if name in figures}
        self.log_dict(bar, prog_bar=True, logger=False, batch_size=1)

    def on_train_start(self) -> None:
        """Builds actor and learner; a new run is evaluated before its first update."""
        self.ranks = ranks_of(self.trainer)
        self.actor = Actor(
            self.policy,
            self.tokenizer,
            self.reward,
            self.kl.estimator,
            self.ranks,
            self.seed,
            self.micro_batches,
            self.faults,
        )
        self.learner = Learner(
            self.policy,
            self.optimizers(),
            self.options,
            self.ranks,
            self.manual_backward,
            lambda what, rows: self.faults.leave_out(what, CAUSES_IN_PPO, rows),
            self.micro_batches,
        )
        if self.rollouts == 0 and self.trainer.enable_validation:
            self.trainer.validating = True
            self.trainer.fit_loop.epoch_loop.val_loop.run()
            self.trainer.training = True
