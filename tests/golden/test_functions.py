"""Each function alone, given recorded inputs, gives the recorded outputs."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from detox_lightning.algorithm.advantages import GAE
from detox_lightning.algorithm.experience import RunningMoments, shape_scores, token_rewards
from detox_lightning.algorithm.kl import kl_estimate
from detox_lightning.algorithm.losses import PPOLoss
from detox_lightning.algorithm.masks import response_lengths, whiten
from detox_lightning.algorithm.metrics import token_statistics
from detox_lightning.algorithm.types import Experience
from golden.conftest import PLAIN, REPLAYED
from golden.deviations import EXACT, PER_TOKEN, Deviations
from golden.records import ESTIMATORS, GoldenSet, episodes, golden_set, mask_without_first
from golden.replay import LeakyGAE, module_options

EOS = 1
FOLLOWED = [name for name in REPLAYED if name != "clipnorm"]
STEPS = [(name, step) for name in FOLLOWED for step in range(len(golden_set(name).steps))]


@dataclass
class Recorded:
    """One step of a set, and where its deviations are noted."""

    golden: GoldenSet
    step: int
    deviations: Deviations

    def __getitem__(self, name: str) -> Tensor:
        return self.golden[self.step, name]

    @property
    def mask(self) -> Tensor:
        return self["masks"]

    def check(self, name: str, ours: Tensor | float, recorded: Tensor | float, **options) -> None:
        self.deviations.check(self.golden.name, f"function: {name}", ours, recorded, **options)


@pytest.fixture(params=STEPS, ids=lambda pair: f"{pair[0]}-{pair[1]}")
def recorded(request: pytest.FixtureRequest, deviations: Deviations) -> Recorded:
    name, step = request.param
    return Recorded(golden_set(name), step, deviations)


def test_masks(recorded: Recorded) -> None:
    """The recorded responses fill what they were cut to: their lengths follow from the EOS."""
    responses = episodes()[recorded.step][1]
    lengths = responses.mask.sum(dim=1) + 1
    assert torch.equal(mask_without_first(lengths, responses.ids.shape[1]), recorded.mask)
    ended = responses.has_eos([EOS])
    assert torch.equal(response_lengths(responses.ids, [EOS])[ended], lengths[ended])


SAMPLED_KL = [(name, step) for name, step in STEPS if name != "kl_full"]  # that needs logits


@pytest.mark.parametrize("recorded", SAMPLED_KL, indirect=True)
def test_kl(recorded: Recorded) -> None:
    estimator = ESTIMATORS[recorded.golden.config["kl_penalty"]]
    ours = kl_estimate(recorded["logprobs"], recorded["ref_logprobs"], estimator)
    recorded.check("kl", ours, recorded["kl"], mask=recorded.mask)


def test_rewards(recorded: Recorded) -> None:
    golden, mask = recorded.golden, recorded.mask
    shaping, moments = module_options(golden.config)["scores"], RunningMoments()
    for _, _, scores in episodes()[: recorded.step + 1]:
        if shaping.scale:
            moments.update(scores)
        shaped = shape_scores(scores, shaping, moments)
    recorded.check("scores", shaped, recorded["scores_after_scaling"])
    kl_coef = golden.steps[recorded.step]["kl_coef_before"]
    rewards = token_rewards(shaped, recorded["kl"], mask, kl_coef)
    recorded.check("rewards", rewards, recorded["rewards"], mask=mask)


def test_advantages(recorded: Recorded) -> None:
    golden, mask = recorded.golden, recorded.mask
    rewards = torch.where(mask, recorded["rewards"], 0)
    estimator = module_options(golden.config)["advantage"]
    advantages, returns = estimator(rewards, recorded["values"], mask)
    recorded.check("advantages", whiten(advantages, mask), recorded["advantages"], mask=mask)
    recorded.check("returns", returns, recorded["returns"], mask=mask)


def minibatch_means(
    recorded: Recorded, number: int, rows: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Means over the tokens of a mini-batch, from what was recorded of its forward pass."""
    unread = torch.zeros(len(rows), 0)
    experience = Experience(
        prompt_ids=unread,
        prompt_mask=unread,
        response_ids=unread,
        response_mask=recorded.mask[rows],
        old_logprobs=recorded["logprobs"][rows],
        ref_logprobs=unread,
        old_values=recorded["values"][rows],
        advantages=recorded["advantages"][rows],
        returns=recorded["returns"][rows],
    )
    logprobs, values = (recorded[f"mb{number}.{name}"] for name in ("logprobs", "vpreds"))
    loss = module_options(recorded.golden.config)["loss"]
    entropy, mask = torch.zeros_like(values), experience.response_mask
    sums = loss(logprobs, values, entropy, experience, mask.float())
    statistics = {**token_statistics(logprobs, values, entropy, experience), **sums.statistics}
    tokens = mask.sum()
    return (
        {name: x / tokens for name, x in sums.terms.items()},
        {name: x / tokens for name, x in statistics.items()},
    )


def test_losses(recorded: Recorded) -> None:
    loss: PPOLoss = module_options(recorded.golden.config)["loss"]
    statistics = recorded.golden.steps[recorded.step]["minibatch_stats"]
    for number, rows in enumerate(recorded.golden.minibatch_rows(recorded.step)):
        terms, means = minibatch_means(recorded, number, rows)
        names = ("policy/clipfrac", "policy/approxkl", "policy/policykl")
        names += ("val/clipfrac", "val/vpred", "val/error")
        ours = {
            "loss/policy": terms["policy"],
            "loss/value": terms["value"],
            "loss/total": loss.total(terms),
            **{name: means[name] for name in names},
        }
        for name, value in ours.items():
            recorded.check(name, value, statistics[number][name], tolerance=EXACT)


@pytest.mark.parametrize("name", PLAIN)
def test_both_clips_act_where_the_rate_is_high(name: str) -> None:
    """So that ``epochs4`` tests what ``seed`` can't."""
    rows = [row for step in golden_set(name).steps for row in step["minibatch_stats"]]
    for fraction in ("policy/clipfrac", "val/clipfrac"):
        assert (max(row[fraction] for row in rows) > 0.1) == (name == "epochs4")


@pytest.mark.parametrize(("name", "step"), STEPS)
def test_kl_coefficient(name: str, step: int) -> None:
    golden = golden_set(name)
    penalty = module_options(golden.config)["kl"]
    recorded = golden.steps[step]
    kl = recorded["trl_stats"]["objective/kl"]
    ours = penalty.next_coef(recorded["kl_coef_before"], kl, responses=8)
    assert ours == pytest.approx(recorded["kl_coef_after"], abs=1e-9)


def test_trl_lets_whitened_padding_flow_into_advantages() -> None:
    """Ours doesn't: a longer neighbour, which only means more padding, changes nothing."""
    golden = golden_set("whiten")
    mask = golden[0, "masks"]
    rewards = torch.where(mask, golden[0, "rewards"], 0)
    values = golden[0, "values"]

    def ours(rewards: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        return GAE()(whiten(rewards, mask, shift_mean=False), values, mask)[1]

    def theirs(rewards: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        return LeakyGAE()(rewards, values, mask)[1]

    def more_padding(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, 5))

    arrays = rewards, values, mask
    padded = [more_padding(x) for x in arrays]
    assert torch.allclose(ours(*padded)[padded[2]], ours(*arrays)[mask], atol=PER_TOKEN)
    assert not torch.allclose(theirs(*padded)[padded[2]], theirs(*arrays)[mask], atol=0.1)
    assert torch.allclose(theirs(*arrays)[mask], golden[0, "returns"][mask], atol=PER_TOKEN)
