"""What is logged of a rollout and of its update."""

from typing import Any

import pytest
import torch

from algorithm.ranks import on_ranks
from detox_lightning.algorithm.losses import PPOLoss
from detox_lightning.algorithm.metrics import MiniBatchMeans, UpdateMeter, rollout_metrics
from detox_lightning.algorithm.types import Experience, Rollout

NAN = float("nan")
MASK = torch.tensor([[True, True, True], [True, False, False]])


def per_token(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows)


ROLLOUT = Rollout(
    prompt_ids=torch.zeros(2, 4),
    prompt_mask=torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool(),
    response_ids=torch.zeros(2, 3),
    response_mask=MASK,
    old_logprobs=per_token([-1, -2, -3], [-4, NAN, NAN]),
    ref_logprobs=per_token([0, 0, 0], [0, NAN, NAN]),
    kl=per_token([0.1, 0.2, 0.3], [0.6, NAN, NAN]),
    values=per_token([1, 2, 3], [6, NAN, NAN]),
    scores=torch.tensor([1.0, 4.0]),
    has_eos=torch.tensor([True, False]),
)
EXPERIENCE = Experience(
    *ROLLOUT[:6],
    old_values=per_token([1, 2, 3], [6, 0, 0]),
    advantages=torch.zeros(2, 3),
    returns=per_token([2, 2, 4], [4, 0, 0]),
)
PARTS = {"kind": torch.tensor([1.0, 2.0]), "short": torch.tensor([0.0, -3.0])}
EXPECTED = {
    "objective/kl": 1.2 / 2,
    "objective/kl_per_token": 1.2 / 4,
    "objective/kl_coef": 0.5,
    "objective/entropy": 10 / 2,
    "objective/scores_mean": 2.5,
    "objective/scores_std": 4.5**0.5,
    "objective/eos_rate": 0.5,
    "objective/empty_rate": 0,
    "objective/same_response": 0,
    "ppo/mean_non_score_reward": -0.5 * 1.2 / 4,
    "ppo/returns/mean": 3,
    "ppo/returns/var": 4 / 3,
    "ppo/val/mean": 3,
    "ppo/val/var": 14 / 3,
    "tokens/queries_len_mean": 3,
    "tokens/responses_len_mean": 2,
    "tokens/total": 4,
    "rewards/kind": 1.5,
    "rewards/short": -1.5,
}


def test_rollout_metrics() -> None:
    metrics = rollout_metrics(ROLLOUT, EXPERIENCE, PARTS, kl_coef=0.5)
    assert metrics == pytest.approx(EXPECTED, abs=1e-6)


def test_two_ranks_report_the_whole() -> None:
    def one_row(row: int) -> tuple[Any, ...]:
        index = torch.tensor([row])
        rollout = Rollout(*(field[index] for field in ROLLOUT))
        parts = {name: part[index] for name, part in PARTS.items()}
        return rollout, EXPERIENCE.rows(index), parts, 0.5

    for metrics in on_ranks(rollout_metrics, [one_row(0), one_row(1)]):
        assert metrics == pytest.approx(EXPECTED, abs=1e-6)


def test_prompts_whose_responses_all_score_alike_and_what_is_limited() -> None:
    """Of two responses to each prompt, one prompt on one rank, two on the other."""

    def of(scores: list[float], measured: list[float]) -> tuple[Any, ...]:
        rollout, *others = answered([5] * len(scores), [[3, 1]] * len(scores))
        scored = rollout._replace(scores=torch.tensor(scores))
        return scored, *others, 2, torch.tensor(measured)

    def metrics_of(*args: Any) -> dict[str, float]:
        *first, reduce = args
        return rollout_metrics(*first[:4], reduce, *first[4:])

    ranks = [of([0.1, 0.1], [1, 2]), of([0.1, 0.2, 0.7, 0.7], [3, 4, 6, 8])]
    for metrics in on_ranks(metrics_of, ranks):
        assert metrics["objective/frac_reward_zero_std"] == pytest.approx(2 / 3)
        assert metrics["objective/constraint"] == 4
        assert metrics["objective/constraint_std"] == pytest.approx(6.8**0.5)


def test_one_response_has_no_spread() -> None:
    index = torch.tensor([1])
    rollout = Rollout(*(field[index] for field in ROLLOUT))
    metrics = rollout_metrics(rollout, EXPERIENCE.rows(index), {}, kl_coef=0.5)
    assert metrics["objective/scores_std"] == 0


def answered(prompts: list[int], responses: list[list[int]]) -> tuple[Any, ...]:
    """A rollout of prompts of one token each; responses end with EOS, 1, what follows is padding.

    Paddings differ, as they do after dropped rows.
    """
    width = max(map(len, responses))
    ids = torch.tensor([[*x, *[n] * (width - len(x))] for n, x in enumerate(responses)])
    mask = torch.arange(width) < torch.tensor([len(x) for x in responses])[:, None]
    zeros = torch.zeros(mask.shape)
    prompt_ids = torch.tensor([[n, 0] for n in prompts])
    prompt_mask = torch.tensor([[True, False] for _ in prompts])
    scores, has_eos = torch.zeros(len(prompts)), (ids.eq(1) & mask).any(dim=1)
    rollout = Rollout(prompt_ids, prompt_mask, ids, mask, *[zeros] * 4, scores, has_eos)
    return rollout, Experience(*rollout[:6], zeros, zeros, zeros), {}, 0.5


@pytest.mark.parametrize(
    ("prompts", "responses", "same"),
    [
        # several responses to one prompt: alike or not, it says nothing
        ([7, 7, 7, 7], [[3, 1], [3, 1], [3, 1], [3, 1]], 0),
        ([7, 7, 8, 8], [[3, 1], [3, 1], [4, 1], [4, 1]], 0),
        ([7, 7, 8, 8], [[3, 1], [4, 1], [5, 1], [3, 1]], 1),
        # of the four besides one, two have the response of that one, which one prompt has twice
        ([5, 6, 7, 8, 9, 9], [[3, 1], [3, 1], [4, 1], [4, 1], [3, 1], [3, 1]], 2 / 4),
        # the beginning of another is another, and so is a longer one
        ([5, 6, 7], [[3], [3, 1], [3, 3, 1]], 0),
        ([5, 6, 7], [[1], [1], [1]], 1),
    ],
)
def test_same_response_is_of_different_prompts(
    prompts: list[int], responses: list[list[int]], same: float
) -> None:
    metrics = rollout_metrics(*answered(prompts, responses))
    assert metrics["objective/same_response"] == pytest.approx(same)


def test_empty_is_a_response_of_nothing_but_eos() -> None:
    responses = [[1], [3], [3, 1], [1]]  # the second was cut off
    metrics = rollout_metrics(*answered([5, 6, 7, 8], responses))
    assert metrics["objective/empty_rate"] == 0.5


def test_same_and_empty_responses_are_counted_on_each_rank() -> None:
    ranks = [
        answered([5, 6, 7], [[1], [1], [1]]),  # two of two others
        answered([5, 6, 7, 8], [[3, 1], [4, 1], [3, 1], [5, 1]]),  # one of three others
    ]
    for metrics in on_ranks(rollout_metrics, ranks):
        assert metrics["objective/same_response"] == pytest.approx(3 / 5)
        assert metrics["objective/empty_rate"] == pytest.approx(3 / 7)


def test_update_meter() -> None:
    meter = UpdateMeter(PPOLoss(vf_coef=0.1, ent_coef=0.01))
    terms = {"policy": -1.0, "value": 2.0, "entropy": 3.0}
    statistics = {"policy/entropy": 3.0, "policy/ratio": 0.0, "val/error": 4.0}
    meter.add(MiniBatchMeans(terms, statistics, grad_norm=5.0), skipped=False)
    terms = {"policy": -3.0, "value": 0.0, "entropy": 0.0}
    statistics = {"policy/entropy": 0.0, "policy/ratio": 20.0, "val/error": 2.0}
    meter.add(MiniBatchMeans(terms, statistics, grad_norm=7.0), skipped=True)
    metrics = meter.metrics(returns_variance=12.0)
    expected = {
        "ppo/loss/policy": -2.0,
        "ppo/loss/value": 1.0,
        "ppo/loss/total": (-1 + 0.1 * 2 - 0.01 * 3 - 3) / 2,
        "ppo/policy/entropy": 1.5,
        "ppo/policy/ratio": 10.0,
        "ppo/val/error": 3.0,
        "ppo/val/var_explained": 1 - 3 / 12,
        "ppo/grad_norm": 6.0,
        "ppo/skipped_minibatches": 1.0,
    }
    assert metrics == pytest.approx(expected)
