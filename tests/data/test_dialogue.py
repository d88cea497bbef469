from pathlib import Path

import datasets
import pytest
from jsonargparse import ArgumentParser
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from detox_lightning.batches import PromptBatch
from detox_lightning.data.dialogue import DialogueDataModule
from detox_lightning.errors import InputError
from detox_lightning.models.families.decoder_only import DecoderOnly
from detox_lightning.models.families.encoder_decoder import EncoderDecoder
from detox_lightning.models.source import ModelSource

from .conftest import CHAT, Make, dialogue_rows, fake_trainer, save_tokenizer, write


def test_a_batch_by_hand(make: Make) -> None:
    rows = [
        {"dialogue": "w1", "summary": "w2 w3", "clean": "nice"},
        {"dialogue": "w1 w9 zz", "summary": "w2", "clean": "kind"},
        {"dialogue": " ", "summary": "w2", "clean": "good"},
    ]
    data = make(rows=rows, reference_column="clean", test_fraction=None, test_split="train")
    (batch,) = data.test_dataloader()
    assert isinstance(batch, PromptBatch)
    assert batch.prompts == ["Say : w1 Short :", "Say : w1 w9 zz Short :"]
    assert batch.references == ["nice", "kind"]
    assert batch.prompt_ids.tolist() == [[3, 4, 7, 5, 4, 0, 0], [3, 4, 7, 15, 2, 5, 4]]
    assert batch.prompt_mask.tolist() == [[True] * 5 + [False] * 2, [True] * 7]
    assert batch.target_ids.tolist() == [[8, 9, 1], [8, 1, 0]]
    assert batch.target_mask.tolist() == [[True] * 3, [True, True, False]]


def test_a_chat_template_around_each_prompt(make: Make, tmp_path: Path) -> None:
    folder = save_tokenizer(tmp_path / "chatty")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    rows = [{"dialogue": "w1 w2 w3", "summary": "w2 w3"}]
    options = {"tokenizer": folder, "test_fraction": None, "template": "{dialogue}"}
    data = make(rows=rows, chat_template=True, **options)
    assert data.rows("train")["prompt_ids"][:] == [[3, 4, 7, 8, 9, 5, 4]]
    assert data.rows("train")["prompt"][:] == ["w1 w2 w3"]
    cut = make(rows=rows, chat_template=True, max_prompt_tokens=6, **options)
    assert cut.rows("train")["prompt_ids"][:] == [[3, 4, 7, 8, 5, 4]]
    plain = make(rows=rows, **options)
    assert plain.rows("train")["prompt_ids"][:] == [[7, 8, 9]]


def test_the_model_chooses_tokenizer_and_padding(make: Make, words: str) -> None:
    rows = [
        {"dialogue": "w1", "summary": "w2 w3"},
        {"dialogue": "w1 w9", "summary": "w2"},
    ]
    data = make(rows=rows, tokenizer=None, test_fraction=None, test_split="train")
    with pytest.raises(InputError, match="the model names none"):
        data.test_dataloader()
    data.trainer = fake_trainer(source=ModelSource(words), family=DecoderOnly())
    (batch,) = data.test_dataloader()
    assert batch.prompt_ids.tolist() == [[0, 3, 4, 7, 5, 4], [3, 4, 7, 15, 5, 4]]
    assert batch.prompt_mask.tolist() == [[False] + [True] * 5, [True] * 6]
    assert batch.target_ids.tolist() == [[8, 9, 1], [8, 1, 0]]


def test_special_tokens_stand_where_a_text_begins_and_ends(make: Make, tmp_path: Path) -> None:
    """An encoder gets whole texts; a decoder alone goes on with the prompt."""
    folder = save_tokenizer(tmp_path / "framed")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="Say $A </s>", special_tokens=[("Say", 3), ("</s>", 1)]
    )
    tokenizer.save_pretrained(folder)
    rows = [{"dialogue": "w1", "summary": "w2 w3"}]
    for family, prompt, target in (
        (EncoderDecoder(), [3, 7, 1], [3, 8, 9, 1]),
        (DecoderOnly(), [3, 7], [8, 9, 1]),
    ):
        data = make(rows=rows, tokenizer=folder, test_fraction=None, template="{dialogue}")
        data.trainer = fake_trainer(family=family)
        assert data.rows("train")["prompt_ids"][:] == [prompt]
        assert data.rows("train")["target_ids"][:] == [target]


def test_long_prompts_lose_the_end_of_the_dialogue(make: Make, logged: list[str]) -> None:
    rows = [
        {"dialogue": "w1 w2 w3 w4", "summary": "w1 w2 w3 w4"},
        {"dialogue": "w1 w2 w3", "summary": "w1 w2"},
        {"dialogue": "w1 w2", "summary": "w1"},
    ]
    data = make(rows=rows, max_prompt_tokens=6, max_target_tokens=3, test_fraction=None)
    assert data.rows("train")["prompt_ids"][:] == [[3, 4, 7, 8, 5, 4]] * 3
    assert data.rows("train")["target_ids"][:] == [[7, 8, 1], [7, 8, 1], [7, 1]]
    assert [prompt.split() for prompt in data.rows("train")["prompt"]] == [
        ["Say", ":", "w1", "w2", "Short", ":"]
    ] * 3
    assert logged == ["train: 3 rows; 2 dialogues were cut to prompts of 6 tokens"]


def test_a_template_longer_than_the_limit_is_named(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is put around all dialogues, which takes much memory if it is very long."""
    monkeypatch.setattr(DialogueDataModule, "tokenize", lambda *_: pytest.fail("too late"))
    with pytest.raises(InputError) as caught:
        make(max_prompt_tokens=3).rows("train")
    assert str(caught.value) == ("--data.max_prompt_tokens=3: the template alone has 4; raise it")


def test_bounds_and_counts(make: Make, logged: list[str]) -> None:
    texts = ["w1", "w1 w2", "w1 w2 w3", "w1 w2 w3 w4", "", " ", None]
    rows = [{"dialogue": text, "summary": "w1"} for text in texts]
    data = make(rows=rows, min_chars=2, max_chars=8, test_fraction=0.5)
    assert data.rows("train")["prompt"][:] == ["Say : w1 w2 Short :"]
    assert data.rows("test")["prompt"][:] == ["Say : w1 w2 w3 Short :"]
    counts = "7 rows, 4 with a dialogue, 2 with 2 < characters <= 8"
    assert logged == [
        f"train: {counts}, 1 after the split",
        f"test: {counts}, 1 kept out of training",
    ]


def test_no_row_left_gives_the_counts(make: Make) -> None:
    data = make(min_chars=200, max_chars=1000)
    with pytest.raises(InputError) as caught:
        data.rows("train")
    assert str(caught.value) == (
        f"{data.sources[0]}: no row of 'train' is left (8 rows, 0 with 200 < characters "
        "<= 1000); change --data.min_chars and --data.max_chars, or give other data"
    )


def test_the_last_fraction_in_order_or_drawn_as_datasets_does(make: Make) -> None:
    def prompts(data: DialogueDataModule, part: str) -> list[str]:
        return [prompt.split()[3] for prompt in data.rows(part)["prompt"]]

    plain = make()
    assert prompts(plain, "train") == ["w0", "w1", "w2", "w3", "w4", "w5"]
    assert prompts(plain, "test") == ["w6", "w7"]
    drawn = make(shuffle_split=True)
    both = datasets.Dataset.from_list(dialogue_rows(8)).train_test_split(0.25, seed=42)
    assert prompts(drawn, "train") == both["train"]["summary"][:]
    assert prompts(drawn, "test") == both["test"]["summary"][:]
    few = make(num_samples=3, num_eval_samples=1)
    assert prompts(few, "train") == ["w0", "w1", "w2"]
    assert prompts(few, "test") == prompts(few, "validation") == ["w6"]


def test_a_fraction_that_leaves_nothing_is_named(make: Make) -> None:
    with pytest.raises(InputError) as caught:
        make(rows=dialogue_rows(2), test_fraction=0.9).rows("train")
    assert str(caught.value) == (
        "--data.test_fraction=0.9: no row would be left to train on (2 rows); give more rows or a "
        "smaller share"
    )


def test_validation_falls_back_on_the_test_rows(make: Make, logged: list[str]) -> None:
    data = make()
    assert data.rows("validation")["prompt"][:] == data.rows("test")["prompt"][:]
    source = data.sources[0]
    assert logged[0] == (
        f"{source} has no split 'validation', only train: the test rows (data.test_fraction) are "
        "used to validate"
    )


def test_existing_splits_are_used(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "splits"
    folder.mkdir()
    for place, split in enumerate(["train", "validation", "test"]):
        write(folder / f"{split}.jsonl", dialogue_rows(8)[place : place + 1])
    data = make(source=str(folder), test_fraction=None)
    assert [data.rows(part)["reference"][:] for part in ("train", "validation", "test")] == [
        ["w0"],
        ["w1"],
        ["w2"],
    ]


def test_nonsense_is_refused_at_once(make: Make) -> None:
    for template in ("no field", "{dialogue} twice {dialogue}"):
        with pytest.raises(InputError) as caught:
            make(template=template)
        assert str(caught.value) == (
            f"--data.template={template!r}: it must contain {{dialogue}} once"
        )
    with pytest.raises(InputError, match="no dialogue is longer than"):
        make(min_chars=9, max_chars=9)


@pytest.mark.parametrize("special", [{"unk_token": "<unk>"}, {"pad_token": "<pad>"}])
def test_a_tokenizer_without_eos_is_refused(
    make: Make, tmp_path: Path, special: dict[str, str]
) -> None:
    tokenizer = save_tokenizer(tmp_path / "bare", **special)
    with pytest.raises(InputError) as caught:
        make(tokenizer=tokenizer).rows("train")
    assert str(caught.value) == (
        f"--data.tokenizer={tokenizer}: it has no end-of-sequence token; set one"
    )


def test_without_a_pad_token_eos_pads(make: Make, tmp_path: Path) -> None:
    tokenizer = save_tokenizer(tmp_path / "bare", unk_token="<unk>", eos_token="</s>")
    assert make(tokenizer=tokenizer).encoding.pad_id == 1


def test_the_command_line_checks_types(capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(DialogueDataModule, "data")
    parsed = parser.parse_args(["--data.source=a/b", "--data.max_chars=null"])
    assert (parsed.data.min_chars, parsed.data.max_chars) == (200, None)
    assert parsed.data.template == (
        "Summarize the following conversation.\n\n{dialogue}\n\nSummary:\n"
    )
    for wrong in ["batch_size=0", "test_fraction=1", "num_workers=-1", "max_prompt_tokens=x"]:
        with pytest.raises(SystemExit):
            parser.parse_args(["--data.source=a/b", f"--data.{wrong}"])
        assert f"data.{wrong.partition('=')[0]}" in capsys.readouterr().err


@pytest.mark.slow
def test_dialogsum_has_the_rows_of_the_notebook(
    make: Make, shared: Path, logged: list[str]
) -> None:
    source = shared / "data" / "dialogsum" / "train.jsonl.gz"
    if not source.exists():
        pytest.skip(f"{source} isn't here")
    data = make(source=str(source), min_chars=200, max_chars=1000, test_fraction=0.2)
    assert (len(data.rows("train")), len(data.rows("test"))) == (8017, 2005)
    counts = "12460 rows, 10022 with 200 < characters <= 1000"
    assert [line.partition(";")[0] for line in logged] == [
        f"train: {counts}, 8017 after the split",
        f"test: {counts}, 2005 kept out of training",
    ]
