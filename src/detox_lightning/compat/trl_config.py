"""The options of TRL 0.8's PPO, in this package's terms."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from detox_lightning.algorithm.experience import ScoreShaping
from detox_lightning.algorithm.kl import Estimator, KLPenalty
from detox_lightning.algorithm.losses import PPOLoss
from detox_lightning.errors import InputError, check_divides
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.ppo.learner import UpdateOptions

ESTIMATORS: Mapping[str, Estimator] = {"kl": "k1", "abs": "abs", "mse": "k2", "full": "full"}
KEPT = ("temperature", "top_p")
GENERATION = (*KEPT, "top_k", "max_new_tokens", "min_new_tokens", "min_length", "do_sample")


@dataclass
class PPOConfig:
    """TRL 0.8's options and defaults; docs/notebooks.md says what they are here.

    Those before ``seed`` only name a run, and change nothing.

    Raises:
        InputError: If sizes don't divide, or a value is not carried over.
    """

    task_name: str | None = None
    model_name: str | None = "gpt2"
    query_dataset: str | None = "imdb"
    reward_model: str | None = "sentiment-analysis:lvwerra/distilbert-imdb"
    steps: int = 20_000
    optimize_cuda_cache: bool | None = None
    optimize_device_cache: bool | None = False
    seed: int = 0
    log_with: str | None = None
    tracker_project_name: str = "trl"
    project_kwargs: dict[str, Any] = field(default_factory=dict)
    remove_unused_columns: bool = True
    learning_rate: float = 1.41e-5
    adap_kl_ctrl: bool = True
    init_kl_coef: float = 0.2
    kl_penalty: str = "kl"
    target: float = 6
    horizon: float = 10_000
    gamma: float = 1
    lam: float = 0.95
    cliprange: float = 0.2
    cliprange_value: float = 0.2
    vf_coef: float = 0.1
    batch_size: int = 128
    mini_batch_size: int = 128
    gradient_accumulation_steps: int = 1
    ppo_epochs: int = 4
    max_grad_norm: float | None = None
    early_stopping: bool = False
    target_kl: float = 1
    ratio_threshold: float = 10.0
    use_score_scaling: bool = False
    use_score_norm: bool = False
    score_clip: float | None = None
    whiten_rewards: bool = False

    def __post_init__(self) -> None:
        self.backward_batch_size = self.mini_batch_size * self.gradient_accumulation_steps
        sizes = "mini_batch_size*gradient_accumulation_steps"
        check_divides(sizes, self.backward_batch_size, "batch_size", self.batch_size)
        for name, known in (("kl_penalty", [*ESTIMATORS]), ("log_with", [None, "tensorboard"])):
            if (value := getattr(self, name)) not in known:
                raise InputError(f"PPOConfig({name}={value!r}): give one of {known}")
        if self.log_with and "logging_dir" not in self.project_kwargs:
            raise InputError("PPOConfig(log_with=…) needs project_kwargs={'logging_dir': FOLDER}")

    @property
    def kl(self) -> KLPenalty:
        """The KL penalty and its controller."""
        target = self.target if self.adap_kl_ctrl else None
        return KLPenalty(ESTIMATORS[self.kl_penalty], self.init_kl_coef, target, self.horizon)

    @property
    def shaping(self) -> ScoreShaping:
        """What happens to the scores; TRL normalizes only those that it scales."""
        shaped = self.use_score_scaling, self.use_score_scaling and self.use_score_norm
        return ScoreShaping(*shaped, self.score_clip, whiten_rewards=self.whiten_rewards)

    @property
    def update(self) -> UpdateOptions:
        """How a rollout is learned from."""
        loss = PPOLoss(self.cliprange, self.cliprange_value, self.vf_coef)
        sizes = self.ppo_epochs, self.backward_batch_size, 1
        stop = self.target_kl if self.early_stopping else None
        return UpdateOptions(loss, *sizes, self.max_grad_norm, self.ratio_threshold, stop)


class LengthSampler:
    """Draws lengths from ``min_value`` to below ``max_value``."""

    def __init__(self, min_value: int, max_value: int):
        self.values = range(min_value, max_value)

    def __call__(self) -> int:
        """Draws a length with numpy's random numbers."""
        return int(np.random.choice(self.values))


def sampling_of(options: dict[str, Any], before: int, ends: tuple[int, ...]) -> Sampling:
    """Translates options of ``generate``, whose ``min_length`` counts ``before`` tokens as well.

    Raises:
        InputError: If an option is not carried over, or ``max_new_tokens`` is missing.
    """
    given = {name: value for name, value in options.items() if value is not None}
    given.pop("pad_token_id", None)
    if given.get("eos_token_id") in ends:
        del given["eos_token_id"]
    for name in given.keys() - GENERATION:
        raise InputError(f"generate({name}={given[name]!r}) is not carried over: leave it out")
    if "max_new_tokens" not in given:
        raise InputError("generate(): give max_new_tokens, or a length_sampler")
    longest = int(given["max_new_tokens"])
    least = max(given.get("min_length", 0) - before, given.get("min_new_tokens", 0), 0)
    kept = {name: given[name] for name in KEPT if name in given}
    top_k = int(given.get("top_k", 0)) if given.get("do_sample") else 1  # the likeliest token
    return Sampling(longest, min(least, longest), top_k=top_k, **kept)
