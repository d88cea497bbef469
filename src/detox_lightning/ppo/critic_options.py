"""What estimates values, as the flags of :class:`PPOModule` say."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from detox_lightning.algorithm.advantages import AdvantageEstimator
from detox_lightning.arguments import as_name
from detox_lightning.errors import InputError
from detox_lightning.models.critic import ADAPTER, HEAD
from detox_lightning.models.loading import load_tokenizer
from detox_lightning.models.policy import Policy
from detox_lightning.models.source import ModelSource
from detox_lightning.stages.optimization import trainable_parameters

KINDS = "a decoder-only model", "an encoder-decoder"


class CriticOptions(NamedTuple):
    """What estimates values, and how it learns.

    Attributes:
        critic: :data:`HEAD`, :data:`ADAPTER`, or the name of a model.
        critic_lr: Its learning rate; None: the optimizer's.
        value_warmup: Rollouts at the start in which nothing else learns.
    """

    critic: str = HEAD
    critic_lr: float | None = None
    value_warmup: int = 0

    def check_shardable(self) -> None:
        """Raises an InputError if the critic shares the base, which can't be in shards then."""
        if self.critic == ADAPTER:
            raise InputError(
                "trainer.strategy=sharded, model.critic=adapter: a base in shards can't be shared "
                "with a critic; give model.critic head or a small model, or trainer.strategy=ddp"
            )

    def sources(self, policy: ModelSource, has_adapter: bool) -> Iterator[ModelSource]:
        """Yields the model of a critic that has one, before it is opened.

        Raises:
            InputError: If it is of another family or has another tokenizer than the policy; or if
                an adapter is asked for, and the policy is trained whole.
        """
        flag = f"model.critic={self.critic}"
        if self.critic == ADAPTER and not has_adapter:
            raise InputError(
                f"{flag}, model.lora=null: such a critic shares the policy's frozen base, and here "
                "the whole policy is trained; give lora, or model.critic the name of a small model"
            )
        if self.critic in (HEAD, ADAPTER):
            return
        source = ModelSource(self.critic)
        if type(source.family) is not type(policy.family):
            raise InputError(
                f"{flag}: this is {KINDS[source.config.is_encoder_decoder]}, and the policy "
                f"{policy.base!r} isn't; give a critic of the policy's kind, or adapter"
            )
        ours, its = (load_tokenizer(x.base, **x.tokenizer_options) for x in (policy, source))
        if ours.get_vocab() != its.get_vocab():
            raise InputError(
                f"{flag}: a critic reads the policy's tokens, and its tokenizer isn't that of "
                f"{policy.base!r} ({len(its)} tokens and {len(ours)}, or others); give a model of "
                "the same tokenizer, or adapter"
            )
        yield source

    def groups(self, policy: Policy) -> list[Any]:
        """Returns what the optimizer gets: two groups if values have a learning rate."""
        if self.critic_lr is None:
            return trainable_parameters(policy)
        first, second = map(trainable_parameters, (policy.model, policy.estimator or policy))
        return [{"params": first}, {"params": second, "lr": self.critic_lr}]

    def check_goes_on(self, checkpoint: dict[str, Any]) -> None:
        """Raises an InputError if a run can't go on with a checkpoint's optimizer."""
        for state in checkpoint.get("optimizer_states", []):
            had = len(state["param_groups"]) > 1
            if had != (self.critic_lr is not None):
                raise InputError(
                    f"model.critic_lr={self.critic_lr or 'null'}: the checkpoint's run, whose "
                    f"optimizer goes on, had {'one; give it' if had else 'none; leave it out'}"
                )


def critic_options(
    critic: str, lr: float | None, warmup: int, advantage: AdvantageEstimator
) -> CriticOptions:
    """Returns flags as plain values, which checkpoints hold.

    Raises:
        InputError: If one is given, and the advantages need no values.
    """
    options = CriticOptions(as_name(critic, "critic"), lr and float(lr), warmup)
    for flag, value in options._asdict().items():
        if not advantage.uses_values and value != options._field_defaults[flag]:
            raise InputError(
                f"model.{flag}={value}: model.advantage={type(advantage).__name__} uses no values; "
                "leave it out, or give model.advantage GAE"
            )
    return options
