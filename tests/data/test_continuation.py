"""Prompts to go on from: whose columns, which rows, how long, in which part."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets.table import MemoryMappedTable
from jsonargparse import ArgumentParser

from detox_lightning.data.continuation import ContinuationDataModule
from detox_lightning.data.encoding import count_cut
from detox_lightning.data.labeled import LabeledTextDataModule
from detox_lightning.data.prompts import PromptDataModule, divide_words
from detox_lightning.errors import InputError
from detox_lightning.models.families.decoder_only import DecoderOnly
from detox_lightning.models.families.encoder_decoder import EncoderDecoder

from .conftest import CHAT, WORDS, fake_trainer, save_tokenizer, write
from .test_jobs import Nothing, trainer

Make = Callable[..., ContinuationDataModule]
WHOLE = {"test_fraction": None, "validation_fraction": None}
PARTS = ("train", "validation", "test")


# begins with what the user says in words of the tokenizer's, and asks for the answer
def row(text: str | None, toxicity: float | None = 0.5, continuation: str | None = "w9") -> Any:
    """As RealToxicityPrompts has it."""
    return {
        "filename": "f",
        "prompt": {"text": text, "toxicity": toxicity, "threat": 0.1},
        "continuation": {"text": continuation, "toxicity": 0.2},
    }


@pytest.fixture
def make(tmp_path: Path, words: str) -> Make:
    """A data module of rows in one file; all of them are training rows."""

    def make(rows: list[dict[str, Any]], **options: Any) -> ContinuationDataModule:
        source = write(tmp_path / options.pop("name", "rows.jsonl"), rows)
        return ContinuationDataModule(
            **{"source": source, "tokenizer": words, "batch_size": 2, **WHOLE, **options}
        )

    return make


def prompts(data: ContinuationDataModule, part: str = "train") -> list[str]:
    return data.rows(part)["prompt"][:]


def failure(data: ContinuationDataModule, part: str = "train") -> str:
    with pytest.raises(InputError) as caught:
        data.rows(part)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- rows


def test_a_batch_by_hand(make: Make) -> None:
    rows = [row("w1 w2 w3", continuation=" w4"), row("w5", continuation=None), row(" "), row(None)]
    data = make(rows, test_split="train")
    (batch,) = data.test_dataloader()
    assert batch.prompts == ["w1 w2 w3", "w5"]
    assert batch.references == [" w4", ""]
    assert batch.prompt_ids.tolist() == [[7, 8, 9], [11, 0, 0]]
    assert batch.prompt_mask.tolist() == [[True] * 3, [True, False, False]]
    assert batch.target_ids.shape == batch.target_mask.shape == (2, 0)
    assert batch.target_ids.dtype == torch.long
    assert batch.places.tolist() == [0, 1]


def test_a_decoder_s_prompts_are_padded_on_the_left_and_do_not_end(
    make: Make, tmp_path: Path
) -> None:
    """Not even where the tokenizer ends each text, as those of encoder-decoders do."""
    from tokenizers import processors
    from transformers import AutoTokenizer

    folder = save_tokenizer(tmp_path / "ending")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer.save_pretrained(folder)
    rows = [row("w1 w2 w3"), row("w5")]
    for family, wanted in (
        (DecoderOnly(), [[7, 8, 9], [0, 0, 11]]),
        (EncoderDecoder(), [[7, 8, 9, 1], [11, 1, 0, 0]]),
    ):
        data = make(rows, tokenizer=folder, test_split="train")
        data.trainer = fake_trainer(family=family)
        (batch,) = data.test_dataloader()
        assert batch.prompt_ids.tolist() == wanted
        assert batch.prompt_mask.tolist() == [[token > 0 for token in ids] for ids in wanted]


FLAT = [{"text": "w1", "tox": 0.5}, {"text": "w2", "tox": 0.25}, {"text": "w3", "tox": 1}]


@pytest.mark.parametrize("name", ["r.jsonl", "r.json", "r.csv", "r.parquet"])
def test_flat_columns_of_any_kind_of_file(make: Make, name: str) -> None:
    data = make(FLAT, name=name, prompt_column="text", toxicity_column="tox", min_toxicity=0.5)
    assert prompts(data) == ["w1", "w3"]
    assert data.rows("train")["reference"][:] == ["", ""]


def test_nested_columns_of_a_table(make: Make) -> None:
    rows = [row("w1", 0.1), row("w2", 0.9, "w3"), row("w4", None)]
    data = make(rows, name="r.parquet", min_toxicity=0.5)
    assert prompts(data) == ["w2"]
    assert data.rows("train")["reference"][:] == ["w3"]


def test_nested_labels_are_found_too(tmp_path: Path, words: str) -> None:
    labels = ("hate", "nothate")
    rows = [{"said": {"text": "w1"}, "is": {"label": label}} for label in labels]
    source = write(tmp_path / "r.jsonl", rows)
    columns = {"text_column": "said.text", "label_column": "is.label"}
    data = LabeledTextDataModule(source, words, **columns, validation_fraction=None)
    assert data.rows("train")["label"][:] == [1, 0]


def test_a_least_toxicity_and_the_counts(make: Make, logged: list[str]) -> None:
    rows = [row("w1", 0.5), row("w2", 0.499), row("w3", None), row("", 0.9), row("w4", 1.0)]
    data = make(rows, min_toxicity=0.5)
    assert prompts(data) == ["w1", "w4"]
    assert logged == [
        "train: 5 rows, 4 with a prompt, 3 with a known toxicity, 2 with a toxicity of at least 0.5"
    ]
    assert prompts(make(rows)) == ["w1", "w2", "w3", "w4"]
    unknown = [row("w1", float("nan")), row("w2", 0.0)]
    assert prompts(make(unknown, name="nan.jsonl", min_toxicity=0)) == ["w2"]
    assert logged[-1].startswith("train: 2 rows, 1 with a known toxicity, 1 with")


def test_a_toxicity_that_is_not_there_is_missed_only_if_it_matters(make: Make) -> None:
    rows = [{"prompt": {"text": "w1"}, "n": {"label": "a"}}]
    assert prompts(make(rows)) == ["w1"]
    data = make(rows, min_toxicity=0.5)
    assert failure(data) == (
        f"--data.min_toxicity=0.5, --data.toxicity_column=prompt.toxicity: {data.sources[0]} "
        "has no such column; it has prompt.text, n.label"
    )
    assert failure(make(rows, min_toxicity=0.5, toxicity_column="n.label")).endswith(
        "this column holds string, not numbers; name another or convert it"
    )
    assert "--data.prompt_column=text: " in failure(make(rows, prompt_column="text"))


def test_no_row_left_gives_the_counts(make: Make) -> None:
    data = make([row("w1", 0.4), row("w2", 0.3)], min_toxicity=0.9)
    assert failure(data) == (
        f"{data.sources[0]}: no row is left for train (2 rows, 0 with a toxicity of at least "
        "0.9); change --data.min_toxicity, --data.max_prompt_tokens or the shares, or give other "
        "data"
    )


# -- prompts


def test_long_prompts_are_left_out_or_cut(make: Make, logged: list[str]) -> None:
    rows = [row("w1 w2  w3 w4"), row("w5 w6 w7"), row("w1  w2 w3 w4 w5")]
    data = make(rows, max_prompt_tokens=3)
    assert prompts(data) == ["w5 w6 w7"]
    assert data.rows("train")["index"][:] == [1]
    data = make(rows, max_prompt_tokens=3, long_prompts="cut")
    assert prompts(data) == ["w1 w2  w3", "w5 w6 w7", "w1  w2 w3"]
    assert data.rows("train")["prompt_ids"][:] == [[7, 8, 9], [11, 12, 13], [7, 8, 9]]
    assert logged == [
        "train: 3 rows, 1 with prompts of 1 to 3 tokens",
        "train: 3 rows; 2 prompts were cut to 3 tokens",
    ]


def test_a_first_word_that_is_too_long_is_cut_itself() -> None:
    class Letters(ContinuationDataModule):
        """A token a letter, and one before them all."""

        def _tokens(self, prompt: str) -> int:
            return 1 + len(prompt.replace(" ", ""))

    def shortened(prompt: str, limit: int) -> str:
        return Letters("none", max_prompt_tokens=limit)._shorten(prompt)

    assert shortened("ab cde f", 6) == "ab cde"
    assert shortened("ab cde f", 5) == "ab"
    assert shortened("abcdef gh", 4) == "abc"
    with pytest.raises(InputError) as caught:
        shortened("abc", 1)
    assert str(caught.value) == (
        "--data.max_prompt_tokens=1: a single character has 2, with what the tokenizer and its "
        "chat template add; raise it"
    )


@pytest.mark.parametrize(
    ("text", "share", "parts"),
    [
        ("a b c d", 0.5, ("a b", "c d")),
        (" a b  c d e ", 0.5, ("a b", "c d e")),
        ("a\tb", 0.1, ("a", "b")),
        ("a b c", 0.99, ("a b", "c")),
        ("alone", 0.5, ("", "")),
    ],
)
def test_texts_are_divided_between_words(text: str, share: float, parts: tuple[str, str]) -> None:
    assert divide_words(text, share) == parts


def test_rows_of_several_sources_together(make: Make, tmp_path: Path) -> None:
    """Whatever else there is in each of them."""
    one = write(tmp_path / "one.jsonl", [row("w1", 0.9), row("w2", 0.1)])
    other = write(tmp_path / "other.jsonl", [{"prompt": {"toxicity": 0.5, "text": "w3"}, "n": 1}])
    data = make([], source=[one, other], min_toxicity=0.5)
    assert prompts(data) == ["w1", "w3"]
    assert data.rows("train")["reference"][:] == ["w9", ""]
    assert data.sources == [one, other]
    assert data.state_dict()["source"] == f"{one}, {other}"
    third = write(tmp_path / "third.jsonl", [{"text": "w1"}])
    assert failure(make([], source=[one, third])) == (
        f"--data.prompt_column=prompt.text: {third} has no such column; it has text"
    )


def test_prompts_are_cut_from_whole_texts(make: Make, logged: list[str]) -> None:
    rows = [{"text": "w1 w2 w3 w4 w5", "label": "hate"}, {"text": "w6", "label": "hate"}]
    data = make(rows, prompt_column="text", prompt_share=0.5)
    assert data.rows("train")["prompt"][:] == ["w1 w2"]
    assert data.rows("train")["reference"][:] == ["w3 w4 w5"]
    assert logged == ["train: 2 rows, 1 with prompts of 1 to 64 tokens"]


def test_a_chat_template_around_each_prompt(make: Make, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = save_tokenizer(tmp_path / "chatty")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    source = write(tmp_path / "chats.jsonl", [row("w1 w2 w3 w4"), row("w5")])
    options = {"source": source, "tokenizer": folder, "chat_template": True}
    data = make([], **options)
    assert data.rows("train")["prompt_ids"][:] == [[3, 4, 7, 8, 9, 10, 5, 4], [3, 4, 11, 5, 4]]
    assert prompts(data) == ["w1 w2 w3 w4", "w5"]
    cut = make([], max_prompt_tokens=6, long_prompts="cut", **options)
    assert cut.rows("train")["prompt_ids"][:] == [[3, 4, 7, 8, 5, 4], [3, 4, 11, 5, 4]]
    # the same tokenizer with another template is another tokenizer
    tokenizer.chat_template = CHAT.replace("Say", "Short")
    tokenizer.save_pretrained(folder)
    assert make([], **options).rows("train")["prompt_ids"][1] == [5, 4, 11, 5, 4]
    plain = make([], source=source, tokenizer=folder)
    assert plain.rows("train")["prompt_ids"][1] == [11]


def test_a_tokenizer_without_chat_template_is_named(make: Make, words: str) -> None:
    assert failure(make([row("w1")], chat_template=True)) == (
        f"--data.tokenizer={words}: it has no chat template, which lists of messages and "
        "--data.chat_template=true need; name one that has, or give prompts as text"
    )


# -- parts


MANY = [row(f"w{i % 10} w{i // 10 % 10} w{i // 100}", i / 200) for i in range(200)]


def shares(data: ContinuationDataModule) -> dict[str, set[str]]:
    return {part: set(prompts(data, part)) for part in PARTS}


def test_shares_are_a_function_of_text_and_seed(make: Make) -> None:
    options = {"validation_fraction": 0.2, "test_fraction": 0.3}
    data = make(MANY, **options)
    parts = shares(data)
    assert set.union(*parts.values()) == {row["prompt"]["text"] for row in MANY}
    assert sum(map(len, parts.values())) == 200
    sizes = [len(parts[part]) for part in PARTS]
    assert sizes == pytest.approx([100, 40, 60], abs=15)
    # whatever else the source holds, and in whatever order
    fewer = shares(make(MANY[150:50:-1], name="fewer.jsonl", **options))
    assert all(fewer[part] < parts[part] for part in PARTS)
    toxic = shares(make(MANY, min_toxicity=0.5, **options))
    assert all(toxic[part] < parts[part] for part in PARTS)
    assert shares(make(MANY, split_seed=1, **options)) != parts


@pytest.mark.parametrize("options", [{"prompt_share": 0.5}, {"max_prompt_tokens": 2}])
def test_equal_prompts_are_in_one_part(make: Make, options: dict[str, Any]) -> None:
    """Though the texts differ that they were cut from, or they were longer."""
    texts = [{"text": f"w{i % 10} w{i // 10 % 5} w{i // 50} w9"} for i in range(200)]
    data = make(
        texts,
        prompt_column="text",
        long_prompts="cut",
        validation_fraction=0.3,
        test_fraction=0.3,
        **options,
    )
    parts = shares(data)
    assert sum(map(len, parts.values())) == 50 == len(set.union(*parts.values()))
    assert sum(len(prompts(data, part)) for part in PARTS) == 200


def test_splits_that_there_are_are_used(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "splits"
    folder.mkdir()
    for number, split in enumerate(["train", "dev", "test"]):
        write(folder / f"{split}.jsonl", [row(f"w{number} w{i}") for i in range(9)])
    data = make([], source=str(folder), validation_split="dev", test_split="test")
    for number, part in enumerate(PARTS):
        assert prompts(data, part) == [f"w{number} w{i}" for i in range(9)]
    few = make(
        [], source=str(folder), test_split="test", validation_fraction=0.5, num_eval_samples=1
    )
    assert {len(prompts(few, part)) for part in ("test", "validation")} == {1}
    assert 1 < len(prompts(few)) < 9
    assert not set(prompts(few)) & set(prompts(few, "validation"))


def test_parts_that_are_not_there_are_named(make: Make) -> None:
    data = make(MANY)
    assert failure(data, "test") == (
        "--data.test_split=null, --data.test_fraction=null: there are no such rows; name a split "
        "or give a share"
    )
    assert data.val_dataloader() == []
    with pytest.raises(InputError) as caught:
        make(MANY, test_fraction=0.5, validation_fraction=0.5)
    assert str(caught.value) == (
        "--data.test_fraction=0.5, --data.validation_fraction=0.5: these shares leave nothing to "
        "train on; lower them"
    )
    assert "--data.validation_split=dev: " in failure(
        make(MANY, validation_split="dev"), "validation"
    )


def test_each_job_reads_its_part(make: Make) -> None:
    data = make(MANY, validation_fraction=0.2, test_fraction=0.3)
    parts = shares(data)
    model = Nothing()
    trainer(num_sanity_val_steps=0).fit(model, data)
    assert set(model.seen["fit"]) <= parts["train"]
    assert len(model.seen["fit"]) == len(parts["train"]) // 2 * 2
    assert set(model.seen["val"]) == parts["validation"]
    trainer().predict(model, data)
    assert set(model.seen["predict"]) == parts["test"]


def test_a_second_start_does_not_tokenize_again(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = save_tokenizer(tmp_path / "own")
    source = write(tmp_path / "many.jsonl", MANY)
    calls: list[int] = []
    tokenize = PromptDataModule.tokenize

    def counting(data: PromptDataModule, whole: bool, batch: Any, places: list[int]) -> Any:
        calls.append(len(places))
        return tokenize(data, whole, batch, places)

    monkeypatch.setattr(PromptDataModule, "tokenize", counting)

    def start(**options: Any) -> dict[str, list[Any]]:
        calls.clear()
        data = make([], source=source, tokenizer=tokenizer, test_fraction=0.3, **options)
        return {part: data.rows(part)["prompt_ids"][:] for part in ("train", "test")}

    first = start()
    assert calls == [200]  # of all parts
    assert start() == first
    assert calls == []
    start(max_prompt_tokens=5)
    start(prompt_share=0.5)
    assert calls == [200]
    save_tokenizer(tmp_path / "own", [*WORDS[:3], *reversed(WORDS[3:])])
    assert start() != first


def test_rows_stay_on_the_disk_whatever_was_done_to_them(make: Make) -> None:
    data = make(
        MANY,
        min_toxicity=0.25,
        max_prompt_tokens=2,
        long_prompts="cut",
        validation_fraction=0.3,
        test_fraction=0.3,
        num_eval_samples=10,
    )
    for part in PARTS:
        rows = data.rows(part)
        assert isinstance(rows.data, MemoryMappedTable)
        assert rows._indices is None
        assert rows["index"][:] == sorted(set(rows["index"]))
        assert count_cut(rows) == len(rows)


# -- predict


@pytest.mark.parametrize("form", ["text", "nested", "dotted"])
def test_any_prompts_are_gone_on_from(
    make: Make, tmp_path: Path, form: str, logged: list[str]
) -> None:
    asked = ["w3 w1 w2 w4", "w1", "w1"]
    lines = {
        "text": asked,
        "nested": [json.dumps({"prompt": {"text": text}}) for text in asked],
        "dotted": [json.dumps({"prompt.text": text, "continuation.text": "w5"}) for text in asked],
    }[form]
    source = tmp_path / ("q.txt" if form == "text" else "q.jsonl")
    source.write_text("\n".join(lines))
    data = make(
        MANY,
        predict_source=str(source),
        max_prompt_tokens=3,
        min_toxicity=0.9,
        prompt_share=0.5,
        num_eval_samples=1,
    )
    model = Nothing()
    trainer().predict(model, data)
    assert model.seen["predict"] == ["w3 w1 w2", "w1", "w1"]
    assert logged[-1:] == ["predict: 3 rows; 1 prompts were cut to 3 tokens"]
    assert data.rows("predict")["reference"][:] == ["w5" if form == "dotted" else ""] * 3


def test_a_file_without_prompts_is_named(make: Make, tmp_path: Path) -> None:
    source = tmp_path / "q.jsonl"
    source.write_text('{"prompt": {"id": 3}, "text": "w1"}')
    data = make(MANY, predict_source=str(source))
    assert failure(data, "predict") == (
        f"--data.prompt_column=prompt.text: {source} has no such column in line 1; it has "
        "prompt.id, text"
    )
    source.write_text("")
    assert failure(data, "predict").endswith("there is nothing to answer; give one prompt per line")


def test_the_command_line_checks_types(capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(ContinuationDataModule, "data")
    words = ["--data.source=a/b", "--data.min_toxicity=0.5", "--data.long_prompts=cut"]
    parsed = parser.parse_args(words)
    assert parsed.data.prompt_column == "prompt.text"
    assert float(parsed.data.min_toxicity) == 0.5
    for wrong in ["min_toxicity=1.5", "prompt_share=1", "long_prompts=no", "chat_template=3"]:
        with pytest.raises(SystemExit):
            parser.parse_args(["--data.source=a/b", f"--data.{wrong}"])
        assert f"data.{wrong.partition('=')[0]}" in capsys.readouterr().err
