"""What of a PPO run can be known to be wrong before any model is opened."""

from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities import rank_zero_warn

from detox_lightning.errors import InputError, check_divides
from detox_lightning.evaluation.meter import NAMES
from detox_lightning.rewards.interface import check_name
from detox_lightning.stages.run_checks import check_conditions
from detox_lightning.stages.strategy import check_strategy

if TYPE_CHECKING:
    from detox_lightning.ppo.module import PPOModule


def check_run(module: "PPOModule", stage: str) -> None:
    """Refuses what can't work.

    Args:
        module: With its trainer.
        stage: ``fit``, ``validate``, ``test`` or ``predict``.

    Raises:
        InputError: If sizes don't divide, the precision loses steps, the strategy can't work,
            a reward's name can't be shown, or the model has too few positions.
    """
    trainer = module.trainer
    check_conditions(module, stage, NAMES)
    for reward in getattr(module.reward, "rewards", [module.reward]):
        check_name(reward.name)
    check_strategy(type(trainer.strategy).__name__)
    data: Any = getattr(trainer, "datamodule", None)
    if hasattr(data, "max_prompt_tokens"):
        limits = {
            "model.sampling.max_new_tokens": module.sampling.limits[1],
            "model.evaluation.max_new_tokens": module.plan.max_new_tokens or 0,
        }
        module.source.check_positions(data.max_prompt_tokens, limits)
    if stage == "fit":
        check_fit(module, getattr(data, "batch_size", None))


def check_fit(module: "PPOModule", batch_size: int | None) -> None:
    """Refuses what can't be trained, and warns of what is trained on something else.

    Args:
        module: With its trainer.
        batch_size: Prompts a rollout, on each rank, if that is known.

    Raises:
        InputError: If sizes don't divide, or the schedule has no end to go by.
    """
    if not module.sampling.is_exact:
        rank_zero_warn(
            f"model.sampling.top_k={module.sampling.top_k}, top_p={module.sampling.top_p}: "
            "responses come from a narrower distribution than the one whose log-probabilities "
            "are trained on; top_k=0 and top_p=1 are exact"
        )
    if module.schedule_name != "constant" and module.trainer.max_steps > 0:
        raise InputError(
            f"trainer.max_steps={module.trainer.max_steps} counts optimizer steps, and "
            f"model.schedule.name={module.schedule_name} goes by rollouts: bound the run with "
            "trainer.max_epochs and trainer.limit_train_batches"
        )
    if batch_size is not None:
        check_batch_size(module, batch_size)


def check_batch_size(module: "PPOModule", prompts: int) -> None:
    """Makes sure that a rollout's responses split into mini-batches.

    Args:
        module: Has the sizes.
        prompts: Of a rollout, on each rank.

    Raises:
        InputError: If they don't.
    """
    k = module.advantage.responses_per_prompt
    flag = "data.batch_size" + (f" × {k} responses" if k > 1 else "")
    check_divides("model.mini_batch_size", module.mini_batch_size, flag, prompts * k)


def check_shardable(module: "PPOModule") -> None:
    """Refuses a base that can't be sharded.

    Args:
        module: Knows where the policy begins.

    Raises:
        InputError: If the base itself is trained, or quantized.
    """
    if module.lora is None and not module.source.has_adapter:
        raise InputError(
            "trainer.strategy=sharded, model.lora=null: only a frozen base is sharded; give "
            "lora, or trainer.strategy=ddp"
        )
    if module.weights.quantization:
        raise InputError(
            "trainer.strategy=sharded, "
            f"model.weights.quantization={module.weights.quantization}: a quantized base can't "
            "be sharded, nor needs it: give trainer.strategy=ddp, or quantization=null"
        )
