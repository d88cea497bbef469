"""PPO by a real Trainer: where we do otherwise than TRL, and what must make no difference."""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from conftest import save_classifier, word_tokenizer
from detox_lightning.algorithm.advantages import Reinforce
from detox_lightning.algorithm.constraint import Constraint
from detox_lightning.algorithm.experience import ScoreShaping
from detox_lightning.algorithm.group_losses import CISPOLoss, DrGRPOLoss, GRPOLoss, GSPOLoss
from detox_lightning.algorithm.kl import KLPenalty
from detox_lightning.algorithm.losses import PolicyLoss, PPOLoss
from detox_lightning.cli.process import float32_products
from detox_lightning.errors import InputError
from detox_lightning.models.decoding import draws
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.models.loading import Weights
from detox_lightning.models.lora import LoRA
from detox_lightning.models.policy import load_policy
from detox_lightning.models.saving import save_model
from detox_lightning.rewards import ClassifierReward, LengthReward, WeightedReward
from detox_lightning.stages.optimization import Schedule
from numerics import FLOAT32, NoFloatingSums, float32
from ppo_toys import EOS, ByPlace, Liking, WatchedPPO, close, equal, fit, listen, make_module

# From nothing but an EOS to one that is cut off, in no order.
RAGGED = [
    [EOS],
    [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
    [20, EOS],
    [5, 5, 5, 5, EOS],
    [30, 31, 32, 33, 34, 35, 36, 37, 38, 39, EOS],
    [EOS],
    [40, 0, 41, EOS],
    [9, 8, 7, EOS],
]


@pytest.fixture(scope="module")
def adapter(tiny_t5: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An adapter that isn't fresh any more."""
    folder = tmp_path_factory.mktemp("adapter")
    policy = load_policy(tiny_t5, LoRA(r=4, dropout=0.1), Sampling())
    torch.manual_seed(7)
    for parameter in policy.model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    save_model(policy.model, word_tokenizer(), folder)
    return str(folder)


@pytest.fixture(params=["fresh", pytest.param("loaded", marks=pytest.mark.slow)])
def start(request: pytest.FixtureRequest, tiny_t5: str, adapter: str) -> str:
    """A base, or an adapter, to begin from."""
    return tiny_t5 if request.param == "fresh" else adapter


@pytest.fixture
def trained(start: str, tiny_classifier: str, tmp_path: Path) -> WatchedPPO:
    """Three rollouts, far enough from the start that clipping acts."""
    module = make_module(start, tiny_classifier, max_grad_norm=0.5)
    fit(tmp_path, module, rollouts=3)
    assert module.rollouts == len(module.watched) == 3
    return module


# -- where we differ from TRL on purpose


def test_the_reference_is_the_policy_as_it_began(trained: WatchedPPO) -> None:
    first, *others = (step.metrics["objective/kl"] for step in trained.watched)
    assert first == pytest.approx(0, abs=float32(8))
    assert all(abs(kl) > 1e-3 for kl in others)


class TrainMode(Callback):
    """Does before every rollout what TRL does after every update."""

    def on_train_batch_start(self, trainer: Any, module: WatchedPPO, *args: Any) -> None:
        module.train()


@pytest.mark.parametrize(
    ("precision", "dtype", "products"),
    [
        ("bf16-mixed", "float32", "highest"),
        ("32-true", "bfloat16", "highest"),
        ("32-true", "float32", "medium"),  # some CPUs multiply in bfloat16 then
    ],
)
def test_in_half_precision_the_first_ratio_is_1_and_the_first_kl_0(
    tiny_t5: str,
    tiny_classifier: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    dtype: Any,
    products: str,
) -> None:
    """To the last bit: all forward passes are of one size, whatever rounding does."""
    rollouts = listen(monkeypatch, "measure")
    weights = Weights(dtype=dtype)
    module = make_module(tiny_t5, tiny_classifier, 0.0, micro_batch_size=2, weights=weights)
    module.given = RAGGED
    with float32_products(products):
        fit(tmp_path, module, rollouts=1, precision=precision)
    (rollout,) = rollouts
    assert rollout.kl[rollout.response_mask].abs().max() == 0
    step = module.watched[0]
    for rows, now in zip(torch.cat(step.orders).split(2), step.forwards, strict=True):
        real = rollout.response_mask[rows]
        assert torch.equal(now.logprobs[real], rollout.old_logprobs[rows][real])


@pytest.mark.quick(1)
@pytest.mark.parametrize("top_p", [0.9, 1.0])
def test_a_deterministic_run_does_without_what_a_gpu_would_refuse(
    tiny_t5: str,
    tiny_classifier: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    deterministic: None,
    top_p: float,
) -> None:
    """And becomes what it becomes on a CPU, in a rollout and its update."""
    weights = []
    for devices in (draws.SUMS_IN_ORDER, set()):
        monkeypatch.setattr(draws, "SUMS_IN_ORDER", devices)
        sampling = Sampling(max_new_tokens=8, top_p=top_p)
        module = make_module(tiny_t5, tiny_classifier, sampling=sampling)
        with NoFloatingSums() if not devices else nullcontext():
            fit(tmp_path, module, rollouts=1, deterministic=True)
        weights.append(dict(module.policy.named_parameters()))
    assert equal(*weights)


def test_the_first_mini_batch_of_every_rollout_has_ratio_1(
    start: str, tiny_classifier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a dropout of 0.1 in base and adapter, even where somebody asks for train mode."""
    meters, rollouts = listen(monkeypatch, "learn"), listen(monkeypatch, "measure")
    module = make_module(start, tiny_classifier)
    fit(tmp_path, module, rollouts=3, callbacks=[TrainMode()])
    assert module.policy.base.config.dropout_rate == 0.1
    for meter, rollout, step in zip(meters, rollouts, module.watched, strict=True):
        rows = step.orders[0][:4]
        real = rollout.response_mask[rows]
        log_ratio = step.forwards[0].logprobs - rollout.old_logprobs[rows]
        assert log_ratio[real].abs().max() < FLOAT32
        assert meter.rows[0]["ppo/policy/ratio"] == pytest.approx(1, abs=FLOAT32)
        assert meter.rows[0]["ppo/policy/clipfrac"] == 0
        assert meter.rows[-1]["ppo/policy/approxkl"] > 1e-4  # and later it moves


def test_gradients_are_clipped_at_every_step(trained: WatchedPPO) -> None:
    norms = [
        float(torch.cat([gradient.flatten() for gradient in gradients.values()]).norm())
        for step in trained.watched
        for gradients in step.gradients
    ]
    assert len(norms) == 12
    assert max(norms) <= 0.5 + 1e-5
    assert sum(norm > 0.49 for norm in norms) > 1
    assert trained.watched[0].metrics["ppo/grad_norm"] > 0.5


def test_first_token_and_eos_are_trained(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiences = listen(monkeypatch, "to_experience")
    module = make_module(tiny_t5, tiny_classifier)
    module.given = RAGGED
    fit(tmp_path, module, rollouts=1)
    (experience,) = experiences
    assert experience.response_mask.sum(dim=1).tolist() == [len(row) for row in RAGGED]
    assert (experience.advantages[experience.response_mask] != 0).all()
    assert experience.response_mask[:, 0].all()


def test_responses_of_a_single_eos(tiny_t5: str, tiny_classifier: str, tmp_path: Path) -> None:
    """TRL crashes on them; here they are scored and learned from."""
    module = make_module(tiny_t5, tiny_classifier, reward=ByPlace(), ppo_epochs=1)
    module.given = [[EOS]] * 8
    fit(tmp_path, module, rollouts=1)
    (step,) = module.watched
    assert step.metrics["tokens/responses_len_mean"] == 1
    assert step.metrics["objective/eos_rate"] == 1
    assert math.isfinite(step.metrics["ppo/loss/total"])
    assert not equal(step.before, step.after)


def test_special_tokens_are_not_scored(trained: WatchedPPO) -> None:
    texts = [text for step in trained.watched for text in step.scored]
    assert len(texts) == 24
    assert any(texts)
    assert not any(token in text for text in texts for token in ("</s>", "<pad>"))


def test_each_reward_is_logged_by_its_name(
    start: str, tiny_classifier: str, tmp_path: Path
) -> None:
    reward = WeightedReward([Liking(), LengthReward(8, 9)], [0.5, -2.0])
    module = make_module(start, tiny_classifier, reward=reward)
    fit(tmp_path, module, rollouts=1)
    (step,) = module.watched
    liking = Liking()([], step.scored, []).mean().item()
    length = LengthReward(8, 9)([], step.scored, []).mean().item()
    assert step.metrics["rewards/liking"] == pytest.approx(liking)
    assert step.metrics["rewards/length"] == pytest.approx(length)
    assert step.metrics["objective/scores_mean"] == pytest.approx(0.5 * liking - 2 * length)


def test_a_label_is_found_by_its_name(tiny_classifier: str, tmp_path: Path) -> None:
    """Not by its place."""
    swapped = save_classifier(tmp_path, ["hate", "nothate"])
    texts = ["Ann is nice", "Bob is a moron", ""]
    scores = {}
    for name in (tiny_classifier, swapped):
        for label in ("nothate", "hate"):
            reward = ClassifierReward(name, label)
            reward.load()
            scores[name, label] = reward(texts, texts, texts)
    assert torch.equal(scores[tiny_classifier, "nothate"], scores[swapped, "hate"])
    assert torch.equal(scores[tiny_classifier, "hate"], scores[swapped, "nothate"])
    assert not torch.equal(scores[swapped, "nothate"], scores[swapped, "hate"])


# -- what must make no difference


def one_update(start: str, classifier: str, folder: Path, **options: Any) -> WatchedPPO:
    """One rollout of responses of very different lengths, one optimizer step."""
    settings = {"mini_batch_size": 8, "ppo_epochs": 1, "max_grad_norm": None, **options}
    module = make_module(start, classifier, **settings)
    module.given = RAGGED
    fit(folder, module, rollouts=1)
    return module


@pytest.mark.parametrize("micro_batch_size", [4, 1])
def test_micro_batches_give_the_mini_batchs_gradient(
    start: str, tiny_classifier: str, tmp_path: Path, micro_batch_size: int
) -> None:
    whole = one_update(start, tiny_classifier, tmp_path, micro_batch_size=8).watched[0]
    parts = one_update(start, tiny_classifier, tmp_path, micro_batch_size=micro_batch_size)
    split = parts.watched[0]
    assert (len(whole.forwards), len(split.forwards)) == (1, 8 // micro_batch_size)
    assert close(whole.gradients[0], split.gradients[0])
    for name in ("ppo/loss/total", "ppo/policy/entropy", "ppo/val/error"):
        assert split.metrics[name] == pytest.approx(whole.metrics[name], abs=FLOAT32)


def test_nothing_is_learned_from_a_cut_response(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    """The gradient is that of the others alone, and the curves count it all the same."""
    options = {"reward": ByPlace(), "advantage": Reinforce(), "kl": KLPenalty(coef=0.0)}
    options |= {
        "loss": PPOLoss(vf_coef=0.0),
        "scores": ScoreShaping(mask_truncated_completions=True),
    }
    steps = [
        one_update(tiny_t5, tiny_classifier, tmp_path, micro_batch_size=size, **options).watched[0]
        for size in (8, 2, 1)
    ]
    plain = one_update(
        tiny_t5, tiny_classifier, tmp_path, **{**options, "scores": ScoreShaping()}
    ).watched[0]
    assert [len(row) for row in RAGGED if EOS not in row] == [12]
    for step in steps:
        assert close(step.gradients[0], steps[0].gradients[0])
        for name in ("objective/eos_rate", "objective/scores_mean", "tokens/total"):
            assert step.metrics[name] == plain.metrics[name]
    assert steps[0].metrics["objective/eos_rate"] == 7 / 8
    assert not close(steps[0].gradients[0], plain.gradients[0])
    # the mean entropy of the tokens that are learned from
    entropies = [output.entropy for output in steps[2].forwards]
    order = steps[2].orders[0].tolist()
    learned = [
        entropy[0, : len(RAGGED[row])]
        for row, entropy in zip(order, entropies, strict=True)
        if EOS in RAGGED[row]
    ]
    mean = torch.cat(learned).mean().item()
    assert steps[0].metrics["ppo/policy/entropy"] == pytest.approx(mean, abs=FLOAT32)


def test_where_all_are_cut_no_step_is_taken(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    module = make_module(
        tiny_t5, tiny_classifier, scores=ScoreShaping(mask_truncated_completions=True)
    )
    module.given = [[5, 6, 7]] * 8
    fit(tmp_path, module, rollouts=1)
    (step,) = module.watched
    assert equal(step.before, step.after)
    assert step.gradients == []
    assert step.metrics["objective/eos_rate"] == 0
    assert step.metrics["tokens/total"] == 24


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    "loss",
    [GRPOLoss(), DrGRPOLoss(kl_coef=0.1), GSPOLoss(0.2, 0.3), CISPOLoss(ent_coef=0.01)],
    ids=lambda loss: type(loss).__name__,
)
def test_micro_batches_give_every_losss_gradient(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path, loss: PolicyLoss
) -> None:
    options = {"loss": loss, "advantage": Reinforce()}
    whole, split = (
        one_update(tiny_t5, tiny_classifier, tmp_path, micro_batch_size=size, **options).watched[0]
        for size in (8, 1)
    )
    assert max(gradient.abs().max() for gradient in whole.gradients[0].values()) > 1e-3
    assert close(whole.gradients[0], split.gradients[0])
    total = pytest.approx(whole.metrics["ppo/loss/total"], abs=FLOAT32)
    assert split.metrics["ppo/loss/total"] == total


def test_a_loss_without_values_wants_advantages_without(tiny_t5: str, tiny_classifier: str) -> None:
    with pytest.raises(InputError, match=r"model\.loss=GRPOLoss trains no value head"):
        make_module(tiny_t5, tiny_classifier, loss=GRPOLoss())


def test_gradient_checkpointing_changes_nothing(
    start: str, tiny_classifier: str, tmp_path: Path
) -> None:
    plain, saving = (
        one_update(start, tiny_classifier, tmp_path, gradient_checkpointing=on).watched[0]
        for on in (False, True)
    )
    assert close(plain.gradients[0], saving.gradients[0])


def test_an_entropy_bonus_goes_with_a_minimum_length(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    """Where EOS has probability 0, and a logarithm would be infinite."""
    sampling = Sampling(max_new_tokens=6, min_new_tokens=3)
    options = {"sampling": sampling, "loss": PPOLoss(ent_coef=0.01)}
    module = make_module(tiny_t5, tiny_classifier, **options)
    fit(tmp_path, module, rollouts=2)
    assert all(value.isfinite().all() for value in module.watched[-1].after.values())
    assert min(step.responses.mask.sum(dim=1).min() for step in module.watched) >= 3


# -- seeds


def runs(start: str, classifier: str, folder: Path, *seeds: int) -> Iterator[WatchedPPO]:
    for number, seed in enumerate(seeds):
        torch.manual_seed(1000 + number)  # what else was drawn plays no part
        module = make_module(start, classifier, seed=seed)
        fit(folder, module, rollouts=2)
        yield module


def test_same_seed_same_weights(start: str, tiny_classifier: str, tmp_path: Path) -> None:
    one, same, other = runs(start, tiny_classifier, tmp_path, 3, 3, 4)
    assert equal(one.watched[-1].after, same.watched[-1].after)
    assert one.watched[-1].scored == same.watched[-1].scored
    assert one.watched[0].scored != other.watched[0].scored
    assert not equal(one.watched[-1].after, other.watched[-1].after)
    orders = [torch.stack(module.watched[0].orders) for module in (one, same, other)]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0][0], orders[0][1])  # each pass has its own


# -- options


@pytest.mark.quick(1)
@pytest.mark.parametrize("low", [2, 7])
def test_each_rollout_draws_its_length_limit(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path, low: int
) -> None:
    sampling = Sampling(max_new_tokens=(low, 7), min_new_tokens=low)
    module = make_module(tiny_t5, tiny_classifier, sampling=sampling, ppo_epochs=1)
    fit(tmp_path, module, rollouts=6)
    limits = {step.responses.ids.shape[1] for step in module.watched}
    assert min(limits) >= low
    assert max(limits) <= 7
    assert len(limits) == 1 if low == 7 else len(limits) > 1


def test_the_kl_coefficient_follows_the_kl(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    kl = KLPenalty(coef=0.5, target=1e-3, horizon=100)
    module = make_module(tiny_t5, tiny_classifier, kl=kl)
    fit(tmp_path, module, rollouts=3)
    coefs = [step.metrics["objective/kl_coef"] for step in module.watched] + [module.kl_coef]
    for now, following, step in zip(coefs, coefs[1:], module.watched, strict=False):
        expected = kl.next_coef(now, step.metrics["objective/kl"], responses=8)
        assert following == pytest.approx(expected, rel=1e-5)
    assert coefs[1] < coefs[0] < coefs[-1]


@pytest.mark.parametrize(
    ("coef", "constraint"), [(0.2, None), (0.0, Constraint("kl", at_most=1.0))], ids=str
)
def test_a_penalty_without_the_kls_gradient_is_warned_of(
    tiny_t5: str,
    tiny_classifier: str,
    tmp_path: Path,
    coef: float,
    constraint: Constraint | None,
) -> None:
    """A fault in what was asked for, but TRL 0.8 has these, so it isn't refused."""
    penalty = KLPenalty("full", coef)
    module = make_module(tiny_t5, tiny_classifier, kl=penalty, constraint=constraint)
    with pytest.warns(UserWarning, match="model.kl.estimator=full: .* give k1"):
        fit(tmp_path, module, rollouts=1)


def test_the_learning_rate_steps_once_a_rollout(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    module = make_module(tiny_t5, tiny_classifier, lr=0.01, schedule=Schedule("linear"))
    fit(tmp_path, module, rollouts=4)
    rates = [step.metrics["ppo/learning_rate"] for step in module.watched]
    assert rates == pytest.approx([0.01, 0.0075, 0.005, 0.0025])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mini_batch_size": 3}, r"data.batch_size=8 .*model.mini_batch_size=3"),
        ({"mini_batch_size": 16}, r"data.batch_size=8 .*model.mini_batch_size=16"),
        ({"micro_batch_size": 3}, r"mini_batch_size=4 .*model.micro_batch_size=3"),
    ],
)
def test_sizes_that_dont_divide_are_refused(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path, options: dict[str, int], message: str
) -> None:
    def run() -> None:
        fit(tmp_path, make_module(tiny_t5, tiny_classifier, **options), rollouts=1)

    with pytest.raises(InputError, match=message):
        run()
