"""What two processes with a base in shards do, for ``test_sharding.py``."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from detox_lightning.__main__ import main
from detox_lightning.cli.command import DetoxCLI
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.models.lora import LoRA, add_lora
from detox_lightning.models.policy import Policy, load_policy
from detox_lightning.models.sharding import gathered, shard
from detox_lightning.ppo.actor import Actor
from detox_lightning.ppo.module import PPOModule
from detox_lightning.rewards import ClassifierReward
from toys import PAIRS, collate_pairs

SIZES = ["--trainer.devices=2", "--data.batch_size=4", "--model.micro_batch_size=2"]


def in_shards(policy: Policy) -> set[bool]:
    """Whether the frozen parameters are split."""
    named = policy.model.named_parameters()
    return {isinstance(p, DTensor) for name, p in named if "default" not in name}


def copies(module: nn.Module) -> dict[str, Tensor]:
    named = module.named_parameters()
    return {name: p.detach().clone() for name, p in named if p.requires_grad}


def whole(module: Any) -> dict[str, Tensor]:
    """The frozen base."""
    named = module.policy.model.named_parameters()
    frozen = ((name, p) for name, p in named if not p.requires_grad)
    return {name: p.full_tensor() if isinstance(p, DTensor) else p for name, p in frozen}


def fitted(folder: Path, strategy: str, *words: str) -> dict[str, Any]:
    """Rollouts by the command line, and what came of them in this process."""
    gradients: list[dict[str, Tensor]] = []
    states: dict[str, set[bool]] = {}

    def watch(owner: type, name: str) -> None:
        """Notes in what state the base is when a method is called."""
        method = getattr(owner, name)

        def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
            policy = self if isinstance(self, Policy) else self.policy
            states.setdefault(name, set()).update(in_shards(policy))
            return method(self, *args, **kwargs)

        patch.setattr(owner, name, watched)

    opened = PPOModule.configure_model

    def open_differently(self: PPOModule) -> None:
        """Each process begins with an adapter of its own; the first one's is to be all's."""
        torch.manual_seed(self.global_rank)
        opened(self)

    def note(self: Any, optimizer: Any) -> None:
        named = self.named_parameters()
        gradients.append({name: p.grad.clone() for name, p in named if p.requires_grad})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PPOModule, "configure_model", open_differently)
        watch(Policy, "generate")
        watch(Actor, "scores_of")
        patch.setattr(PPOModule, "on_before_optimizer_step", note)
        watch(PPOModule, "on_before_optimizer_step")
        flags = [*SIZES, f"--trainer.strategy={strategy}", *words]
        cli = DetoxCLI(["fit", "--config", str(folder / "tiny.yaml"), *flags])
    shards = [p for p in cli.model.parameters() if isinstance(p, DTensor)]
    return {
        "weights": copies(cli.model),
        "gradients": gradients,
        "states": states,
        "base": whole(cli.model),
        "held": sum(p.to_local().numel() for p in shards),
        "sharded": sum(p.numel() for p in shards),
        "rollouts": cli.model.rollouts,
        "samples": cli.model.samples,
        "metrics": {k: float(v) for k, v in cli.trainer.callback_metrics.items()},
        "run": str(cli.trainer.log_dir),
    }


def tested(folder: Path, verb: str, checkpoint: str, *words: str) -> dict[str, float]:
    """What an evaluation by the command line logged."""
    flags = ["--config", str(folder / "tiny.yaml"), f"--ckpt_path={checkpoint}", *words]
    cli = DetoxCLI([verb, *flags])
    return {name: float(value) for name, value in cli.trainer.callback_metrics.items()}


def beside(folder: Path) -> dict[str, Any]:
    """An adapter that goes on learning, with its frozen copy: whole and in shards."""
    mesh = init_device_mesh("cpu", (2,))
    rank = torch.distributed.get_rank()
    batch = collate_pairs(PAIRS[:4])
    rows = batch.prompt_ids, batch.prompt_mask, batch.target_ids
    came: dict[str, Any] = {}
    for kind in ("whole", "shards"):
        policy = load_policy(str(folder / "adapter"), None, Sampling())
        if kind == "shards":
            policy.enable_gradient_checkpointing()
            shard(policy, mesh)
        output = policy(*rows)
        (output.logprobs.sum() + output.values.sum()).backward()
        with torch.no_grad(), policy.reference():
            reference = policy(*rows).logprobs
        with torch.no_grad(), gathered(policy):  # one process asks once, the other three times
            asked = [policy(*rows).logprobs for _ in range(1 + 2 * rank)]
        named = policy.named_parameters()
        came[kind] = {
            "logprobs": output.logprobs.detach(),
            "reference": reference,
            "gradients": {name: p.grad for name, p in named if p.requires_grad},
            "asked": asked[-1],
        }
    return came


def failing(folder: Path) -> None:
    """A recipe by the command line, of which one process can't go on."""

    def nonsense(self: ClassifierReward, prompts: list[str], *_: list[str]) -> Tensor:
        rank = torch.distributed.get_rank()
        if rank == 1:
            raise ZeroDivisionError("ours")
        return torch.zeros(len(prompts))

    ClassifierReward.forward = nonsense  # type: ignore[method-assign]
    flags = [*SIZES, "--trainer.strategy=sharded", "--trainer.limit_val_batches=0"]
    main(["fit", "--config", str(folder / "tiny.yaml"), *flags])


def save_adapter(folder: Path) -> None:
    """An adapter that does something, for :func:`beside`."""
    from transformers import AutoModelForSeq2SeqLM

    base = AutoModelForSeq2SeqLM.from_pretrained(folder / "t5")
    model = add_lora(base, LoRA(r=4), "SEQ_2_SEQ_LM")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder / "adapter")


def learning(folder: Path) -> None:
    """What is learned, in one of the two processes."""
    came: dict[str, Any] = {"ddp": fitted(folder, "ddp"), "sharded": fitted(folder, "sharded")}
    came["beside"] = beside(folder)
    torch.save(came, folder / f"rank{torch.distributed.get_rank()}.pt")
    torch.distributed.barrier()


def going_on(folder: Path, runs: dict[str, str]) -> None:
    """What goes on from the runs of both strategies, in one of two other processes."""
    last = {strategy: f"{run}/checkpoints/last.ckpt" for strategy, run in runs.items()}
    came: dict[str, Any] = {}
    for strategy, other in (("ddp", "sharded"), ("sharded", "ddp")):
        more = [f"--ckpt_path={last[other]}", "--trainer.max_epochs=2"]
        came[f"{strategy} after {other}"] = fitted(folder, strategy, *more)
    two = ["--trainer.devices=2", "--trainer.strategy=sharded"]
    report = f"--report.folder={folder}/report"
    came["test"] = tested(folder, "test", last["sharded"], *two, report)
    came["validate"] = tested(folder, "validate", last["sharded"], *two)
    torch.save(came, folder / f"later{torch.distributed.get_rank()}.pt")
    torch.distributed.barrier()
    failing(folder)
