"""Policy and reference answer the same prompts with the same noise, and are judged."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import word_tokenizer
from detox_lightning.evaluation import judge as judge_module
from detox_lightning.evaluation.comparison import Comparison, merge
from detox_lightning.evaluation.evaluator import Evaluator
from detox_lightning.evaluation.judge import Judge
from detox_lightning.evaluation.plan import EvaluationPlan
from detox_lightning.evaluation.statistics import summarize
from detox_lightning.models.decoding.decoder import EncodedPrompts
from detox_lightning.models.decoding.sampling import Sampling, greedy
from detox_lightning.models.lora import LoRA
from detox_lightning.models.policy import Policy, load_policy
from detox_lightning.rewards import ClassifierReward, Reward, WeightedReward
from detox_lightning.rewards.rouge_reward import ROUGE_KINDS
from numerics import FLOAT32, float32
from toys import PAIRS, collate_pairs

TEXT_FIGURES = {"score", "toxicity", *ROUGE_KINDS}
FIGURES = {*TEXT_FIGURES, "length", "has_eos"}


class Length(Reward):
    """Likes many words."""

    name = "length"

    def forward(self, prompts: list[str], responses: list[str], references: list[str]) -> Tensor:
        return torch.tensor([float(len(text.split())) for text in responses])


@pytest.fixture
def policy(tiny_t5: str) -> Policy:
    """One that has moved away from its reference, a little."""
    torch.manual_seed(0)
    policy = load_policy(tiny_t5, LoRA(r=4), Sampling(max_new_tokens=6, temperature=0.7))
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape)
    return policy


@pytest.fixture
def make(policy: Policy, tiny_classifier: str) -> Any:
    def make(**options: Any) -> Evaluator:
        plan = EvaluationPlan(toxicity_model=tiny_classifier, **options)
        # the plan is checked against temperature 1, the only one for the reference's perplexity
        evaluator = Evaluator(plan, Length(), Sampling(), seed=3)
        evaluator.load(policy, word_tokenizer(), 5)
        return evaluator

    return make


def compare(evaluator: Evaluator, *sizes: int) -> Any:
    """A comparison on the first prompts, in batches of these sizes."""
    pairs, pieces = iter(PAIRS), []
    for size in sizes:
        pieces.append(evaluator.compare(collate_pairs([next(pairs) for _ in range(size)])))
    return merge(pieces)


def test_what_is_asked_is_answered_and_judged(make: Any, policy: Policy) -> None:
    found: Comparison = make(samples=2).compare(collate_pairs(PAIRS[:6])).comparison
    assert set(found.before.figures) == FIGURES
    assert set(found.after.figures) == FIGURES | {"kl"}
    for side in (found.before, found.after):
        assert all(x.shape == (6, 3) for x in side.figures.values())
        words = [[float(len(text.split())) for text in row] for row in side.texts]
        assert side.figures["score"].tolist() == words
    likeliest, *samples = zip(*found.after.texts, strict=True)
    assert samples[0] != samples[1] != likeliest
    batch = collate_pairs(PAIRS[:6])
    said = policy.generate(
        policy.encode_prompts(batch.prompt_ids, batch.prompt_mask), greedy, 6
    ).ids
    texts = word_tokenizer().batch_decode(said, skip_special_tokens=True)
    assert list(likeliest) == [text.strip() for text in texts]


def test_batches_make_no_difference(make: Any) -> None:
    """Neither those of the loader nor those of generation: nor, so, would processes."""
    one = compare(make(samples=2), 8)
    for other in (compare(make(samples=2), 3, 5), compare(make(samples=2, batch_size=5), 7, 1)):
        for ours, theirs in ((one.before, other.before), (one.after, other.after)):
            assert ours.texts == theirs.texts
            for name, values in ours.figures.items():
                np.testing.assert_allclose(
                    values, theirs.figures[name], atol=float32(6), err_msg=name
                )


def test_noise_is_shared_by_the_two_and_seeded(make: Any, policy: Policy) -> None:
    evaluator = make(samples=2)
    moved = compare(evaluator, 8)
    assert moved.before.texts != moved.after.texts
    with torch.no_grad():  # back to where it began
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    still = compare(evaluator, 8)
    assert still.before.texts == still.after.texts == moved.before.texts
    np.testing.assert_allclose(still.after.figures["kl"][:, 1:], 0, atol=float32(6))
    evaluator.seed = 4
    assert compare(evaluator, 8).before.texts != still.before.texts


def test_kl_is_the_log_ratio_of_samples(make: Any, policy: Policy) -> None:
    """Of a policy whose encoder, too, has gone far, and responses of several lengths."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter += 0.3 * torch.randn(parameter.shape)
        policy.base.lm_head.weight.mul_(0.3)
        policy.base.lm_head.weight[1] *= 10
    evaluator = make(samples=1, max_new_tokens=20)
    batch = collate_pairs(PAIRS[:6])
    kl = evaluator.compare(batch).comparison.after.figures["kl"]
    assert np.isnan(kl[:, 0]).all()  # a greedy response is no sample
    responses = evaluator.respond(batch, ["sample 1"] * 6, "after").responses
    assert len(set(responses.mask.sum(dim=1).tolist())) >= 3
    rows = batch.prompt_ids, batch.prompt_mask, responses.ids
    read_by_policy = evaluator.encode_prompts(batch, "after")
    with torch.no_grad():
        ours = policy(*rows).logprobs
        with policy.reference():
            theirs = policy(*rows).logprobs
            wrong = policy(*rows, read_by_policy).logprobs
    expected = ((ours - theirs) * responses.mask).sum(dim=1)
    np.testing.assert_allclose(kl[:, 1], expected.numpy(), atol=float32(20))
    assert ((theirs - wrong) * responses.mask).sum(dim=1).abs().max() > 0.1


@pytest.mark.parametrize("top_k", [1, 2])
def test_kl_is_that_of_the_tokens_that_could_be_sampled(
    make: Any, policy: Policy, top_k: int
) -> None:
    """Of one token alone it is the reference's surprise: log 1 - log p."""
    policy.sampling = replace(policy.sampling, top_k=top_k)
    evaluator = make(samples=1, greedy=False)
    batch = collate_pairs(PAIRS[:6])
    kl = evaluator.compare(batch).comparison.after.figures["kl"]
    responses = evaluator.respond(batch, ["sample 1"] * 6, "after").responses
    rows = batch.prompt_ids, batch.prompt_mask, responses.ids
    with torch.no_grad():
        logits = policy.with_logits(*rows)[1]
        with policy.reference():
            surprise = -policy(*rows).logprobs
    mine = logits.gather(-1, responses.ids[..., None])[..., 0]
    ours = mine - logits.topk(top_k).values.logsumexp(-1)
    if top_k == 1:
        np.testing.assert_allclose(ours[responses.mask], 0, atol=FLOAT32)
    expected = torch.where(responses.mask, ours + surprise, 0).sum(dim=1)
    np.testing.assert_allclose(kl[:, 0], expected.numpy(), atol=float32(20))
    assert expected.min() > 1  # nats, of a reference that leaves all 200 words possible


def test_responses_are_made_in_batches(
    make: Any, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    generate = policy.generate

    def counted(prompts: EncodedPrompts, *args: Any) -> Tensor:
        sizes.append(len(prompts.rows))
        return generate(prompts, *args)

    monkeypatch.setattr(policy, "generate", counted)
    make(samples=3).compare(collate_pairs(PAIRS[:6]))
    assert sizes == [24, 24]  # before and after
    sizes.clear()
    make(samples=3, batch_size=10).compare(collate_pairs(PAIRS[:6]))
    assert sizes == [10, 10, 10, 10, 4, 4]


def test_greedy_alone(make: Any) -> None:
    figures = make(samples=0).compare(collate_pairs(PAIRS[:3])).comparison.after.figures
    assert figures["toxicity"].shape == (3, 1)
    assert np.isnan(figures["kl"]).all()
    mixed = (
        make(samples=1, batch_size=1)
        .compare(collate_pairs(PAIRS[:3]))
        .comparison.after.figures["kl"]
    )
    assert np.isnan(mixed).tolist() == [[True, False]] * 3


def test_a_narrow_top_p_leaves_the_likeliest(make: Any) -> None:
    texts = make(samples=1, top_p=1e-6).compare(collate_pairs(PAIRS[:6])).comparison.after.texts
    assert all(greedy == sample for greedy, sample in texts)


def test_lengths_and_ends(make: Any, policy: Policy) -> None:
    with torch.no_grad():  # EOS becomes more likely
        head = policy.base.lm_head.weight
        head[policy.eos_token_ids] = head[156]  # what it says first
    evaluator = make(samples=5, greedy=False, max_new_tokens=5)
    figures = evaluator.compare(collate_pairs(PAIRS)).comparison.after.figures
    assert figures["length"].max() == 5
    assert (figures["has_eos"][figures["length"] < 5] == 1).all()
    assert 0 < figures["has_eos"].mean() < 1


def test_validation_asks_for_one_sample(make: Any) -> None:
    evaluator = make(samples=0)
    figures = evaluator.validate(collate_pairs(PAIRS[:6]))
    assert set(figures) == FIGURES | {"kl"}
    assert all(values.shape == (6,) for values in figures.values())
    assert figures["kl"].isfinite().all()


def test_predictions(make: Any) -> None:
    batch = collate_pairs(PAIRS[:3])
    greedy = make().respond(batch, ["greedy"] * 3, "after").responses.texts
    rows = make().predict(batch)
    assert [row["response"] for row in rows] == greedy
    assert [row["score"] for row in rows] == [float(len(text.split())) for text in greedy]
    assert set(rows[0]) == {"prompt", "reference", "response", "score", "toxicity"}
    both = make(predict_before=True).predict(batch._replace(references=["", "known", ""]))
    assert [row["after"] for row in both] == greedy
    assert [row.get("reference") for row in both] == [None, "known", None]
    names = {f"{name}_{side}" for name in ("score", "toxicity") for side in ("before", "after")}
    assert set(both[0]) == {"prompt", "before", "after", *names}
    assert make(batch_size=2).predict(batch) == rows
    sampled = make(greedy=False).predict(batch)
    texts = make().respond(batch, ["sample 1"] * 3, "after").responses.texts
    assert [row["response"] for row in sampled] == texts != greedy


def test_a_prediction_may_be_the_best_of_several(make: Any, monkeypatch: Any) -> None:
    """By the reward, the first of equals; what has no score is never the best."""

    def of_letters(self: Any, prompts: list[str], texts: list[str], *_: Any) -> Tensor:
        return torch.tensor([sum(map(ord, text)) % 97.0 for text in texts])

    monkeypatch.setattr(Length, "forward", of_letters)
    batch = collate_pairs(PAIRS[:6])
    found = make(samples=4).compare(batch).comparison
    rows = make(samples=4, best_of=3, predict_before=True).predict(batch)
    for side, answers in (("before", found.before), ("after", found.after)):
        scores = answers.figures["score"][:, 1:4]
        places = scores.argmax(axis=1)
        assert [row[f"score_{side}"] for row in rows] == scores.max(axis=1).tolist()
        texts = [row[1 + place] for row, place in zip(answers.texts, places, strict=True)]
        assert [row[side] for row in rows] == texts
        assert len(set(places)) > 1
    evaluator = make(samples=2, best_of=2)
    nothing = [torch.nan, 1.0] * 6
    monkeypatch.setattr(evaluator.judge.reward, "forward", lambda *_: torch.tensor(nothing))
    assert evaluator.answer(batch, "after") == [row[2] for row in found.after.texts]


def test_narrow_samples_of_the_reference_are_away_from_it(make: Any, policy: Policy) -> None:
    """Each by what the words that can't be sampled would have had."""
    batch = collate_pairs(PAIRS[:6])
    assert "kl" not in make(samples=1).compare(batch).comparison.before.figures
    evaluator = make(samples=1, top_p=1e-6)
    found = evaluator.compare(batch).comparison.before.figures["kl"]
    assert np.isnan(found[:, 0]).all()
    responses = evaluator.respond(batch, ["sample 1"] * 6, "before").responses
    with torch.no_grad(), policy.reference():
        logprobs = policy(batch.prompt_ids, batch.prompt_mask, responses.ids).logprobs
    surprise = -torch.where(responses.mask, logprobs, 0).sum(dim=1)
    np.testing.assert_allclose(found[:, 1], surprise.numpy(), atol=float32(20))
    assert surprise.min() > 1


class Surprise(nn.Module):
    """In place of a language model: a nat a word."""

    model = None  # nothing is opened

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def load(self) -> None: ...

    def forward(self, texts: list[str], prompts: Any = ()) -> tuple[Tensor, Tensor]:
        self.read = texts, prompts
        words = torch.tensor([float(len(text.split())) for text in texts])
        return words, words


def test_more_judges(tiny_classifier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_module, "Perplexity", Surprise)
    plan = EvaluationPlan(
        toxicity_model=tiny_classifier,
        second_toxicity_model=tiny_classifier,
        second_toxic_label="nothate",
        perplexity_model="a language model",
    )
    judge = Judge(plan, Length())
    judge.load()
    assert not any(parameter.requires_grad for parameter in judge.parameters())
    found = judge.figures(collate_pairs(PAIRS[:2]), ["Ann is late", ""])
    assert set(found) == TEXT_FIGURES | {"second_toxicity", "nll", "nll_tokens"}
    torch.testing.assert_close(found["toxicity"] + found["second_toxicity"], torch.ones(2))
    assert found["nll"].tolist() == found["nll_tokens"].tolist() == [3, 0]


def test_perplexity_under_the_reference(make: Any, policy: Policy) -> None:
    """It has read the prompt; greedy answers have a perplexity, too, and before has one."""
    evaluator = make(samples=1, top_p=0.9, perplexity_model="reference")
    batch = collate_pairs(PAIRS[:3])
    comparison = evaluator.compare(batch).comparison
    found = {"before": comparison.before.figures, "after": comparison.after.figures}
    assert set(found["after"]) == FIGURES | {"kl", "nll", "nll_tokens"}
    assert set(found["before"]) == FIGURES | {"kl", "nll", "nll_tokens"}  # a narrow sampler's
    for side in ("before", "after"):
        responses = evaluator.respond(batch, ["greedy"] * 3, side).responses
        rows = batch.prompt_ids, batch.prompt_mask, responses.ids
        with torch.no_grad(), policy.reference():
            logprobs = policy(*rows).logprobs
        nats = -torch.where(responses.mask, logprobs, 0).sum(dim=1)
        np.testing.assert_allclose(found[side]["nll"][:, 0], nats.numpy(), atol=float32(20))
        assert found[side]["nll_tokens"][:, 0].tolist() == responses.mask.sum(dim=1).tolist()
    assert evaluator.judge.perplexity is None
    assert evaluator.judge.describe()["perplexity_model"] == "reference"


def test_what_follows_a_prompt_is_read_as_it_stands_there(
    tiny_classifier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge_module, "Perplexity", Surprise)
    for given in (True, False):
        plan = EvaluationPlan(
            toxicity_model=tiny_classifier,
            perplexity_model="a language model",
            perplexity_given_prompt=given,
        )
        judge = Judge(plan, Length())
        judge.load()
        batch = collate_pairs(PAIRS[:2])._replace(prompts=["Ann", "I said: "])
        judge.figures(batch, [" is late", "no"])
        prompts: Any = ["Ann", "I said: "] if given else ()
        assert judge.perplexity.read == ([" is late" if given else "is late", "no"], prompts)
        assert judge.describe().get("perplexity_given_prompt", False) is given


def test_rouge_needs_a_reference(make: Any) -> None:
    evaluator = make(samples=2)
    batch = collate_pairs(PAIRS[:3])
    whole = evaluator.compare(batch).comparison.after.figures
    some = evaluator.compare(batch._replace(references=["", batch.references[1], " "]))
    for name in ROUGE_KINDS:
        rouge = some.comparison.after.figures[name]
        assert np.isnan(rouge).tolist() == [[True] * 3, [False] * 3, [True] * 3]
        np.testing.assert_array_equal(rouge[1], whole[name][1])
    nobody = evaluator.compare(batch._replace(references=[""] * 3))
    summary = summarize(merge([nobody]), seed=0)
    left = {name for group in summary.values() for name in group}
    assert "distinct2" in left
    assert not {"rouge1", "rouge2", "rougeL", "rougeLsum"} & left


def test_without_a_classifier_the_score_is_the_aim(policy: Policy) -> None:
    evaluator = Evaluator(EvaluationPlan(), Length(), Sampling(), seed=3)
    evaluator.load(policy, word_tokenizer(), 5)
    judge = evaluator.judge
    assert "toxicity isn't measured" in judge.describe_aim()
    assert judge.describe() == {}
    assert set(judge.score(collate_pairs(PAIRS[:1]), ["a b"])) == {"score"}
    evaluator.validate(collate_pairs(PAIRS[:4]))
    found = evaluator.validation.finish()
    assert set(found) == {f"val/{name}" for name in evaluator.validation.names}
    assert not [name for name in found if "toxicity" in name]
    assert all(value.isfinite() for value in found.values())
    comparison = compare(evaluator, 8)
    assert set(comparison.after.figures) == FIGURES - {"toxicity"} | {"kl"}
    rows = comparison.rows()
    gains = [row["difference"] for row in rows]
    assert gains == [row["score_after"] - row["score_before"] for row in rows]
    assert gains == sorted(gains, reverse=True)
    figures = summarize(comparison, seed=0)["sampled"]
    assert not [name for name in figures if "toxic" in name]
    _, sampled = comparison.after.figures["score"].T  # the greedy answers, and one sample each
    assert figures["score"]["after"]["value"] == sampled.mean()


def test_toxicity_is_measured_by_the_reward_s_first_classifier_with_labels() -> None:
    regressor, first = ClassifierReward("r", label=None), ClassifierReward("c")
    parts = [Length(), regressor, first, ClassifierReward("d", "kind")]
    assert Judge(EvaluationPlan(), WeightedReward(parts)).toxicity.classifier is first.classifier
    assert Judge(EvaluationPlan(), first).toxicity.classifier is first.classifier
    assert Judge(EvaluationPlan(), regressor).toxicity is None
