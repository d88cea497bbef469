"""Flags of PPO that don't go together, or bias what is learned."""

from lightning.pytorch.utilities import rank_zero_warn

from detox_lightning.algorithm.advantages import GDPO, AdvantageEstimator
from detox_lightning.algorithm.constraint import KL
from detox_lightning.algorithm.kl import KLPenalty
from detox_lightning.algorithm.losses import PolicyLoss
from detox_lightning.errors import InputError
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.models.loading import Weights
from detox_lightning.ppo.critic_options import CriticOptions
from detox_lightning.rewards import Reward, WeightedReward
from detox_lightning.rewards.interface import PREFIXES
from detox_lightning.stages.optimization import Schedule


def check_pairs(advantage: AdvantageEstimator, loss: PolicyLoss, reward: Reward) -> None:
    """Raises an InputError if loss or reward lack what the advantages need."""
    name = type(advantage).__name__
    if advantage.uses_values and "value" not in loss.coefficients:
        raise InputError(
            f"model.loss={type(loss).__name__} trains no value head, and model.advantage={name} "
            "needs one: give advantage TokenRLOO, RLOO or GRPO, or loss PPOLoss"
        )
    is_single = type(reward).parts is Reward.parts
    if isinstance(reward, WeightedReward):
        is_single = sum(weight != 0 for weight in reward.weights) < 2  # 0: it is only measured
    if isinstance(advantage, GDPO) and is_single:
        raise InputError(
            f"model.advantage={name} standardizes each part of a reward, and fewer than two parts "
            "of model.reward have a weight: give a WeightedReward of several, or advantage GRPO"
        )


def check_learns(loss: PolicyLoss, values: CriticOptions) -> None:
    """Raises an InputError if what estimates values would learn nothing.

    Other commands don't mind, so this isn't asked of the model of a former run.
    """
    given = {x: y for x, y in values._asdict().items() if y != values._field_defaults[x]}
    for flag, value in given.items() if loss.coefficients.get("value") == 0 else ():
        raise InputError(
            f"model.{flag}={value}, model.loss.vf_coef=0: what estimates values would learn "
            f"nothing; leave {flag} out, or give a vf_coef above 0"
        )


def check_length(schedule: Schedule, max_steps: int) -> None:
    """Refuses ``trainer.max_steps`` with a schedule that goes by rollouts."""
    if schedule.name != "constant" and max_steps > 0:
        raise InputError(
            f"trainer.max_steps={max_steps} counts optimizer steps, and "
            f"model.schedule.name={schedule.name} goes by rollouts: bound the run with "
            "trainer.max_epochs and trainer.limit_train_batches"
        )


def check_shards(has_adapter: bool, weights: Weights) -> None:
    """Refuses a base that can't be sharded."""
    if not has_adapter:
        raise InputError(
            "trainer.strategy=sharded, model.lora=null: only a frozen base is sharded; give "
            "lora, or trainer.strategy=ddp"
        )
    if weights.quantization:
        raise InputError(
            f"trainer.strategy=sharded, model.weights.quantization={weights.quantization}: a "
            "quantized base can't be sharded and is small anyway: give trainer.strategy=ddp, or "
            "quantization=null"
        )


def warn_of_warmup(value_warmup: int, rollouts: float) -> None:
    """Warns of a warm-up that is as long as the run of so many rollouts."""
    if value_warmup >= rollouts > 0:
        rank_zero_warn(
            f"model.value_warmup={value_warmup}: the run ends after rollout {rollouts}, so that "
            "only values learn and the policy stays as it is; give a shorter warm-up, or a longer "
            "run, if it shall learn"
        )


def warn_of_bias(kl: KLPenalty, sampling: Sampling, limited: str | None) -> None:
    """Warns of a penalty without the divergence's gradient, and of narrow sampling.

    ``limited`` is the measure that a constraint limits, by a penalty of its own if it is ``kl``.
    """
    if kl.estimator != "k1" and (kl.coef or limited == KL):
        rank_zero_warn(
            f"model.kl.estimator={kl.estimator}: it estimates the KL divergence, but as a penalty "
            "in the rewards it doesn't pull the policy back to the reference as k1 does (the page "
            "'Is it right?' has figures): give k1"
        )
    if not sampling.is_exact:
        rank_zero_warn(
            f"model.sampling.top_k={sampling.top_k}, top_p={sampling.top_p}: responses come from a "
            "narrower distribution than the one whose log-probabilities are trained on; top_k=0 "
            "and top_p=1 are exact"
        )


def warn_of_discount(advantage: AdvantageEstimator, reward: Reward) -> None:
    """Warns of a discount of token scores that add up to a reward only without it."""
    parts = [part for part in reward.modules() if isinstance(part, Reward)]
    tells_tokens = any(part.telescopes and PREFIXES in part.columns for part in parts)
    if tells_tokens and (gamma := getattr(advantage, "gamma", 1)) != 1:
        rank_zero_warn(
            f"model.advantage.gamma={gamma}, model.reward: the token scores of a PrefixReward add "
            "up to the reward only without a discount; with it, a good beginning is paid for itself"
        )
