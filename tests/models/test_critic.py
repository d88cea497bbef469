"""A critic beside the policy: what it shares, what it learns, and what it reads."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures import save_random
from conftest import word_tokenizer
from detox_lightning.models.critic import Critic
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.models.lora import LoRA
from detox_lightning.models.policy import Policy, load_policy
from detox_lightning.models.saving import save_model
from detox_lightning.models.source import ModelSource
from numerics import EXACT, in_float64
from toys import PAIRS, collate_pairs

SMALL = LoRA(r=4, alpha=8)


def opened(name: str, critic: str, lora: LoRA | None = SMALL) -> Policy:
    torch.manual_seed(0)
    tokenizer = ModelSource.resolve(name).load_tokenizer()
    return load_policy(name, lora, Sampling(), tokenizer=tokenizer, critic=critic)


def critic_of(policy: Policy) -> Critic:
    assert policy.critic is not None
    return policy.critic


@pytest.fixture(scope="module")
def adapter(tiny_t5: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An adapter that was trained before."""
    policy, folder = opened(tiny_t5, "head"), tmp_path_factory.mktemp("adapter")
    disturb(policy)
    save_model(policy.model, word_tokenizer(), folder)
    return str(folder)


def disturb(module: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)


def rows(n: int = 4, side: Any = "right") -> tuple[Tensor, Tensor, Tensor]:
    batch = collate_pairs(PAIRS[:n], side)
    return batch.prompt_ids, batch.prompt_mask, batch.target_ids


@pytest.mark.parametrize("start", ["fresh", "trained"])
def test_an_adapter_shares_the_base_and_begins_as_the_policy(
    tiny_t5: str, adapter: str, start: str
) -> None:
    policy = opened({"fresh": tiny_t5, "trained": adapter}[start], "adapter")
    critic = critic_of(policy)
    own = set(critic.parameters()) - set(policy.model.parameters())
    assert own == {p for p in critic.parameters() if p.requires_grad}
    adapters = sum(p.numel() for p in policy.model.parameters() if p.requires_grad)
    counts = policy.parameter_counts()
    assert sum(p.numel() for p in own) == adapters + 32 + 1  # and the value head
    assert counts["with_value_head_trainable"] == 2 * counts["policy_trainable"] + 33
    assert counts["with_value_head_total"] == counts["policy_total"] + adapters + 33
    assert (critic(*rows()) == 0).all()
    critic.value_head.linear.weight.data.fill_(1)
    with in_float64(policy), torch.no_grad():
        hidden = policy._run(*rows(), None)[1]
        torch.testing.assert_close(critic(*rows()), hidden.sum(dim=-1), atol=EXACT, rtol=EXACT)


@pytest.mark.parametrize("kind", ["adapter", "own"])
def test_policy_and_critic_learn_apart(
    tiny_t5: str, adapter: str, smaller_t5: str, kind: str
) -> None:
    """The reference stays what it was, too, and the policy's rollouts don't read the critic."""
    policy = opened(adapter, smaller_t5 if kind == "own" else "adapter")
    critic = critic_of(policy)
    before = policy(*rows()).logprobs
    critic.value_head.linear.weight.data.fill_(1)
    critic(*rows()).sum().backward()
    assert all(p.grad is None for p in policy.model.parameters())
    assert all(p.grad is not None for p in critic.parameters() if p.requires_grad)
    disturb(critic)
    now = policy(*rows())
    assert torch.equal(now.logprobs, before)
    assert (now.values == 0).all()
    with policy.reference():
        assert torch.equal(policy(*rows()).logprobs, before)
    policy.zero_grad()
    now.logprobs.sum().backward()
    assert all(p.grad is None for p in critic.parameters())


def test_its_gradient_is_the_same_with_checkpointing(tiny_t5: str) -> None:
    gradients = []
    for saves in (False, True):
        policy = opened(tiny_t5, "adapter")
        if saves:
            policy.enable_gradient_checkpointing()
        critic = critic_of(policy)
        disturb(critic)
        critic(*rows()).square().sum().backward()
        gradients.append([p.grad for p in critic.parameters() if p.requires_grad])
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", ["T5Gemma", "GPT-2", "BART", "Llama", "Gemma 3", "BLOOM"])
@pytest.mark.parametrize("kind", ["adapter", "own"])
def test_values_are_those_of_each_row_alone(tmp_path: Path, name: str, kind: str) -> None:
    """In every family, however rows are padded and put into passes."""
    folder = save_random(name, tmp_path)
    policy = opened(folder, folder if kind == "own" else "adapter")
    critic = critic_of(policy)
    disturb(critic)
    prompts, mask, ids = rows(3, policy.family.padding_side)
    real = torch.ones_like(ids).bool()
    real[0, 3:] = False
    with in_float64(policy):
        values = critic.values(prompts, mask, ids, real, size=2)
        for row in range(3):
            alone = critic(*(x[row : row + 1] for x in (prompts, mask, ids)))[0]
            found = values[row, real[row]].double()
            torch.testing.assert_close(found, alone[real[row]], atol=1e-5, rtol=1e-5)
    assert (values[0, 3:] == 0).all()
    used = [p for p in critic.parameters() if p.requires_grad]
    critic(prompts, mask, ids).square().sum().backward()
    if name != "Gemma 3" or kind == "adapter":  # its vision tower reads no text
        assert all(p.grad is not None for p in used)
