"""Classifiers of many kinds read a batch as they read each text alone, and none too long."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import processors
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from conftest import NAMES, word_tokenizer
from detox_lightning.models.batching import takes_broadcast_mask
from detox_lightning.models.classifier import TextClassifier
from numerics import FLOAT32

SIZES = {"vocab_size": 200, "num_labels": 2, "bos_token_id": 1, "eos_token_id": 1}
WIDTHS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT_LIKE = {**WIDTHS, "intermediate_size": 16, "max_position_embeddings": 34}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
LLAMA = {**WIDTHS, "intermediate_size": 32, "max_position_embeddings": 32, "num_key_value_heads": 2}
OPT = {**WIDTHS, "ffn_dim": 16, "max_position_embeddings": 32, "word_embed_proj_dim": 16}
DISTILBERT = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}
DISTILBERT["max_position_embeddings"] = 30
XLNET = {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 16}
# kind, options of its config, tokens it reads; None: as many as the tokenizer allows
KINDS: dict[str, tuple[str, dict[str, Any], int | None]] = {
    "gpt2 without padding": ("GPT2", {**GPT2, "pad_token_id": None}, 32),
    "gpt2 padded by EOS": ("GPT2", {**GPT2, "pad_token_id": 1}, 32),
    "llama without padding": ("Llama", {**LLAMA, "pad_token_id": None}, 32),
    "llama of old, padding -1": ("Llama", {**LLAMA, "pad_token_id": -1}, 32),
    "opt": ("OPT", {**OPT, "pad_token_id": 5}, 32),
    "bloom": ("Bloom", {"hidden_size": 16, "n_layer": 2, "n_head": 2, "pad_token_id": 3}, None),
    "bert": ("Bert", BERT_LIKE, 34),
    "deberta": (
        "DebertaV2",
        {**BERT_LIKE, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
        34,
    ),
    "electra": ("Electra", {**BERT_LIKE, "embedding_size": 8}, 34),
    "roberta": ("Roberta", {**BERT_LIKE, "pad_token_id": 5}, 28),
    "camembert": ("Camembert", {**BERT_LIKE, "pad_token_id": 1}, 32),
    "mpnet": ("MPNet", {**BERT_LIKE, "pad_token_id": 1}, 32),
    "longformer": (
        "Longformer",
        {**BERT_LIKE, "attention_window": 8, "max_position_embeddings": 42, "pad_token_id": 1},
        40,
    ),
    "distilbert": ("DistilBert", DISTILBERT, 30),
    "fnet": ("FNet", BERT_LIKE, 34),
    "nystromformer": (
        "Nystromformer",
        {**BERT_LIKE, "num_landmarks": 2, "segment_means_seq_len": 2},
        34,
    ),
    "xlnet": ("XLNet", {**XLNET, "pad_token_id": 5}, None),
}

SMALL_MASKS = {"bert", "camembert", "deberta", "distilbert", "electra", "roberta"}


def bare_tokenizer(appends_eos: bool) -> PreTrainedTokenizerFast:
    """No padding token, no limit, as those of decoders come; perhaps no special token in a text."""
    whole = word_tokenizer()._tokenizer
    whole.post_processor = processors.TemplateProcessing(
        single="$A </s>" if appends_eos else "$A", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=whole, eos_token="</s>", unk_token="<unk>")


def save(folder: Path, kind: str, options: dict[str, Any], side: str, appends_eos: bool) -> str:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **options})
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config)
    for weight in model.parameters():  # heads begin near zero: texts must differ
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    tokenizer = bare_tokenizer(appends_eos)
    tokenizer.padding_side = side
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.quick(6)
@pytest.mark.parametrize("name", KINDS)
def test_a_batch_is_read_as_each_text_alone(name: str, tmp_path: Path) -> None:
    kind, options, most = KINDS[name]
    folder = save(tmp_path, kind, options, side="left", appends_eos=False)
    classifier = TextClassifier(folder, batch_size=4)
    classifier.load()
    texts = [" ".join(NAMES[: n + 1]) for n in (0, 3, 6, 1, 5)] + ["fool " * 7 + "kind", "</s>"]
    assert classifier.broadcasts == (name in SMALL_MASKS)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = bare_tokenizer(appends_eos=False)
    with torch.no_grad():
        alone = torch.cat([model(torch.tensor([tokenizer(x)["input_ids"]])).logits for x in texts])
    assert len({tuple(row) for row in alone.tolist()}) == len(texts)
    torch.testing.assert_close(classifier(texts), alone, atol=FLOAT32, rtol=0)
    assert classifier.model.config.pad_token_id == model.config.pad_token_id
    if most is not None:
        assert classifier.cuts.max_tokens == most
        with pytest.warns(UserWarning, match=rf"reads {most} tokens: the end was cut off in 1 of"):
            assert classifier(["fool " * 99]).isfinite().all()


def test_a_small_mask_is_tried_on_padded_texts_only() -> None:
    model = transformers.BertForSequenceClassification(
        transformers.BertConfig(**{**SIZES, **BERT_LIKE})
    ).eval()
    assert takes_broadcast_mask(model, [5, 6, 7], [8, 9, 10, 11])
    assert not takes_broadcast_mask(model, [5, 6, 7], [8, 9, 10])


def test_a_text_of_no_tokens_is_read_alike_everywhere(tmp_path: Path) -> None:
    kind, options, _ = KINDS["gpt2 without padding"]
    classifier = TextClassifier(save(tmp_path, kind, options, "left", appends_eos=False))
    classifier.load()
    beside = classifier(["", "Ann is nice and kind"])[0]
    torch.testing.assert_close(beside, classifier([""])[0], atol=FLOAT32, rtol=0)
    torch.testing.assert_close(beside, classifier(["</s>"])[0], atol=FLOAT32, rtol=0)
