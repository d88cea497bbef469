"""Texts in, logits out: the same whatever else is in the batch."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from conftest import NAMES, word_tokenizer
from detox_lightning.errors import InputError
from detox_lightning.models.classifier import TextClassifier
from numerics import FLOAT32

# lengths in no order, one empty, two alike
TEXTS = [
    *["you are not nice", "", "Ann : you fool , you stupid lazy moron !", "good", "good"],
    *[" ".join(NAMES[: n % 8 + 1]) for n in (5, 1, 7, 2)],
]


def load(name: str, batch_size: int = 4) -> TextClassifier:
    classifier = TextClassifier(name, batch_size)
    classifier.load()
    return classifier


@pytest.fixture(scope="module")
def one_by_one(tiny_classifier: str) -> torch.Tensor:
    """Logits by transformers alone, without batches or padding."""
    model = AutoModelForSequenceClassification.from_pretrained(tiny_classifier).eval()
    tokenizer = word_tokenizer()
    with torch.no_grad():
        return torch.cat([model(tokenizer(t, return_tensors="pt").input_ids).logits for t in TEXTS])


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_in_the_order_of_the_texts(
    tiny_classifier: str, one_by_one: torch.Tensor, batch_size: int
) -> None:
    logits = load(tiny_classifier, batch_size)(TEXTS)
    assert logits.shape == (9, 2)
    torch.testing.assert_close(logits, one_by_one, atol=FLOAT32, rtol=0)
    assert len({tuple(row) for row in one_by_one.tolist()}) == 8  # the texts do differ
    assert not logits.requires_grad


def test_scores_are_float32_whatever_the_policy_is_computed_in(tiny_classifier: str) -> None:
    """To the last bit, in training and in measurements with ``bf16-mixed``."""
    expected = load(tiny_classifier)(TEXTS)
    classifier = load(tiny_classifier)
    ids = classifier.tokenizer(TEXTS[2], return_tensors="pt").input_ids
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(classifier(TEXTS), expected)
        assert classifier.model(ids).logits.dtype == torch.bfloat16


def test_long_texts_are_cut(tiny_classifier: str) -> None:
    classifier = load(tiny_classifier)
    widths = []
    classifier.model.register_forward_pre_hook(
        lambda _, __, inputs: widths.append(inputs["input_ids"].shape[1]), with_kwargs=True
    )
    fits = 64  # BERT's positions, although the tokenizer says 512; the EOS is one of them
    for words, width in [(fits - 2, fits - 1), (fits - 1, fits), (fits, fits), (600, fits)]:
        assert classifier([" ".join(["fool"] * words)]).isfinite().all()
        assert widths.pop() == width


def test_roberta_counts_its_positions_from_the_padding_on(tmp_path: Path) -> None:
    config = RobertaConfig(
        vocab_size=200,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=34,
        pad_token_id=1,
    )
    RobertaForSequenceClassification(config).save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    classifier = load(str(tmp_path))
    assert classifier.cuts.max_tokens == 32
    assert classifier([" ".join(["fool"] * 600)]).isfinite().all()


def test_an_unknown_label_is_answered_with_the_known_ones(tiny_classifier: str) -> None:
    classifier = load(tiny_classifier)
    assert [classifier.label_index(label) for label in ("nothate", "hate")] == [0, 1]
    with pytest.raises(InputError) as caught:
        classifier.label_index("kind")
    message = f"label 'kind': the classifier {tiny_classifier!r} has the labels nothate, hate"
    assert str(caught.value) == message


def test_nothing_in_it_learns(tiny_classifier: str) -> None:
    classifier = load(tiny_classifier)
    classifier.train()
    assert not any(module.training for module in classifier.modules())
    assert not any(parameter.requires_grad for parameter in classifier.parameters())


def test_is_opened_once(tiny_classifier: str) -> None:
    classifier = load(tiny_classifier)
    model = classifier.model
    classifier.load()
    assert classifier.model is model


def count_rows(classifier: TextClassifier) -> list[int]:
    """Rows of each forward pass of the model inside, as they come."""
    rows: list[int] = []
    classifier.model.register_forward_pre_hook(
        lambda _, __, inputs: rows.append(len(inputs["input_ids"])), with_kwargs=True
    )
    return rows


def test_equal_texts_are_read_once(tiny_classifier: str, one_by_one: torch.Tensor) -> None:
    classifier = load(tiny_classifier, batch_size=3)
    rows = count_rows(classifier)
    logits = classifier(TEXTS * 3)
    assert rows == [3, 3, 2]  # 27 texts, of which 8 differ
    torch.testing.assert_close(logits, one_by_one.repeat(3, 1), atol=FLOAT32, rtol=0)


def test_the_same_texts_are_not_read_again(tiny_classifier: str) -> None:
    classifier = load(tiny_classifier)
    rows = count_rows(classifier)
    texts = list(TEXTS)
    first = classifier(texts)
    kept = first.clone()
    first.zero_()  # is the caller's
    assert torch.equal(classifier(list(TEXTS)), kept)
    assert sum(rows) == 8
    texts[0] = "Ann is nice"  # is the caller's, too
    changed = classifier(texts)
    assert sum(rows) == 16
    assert not torch.equal(changed[0], kept[0])
    torch.testing.assert_close(changed[1:], kept[1:], atol=FLOAT32, rtol=0)
    # another order is another question, and only the last one is remembered
    torch.testing.assert_close(classifier(TEXTS[::-1]), kept.flip(0), atol=FLOAT32, rtol=0)
    assert sum(rows) == 24
    classifier(TEXTS)
    assert sum(rows) == 32


def test_what_was_remembered_can_be_used_in_training(tiny_classifier: str) -> None:
    classifier = load(tiny_classifier)
    with torch.inference_mode():
        first = classifier(TEXTS)
    again = classifier(TEXTS)
    assert torch.equal(again, first)
    assert not again.is_inference()


def test_a_classifier_that_moves_forgets(tiny_classifier: str) -> None:
    classifier = load(tiny_classifier)
    rows = count_rows(classifier)
    single = classifier(TEXTS)
    classifier.double()
    double = classifier(TEXTS)
    assert sum(rows) == 16
    assert double.dtype == torch.float32
    torch.testing.assert_close(double, single, atol=FLOAT32, rtol=0)


def test_no_texts_have_no_logits(tiny_classifier: str) -> None:
    classifier = load(tiny_classifier)
    rows = count_rows(classifier)
    assert classifier([]).shape == (0, 2)
    assert rows == []
