"""What ends a response: any of a model's end tokens, or its tokenizer's."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from architectures import save_random
from conftest import tiny_t5_model, word_tokenizer
from detox_lightning.batches import PromptBatch
from detox_lightning.demo import locate
from detox_lightning.errors import InputError
from detox_lightning.models.decoding.recorded_step import WARM_UP
from detox_lightning.models.decoding.sampling import Sampling, greedy
from detox_lightning.models.loading import load_tokenizer
from detox_lightning.models.lora import LoRA
from detox_lightning.models.policy import Policy, load_policy
from detox_lightning.models.saving import save_merged, save_model
from detox_lightning.models.special_tokens import complete_special_tokens, without_end_marks
from detox_lightning.rollout import generate
from detox_lightning.stages.supervised import SupervisedModule
from numerics import FLOAT32
from ppo_toys import fit, make_module

LORA = LoRA(r=2)


def changed(folder: Path, **tokens: Any) -> str:
    """Writes other special tokens into both configs of a model."""
    for name in ("config.json", "generation_config.json"):
        facts = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(facts | tokens))
    return str(folder)


def opened(folder: str, sampling: Sampling = Sampling()) -> Policy:  # noqa: B008
    torch.manual_seed(0)
    return load_policy(folder, LORA, sampling, tokenizer=load_tokenizer(folder))


def batch(policy: Policy, rows: int = 6) -> tuple[Tensor, Tensor]:
    ids = torch.randint(3, 200, (rows, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(9) < torch.tensor([9, 4, 7, 1, 9, 6][:rows])[:, None]
    return (ids, mask) if policy.family.padding_side == "right" else (ids.flip(1), mask.flip(1))


def frequent(folder: str) -> list[int]:
    """EOS, and two words that a model says at some place in each of its likeliest responses."""
    policy = opened(folder)
    said = policy.generate(policy.encode_prompts(*batch(policy)), greedy, 12).ids
    return [1, *said[:2, 4].tolist()]


# -- several of them, as ``generate`` has it


@pytest.fixture(scope="module", params=["T5", "Llama"])
def several(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a random model of either family, whose config names three end tokens."""
    folder = tmp_path_factory.mktemp("several")
    save_random(request.param, folder)
    return changed(folder, eos_token_id=frequent(str(folder)))


def test_each_of_them_ends_a_response_as_in_generate(several: str) -> None:
    policy = opened(several)
    ids, mask = batch(policy)
    auto = {"right": AutoModelForSeq2SeqLM, "left": AutoModelForCausalLM}
    theirs = (
        auto[policy.family.padding_side]
        .from_pretrained(several)
        .generate(input_ids=ids, attention_mask=mask.long(), max_new_tokens=40, do_sample=False)
    )
    expected = policy.family.strip_prompt(theirs, ids)
    responses = generate(policy, word_tokenizer(), policy.encode_prompts(ids, mask), greedy, 40)
    for _ in range(3):  # while warming up, and played back
        ours = policy.generate(policy.encode_prompts(ids, mask), greedy, 40).ids
    assert any(x.calls > WARM_UP for x in policy.static_steps.recorded.values()) or len(ours) < 40
    assert torch.equal(ours, expected)
    ends = policy.eos_token_ids
    assert len(ends) == 3
    last = responses.ids.gather(1, responses.mask.sum(dim=1, keepdim=True) - 1)[:, 0]
    ended = torch.isin(last, torch.tensor(ends))
    assert torch.equal(responses.has_eos(ends), ended)
    assert ended[last != 1].any()  # by another than the tokenizer's
    inside = torch.isin(responses.ids, torch.tensor(ends)) & responses.mask
    assert torch.equal(inside.sum(dim=1), ended.long())


def test_none_of_them_comes_before_the_minimum(several: str) -> None:
    sampling = Sampling(max_new_tokens=8, min_new_tokens=6)
    policy = opened(several, sampling)
    ids, mask = batch(policy)
    choose = sampling.choose(policy.eos_token_ids)
    torch.manual_seed(0)
    responses = generate(policy, word_tokenizer(), policy.encode_prompts(ids, mask), choose, 8)
    assert (responses.mask.sum(dim=1) > 6).all()
    ends = list(policy.eos_token_ids)
    lean, full = policy(ids, mask, responses.ids), policy.with_logits(ids, mask, responses.ids)
    assert full[1][:, :6, ends].isneginf().all()
    assert full[1][:, 6:, ends].isfinite().all()
    assert policy.avoids_logits
    assert torch.allclose(lean.logprobs, full[0].logprobs, atol=FLOAT32)
    assert torch.allclose(lean.entropy, full[0].entropy, atol=FLOAT32)


def test_the_demo_stops_where_generate_stops(tmp_path: Path) -> None:
    """Token 7 of the demo is a full stop, which stays in the text as the word that it is."""
    shutil.copytree(locate("demo:policy"), tmp_path / "p", copy_function=shutil.copyfile)
    folder = changed(tmp_path / "p", eos_token_id=[1, 7])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "Summarize the following conversation.\n\nMia: You broke my lamp.\n\nSummary:\n"
    given = tokenizer([text], return_tensors="pt")
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    theirs = model.generate(**given, max_new_tokens=48, do_sample=False)
    policy = opened(folder)
    prompts = policy.encode_prompts(given["input_ids"], given["attention_mask"].bool())
    ours = generate(policy, tokenizer, prompts, greedy, 48)
    assert ours.ids.tolist() == theirs[:, 1:].tolist()
    assert ours.ids[0, -1] == 7
    assert ours.texts == tokenizer.batch_decode(theirs, skip_special_tokens=True)
    assert ours.texts[0].endswith(".")


def test_a_mark_that_ends_a_turn_is_no_text() -> None:
    tokenizer = word_tokenizer()
    tokenizer.add_tokens(["<|end|>"])  # not special, says the tokenizer
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    ids = torch.tensor([[3, 4, end, 0], [end, 0, 0, 0], [3, 7, 1, 0]])
    texts = tokenizer.batch_decode(without_end_marks(ids, [1, 7, end], tokenizer), True)
    assert texts == [tokenizer.decode([3, 4]), "", tokenizer.decode([3, 7])]
    assert without_end_marks(ids, [1, 7], tokenizer) is ids


def test_both_stages_and_exports_keep_them(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    shutil.copytree(tiny_t5, tmp_path / "base")
    ends = frequent(tiny_t5)
    name = changed(tmp_path / "base", eos_token_id=ends)
    module = make_module(name, tiny_classifier)
    fit(tmp_path, module, 1)
    (seen,) = module.watched
    width = seen.responses.mask.sum(dim=1)
    inside = torch.isin(seen.responses.ids, torch.tensor(ends)) & seen.responses.mask
    assert (inside.sum(dim=1) <= 1).all()
    share = float(inside.any(dim=1).float().mean())
    assert seen.metrics["objective/eos_rate"] == pytest.approx(share)
    assert width.max() <= 8
    module.export(tmp_path / "adapter")
    save_merged(tmp_path / "adapter", tmp_path / "merged", "AutoModelForSeq2SeqLM")
    for folder in ("adapter", "merged"):
        saved = json.loads((tmp_path / folder / "generation_config.json").read_text())
        assert saved["eos_token_id"] == ends


# -- none of them in the configs


def silent(folder: Path, **tokens: Any) -> str:
    """A tiny T5 whose configs name no end token."""
    tiny_t5_model().save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return changed(folder, eos_token_id=None, **tokens)


@pytest.mark.parametrize("eos", [None, [], 5000, -1])
def test_a_model_without_one_takes_its_tokenizer_s(tmp_path: Path, eos: Any) -> None:
    policy = opened(changed(Path(silent(tmp_path)), eos_token_id=eos))
    assert policy.eos_token_ids == (1,)
    policy.base.lm_head.weight.data[1] *= 10
    said = policy.generate(policy.encode_prompts(*batch(policy)), Sampling().choose([1]), 8).ids
    assert (said == 1).any()
    save_model(policy.model, word_tokenizer(), tmp_path / "saved")
    assert policy.base.generation_config.eos_token_id == 1


def test_what_a_model_hasn_t_is_no_end(tmp_path: Path) -> None:
    policy = opened(changed(Path(silent(tmp_path)), eos_token_id=[5000, 1, 7], pad_token_id=-1))
    assert policy.eos_token_ids == (1, 7)
    assert policy.base.generation_config.pad_token_id == 0


def test_where_the_tokenizer_has_none_either_it_is_said(tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    tokenizer.eos_token = None
    folder = silent(tmp_path)
    policy = load_policy(folder, LORA, Sampling())
    with pytest.raises(InputError, match=r"names no end-of-sequence token .*eos_token_id in its"):
        complete_special_tokens(policy.model, tokenizer, folder)


def test_the_supervised_stage_stops_there_too(tmp_path: Path) -> None:
    module = SupervisedModule(silent(tmp_path / "model"), max_new_tokens=8)
    module.configure_model()
    assert module.model.generation_config.eos_token_id == 1
    ids = torch.tensor([[3, 4, 5]])
    words = torch.tensor([[3, 4, 1]])
    module.model.lm_head.weight.data[1] *= 10
    module.eval()
    (text,) = module.summarize(
        PromptBatch(ids, ids.bool(), words, words.bool(), ["a"], ["b"], torch.tensor([0]))
    )
    assert "</s>" not in text
    module.export(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    assert saved["eos_token_id"] == 1


def test_a_decoder_that_does_not_know_how_to_begin(tmp_path: Path) -> None:
    name = silent(tmp_path, decoder_start_token_id=None)
    for module in (lambda: opened(name), SupervisedModule(name).configure_model):
        with pytest.raises(InputError, match="which of its 200 tokens its decoder begins with"):
            module()
    policy = opened(changed(tmp_path, bos_token_id=2))  # as generate does
    assert policy.base.generation_config.decoder_start_token_id == 2


def test_an_ordinary_word_that_ends_is_no_padding(tmp_path: Path) -> None:
    """GPT-2 has no padding token: what follows the end isn't read as text."""
    save_random("GPT-2", tmp_path)
    folder = changed(tmp_path, eos_token_id=[7, 1])
    policy = opened(folder)
    assert policy.base.generation_config.pad_token_id == word_tokenizer().pad_token_id
