"""What one or two processes do, for ``test_distributed.py``; Lightning starts the second one.

python tests/processes.py FOLDER [RUNS FLAG …]
"""

import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from detox_lightning.lazy_imports import deferred

with deferred():  # as the command line does
    from datasets.arrow_writer import ArrowWriter
    from lightning.pytorch import seed_everything

    from detox_lightning.__main__ import main
    from detox_lightning.algorithm.advantages import GAE, GRPO, RLOO, AdvantageEstimator
    from detox_lightning.algorithm.constraint import Constraint
    from detox_lightning.algorithm.experience import ScoreShaping
    from detox_lightning.algorithm.group_losses import DrGRPOLoss, GRPOLoss, GSPOLoss
    from detox_lightning.algorithm.losses import PolicyLoss, PPOLoss
    from detox_lightning.algorithm.masks import mask_from_lengths
    from detox_lightning.algorithm.types import Experience, Rollout
    from detox_lightning.batches import PromptBatch
    from detox_lightning.cli.command import DetoxCLI
    from detox_lightning.data.prompts import PromptDataModule
    from detox_lightning.models.lora import LoRA
    from detox_lightning.ppo import module as ppo_module
    from detox_lightning.ppo.actor import Actor
    from detox_lightning.ppo.module import PPOModule
    from detox_lightning.rewards import ClassifierReward
    from detox_lightning.rollout import Responses, Scores
    from toys import PAIRS, collate_pairs, make_trainer

TWO = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": False}
ROWS, MINI_BATCH, ROLLOUTS = 16, 8, 2  # over all processes


def trained(module: PPOModule) -> dict[str, Tensor]:
    """What learns."""
    named = module.named_parameters()
    return {name: p.detach().clone() for name, p in named if p.requires_grad}


# the last process's responses are the longest: the others' are padded less
GROWING = tuple(row // 2 + 1 for row in range(ROWS))
ENDING = tuple(1 if row < ROWS // 2 else 8 for row in range(ROWS))  # the first process's at once
CUT = tuple(2 if row < ROWS // 2 else 9 - row % 3 for row in range(ROWS))  # 9: without an end
TELLINGS: dict[str, tuple[AdvantageEstimator, tuple[int, ...], PolicyLoss]] = {
    "GAE": (GAE(), GROWING, PPOLoss()),
    "GAE, one rank's all short": (GAE(), ENDING, PPOLoss()),
    "RLOO": (RLOO(k=2), GROWING, PPOLoss()),
    "GRPO, one rank's all short": (GRPO(k=4), ENDING, PPOLoss()),
    "mean per response": (GRPO(k=4), ENDING, GRPOLoss(kl_coef=0.1)),
    "constant divisor": (RLOO(k=2), GROWING, DrGRPOLoss(kl_coef=0.1)),
    "one ratio a response": (RLOO(k=2), GROWING, GSPOLoss(0.2, 0.3)),
    "cut ones masked": (GRPO(k=4), CUT, PPOLoss(vf_coef=0.0)),
    "cut ones masked, mean per response": (RLOO(k=2), CUT, GRPOLoss(kl_coef=0.1)),
    "a limit": (RLOO(k=2), GROWING, PPOLoss()),
}
LIMIT = Constraint("nothate", at_least=1.0)  # of the scores that are told
QUICK = ("GAE", "RLOO", "mean per response", "cut ones masked")  # they stand for the others


class ToldActor(Actor):
    """Is told its responses and their scores, each process its share."""

    module: "Told"

    def respond_to(self, prompts: PromptBatch, number: int) -> Responses:
        generator = torch.Generator().manual_seed(number)
        ids = torch.randint(3, 200, (ROWS, 9), generator=generator)
        ids[torch.arange(ROWS), self.module.lengths - 1] = 1  # EOS
        ids, lengths = ids[:, :8], self.module.lengths.clamp(max=8)
        ids, lengths = self.module.share(ids), self.module.share(lengths)
        mask = mask_from_lengths(lengths, int(lengths.max()))
        return Responses(ids[:, : mask.shape[1]] * mask, mask, ["" for _ in lengths])

    def scores_of(self, prompts: PromptBatch, responses: Responses, number: int) -> Scores:
        self.register(prompts, responses, number)
        generator = torch.Generator().manual_seed(-1 - number)
        scores = self.module.share(3 * torch.randn(ROWS, generator=generator))
        return Scores({self.reward.name: scores}, scores)


class Told(PPOModule):
    """Is told its responses, their scores and the order of the update, each process its share."""

    def __init__(self, lengths: tuple[int, ...], *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.lengths = torch.tensor(lengths)
        self.experiences: list[Experience] = []
        self.gradients: list[dict[str, Tensor]] = []

    def share(self, x: Tensor) -> Tensor:
        """This process's rows."""
        return x.chunk(self.trainer.world_size)[self.global_rank]

    def on_train_start(self) -> None:
        super().on_train_start()
        self.actor = ToldActor(**vars(self.actor))
        self.actor.module = self

    def orders(self, rollout: Rollout) -> Iterator[Tensor]:
        """Each mini-batch over all processes has the same rows, however many they are."""
        for epoch in range(self.options.epochs):
            generator = torch.Generator().manual_seed(epoch)
            halves = torch.randperm(ROWS // 2, generator=generator).chunk(ROWS // MINI_BATCH)
            if len(rollout.scores) == ROWS // 2:
                yield torch.cat(halves)
            else:
                yield torch.cat([torch.cat([half, half + ROWS // 2]) for half in halves])

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        named = self.named_parameters()
        self.gradients.append({n: p.grad.clone() for n, p in named if p.requires_grad})


def told(folder: Path, processes: int, telling: str) -> dict[str, Any]:
    """Two rollouts on what is told, and what came of them in this process."""
    advantage, lengths, loss = TELLINGS[telling]
    with pytest.MonkeyPatch.context() as patch:
        to_experience = ppo_module.to_experience

        def heeded(*args: Any, **kwargs: Any) -> Experience:
            module.experiences.append(to_experience(*args, **kwargs))
            return module.experiences[-1]

        patch.setattr(ppo_module, "to_experience", heeded)
        seed_everything(0)
        module = Told(
            lengths,
            str(folder / "t5"),
            ClassifierReward(str(folder / "classifier")),
            LoRA(r=4),
            ppo_epochs=2,
            mini_batch_size=MINI_BATCH // processes,
            micro_batch_size=2,
            optimizer=lambda params: torch.optim.SGD(params, lr=0.3),
            advantage=advantage,
            loss=loss,
            scores=ScoreShaping(mask_truncated_completions=lengths is CUT),
            constraint=LIMIT if telling == "a limit" else None,
        )
        options = TWO if processes == 2 else {}
        trainer = make_trainer(folder, max_epochs=1, **options)
        size = ROWS // processes // advantage.responses_per_prompt
        start = size * trainer.global_rank if processes == 2 else 0
        batch = collate_pairs([(PAIRS * 2)[start + i] for i in range(size)])
        trainer.fit(module, DataLoader([batch] * ROLLOUTS, batch_size=None))
    return {
        "advantages": [e.advantages for e in module.experiences],
        "returns": [e.returns for e in module.experiences],
        "gradients": module.gradients,
        "weights": trained(module),
        "kl_coef": module.kl_coef,
        "multiplier": module.multiplier.value,
        "metrics": {k: float(v) for k, v in trainer.callback_metrics.items() if "time" not in k},
        "sampled": Actor.respond_to(module.actor, collate_pairs(PAIRS), module.rollouts).texts,
    }


def told_the_others(folder: Path) -> None:
    """What is told beyond :data:`QUICK`, in one of two processes that were started otherwise."""
    came = {telling: told(folder, 2, telling) for telling in TELLINGS if telling not in QUICK}
    torch.save(came, folder / f"others{torch.distributed.get_rank()}.pt")


FLAGS = ["--trainer.strategy=ddp", "--data.batch_size=4"]


def launched(folder: Path, runs: str, *flags: str) -> None:
    """The recipe of :func:`fitted` in one process of a run that was started otherwise."""
    logger = f"--trainer.logger.init_args.save_dir={folder}/{runs}"
    main(["fit", "--config", str(folder / "tiny.yaml"), *FLAGS, logger, *flags])


def fitted(folder: Path) -> dict[str, Any]:
    """A recipe by the command line, and what came of it in this process."""
    prepared: list[str] = []

    def noted(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def noting(*args: Any, **kwargs: Any) -> Any:
            prepared.append(function.__name__)
            return function(*args, **kwargs)

        return noting

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PromptDataModule, "tokenize", noted(PromptDataModule.tokenize))
        patch.setattr(ArrowWriter, "finalize", noted(ArrowWriter.finalize))
        cli = DetoxCLI(
            ["fit", "--config", str(folder / "tiny.yaml"), *FLAGS, "--trainer.devices=2"]
        )
    return {
        "prepared": prepared,
        "weights": trained(cli.model),
        "kl_coef": cli.model.kl_coef,
        "rollouts": cli.model.rollouts,
        "samples": cli.model.samples,
        "metrics": {k: float(v) for k, v in cli.trainer.callback_metrics.items()},
    }


def tested(folder: Path, processes: int) -> dict[str, Any]:
    """A test by the command line of what :func:`fitted` left, and what was logged of it."""
    flags = [f"--report.folder={folder}/report{processes}", "--model.evaluation.samples=3"]
    flags += [f"--model.evaluation.identity_templates={folder / 'templates.txt'}"]
    flags += ["--model.evaluation.identity_groups=[nice, lazy]"]
    if processes == 2:
        flags += ["--trainer.devices=2", "--trainer.strategy=ddp"]
    checkpoint = folder / "runs" / "tiny" / "version_0" / "checkpoints" / "last.ckpt"
    config = ["--config", str(folder / "tiny.yaml"), f"--ckpt_path={checkpoint}"]
    cli = DetoxCLI(["test", *config, *flags])
    return {name: float(value) for name, value in cli.trainer.callback_metrics.items()}


def nonsense(rollouts: int) -> Callable[..., Tensor]:
    """The forward of a reward that gives NaN in the second process's first rollouts."""
    asked: list[None] = []

    def forward(self: ClassifierReward, prompts: list[str], *_: list[str]) -> Tensor:
        asked.append(None)
        wrong = torch.distributed.get_rank() == 1 and len(asked) <= rollouts
        return torch.full((len(prompts),), torch.nan if wrong else 0.0)

    return forward


def faulty(folder: Path) -> dict[str, Any]:
    """A recipe by the command line, whose first rollout has to be left out."""
    flags = ["--trainer.devices=2", "--trainer.limit_val_batches=0", "--trainer.logger.name=faulty"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClassifierReward, "forward", nonsense(1))
        cli = DetoxCLI(["fit", "--config", str(folder / "tiny.yaml"), *FLAGS, *flags])
    faults, metrics = cli.model.faults.count, cli.trainer.callback_metrics
    return {"faults": faults, "rollouts": cli.model.rollouts, "logged": metrics["ppo/faults"]}


def failing(folder: Path) -> None:
    """A recipe by the command line, of which one process can't go on."""
    ClassifierReward.forward = broken  # type: ignore[method-assign]
    flags = ["--trainer.devices=2", "--trainer.limit_val_batches=0"]
    main(["fit", "--config", str(folder / "tiny.yaml"), *FLAGS, *flags])


def broken(self: ClassifierReward, prompts: list[str], *_: list[str]) -> Tensor:
    """The forward of a reward that fails in the second process."""
    if torch.distributed.get_rank() == 1:
        raise ZeroDivisionError("ours")
    return torch.zeros(len(prompts))


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    if len(sys.argv) > 2:
        launched(folder, *sys.argv[2:])
        sys.exit()
    came = {"fitted": fitted(folder), "tested": tested(folder, 2)}
    came["faulty"] = faulty(folder)
    came |= {telling: told(folder, 2, telling) for telling in QUICK}
    torch.save(came, folder / f"rank{torch.distributed.get_rank()}.pt")
    torch.distributed.barrier()
    failing(folder)
