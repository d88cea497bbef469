"""Log-likelihoods: as a plain forward pass has them, whatever else is in the batch."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import processors
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from conftest import NAMES, word_tokenizer
from detox_lightning.errors import InputError
from detox_lightning.evaluation import perplexity as module
from detox_lightning.evaluation.perplexity import Perplexity
from numerics import float32

POSITIONS = 16
EOS, BOS = 1, 3  # BOS is the word Ann's, which the texts do without
OTHERS = NAMES[1:]
# lengths in no order, one empty, two alike, some of one length
TEXTS = [
    *["you are not nice", "", "Bob : you fool , you stupid lazy moron !", "good", "good"],
    *[" ".join(OTHERS[: n % 7 + 1]) for n in (5, 1, 0, 2)],
]
LENGTHS = [4, 0, 10, 1, 1, 6, 2, 1, 3]


def save_gpt2(folder: Path) -> None:
    """Its tokenizer has no BOS and, unlike GPT-2's, appends EOS."""
    config = GPT2Config(
        vocab_size=200, n_embd=32, n_layer=2, n_head=4, n_positions=POSITIONS, eos_token_id=EOS
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer = word_tokenizer()
    tokenizer.pad_token = None  # as GPT-2's
    tokenizer.save_pretrained(folder)


def save_llama(folder: Path) -> None:
    """Its tokenizer prepends BOS."""
    config = LlamaConfig(
        vocab_size=200,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = word_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="Ann $A", special_tokens=[("Ann", BOS)]
    )
    tokenizer.bos_token = "Ann"
    tokenizer.save_pretrained(folder)


MODELS = {"gpt2": (save_gpt2, GPT2LMHeadModel, EOS), "llama": (save_llama, LlamaForCausalLM, BOS)}


@pytest.fixture(scope="module", params=list(MODELS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp(kind)
    torch.manual_seed(0)
    MODELS[kind][0](folder)
    return str(folder)


@pytest.fixture(scope="module")
def plain(kind: str, folder: str) -> Callable[[str], float]:
    """Nats of a text by transformers alone, without batches or padding."""
    model = MODELS[kind][1].from_pretrained(folder).eval()
    model.set_attn_implementation("eager")
    vocabulary = word_tokenizer().get_vocab()

    @torch.no_grad()
    def nats(text: str) -> float:
        ids = torch.tensor([[MODELS[kind][2], *(vocabulary[word] for word in text.split())]])
        logprobs = model(ids[:, :-1]).logits.log_softmax(dim=-1)[0] if text else []
        return -sum(float(logprobs[i, ids[0, i + 1]]) for i in range(ids.shape[1] - 1))

    return nats


def load(name: str, batch_size: int = 4) -> Perplexity:
    perplexity = Perplexity(name, batch_size)
    perplexity.load()
    return perplexity


def count_shapes(perplexity: Perplexity) -> list[tuple[int, ...]]:
    """The shape of each batch that the model reads, as they come."""
    shapes: list[tuple[int, ...]] = []
    perplexity.model.register_forward_pre_hook(
        lambda _, __, inputs: shapes.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    return shapes


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_in_the_order_of_the_texts(
    folder: str, plain: Callable[[str], float], batch_size: int
) -> None:
    nats, tokens = load(folder, batch_size)(TEXTS)
    expected = torch.tensor([plain(text) for text in TEXTS])
    assert nats.dtype == torch.float32
    torch.testing.assert_close(nats, expected, atol=float32(16), rtol=0)
    assert tokens.tolist() == LENGTHS
    assert nats[1] == 0
    assert len(set(expected.tolist())) == 8  # the texts do differ
    assert not nats.requires_grad


def test_likelihoods_are_float32_whatever_the_policy_is_computed_in(folder: str) -> None:
    expected, _ = load(folder)(TEXTS)
    with torch.autocast("cpu", torch.bfloat16):
        perplexity = load(folder)
        assert torch.equal(perplexity(TEXTS)[0], expected)
        assert perplexity.model(torch.tensor([[BOS, 5]])).logits.dtype == torch.bfloat16


def test_a_text_is_worth_the_same_in_any_company(folder: str) -> None:
    perplexity = load(folder)
    alone = torch.cat([perplexity([text])[0] for text in TEXTS])
    for batch_size in (2, 5, 64):
        perplexity.batch_size = batch_size
        torch.testing.assert_close(perplexity(TEXTS)[0], alone, atol=float32(16), rtol=0)
        reverse = perplexity(TEXTS[::-1])[0].flip(0)
        torch.testing.assert_close(reverse, alone, atol=float32(16), rtol=0)


def test_equal_texts_are_read_once_and_in_batches(folder: str) -> None:
    perplexity = load(folder, batch_size=3)
    shapes = count_shapes(perplexity)
    nats, tokens = perplexity(TEXTS * 2)
    assert shapes == [(3, 10), (3, 3), (2, 1)]  # 18 texts, of which 8 differ, one empty
    assert torch.equal(nats[:9], nats[9:])
    assert tokens.tolist() == LENGTHS * 2


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_nothing_is_no_surprise(folder: str, batch_size: int) -> None:
    perplexity = load(folder, batch_size)
    shapes = count_shapes(perplexity)
    for texts in ([], [""], ["", ""]):
        nats, tokens = perplexity(texts)
        assert (nats.tolist(), tokens.tolist()) == ([0] * len(texts), [0] * len(texts))
        assert (nats.dtype, tokens.dtype) == (torch.float32, torch.int64)
    assert shapes == []


def test_long_texts_are_cut(folder: str, plain: Callable[[str], float]) -> None:
    perplexity = load(folder)
    words = [OTHERS[n % 7] for n in range(100)]
    nats, tokens = perplexity([" ".join(words[:n]) for n in (15, 16, 17, 100)])
    # the last token is predicted, not read, and BOS is read in its place
    assert tokens.tolist() == [15, 16, 16, 16]
    for value, n in zip(nats.tolist(), tokens.tolist(), strict=True):
        assert value == pytest.approx(plain(" ".join(words[:n])), abs=float32(16))


# -- after a prompt


PROMPTS = ["Bob :", "you are", "", "Bob : you", "Bob : you", "you", *["you are a nice"] * 3]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_of_what_follows_a_prompt(
    folder: str, plain: Callable[[str], float], batch_size: int
) -> None:
    """The prompt is read and isn't judged: what both together are worth, less the prompt."""
    texts = [f" {text}" if text else "" for text in TEXTS]
    nats, tokens = load(folder, batch_size)(texts, PROMPTS)
    pairs = list(zip(PROMPTS, texts, strict=True))
    expected = [plain(prompt + text) - plain(prompt) for prompt, text in pairs]
    assert nats.tolist() == pytest.approx(expected, abs=float32(16))
    assert tokens.tolist() == LENGTHS
    assert nats[1] == 0
    alone = torch.tensor([plain(text) for text in TEXTS])
    assert ((nats - alone).abs() > 1e-3).tolist() == [bool(p and t) for p, t in pairs]


def test_equal_texts_after_equal_prompts_are_read_once(folder: str) -> None:
    perplexity = load(folder, batch_size=9)
    shapes = count_shapes(perplexity)
    nats, _ = perplexity([" good", " good", " good", ""], ["you", "are", "you", "you are not"])
    assert shapes == [(3, 2)]  # of nothing, nothing is read
    assert nats[0] == nats[2] != nats[1]


def test_of_a_long_prompt_the_end_is_read(folder: str, plain: Callable[[str], float]) -> None:
    words = [OTHERS[n % 7] for n in range(40)]
    prompt, text = " ".join(words[:20]), " " + " ".join(words[20:24])
    end = " ".join(words[8:20])  # 12 and 4 are the model's 16 positions
    nats, tokens = load(folder)([text], [prompt])
    assert tokens.tolist() == [4]
    assert nats.item() == pytest.approx(plain(end + text) - plain(end), abs=float32(16))
    nats, tokens = load(folder)([" " + " ".join(words[20:])], [prompt])
    assert tokens.tolist() == [16]  # no room for the prompt
    assert nats.item() == pytest.approx(plain(" ".join(words[20:36])), abs=float32(16))


def test_a_token_of_both_is_the_text_s(folder: str, plain: Callable[[str], float]) -> None:
    nats, tokens = load(folder)(["od car"], ["you are go"])
    assert tokens.tolist() == [2]
    assert nats.item() == pytest.approx(
        plain("you are good car") - plain("you are"), abs=float32(16)
    )


def test_nothing_in_it_learns(folder: str) -> None:
    perplexity = load(folder)
    model = perplexity.model
    perplexity.train()
    assert not any(part.training for part in perplexity.modules())
    assert not any(parameter.requires_grad for parameter in perplexity.parameters())
    perplexity.load()
    assert perplexity.model is model  # opened once


class Even(nn.Module):
    """Finds every word as likely as any other."""

    def __init__(self) -> None:
        super().__init__()
        self.device = torch.device("cpu")
        self.config = SimpleNamespace(
            model_type="even", max_position_embeddings=64, architectures=None
        )

    def forward(self, input_ids: Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=torch.full((*input_ids.shape, 200), 7.0))


def test_who_knows_nothing_is_as_perplexed_as_there_are_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "load_frozen", lambda *_, **__: (word_tokenizer(), Even()))
    nats, tokens = load("even")(TEXTS)
    assert nats.tolist() == pytest.approx([n * math.log(200) for n in LENGTHS], abs=1e-4)
    assert (nats.sum() / tokens.sum()).exp().item() == pytest.approx(200, abs=1e-2)


def test_something_must_come_before_the_first_token(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = word_tokenizer()
    tokenizer.eos_token = None
    monkeypatch.setattr(module, "load_frozen", lambda *_, **__: (tokenizer, Even()))
    with pytest.raises(InputError) as caught:
        load("mute")
    message = str(caught.value)
    assert message.startswith("perplexity under 'mute': its tokenizer has neither BOS nor EOS")
    assert "\n" not in message


def test_a_model_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"can't open the tokenizer '.*nowhere'"):
        load(str(tmp_path / "nowhere"))
