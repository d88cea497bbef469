"""Training stage 3: PPO on the policy's adapters, with a value head and a KL penalty."""

import dataclasses
import math
import warnings
from collections.abc import Mapping
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
from detox_lightning.algorithm.experience import judge
from detox_lightning.algorithm.kl import KLPenalty
from detox_lightning.algorithm.losses import PPOLoss
from detox_lightning.algorithm.metrics import UpdateMeter, rollout_metrics
from detox_lightning.algorithm.shaping import RunningMoments, ScoreShaping
from detox_lightning.algorithm.types import Experience, Rollout
from detox_lightning.batches import PromptBatch
from detox_lightning.errors import InputError, TrainingError, check_divides
from detox_lightning.evaluation.comparison import BatchComparison, Comparison, merge
from detox_lightning.evaluation.evaluator import Evaluator
from detox_lightning.evaluation.judge import Judge
from detox_lightning.evaluation.meter import ResponseMeter
from detox_lightning.evaluation.plan import EvaluationPlan
from detox_lightning.evaluation.statistics import flat, summarize
from detox_lightning.models.adapter_checkpoint import adapter_facts
from detox_lightning.models.decoding.draws import Draws
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.models.families.base import Family
from detox_lightning.models.finite import refuse_broken_model
from detox_lightning.models.loading import Weights, load_tokenizer
from detox_lightning.models.lora import LoRA
from detox_lightning.models.policy import load_policy
from detox_lightning.models.saving import save_model
from detox_lightning.models.sharding import gathered, shard
from detox_lightning.models.source import VALUE_HEAD, ModelSource
from detox_lightning.ppo.checks import check_batch_size, check_run, check_shardable
from detox_lightning.ppo.clock import Stopwatch
from detox_lightning.ppo.learner import update
from detox_lightning.ppo.micro_batches import MicroBatches
from detox_lightning.rewards import Reward
from detox_lightning.rollout import NO_GRADIENT, Responses, Samples, measure, respond, score
from detox_lightning.seeding import derive_seed, global_seed, seeded
from detox_lightning.stages.checkpoint import check_stamp, check_trainable, keep_trainable, stamp
from detox_lightning.stages.devices import choose_kernels
from detox_lightning.stages.faults import Faults, begin_rollout, is_sound
from detox_lightning.stages.optimization import CONSTANT, Schedule, StepwiseOptimization
from detox_lightning.stages.stop_iteration import not_the_end

OF_VALUES = ("ppo/val/", "ppo/returns/", "ppo/loss/value")  # what only a value head gives meaning


class PPOModule(LightningModule):
    """Makes a model write what a reward likes, without going far from how it began.

    Proximal policy optimization (https://arxiv.org/abs/1707.06347) on LoRA adapters with a value
    head: sample responses, score them, charge for the KL divergence from the reference, and take
    clipped steps.
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
        loss: PPOLoss = PPOLoss(),  # noqa: B008
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
        """Notes what to train; weights are opened when training begins.

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
            loss: Constants of the loss.
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
            InputError: If the sizes don't divide, or nothing measures toxicity.
        """
        super().__init__()
        with warnings.catch_warnings():  # a reward holds a name until it loads: it may be copied
            warnings.filterwarnings("ignore", "Attribute 'reward' is an instance")
            self.save_hyperparameters()
        self.automatic_optimization = False
        self.strict_loading = False
        self.base_or_policy, self.adapter = policy, adapter
        self.policy_name = policy if adapter is None else adapter
        self.weights = weights
        self.reward, self.needs = reward, reward.needs
        self.lora = lora
        self.sampling = sampling
        self.ppo_epochs = ppo_epochs
        self.mini_batch_size = mini_batch_size
        self.micro_batches = MicroBatches(micro_batch_size or mini_batch_size)
        self.faults = Faults(max_faults)
        self.kl = kl
        self.scores = scores
        self.advantage = advantage or GAE()
        self.loss = loss
        self.max_grad_norm = max_grad_norm
        self.ratio_threshold = ratio_threshold
        self.early_stop_kl = early_stop_kl
        self.schedule_name = schedule.name
        self.optimization = StepwiseOptimization(optimizer, schedule)
        self.plan = evaluation
        self.judge = Judge(evaluation, reward)
        self.meter = ResponseMeter()
        self.pieces: list[BatchComparison] = []
        self.comparison: Comparison | None = None
        self.gradient_checkpointing = gradient_checkpointing
        self.seed = seed if seed is not None else global_seed()
        self.kl_coef: float = kl.coef
        self.moments = RunningMoments()
        self.rollouts = 0
        self.policy: Any = None
        self.tokenizer: Any = None
        self.samples: Samples | None = None
        self.logged: list[str] = []  # names of a rollout's figures
        longest = evaluation.max_new_tokens
        if longest is not None and longest < sampling.min_new_tokens:
            raise InputError(
                f"model.evaluation.max_new_tokens={longest} is below "
                f"model.sampling.min_new_tokens={sampling.min_new_tokens}: raise it"
            )
        if evaluation.asks_reference and sampling.temperature != 1:
            raise InputError(
                "model.evaluation.perplexity_model=reference: with "
                f"model.sampling.temperature={sampling.temperature} it would be another model's; "
                "name a model's folder or hub id, or give temperature=1"
            )
        check_divides(
            "model.micro_batch_size",
            self.micro_batch_size,
            "model.mini_batch_size",
            mini_batch_size,
        )

    # -- the algorithm

    @not_the_end
    def training_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """One rollout and the updates from it: the algorithm, top to bottom.

        Args:
            batch: ``b`` prompts.
            batch_idx: Place in the epoch.
        """
        watch = Stopwatch(self.device)
        check_batch_size(self, len(batch.prompts))
        batch = batch.repeated(self.advantage.responses_per_prompt)
        with watch("rollout"):
            responses = self.respond(batch)
        begin_rollout(self, batch, responses)
        with watch("score"):
            parts = self.score(batch, responses)
        with watch("update"):
            rollout = self.measure(batch, responses, self.reward.total(parts))
            has_eos = responses.has_eos(self.policy.eos_token_ids)
            learned = self.learn(rollout, has_eos) if is_sound(self, rollout, parts) else None
        if learned is None:
            self.log_rollout({}, watch)
        else:
            self.conclude(rollout, *learned, parts, has_eos, watch)
        self.learning_rate.step()
        self.samples = Samples(
            batch.prompts,
            responses.texts,
            rollout.scores.tolist(),
            rollout.response_mask.sum(dim=1).tolist(),
            torch.where(rollout.response_mask, rollout.kl, 0).sum(dim=1).tolist(),
        )
        self.rollouts += 1

    def learn(self, rollout: Rollout, has_eos: Tensor) -> tuple[Experience, UpdateMeter]:
        """Judges a rollout and takes the steps that it is good for.

        Args:
            rollout: ``b`` responses.
            has_eos: ``[b]``, True where the response ended by itself.
        """
        moments = dataclasses.replace(self.moments)
        experience = judge(
            rollout, has_eos, self.kl_coef, self.advantage, self.scores, self.moments, self.sum
        )
        self.faults.add(advantages=experience.advantages, returns=experience.returns)
        meter = update(self, experience)
        if not meter.rows:  # what nothing was learned from changes nothing that comes after it
            self.moments = moments
        return experience, meter

    def conclude(
        self,
        rollout: Rollout,
        experience: Experience,
        meter: UpdateMeter,
        parts: dict[str, Tensor],
        has_eos: Tensor,
        watch: Stopwatch,
    ) -> None:
        """Logs what was learned, and adapts what a nat costs.

        Args:
            rollout: ``b`` responses.
            experience: The same, judged.
            meter: What the mini-batches reported.
            parts: What the scores are made of, each ``[b]``, by name.
            has_eos: ``[b]``.
            watch: Timed the rollout's parts.
        """
        metrics = rollout_metrics(rollout, experience, parts, has_eos, self.kl_coef, self.sum)
        metrics |= meter.metrics(metrics["ppo/returns/var"])
        if not self.advantage.uses_values:
            metrics = {name: x for name, x in metrics.items() if not name.startswith(OF_VALUES)}
        self.log_rollout(metrics, watch)
        responses_on_all_ranks = len(rollout.scores) * self.trainer.world_size
        kl = metrics["objective/kl"]
        self.kl_coef = self.kl.next_coef(self.kl_coef, kl, responses_on_all_ranks)

    def respond(self, batch: PromptBatch) -> Responses:
        """Samples this rollout's responses; the noise is a function of seed, rollout and rank.

        Args:
            batch: ``b`` prompts.
        """
        limit = self.sampling.draw_limit(derive_seed(self.seed, "limit", self.rollouts))
        seed = derive_seed(self.seed, "rollout", self.rollouts, self.global_rank)
        with seeded(seed, self.device), gathered(self):
            draws = Draws()
            choose = self.sampling.choose(self.policy.eos_token_ids, draws)
            prompts = self.policy.encode_prompts(batch.prompt_ids, batch.prompt_mask)
            noted = draws if self.policy.notes_exactly and self.kl.estimator != "full" else None
            return respond(self.policy, self.tokenizer, prompts, choose, limit, noted)

    def score(self, batch: PromptBatch, responses: Responses) -> dict[str, Tensor]:
        """What the reward says, by its parts' names, each ``[b]``; see :func:`score`."""
        try:
            return score(self.reward, batch, responses, self.place)
        except TrainingError as error:
            self.faults.keep(str(error))
            raise

    def measure(self, batch: PromptBatch, responses: Responses, scores: Tensor) -> Rollout:
        """What policy and reference say of responses; see :func:`measure`."""

        def work(size: int) -> Rollout:
            with gathered(self):
                return measure(self.policy, batch, responses, scores, self.kl.estimator, size)

        return self.micro_batches.attempt(work, self.place, self.trainer.world_size == 1)

    @property
    def place(self) -> str:
        """Where in the run it is, for messages."""
        return f"rollout {self.rollouts}"

    @property
    def micro_batch_size(self) -> int:
        """Responses a forward pass."""
        return self.micro_batches.size

    def shuffle(self, epoch: int, size: int) -> Tensor:
        """The order of this rank's responses in one pass of the update.

        Args:
            epoch: Which pass, from 0.
            size: ``b``.

        Returns:
            ``[b]`` a permutation, on the CPU.
        """
        seed = derive_seed(self.seed, "shuffle", self.rollouts, epoch, self.global_rank)
        return torch.randperm(size, generator=torch.Generator().manual_seed(seed))

    @property
    def learning_rate(self) -> LambdaLR:
        """The schedule, stepped once a rollout."""
        schedule = self.lr_schedulers()
        assert isinstance(schedule, LambdaLR)
        return schedule

    def sum(self, x: Tensor) -> Tensor:
        """The sum of a tensor over all ranks: one collective, no barrier that a GPU waits at."""
        total = x.clone()
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(total)
        return total

    def log_rollout(self, metrics: dict[str, float], watch: Stopwatch) -> None:
        """Logs a rollout; a few figures go to the progress bar, too.

        Args:
            metrics: Of the rollout; none if it was left out: they are NaN, or Lightning would log
                those of the rollout before once more.
            watch: Timed the rollout's parts.
        """
        metrics = {**dict.fromkeys(self.logged, math.nan), **metrics}
        self.logged = list(metrics)
        metrics["ppo/learning_rate"] = float(self.learning_rate.get_last_lr()[0])
        metrics["ppo/faults"] = float(self.faults.count)
        metrics["step"] = self.rollouts + 1.0  # the x-axis: rollouts done
        self.log_dict({**metrics, **watch.metrics(metrics.get("tokens/total"))}, batch_size=1)
        bar = {"kl": "objective/kl", "score": "objective/scores_mean"}
        shown = {short: metrics[name] for short, name in bar.items() if name in metrics}
        shown["rollouts"] = self.rollouts + 1.0
        self.log_dict(shown, prog_bar=True, logger=False, batch_size=1)

    # -- evaluation

    def validation_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Judges a sampled response of the policy to each prompt."""
        self.meter.update(self.evaluator.validate(batch))

    def on_validation_epoch_end(self) -> None:
        """Logs ``val/…``."""
        means = {f"val/{name}": mean for name, mean in self.meter.compute().items()}
        self.log_global({**means, "step": float(self.rollouts)})
        self.meter.reset()

    def log_global(self, figures: Mapping[str, float | Tensor]) -> None:
        """Logs what is the same on all ranks."""
        self.log_dict(figures, sync_dist=True)

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
        self.pieces.append(self.evaluator.compare(batch))

    def on_test_epoch_end(self) -> None:
        """Puts the comparison together and logs it: ``test/…``, ``test/greedy/…``."""
        self.comparison = merge(self.pieces, self.plan.decodings)
        self.pieces.clear()
        figures = flat(summarize(self.comparison, self.seed, intervals=False), "test")
        self.log_global({**figures, "step": float(self.rollouts)})

    def predict_step(self, batch: PromptBatch, batch_idx: int) -> list[dict[str, Any]]:
        """Answers prompts; see :meth:`Evaluator.predict`."""
        return self.evaluator.predict(batch)

    @property
    def about(self) -> dict[str, Any]:
        """What a test compares, and how: for its report."""
        return {
            "policy": self.policy_name,
            "reward": self.reward.describe(),
            **self.judge.describe(),
            "seed": self.seed,
            "samples": self.plan.samples,
            "greedy": self.plan.greedy,
            "max_new_tokens": self.plan.max_new_tokens or self.sampling.limits[1],
            "min_new_tokens": self.sampling.min_new_tokens,
            "temperature": self.sampling.temperature,
            "top_k": self.sampling.top_k,
            "top_p": self.sampling.top_p if self.plan.top_p is None else self.plan.top_p,
        }

    # -- models and state

    @cached_property
    def source(self) -> ModelSource:
        """Where the policy comes from; found out when first needed, as it may ask the hub."""
        return ModelSource.resolve(self.base_or_policy, self.adapter, self.weights)

    @property
    def family(self) -> Family:
        """The policy's family."""
        return self.source.family

    @property
    def tokenizer_name(self) -> str:
        """The model whose tokenizer the data must use: of an adapter, its base."""
        return self.source.base

    @property
    def tokenizer_options(self) -> dict[str, Any]:
        """How the data must open it."""
        return self.source.tokenizer_options

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
        return self.source.padding_side

    @property
    def export_name(self) -> str:
        """What the folder is called that :meth:`export` writes."""
        return "adapter" if self.policy.has_adapter else "model"

    def setup(self, stage: str) -> None:
        """Refuses what can't work, before any model is opened; see :func:`check_run`."""
        check_run(self, stage)

    def check_shardable(self) -> None:
        """Refuses a base that can't be sharded, before it is opened; see there."""
        check_shardable(self)

    def configure_model(self) -> None:
        """Opens policy, reward and toxicity classifier, once."""
        if self.policy is not None:
            return
        choose_kernels()
        self.tokenizer = load_tokenizer(self.tokenizer_name, **self.tokenizer_options)
        self.policy = load_policy(
            self.source,
            self.lora,
            self.sampling,
            self.advantage.uses_values,
            None if self._trainer is None else self.trainer.strategy.root_device,
            self.tokenizer,
        )
        refuse_broken_model("model.policy", self.policy_name, self.policy)
        if self.gradient_checkpointing:
            self.policy.enable_gradient_checkpointing()
        if self.device_mesh is not None:
            shard(self.policy, self.device_mesh["data_parallel"])
        self.judge.load()
        rank_zero_info(self.judge.heads())
        self.evaluator = Evaluator(
            self.plan,
            self.policy,
            self.tokenizer,
            self.judge,
            self.seed,
            NO_GRADIENT * self.micro_batch_size,
        )
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
            base_revision=self.source.base_revision,
            lora=self.lora,
            adapter=adapter_facts(self.policy.model),
            rollouts=self.rollouts,
            kl_coef=self.kl_coef,
            moments=dataclasses.asdict(self.moments),
            faults=self.faults.count,
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Makes sure that the checkpoint is one of this policy's, and goes on from its state."""
        facts = check_stamp(checkpoint, self.stage_name, self.tokenizer_name)
        check_trainable(
            self,
            checkpoint,
            base=self.source.base,
            base_revision=self.source.base_revision,
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
