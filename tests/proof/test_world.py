"""The enumerable world is what it says, and its exact figures obey the theory."""

from pathlib import Path

import pytest
import torch

from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.models.source import ModelSource
from detox_lightning.rollout import sample
from numerics import EXACT, in_float64
from proof.world import KINDS, Kind, World, best_of, figures, kl, make_world, optimum, words


@pytest.fixture(scope="module", params=KINDS)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp(request.param), request.param)


def test_all_responses_are_there_once(world: World) -> None:
    rows = [tuple(row) for row in world.ids.tolist()]
    assert len(rows) == len(set(rows)) == 1 + 4 + 4**2 + 4**3
    assert world.lengths.bincount().tolist() == [0, 1, 4, 16 + 64]
    assert words(world.texts[rows.index((2, 0, 3))]) == "a b"  # pad is sampled, and not read
    assert world.prefixes.max() + 1 == 5 + 4 * 5 + 16 * 5
    assert len(world.prefixes[:, 0].unique()) == 5


@pytest.mark.parametrize(
    "sampling", [Sampling(3), Sampling(3, min_new_tokens=2, temperature=0.7)], ids=str
)
def test_the_probabilities_sum_up_to_1(tmp_path: Path, kind: Kind, sampling: Sampling) -> None:
    world = make_world(tmp_path, kind, sampling)
    policy = world.policy()
    with in_float64(policy), torch.no_grad():
        sums = world.logprobs(policy).exp().sum(dim=1)
    torch.testing.assert_close(sums, torch.ones_like(sums), atol=EXACT, rtol=0)


@pytest.mark.quick(1)
def test_the_sampler_draws_by_these_probabilities(world: World) -> None:
    """Pearson's sum is as large as chance makes it, in 2,000 responses to each prompt.

    Its mean is the number of its degrees of freedom, and its variance twice that.
    """
    policy, count = world.policy(value_head=False), 2000
    tokenizer = ModelSource.resolve(str(world.folder)).load_tokenizer()
    torch.manual_seed(0)
    drawn = sample(policy, tokenizer, world.prompts.repeated(count), 3, record=False)
    numbers = {tuple(row): number for number, row in enumerate(world.ids.tolist())}
    rows = torch.tensor([numbers[tuple(row)] for row in drawn.ids.tolist()])
    p, n = world.rewards.shape
    counts = torch.stack([part.bincount(minlength=n) for part in rows.view(p, count)])
    with torch.no_grad():
        expected = count * world.logprobs(policy).exp()
    pearson = float(((counts - expected) ** 2 / expected).sum())
    freedom = p * (n - 1)
    assert abs(pearson - freedom) < 4 * (2 * freedom) ** 0.5


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


def test_how_far_j_is_from_the_best_is_a_divergence(world: World) -> None:
    """J* - J = β·KL(π‖π*), for any policy π."""
    policy, beta = world.policy(), 0.5
    with in_float64(policy), torch.no_grad():
        reference = world.reference_logprobs(policy)
        for parameter in policy.model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        now = world.logprobs(policy)
        best, highest = optimum(reference, world.rewards, beta)
        objective = figures(now, reference, world.rewards, beta).objective
        gap = beta * kl(now, best)
        assert gap > 0.01
        torch.testing.assert_close(highest - objective, gap, atol=EXACT, rtol=0)
        at_best = figures(best, reference, world.rewards, beta).objective
        torch.testing.assert_close(at_best, highest, atol=EXACT, rtol=0)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_best_of_n(n: int) -> None:
    """Against all draws of n from three responses, two of which are worth the same."""
    reference = torch.tensor([[0.5, 0.2, 0.3]], dtype=torch.float64).log()
    rewards = torch.tensor([[0.0, 1.0, 1.0]])
    found = best_of(reference, rewards, n).exp()
    worst = 0.5**n
    expected = torch.tensor([[worst, 0.4 * (1 - worst), 0.6 * (1 - worst)]], dtype=torch.float64)
    torch.testing.assert_close(found, expected)
    bound = torch.tensor(n, dtype=torch.float64).log() - (n - 1) / n
    assert kl(found.log(), reference) <= bound + EXACT
