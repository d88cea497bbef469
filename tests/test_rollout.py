"""From prompts to a rollout: responses, scores, and what policy and reference say of them."""

import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import word_tokenizer
from detox_lightning.algorithm.kl import Estimator, full_kl, kl_estimate
from detox_lightning.algorithm.types import Rollout
from detox_lightning.errors import TrainingError
from detox_lightning.evaluation.judge import Judge
from detox_lightning.models.decoding.draws import TorchDraws
from detox_lightning.models.decoding.loop import Decoded
from detox_lightning.models.decoding.sampling import Sampling, greedy
from detox_lightning.models.families.encoder_decoder import EncoderDecoder
from detox_lightning.models.loading import Weights
from detox_lightning.models.lora import LoRA
from detox_lightning.models.policy import Policy, load_policy
from detox_lightning.models.source import ModelSource
from detox_lightning.rewards import Reward, WeightedReward
from detox_lightning.rollout import Responses, Scores, first_nonfinite, generate, measure, score
from numerics import EXACT, FLOAT32, in_float64
from ppo_toys import EOS, as_responses
from toys import PAIRS, collate_pairs

BATCH = collate_pairs(PAIRS[:4])
TOKENIZER = word_tokenizer()
ANN, IS, ANGRY = TOKENIZER("Ann is angry", add_special_tokens=False)["input_ids"]
RESPONSES = as_responses([[ANN, IS, EOS], [EOS], [ANN, IS, ANGRY, ANN, IS], [ANGRY, EOS]])
SCORES = torch.tensor([1.0, 2.0, 3.0, 4.0])


@pytest.fixture(scope="module")
def policy(tiny_t5: str) -> Policy:
    """One that has gone some way from its reference."""
    policy = load_policy(tiny_t5, LoRA(r=4), Sampling())
    torch.manual_seed(0)
    for parameter in policy.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    return policy.double()  # so that rounding doesn't hide what would be a mistake


def speaker(*rows: list[int]) -> Any:
    """A policy that gives these responses, padded as ``generate`` pads them."""
    ids = torch.tensor(rows)
    said = Decoded(ids, torch.zeros(*ids.shape, 2))
    policy = SimpleNamespace(eos_token_ids=(EOS,), family=EncoderDecoder())
    policy.generate = lambda prompts, choose, limit, stops: said
    policy.stop_strings = lambda *_: None
    policy.decode_texts = partial(Policy.decode_texts, policy)
    return policy


def answers(*rows: list[int]) -> Responses:
    """What becomes of these responses."""
    prompts: Any = None
    return generate(speaker(*rows), TOKENIZER, prompts, greedy, 4)


def test_texts_have_no_special_tokens() -> None:
    responses = answers([ANN, IS, ANGRY, EOS], [ANN, 0, EOS, 0], [EOS, 0, 0, 0])
    assert responses.texts == ["Ann is angry", "Ann", ""]


def test_masks_go_by_eos_and_length() -> None:
    responses = answers([ANN, IS, ANGRY, IS], [ANN, 0, EOS, 0], [EOS, 0, 0, 0])
    assert responses.mask.int().tolist() == [[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0]]
    assert responses.has_eos([EOS]).tolist() == [False, True, True]


def test_columns_of_padding_alone_are_cut() -> None:
    responses = answers([ANN, EOS, 0, 0], [EOS, 0, 0, 0])
    assert responses.ids.tolist() == [[ANN, EOS], [EOS, 0]]
    assert answers([EOS, 0], [EOS, 0]).ids.tolist() == [[EOS], [EOS]]


def test_an_eos_after_the_end_is_none() -> None:
    mask = torch.tensor([[True, True, False]])
    assert not Responses(torch.tensor([[5, 6, EOS]]), mask, [""]).has_eos([EOS]).any()


def test_a_policy_answers(policy: Policy) -> None:
    prompts = policy.encode_prompts(BATCH.prompt_ids, BATCH.prompt_mask)
    torch.manual_seed(0)
    choose = policy.sampling.choose(policy.eos_token_ids)
    responses = generate(policy, TOKENIZER, prompts, choose, limit=5)
    assert responses.ids.shape == responses.mask.shape
    assert responses.ids.shape[1] <= 5
    assert responses.mask[:, 0].all()


LIMIT = 40


@pytest.mark.parametrize(("temperature", "min_new_tokens"), [(1.0, 0), (0.6, LIMIT)])
def test_what_is_noted_while_sampling_is_what_a_forward_pass_says(
    tiny_t5: str, temperature: float, min_new_tokens: int
) -> None:
    sampling = Sampling(LIMIT, min_new_tokens, temperature)
    torch.manual_seed(0)
    speaking = load_policy(tiny_t5, LoRA(r=4), sampling)
    for parameter in speaking.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    speaking.base.get_output_embeddings().weight.data[EOS] *= 10  # some responses end early
    torch.manual_seed(1)
    draws = TorchDraws()
    choose = sampling.choose(speaking.eos_token_ids, draws)
    with in_float64(speaking):
        prompts = speaking.encode_prompts(BATCH.prompt_ids, BATCH.prompt_mask)
        responses = generate(speaking, TOKENIZER, prompts, choose, LIMIT, draws)
        now = speaking(BATCH.prompt_ids, BATCH.prompt_mask, responses.ids)
        noted = measure(speaking, BATCH, responses, SCORES)
        asked = measure(speaking, BATCH, responses._replace(stats=None), SCORES)
    real = responses.mask
    assert real.all() == bool(min_new_tokens)
    for ours, said in zip(responses.stats, now[:2], strict=True):
        assert not ours.requires_grad
        assert ours[real].abs().max() > 0.1
        torch.testing.assert_close(ours[real], said[real].detach(), atol=EXACT, rtol=0)
    for field in ("old_logprobs", "ref_logprobs", "kl", "values"):
        ours, theirs = (getattr(rollout, field)[real] for rollout in (noted, asked))
        torch.testing.assert_close(ours, theirs, atol=EXACT, rtol=0)
    assert torch.equal(noted.old_logprobs, responses.stats.logprobs)


def test_what_is_noted_counts_where_it_is_exact(tiny_t5: str) -> None:
    exact = load_policy(tiny_t5, LoRA(r=4), Sampling())
    assert exact.records_exactly
    with torch.autocast("cpu", torch.bfloat16):
        assert not exact.records_exactly
    for sampling in (Sampling(top_k=5), Sampling(top_p=0.9)):
        assert not load_policy(tiny_t5, LoRA(r=4), sampling).records_exactly
    half = load_policy(
        ModelSource(tiny_t5, weights=Weights(dtype="bfloat16")), LoRA(r=4), Sampling()
    )
    assert not half.records_exactly


class Grading(Reward):
    name = "grades"

    def __init__(self, *grades: float):
        super().__init__()
        self.grades = torch.tensor(grades, dtype=torch.float64)

    def forward(self, prompts: list[str], responses: list[str], references: list[str]) -> Tensor:
        assert (prompts, references) == (BATCH.prompts, BATCH.references)
        return self.grades


class Reusing(Reward):
    """Fills the same tensor anew, and sorts what it is given."""

    name = "reusing"

    def __init__(self) -> None:
        super().__init__()
        self.given, self.asked = torch.zeros(4), 0

    def forward(self, prompts: list[str], responses: list[str], references: list[str]) -> Tensor:
        assert (prompts, responses) == (BATCH.prompts, RESPONSES.texts)
        self.asked += 1
        for texts in (prompts, responses, references):
            texts.sort(reverse=self.asked % 2 == 1)
        return self.given.fill_(self.asked)


def test_a_reward_may_keep_its_tensor_and_change_its_lists() -> None:
    texts = [*BATCH.prompts], [*RESPONSES.texts], [*BATCH.references]
    reward = Reusing()
    first, second = (
        score(reward, BATCH, RESPONSES.texts, "rollout 3").parts["reusing"] for _ in range(2)
    )
    parts = WeightedReward([reward, Grading(1, 2, 3, 4)]).parts(*texts)
    assert (first.tolist(), second.tolist()) == ([1.0] * 4, [2.0] * 4)
    assert list(parts) == ["reusing", "grades"]
    silent = SimpleNamespace(classifier=SimpleNamespace(name="c"))
    silent = type("Silent", (), {**vars(silent), "__call__": lambda self, texts: torch.zeros(4)})()
    judge: Any = SimpleNamespace(reward=reward, toxicity=silent)
    before, after = (Judge.score(judge, BATCH, RESPONSES.texts)["score"] for _ in range(2))
    assert (before.tolist(), after.tolist()) == ([4.0] * 4, [5.0] * 4)
    assert (BATCH.prompts, RESPONSES.texts, BATCH.references) == texts


def test_scores_are_float32() -> None:
    scores = score(Grading(1, 2, 3, 4), BATCH, RESPONSES.texts, "rollout 3").parts["grades"]
    assert scores.dtype == torch.float32
    assert scores.tolist() == [1, 2, 3, 4]


def seen(rollout: Rollout, **parts: list[float]) -> str | None:
    """What is not finite in a rollout with these scores, the last of which is the total."""
    tensors = {name: torch.tensor(part) for name, part in parts.items()}
    total = list(tensors.values())[-1]
    return first_nonfinite(rollout, Scores(tensors, total), "total", RESPONSES.texts)


def test_what_is_not_finite_is_named(policy: Policy) -> None:
    rollout = measure(policy, BATCH, RESPONSES, SCORES)
    nan, inf = float("nan"), float("inf")
    text = RESPONSES.texts[1]
    assert seen(rollout, low=[1.0, 2.0, 3.0, 4.0]) is None
    high = [0.0, -inf, 0.0, nan]
    assert seen(rollout, low=[1.0] * 4, high=high) == (
        f"the reward 'high' gave -inf for the response {text!r}"
    )
    spoilt = Scores({"one": torch.zeros(4)}, torch.tensor([0.0, inf, 0.0, 0.0]))
    assert first_nonfinite(rollout, spoilt, "weighted", RESPONSES.texts) == (
        f"the reward 'weighted' gave inf for the response {text!r}"
    )
    for field, name in {
        "old_logprobs": "the policy's log-probability",
        "ref_logprobs": "the reference's log-probability",
        "kl": "the KL divergence",
        "values": "the value head",
    }.items():
        spoilt = getattr(rollout, field).clone()
        spoilt[1, 0] = nan
        assert seen(rollout._replace(**{field: spoilt}), low=[0.0] * 4) == (
            f"{name} gave nan for the response {text!r}"
        )
        padding = getattr(rollout, field).masked_fill(~RESPONSES.mask, nan)
        assert seen(rollout._replace(**{field: padding}), low=[0.0] * 4) is None


def test_a_reward_that_fails_is_named_with_the_place() -> None:
    class Failing(Reward):
        name = "failing"

        def forward(self, *texts: list[str]) -> Tensor:
            return {}["no such key"]

    line = Failing.forward.__code__.co_firstlineno + 1
    message = (
        "rollout 3: the reward 'failing' failed with KeyError: 'no such key' (test_rollout.py, "
        f"line {line}): look at its forward"
    )
    with pytest.raises(TrainingError, match=f"^{re.escape(message)}$"):
        score(Failing(), BATCH, RESPONSES.texts, "rollout 3")
    judge = SimpleNamespace(reward=Failing())
    message = message.replace("rollout 3", "evaluation")
    with pytest.raises(TrainingError, match=f"^{re.escape(message)}$"):
        Judge.score(judge, BATCH, RESPONSES.texts)  # type: ignore[arg-type]


@pytest.mark.parametrize("estimator", ["k1", "abs", "k2", "k3", "full"])
def test_measure(policy: Policy, estimator: Estimator) -> None:
    rollout = measure(policy, BATCH, RESPONSES, SCORES, estimator)
    rows = BATCH.prompt_ids, BATCH.prompt_mask, RESPONSES.ids
    with torch.no_grad():
        now = policy(*rows)
        with policy.reference():
            reference = policy(*rows)
    real = RESPONSES.mask
    same = partial(torch.testing.assert_close, rtol=0, atol=FLOAT32)
    same(rollout.old_logprobs[real], now.logprobs[real])
    same(rollout.ref_logprobs[real], reference.logprobs[real])
    same(rollout.values[real], now.values[real])
    if estimator == "full":
        with torch.no_grad():
            logits = policy.with_logits(*rows)[1]
            with policy.reference():
                assert torch.equal(rollout.kl, full_kl(logits, policy.with_logits(*rows)[1]))
    else:
        expected = kl_estimate(rollout.old_logprobs, rollout.ref_logprobs, estimator)
        assert torch.equal(rollout.kl, expected)
    assert rollout.kl.abs().max() > 1e-3
    assert not any(field.requires_grad for field in rollout)
    assert rollout.response_mask is RESPONSES.mask
    assert rollout.scores is SCORES


@pytest.mark.parametrize("micro_batch_size", [1, 3, 4])
def test_micro_batches_measure_the_same(policy: Policy, micro_batch_size: int) -> None:
    with in_float64(policy):
        whole = measure(policy, BATCH, RESPONSES, SCORES)
        parts = measure(policy, BATCH, RESPONSES, SCORES, micro_batch_size=micro_batch_size)
    assert agree(whole, parts)


def agree(ours: Rollout, other: Rollout) -> bool:
    pairs = zip(ours, other, strict=True)
    return all(torch.allclose(x.double(), y.double(), rtol=0, atol=EXACT) for x, y in pairs)


def test_the_order_of_prompts_makes_no_difference(policy: Policy) -> None:
    order = torch.tensor([3, 1, 0, 2])
    shuffled_batch = BATCH._replace(
        prompt_ids=BATCH.prompt_ids[order], prompt_mask=BATCH.prompt_mask[order]
    )
    shuffled = RESPONSES._replace(ids=RESPONSES.ids[order], mask=RESPONSES.mask[order])
    with in_float64(policy):
        whole = measure(policy, BATCH, RESPONSES, SCORES)
        other = measure(policy, shuffled_batch, shuffled, SCORES[order])
    assert agree(Rollout(*(field[order] for field in whole)), other)


@pytest.mark.parametrize("kind", ["fresh", "loaded"])
def test_at_the_start_the_kl_is_0(tiny_t5: str, tmp_path: Path, policy: Policy, kind: str) -> None:
    start = tiny_t5
    if kind == "loaded":
        policy.model.save_pretrained(tmp_path)
        start = str(tmp_path)
    rollout = measure(load_policy(start, LoRA(), Sampling()), BATCH, RESPONSES, SCORES)
    assert rollout.kl.abs().max() <= FLOAT32


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.tensor(1.0), r"\[\]"),
        (torch.zeros(4, 1), r"\[4, 1\]"),
        (torch.zeros(3), r"\[3\]"),
        (torch.zeros(4, dtype=torch.complex64), r"\[4\] of torch.complex64"),
        (torch.zeros(4).to_sparse(), r"\[4\] of torch.sparse_coo"),
        ([1.0, 2.0, 3.0, 4.0], "list"),
    ],
)
def test_a_reward_gives_one_score_a_response(given: Any, said: str) -> None:
    class Odd(Reward):
        name = "odd"

        def forward(self, *texts: list[str]) -> Any:
            return given

    message = rf"^rollout 3: the reward 'odd' gave {said} where a tensor \[4\] is expected"
    with pytest.raises(TrainingError, match=message):
        score(Odd(), BATCH, RESPONSES.texts, "rollout 3")
    with pytest.raises(TrainingError, match=message):
        score(WeightedReward([Odd()]), BATCH, RESPONSES.texts, "rollout 3")
    with pytest.raises(TrainingError, match=f"^evaluation: the reward 'odd' gave {said} where"):
        Judge.score(SimpleNamespace(reward=Odd()), BATCH, RESPONSES.texts)  # type: ignore[arg-type]
