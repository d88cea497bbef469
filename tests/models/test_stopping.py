"""Stop strings: where responses end by them, and what stays as it is without them."""

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from architectures import save_random
from conftest import word_tokenizer
from detox_lightning.errors import InputError
from detox_lightning.evaluation.evaluator import Evaluator
from detox_lightning.evaluation.plan import EvaluationPlan
from detox_lightning.models.decoding.draws import GumbelDraws, TorchDraws
from detox_lightning.models.decoding.loop import DROP_POLICIES, DropPolicy
from detox_lightning.models.decoding.sampling import Sampling, greedy
from detox_lightning.models.decoding.stopping import CHECK_EVERY, StopStrings
from detox_lightning.models.loading import load_tokenizer
from detox_lightning.models.lora import LoRA
from detox_lightning.models.policy import Policy, load_policy
from detox_lightning.models.source import ModelSource
from detox_lightning.rewards import ClassifierReward
from detox_lightning.rollout import Responses, evaluate_tokens, generate
from toys import PAIRS, collate_pairs

PAD, EOS, LIMIT = 0, 1, 30
# in the letters of byte-level tokenizers: Ġ is a blank, Ċ a line break, Ã and © are é together
PIECES = ["<pad>", "</s>", "Ok", "Ġis", "Ċ", "ĊĊ", "User", "Us", "er", ":", "er:Ġhi", "Ã", "©"]
OK, IS, LINE, LINES, USER, US, ER, COLON, ER_HI, HALF, OTHER_HALF = range(2, 13)


def pieces() -> Any:
    tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(PIECES)}, "Ok"))
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")


TOKENIZER = pieces()


def stops(*strings: str) -> StopStrings:
    return StopStrings(
        strings, lambda ids, rows: TOKENIZER.batch_decode(ids, skip_special_tokens=True)
    )


@pytest.mark.parametrize(
    ("ids", "length", "text"),
    [
        ([OK, IS, OK, EOS], None, "Ok isOk"),
        ([OK, LINES, IS], 2, "Ok"),
        ([OK, LINE, IS, LINE, LINE, IS], 5, "Ok\n is"),  # a string of two tokens
        ([OK, US, ER_HI, IS], 3, "Ok"),  # its last token goes on behind it
        ([USER, COLON, LINES], 2, ""),  # the first one counts
        ([OK, USER, IS, COLON], None, "OkUser is:"),
        ([OK, HALF, OTHER_HALF, IS], 3, "Ok"),
        ([OK, HALF, IS], None, "Ok\ufffd is"),
        ([OK, USER, EOS, PAD], None, "OkUser"),
        ([LINES, EOS, PAD, PAD], 1, ""),
    ],
)
def test_a_response_ends_at_the_first_of_them(
    ids: list[int], length: int | None, text: str
) -> None:
    finder = stops("\n\n", "User:", "é")
    responses = torch.tensor([ids])
    lengths, stopped = finder.limited(responses, torch.tensor([len(ids)]))
    assert stopped.tolist() == [length is not None]
    assert lengths.tolist() == [length or len(ids)]
    whole = TOKENIZER.decode(ids[: length or len(ids)], skip_special_tokens=True)
    assert finder.cut(whole) == text


@pytest.mark.parametrize("seed", range(3))
def test_looking_now_and_then_finds_what_looking_always_finds(seed: int) -> None:
    """Only the newest tokens are read, so that a text isn't read over and over."""
    generator = torch.Generator().manual_seed(seed)
    responses = torch.randint(2, len(PIECES), (40, 64), generator=generator)
    strings, rows = ("Us\n\n", "ser:é", " hiOk isOk"), torch.arange(40)
    finder, finished = stops(*strings), []
    for end in range(CHECK_EVERY, 65, CHECK_EVERY):
        finished.append(int(finder.ended(responses[:, :end], rows).sum()))
    expected: dict[int, int] = {}
    for row, ids in enumerate(responses.tolist()):
        texts = [TOKENIZER.decode(ids[:end], skip_special_tokens=True) for end in range(1, 65)]
        first = next((i for i, x in enumerate(texts) if any(s in x for s in strings)), None)
        expected |= {} if first is None else {row: first + 1}
    assert finder.lengths == expected
    assert 0 < finished[3] < finished[-1] == len(expected) < 40


@pytest.fixture(scope="module", params=["T5", "GPT-2"])
def policy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """One that has gone some way from its reference, in float64: no ties, no rounding."""
    folder = save_random(request.param, tmp_path_factory.mktemp(request.param))
    policy = load_policy(folder, LoRA(r=2), Sampling(LIMIT))
    torch.manual_seed(1)
    for parameter in policy.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    return policy.double()


def answers(policy: Policy, strings: tuple[str, ...], noise: GumbelDraws) -> Responses:
    """Responses to four prompts, which two rows each have."""
    policy.sampling = Sampling(LIMIT, stop_strings=strings)
    batch = collate_pairs(PAIRS[:4], policy.family.padding_side).repeated(2)
    prompts = policy.encode_prompts(batch.prompt_ids, batch.prompt_mask)
    choose = policy.sampling.choose(policy.eos_token_ids, noise)
    return generate(policy, word_tokenizer(), prompts, choose, LIMIT)


def noise() -> GumbelDraws:
    return GumbelDraws(0, torch.arange(8), torch.ones(8, dtype=torch.long))


def common(responses: Responses) -> tuple[str, ...]:
    """A text of two words of each of the first rows."""
    return tuple(
        " ".join(text.split()[k + 2 : k + 4]) for k, text in enumerate(responses.texts[:3])
    )


@pytest.mark.parametrize("drops", [DropPolicy(), DropPolicy(8, 2)], ids=["CPU", "GPU"])
def test_what_comes_before_stays_as_it_is(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, drops: DropPolicy
) -> None:
    monkeypatch.setitem(DROP_POLICIES, "cpu", drops)
    draws, stopping_draws = noise(), noise()
    free = answers(policy, (), draws)
    strings = common(free)
    stopped = answers(policy, strings, stopping_draws)
    for row, text in enumerate(free.texts):
        begins = [text.find(string) for string in strings if string in text]
        assert bool(begins) == bool(stopped.stopped[row])
        assert stopped.texts[row] == (text[: min(begins)] if begins else text)
        length = int(stopped.mask[row].sum())
        assert torch.equal(stopped.ids[row, :length], free.ids[row, :length])
        assert (stopped.ids[row, length:] == padding(policy)).all()
        noted, plain = (
            torch.stack(x.logprobs[:length], dim=1)[row] for x in (stopping_draws, draws)
        )
        torch.testing.assert_close(noted, plain, rtol=0, atol=1e-9)
    assert 3 <= stopped.stopped.sum() < 8
    assert torch.equal(
        stopped.has_eos(policy.eos_token_ids),
        stopped.stopped | free.has_eos(policy.eos_token_ids),
    )


def padding(policy: Policy) -> int:
    config = policy.base.generation_config
    return config.eos_token_id if config.pad_token_id is None else config.pad_token_id


def test_it_stops_where_transformers_stops() -> None:
    strings = ("s w", " who c", ".")  # some begin or end inside tokens
    policy = load_policy("demo:policy", None, Sampling(LIMIT, stop_strings=strings))
    tokenizer = load_tokenizer(ModelSource.resolve("demo:policy").base)
    texts = [f"Mia: I am {word}. Laura: Okay, Mia." for word in ("sad", "angry", "furious")]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    prompts = policy.encode_prompts(batch["input_ids"], batch["attention_mask"])
    ours = generate(policy, tokenizer, prompts, greedy, LIMIT)
    options = {"do_sample": False, "stop_strings": list(strings), "tokenizer": tokenizer}
    theirs = policy.model.generate(**batch, max_new_tokens=LIMIT, **options)
    assert torch.equal(ours.ids, policy.family.strip_prompt(theirs, batch["input_ids"]))
    assert ours.stopped is not None
    assert ours.stopped.all()


def test_what_is_noted_while_sampling_is_what_a_forward_pass_says(policy: Policy) -> None:
    free = answers(policy, (), noise())
    policy.sampling = Sampling(LIMIT, stop_strings=common(free))
    batch = collate_pairs(PAIRS[:8], policy.family.padding_side)
    draws = TorchDraws()
    choose = policy.sampling.choose(policy.eos_token_ids, draws)
    prompts = policy.encode_prompts(batch.prompt_ids, batch.prompt_mask)
    torch.manual_seed(0)
    responses = generate(policy, word_tokenizer(), prompts, choose, LIMIT, draws)
    assert responses.stats is not None
    now = evaluate_tokens(policy, batch, responses.ids, responses.mask)
    for noted, asked in zip(responses.stats, now, strict=True):
        assert noted.shape == responses.mask.shape
        found = noted.where(responses.mask, 0).float()
        torch.testing.assert_close(found, asked, rtol=0, atol=1e-5)


def test_an_evaluation_stops_there_before_and_after(tiny_t5: str, tiny_classifier: str) -> None:
    strings = ("is", "are", "w")
    sampling = Sampling(LIMIT, stop_strings=strings)
    reward = ClassifierReward(tiny_classifier, "nothate")
    evaluator = Evaluator(EvaluationPlan(predict_before=True), reward, sampling, seed=0)
    policy = load_policy(tiny_t5, LoRA(r=4), sampling)
    evaluator.load(policy, word_tokenizer())
    batch = collate_pairs(PAIRS)
    found = evaluator.evaluate(batch, ["sample 1"] * len(PAIRS), ("before", "after"))
    for texts, figures in found.values():
        assert not any(string in text for text in texts for string in strings)
        assert figures["has_eos"].all()
        assert figures["length"].max() < LIMIT
    for row in evaluator.predict(batch):
        assert not any(string in row[side] for side in ("before", "after") for string in strings)
    assert evaluator.describe()["stop_strings"] == strings


@pytest.mark.parametrize("string", ["", r"\n\n"])
def test_what_can_be_no_stop_string_is_refused(string: str) -> None:
    with pytest.raises(InputError, match=r"sampling\.stop_strings: a text is empty, or has \\n as"):
        Sampling(stop_strings=("User:", string))
