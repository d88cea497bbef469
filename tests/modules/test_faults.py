"""What happens when a score, a loss or a gradient is not finite, or a reward fails."""

import dataclasses
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import TensorBoardLogger
from safetensors.torch import load_file
from torch import Tensor

from detox_lightning.algorithm.advantages import GAE, GRPO, RLOO
from detox_lightning.algorithm.experience import RunningMoments, ScoreShaping
from detox_lightning.callbacks.dashboard import DashboardCallback
from detox_lightning.callbacks.fault_files import FaultsCallback
from detox_lightning.callbacks.samples import SamplesCallback
from detox_lightning.errors import TrainingError
from detox_lightning.models.lora import LoRA
from detox_lightning.modules import RewardModule, SupervisedModule
from detox_lightning.ppo import learner
from detox_lightning.runs.checkpointing import BoundedCheckpoint
from detox_lightning.stages.faults import Faults
from ppo_toys import Liking, WatchedPPO, close, equal, fit, make_module
from toys import PAIRS, make_trainer, pairs_loader, texts_loader

NAN, INF = math.nan, math.inf


class Turning(Liking):
    """Gives the third response a score of its own in some rollouts."""

    name = "turning"

    def __init__(self, score: float, *rollouts: int):
        super().__init__()
        self.score = score
        self.rollouts = rollouts
        self.asked = 0

    def forward(self, prompts: list[str], responses: list[str], references: list[str]) -> Tensor:
        scores = super().forward(prompts, responses, references)
        if self.asked in self.rollouts:
            scores[2] = self.score
        self.asked += 1
        return scores


def optimizer_steps(module: WatchedPPO) -> list[int]:
    return [len(step.gradients) for step in module.watched]


@pytest.mark.quick(1)
@pytest.mark.parametrize("score", [NAN, -INF])
def test_a_rollout_whose_score_is_not_finite_is_left_out(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path, score: float
) -> None:
    module = make_module(tiny_t5, tiny_classifier, reward=Turning(score, 1))
    with pytest.warns(UserWarning, match=r"^rollout 1: the reward 'turning' gave .* left out\. "):
        fit(tmp_path, module, rollouts=3, callbacks=[FaultsCallback()])
    assert optimizer_steps(module) == [4, 0, 4]
    first, second, third = module.watched
    assert equal(second.before, second.after)
    assert not equal(third.before, third.after)
    # what came before it is as if it had not been; the noise and the schedule go on
    assert (module.rollouts, module.faults.count) == (3, 1)
    assert module.learning_rate.last_epoch == 3
    assert [step.metrics["ppo/faults"] for step in module.watched] == [0, 1, 1]
    healthy = [step.metrics for step in (first, third)]
    assert all(math.isfinite(x) for metrics in healthy for x in metrics.values())
    assert math.isnan(second.metrics["objective/kl"])  # not the first one's once more
    assert math.isfinite(module.kl_coef)
    healthy = make_module(tiny_t5, tiny_classifier, reward=Turning(0.0))
    fit(tmp_path, healthy, rollouts=2)
    assert equal(healthy.watched[1].before, first.after)
    assert torch.equal(healthy.watched[1].responses.ids, second.responses.ids)


def test_what_was_left_out_can_be_looked_at(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    module = make_module(tiny_t5, tiny_classifier, reward=Turning(NAN, 1))
    with pytest.warns(UserWarning, match="left out") as warned:
        fit(tmp_path, module, rollouts=2, callbacks=[FaultsCallback()])
    folder = tmp_path / "faults"
    assert {file.name for file in folder.iterdir()} == {"rollout-1.json", "rollout-1.safetensors"}
    responses = module.watched[1].responses
    what = f"the reward 'turning' gave nan for the response {responses.texts[2]!r}"
    said = f"rollout 1: {what}: left out. The batch is in {folder}/rollout-1.safetensors"
    assert said in [str(warning.message) for warning in warned]
    about = json.loads((folder / "rollout-1.json").read_text())
    prompts, references = [list(column) for column in zip(*PAIRS, strict=True)]
    assert about == {
        "place": "rollout 1",
        "what": what,
        "prompts": prompts,
        "responses": responses.texts,
        "references": references,
    }
    tensors = load_file(folder / "rollout-1.safetensors")
    assert torch.equal(tensors["response_ids"], responses.ids)
    assert torch.equal(tensors["response_mask"], responses.mask)
    assert tensors["scores"].isnan().nonzero().tolist() == [[2]]
    assert tensors["scores.turning"].isnan().nonzero().tolist() == [[2]]
    shape = list(responses.ids.shape)
    for name in ("old_logprobs", "ref_logprobs", "kl", "values"):
        assert list(tensors[name].shape) == shape
        assert tensors[name].isfinite().all()
    assert list(tensors["prompt_ids"].shape) == list(tensors["prompt_mask"].shape)


def test_only_the_mini_batch_whose_gradient_is_not_finite_is_left_out(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = make_module(tiny_t5, tiny_classifier)
    calls, clip = [], learner.clip_grad_norm_

    def overflowing(parameters: list[Tensor], bound: float) -> Tensor:
        calls.append(None)
        norm = clip(parameters, bound)
        if len(calls) != 2:
            return norm
        for parameter in parameters:
            parameter.grad.fill_(INF)
        return norm * INF

    monkeypatch.setattr(learner, "clip_grad_norm_", overflowing)
    with pytest.warns(UserWarning, match=r"the gradient's norm inf: left out"):
        fit(tmp_path, module, rollouts=1, callbacks=[FaultsCallback()])
    assert optimizer_steps(module) == [3]
    step = module.watched[0]
    assert all(value.isfinite().all() for value in step.after.values())
    assert not equal(step.before, step.after)
    assert step.metrics["ppo/faults"] == 1
    assert step.metrics["ppo/skipped_minibatches"] == 1
    assert math.isfinite(step.metrics["ppo/grad_norm"])
    rows = step.orders[0].split(4)[1].tolist()
    about = json.loads((tmp_path / "faults" / "rollout-0.json").read_text())
    assert about["responses"] == [step.responses.texts[row] for row in rows]
    tensors = load_file(tmp_path / "faults" / "rollout-0.safetensors")
    assert torch.equal(tensors["response_ids"], step.responses.ids[rows])
    assert {"advantages", "returns"} <= tensors.keys()


def test_a_loss_that_is_not_finite_is_left_out(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    """A score of 1e30 squares to infinity, in each of the rollout's mini-batches."""
    options = {"reward": Turning(1e30, 1), "mini_batch_size": 8}
    module = make_module(tiny_t5, tiny_classifier, **options)
    with pytest.warns(UserWarning, match="the loss is inf, .* left out"):
        fit(tmp_path, module, rollouts=3, callbacks=[FaultsCallback()])
    assert optimizer_steps(module) == [2, 0, 2]
    assert equal(module.watched[1].before, module.watched[1].after)
    assert module.watched[1].metrics["ppo/faults"] == 1
    names = {file.name for file in (tmp_path / "faults").glob("*.json")}
    assert names == {"rollout-1.json"}  # the first of two passes


def test_moments_know_nothing_of_what_was_left_out(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = make_module(tiny_t5, tiny_classifier, scores=ScoreShaping(scale=True))
    seen, log_rollout = [], module.log_rollout

    def logging(*figures: Any) -> None:
        seen.append(dataclasses.astuple(module.moments))
        overflow = torch.tensor(INF)  # from the second rollout on
        monkeypatch.setattr(learner, "clip_grad_norm_", lambda *_: overflow)
        log_rollout(*figures)

    monkeypatch.setattr(module, "log_rollout", logging)
    fit(tmp_path, module, rollouts=2)
    assert optimizer_steps(module) == [4, 0]
    assert seen[0] == seen[1] != dataclasses.astuple(RunningMoments())


def test_too_many_faults_end_the_run(tiny_t5: str, tiny_classifier: str, tmp_path: Path) -> None:
    options = {"reward": Turning(INF, 1, 2), "max_faults": 1}
    module = make_module(tiny_t5, tiny_classifier, **options)
    with pytest.raises(TrainingError) as raised, pytest.warns(UserWarning, match="left out"):
        fit(tmp_path, module, rollouts=4, callbacks=[FaultsCallback()])
    text = module.watched[2].responses.texts[2]
    assert str(raised.value) == (
        f"rollout 2: the reward 'turning' gave inf for the response {text!r}. Look at the reward, "
        "at the rollout's texts and, in half precision, at model.weights.dtype. This is fault 2 of "
        "the run, and model.max_faults=1. Checkpoints are untouched: go on from one with "
        f"--ckpt_path. The batch is in {tmp_path}/faults/rollout-2.safetensors"
    )
    assert raised.value.by_all
    assert equal(module.copies(), module.watched[0].after)


def test_the_count_of_faults_survives_a_resume(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    options = {"max_faults": 1}
    module = make_module(tiny_t5, tiny_classifier, reward=Turning(NAN, 0), **options)
    trainer = fit(tmp_path, module, rollouts=2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    later = make_module(tiny_t5, tiny_classifier, reward=Turning(NAN, 0), **options)
    with pytest.raises(TrainingError, match=r"^rollout 2: .* This is fault 2 of the run"):
        fit(tmp_path, later, rollouts=3, ckpt_path=tmp_path / "two.ckpt")


class Raising(Liking):
    name = "raising"

    def forward(self, *texts: list[str]) -> Tensor:
        raise ZeroDivisionError("ours")


class Twofold(Liking):
    name = "twofold"

    def forward(self, *texts: list[str]) -> Tensor:
        return super().forward(*texts)[:, None]


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (Raising(), "failed with ZeroDivisionError: ours (test_faults.py, line "),
        (Twofold(), "gave [8, 1] where a tensor [8] is expected, one score for each of 8"),
    ],
)
def test_a_reward_that_fails_ends_the_run_and_shows_its_batch(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path, reward: Liking, message: str
) -> None:
    module = make_module(tiny_t5, tiny_classifier, reward=reward)
    with pytest.raises(TrainingError) as raised:
        fit(tmp_path, module, rollouts=1, callbacks=[FaultsCallback()])
    assert str(raised.value).startswith(f"rollout 0: the reward {reward.name!r} {message}")
    assert str(raised.value).endswith(f". The batch is in {tmp_path}/faults/rollout-0.safetensors")
    about = json.loads((tmp_path / "faults" / "rollout-0.json").read_text())
    assert about["responses"] == module.watched[0].responses.texts
    tensors = load_file(tmp_path / "faults" / "rollout-0.safetensors")
    assert torch.equal(tensors["response_ids"], module.watched[0].responses.ids)


def test_a_fault_that_cannot_be_written_is_told_all_the_same(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    (tmp_path / "faults").write_text("in the way")
    module = make_module(tiny_t5, tiny_classifier, reward=Raising())
    with pytest.raises(TrainingError, match=r"ours .*\. The batch could not be written \(.*\)$"):
        fit(tmp_path, module, rollouts=1, callbacks=[FaultsCallback()])


class Wild(Liking):
    """Gives all responses a score of its own."""

    def __init__(self, score: float):
        super().__init__()
        self.score = score

    def forward(self, prompts: list[str], responses: list[str], references: list[str]) -> Tensor:
        return torch.full((len(responses),), self.score)


ADVANTAGES = {"GAE": GAE, "RLOO": lambda: RLOO(2), "GRPO": lambda: GRPO(2)}


@pytest.mark.quick(4)
@pytest.mark.parametrize("score", [NAN, INF, 1e20, 1e38])
@pytest.mark.parametrize("kind", ADVANTAGES)
def test_rollouts_without_any_usable_score_end_nothing(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path, score: float, kind: str
) -> None:
    """Sampled ones included, whose histogram TensorBoard would have of nothing."""
    options = {"reward": Wild(score), "advantage": ADVANTAGES[kind](), "ppo_epochs": 1}
    module = make_module(tiny_t5, tiny_classifier, **options)
    callbacks = [SamplesCallback(every_n_rollouts=1), DashboardCallback(), FaultsCallback()]
    fit(tmp_path, module, rollouts=1, callbacks=callbacks, logger=TensorBoardLogger(tmp_path))
    assert module.rollouts == 1
    assert all(value.isfinite().all() for value in module.copies().values())
    if not abs(score) < INF or kind == "GAE":
        assert module.faults.count == 1
        assert equal(module.watched[0].before, module.copies())


def test_a_fault_s_files_stay_in_their_folder(tmp_path: Path) -> None:
    """Whatever a checkpoint called the number of rollouts."""
    faults, callback = Faults(3), FaultsCallback()
    callback.folder = tmp_path / "run" / "faults"
    faults.begin("rollout ../../../x", {})
    faults.record("the loss is nan")
    trainer: Any = SimpleNamespace(global_rank=0, world_size=1)
    stage = type("Stage", (), {"stage_name": "ppo", "faults": faults})()
    assert len(list(callback.write_faults(trainer, stage))) == 1
    made = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {file.parent for file in made} == {callback.folder}


# -- the stages before


def supervised(policy: str) -> SupervisedModule:
    return SupervisedModule(policy, optimizer=lambda ps: torch.optim.Adam(ps, lr=1e-2))


def reward(encoder: str) -> RewardModule:
    return RewardModule(encoder, optimizer=lambda ps: torch.optim.Adam(ps, lr=1e-2))


class Spoiling(FaultsCallback):
    """Makes the gradients of one step infinite, and notes the weights before each."""

    def __init__(self, step: int):
        super().__init__()
        self.step = step
        self.weights: list[Tensor] = []
        self.given: list[Any] = []

    def on_train_batch_start(
        self, trainer: Any, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.weights.append(first(pl_module).detach().clone())
        self.given.append(batch)

    def on_after_backward(self, trainer: Any, pl_module: LightningModule) -> None:
        if len(self.weights) == self.step + 1:
            first(pl_module).grad[0] = INF


def first(module: LightningModule) -> Tensor:
    return next(module.parameters())


@pytest.mark.parametrize("stage", ["supervised", "reward"])
def test_a_step_of_the_stages_before_is_left_out(
    tiny_t5: str, tiny_encoder: str, tmp_path: Path, stage: str
) -> None:
    module: Any = supervised(tiny_t5) if stage == "supervised" else reward(tiny_encoder)
    loader = pairs_loader(2) if stage == "supervised" else texts_loader(4)
    spoiling = Spoiling(step=1)
    trainer = make_trainer(tmp_path, max_epochs=1, callbacks=[spoiling])
    with pytest.warns(UserWarning, match=r"^step 1: the gradient's norm is inf: left out\. The"):
        trainer.fit(module, loader)
    before, at, after, later = spoiling.weights
    assert not torch.equal(before, at)
    assert torch.equal(at, after)
    assert not torch.equal(after, later)
    assert later.isfinite().all()
    assert trainer.callback_metrics["train/faults"] == 1
    tensors = load_file(tmp_path / "faults" / "step-1.safetensors")
    for name, tensor in tensors.items():
        assert torch.equal(tensor, getattr(spoiling.given[1], name)), name
    names = {"input_ids", "attention_mask", "labels"}
    if stage == "supervised":
        names = {"prompt_ids", "prompt_mask", "target_ids", "target_mask"}
        about = json.loads((tmp_path / "faults" / "step-1.json").read_text())
        assert about["prompts"] == spoiling.given[1].prompts
    assert tensors.keys() == names
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    assert torch.load(tmp_path / "it.ckpt")["detox_lightning"]["faults"] == 1


def test_all_batches_of_a_step_are_shown(tiny_encoder: str, tmp_path: Path) -> None:
    """Which of them it was, their gradients' sum doesn't tell."""
    spoiling = Spoiling(step=2)
    trainer = make_trainer(tmp_path, max_epochs=1, accumulate_grad_batches=2, callbacks=[spoiling])
    with pytest.warns(UserWarning, match=r"^step 1: the gradient's norm is inf: left out\. The"):
        trainer.fit(reward(tiny_encoder), texts_loader(4))
    files = sorted((tmp_path / "faults").glob("*.safetensors"))
    assert [file.name for file in files] == ["step-1-1.safetensors", "step-1.safetensors"]
    for file, batch in zip(reversed(files), spoiling.given[2:4], strict=True):
        assert torch.equal(load_file(file)["input_ids"], batch.input_ids)


class Breaking(FaultsCallback):
    """Makes the weights such that what they say is not finite, after the second rollout."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, *args)
        if pl_module.rollouts == 2:
            with torch.no_grad():
                for name, parameter in pl_module.named_parameters():
                    if "lora_B" in name:
                        parameter.fill_(NAN)


def test_a_policy_that_is_broken_is_not_saved(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    module = make_module(tiny_t5, tiny_classifier)
    saving = BoundedCheckpoint(dirpath=tmp_path / "checkpoints", every_n_batches=1, save_top_k=0)
    options = {"callbacks": [Breaking(), saving], "enable_checkpointing": True}
    said = r"^nothing is saved: 12 tensors have weights that are NaN or infinite \(.*lora_B.*\)"
    with pytest.raises(TrainingError, match=said) as raised:
        fit(tmp_path, module, rollouts=9, **options)
    assert raised.value.by_all
    saved = {file.stem: torch.load(file) for file in (tmp_path / "checkpoints").glob("*.ckpt")}
    assert {name: x["detox_lightning"]["rollouts"] for name, x in saved.items()} == {
        "last": 1,
    }
    assert all(x.isfinite().all() for x in saved["last"]["state_dict"].values())


def test_too_many_such_steps_end_the_run(tiny_encoder: str, tmp_path: Path) -> None:
    module = RewardModule(tiny_encoder, max_faults=0)
    trainer = make_trainer(tmp_path, max_epochs=1, callbacks=[Spoiling(step=2)])
    with pytest.raises(TrainingError) as raised:
        trainer.fit(module, texts_loader(4))
    assert str(raised.value) == (
        "step 2: the gradient's norm is inf. Likely causes: too high a learning rate "
        "(model.optimizer.lr), no gradient clipping (trainer.gradient_clip_val), or half "
        "precision. This is fault 1 of the run, and model.max_faults=0. Checkpoints are untouched: "
        f"go on from one with --ckpt_path. The batch is in {tmp_path}/faults/step-2.safetensors"
    )


# -- memory


class Allocating:
    """Asks for more memory than there is where more than so many rows go through the policy."""

    def __init__(self, rows: int, gradients: bool):
        self.rows = rows
        self.gradients = gradients

    def __call__(self, policy: Any, args: tuple[Any, ...], kwargs: Any = None) -> None:
        if torch.is_grad_enabled() is self.gradients and len(args[2]) > self.rows:
            torch.empty(2**60)


@pytest.mark.quick(1)
@pytest.mark.parametrize("gradients", [True, False], ids=["update", "measuring"])
def test_memory_that_runs_out_halves_the_micro_batch(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path, gradients: bool
) -> None:
    options = {"lora": make_module(tiny_t5, tiny_classifier).lora, "mini_batch_size": 8}
    options["lora"] = type(options["lora"])(r=4, alpha=8, dropout=0.0)  # no noise to draw again
    module = make_module(tiny_t5, tiny_classifier, **options)
    module.configure_model()
    hook = Allocating(4 if gradients else 7, gradients)
    if not gradients:  # a rollout is noted while it is sampled; the reference is still asked
        module.micro_batches.size = 2
        hook.rows = 4
    module.policy.register_forward_pre_hook(hook)
    size = module.micro_batches.size
    said = f"out of memory; going on with model.micro_batch_size={size // 2}, half of what it was"
    with pytest.warns(UserWarning, match=rf"^rollout 0: {said}"):
        fit(tmp_path, module, rollouts=2)
    plain = make_module(tiny_t5, tiny_classifier, micro_batch_size=size // 2, **options)
    fit(tmp_path, plain, rollouts=2)
    assert module.micro_batches.size == size // 2
    assert optimizer_steps(module) == optimizer_steps(plain) == [2, 2]
    assert close(module.copies(), plain.copies())
    assert not equal(module.watched[1].after, module.watched[0].before)


def test_memory_that_runs_out_twice_ends_the_run(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    module = make_module(tiny_t5, tiny_classifier)
    module.configure_model()
    module.policy.register_forward_pre_hook(Allocating(1, gradients=True))
    with pytest.warns(UserWarning, match="micro_batch_size=2"), pytest.raises(TrainingError) as end:
        fit(tmp_path, module, rollouts=1)
    assert str(end.value).startswith("rollout 0: out of memory (")
    assert "can't allocate memory: you tried to allocate" in str(end.value)
    assert str(end.value).endswith(
        "What helps: a smaller model.micro_batch_size, data.batch_size or data.eval_batch_size, "
        "model.gradient_checkpointing=true, trainer.precision=bf16-mixed; docs/memory.md has "
        "figures"
    )
    assert equal(module.copies(), module.watched[0].before)


def test_auto_finds_what_fits(tiny_t5: str, tiny_classifier: str, tmp_path: Path) -> None:
    """By halving from the mini-batch, as often as it takes; the gradient stays the mini-batch's."""
    lora = LoRA(r=4, alpha=8, dropout=0.0)
    options = {"lora": lora, "mini_batch_size": 8}
    module = make_module(tiny_t5, tiny_classifier, micro_batch_size="auto", **options)
    assert module.micro_batches.size == 8
    module.configure_model()
    module.policy.register_forward_pre_hook(Allocating(1, gradients=True))
    with pytest.warns(UserWarning, match="micro_batch_size=1") as said:
        fit(tmp_path, module, rollouts=2)
    found = [re.search(r"^rollout 0: .*micro_batch_size=(\d)", str(x.message)) for x in said]
    assert [x[1] for x in found if x] == ["4", "2", "1"]
    plain = make_module(tiny_t5, tiny_classifier, micro_batch_size=1, **options)
    fit(tmp_path, plain, rollouts=2)
    assert optimizer_steps(module) == optimizer_steps(plain) == [2, 2]
    assert close(module.copies(), plain.copies())


def test_auto_ends_where_one_response_is_too_much(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    module = make_module(tiny_t5, tiny_classifier, micro_batch_size="auto")
    module.configure_model()
    module.policy.register_forward_pre_hook(Allocating(0, gradients=True))
    with pytest.warns(UserWarning, match="micro_batch_size=1"), pytest.raises(TrainingError) as end:
        fit(tmp_path, module, rollouts=1)
    assert str(end.value).startswith("rollout 0: out of memory (")


def test_what_is_no_lack_of_memory_is_not_tried_again(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    module = make_module(tiny_t5, tiny_classifier)
    module.configure_model()

    def broken(*_: Any) -> None:
        raise RuntimeError("something else")

    module.policy.register_forward_pre_hook(broken)
    with pytest.raises(RuntimeError, match="something else"):
        fit(tmp_path, module, rollouts=1)
    assert module.micro_batches.size == 4
