from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser

from detox_lightning.batches import LabeledBatch
from detox_lightning.data.labeled import LabeledTextDataModule
from detox_lightning.errors import InputError

from .conftest import fake_trainer, save_tokenizer, write

Make = Callable[..., LabeledTextDataModule]


NAMES = ["nothate", "hate"]


def labeled(*labels: Any) -> list[dict[str, Any]]:
    """Rows with the texts w0, w1, …"""
    return [{"text": f"w{i}", "label": label} for i, label in enumerate(labels)]


def named(*indices: int) -> list[dict[str, Any]]:
    """The same with names for labels."""
    return labeled(*[NAMES[index] for index in indices])


@pytest.fixture
def make(tmp_path: Path, words: str) -> Make:
    def make(rows: list[dict[str, Any]], **options: Any) -> LabeledTextDataModule:
        source = write(tmp_path / "rows.jsonl", rows)
        alone = {"validation_fraction": None, "test_split": "train"}
        return LabeledTextDataModule(
            **{"source": source, "tokenizer": words, "batch_size": 2, **alone, **options}
        )

    return make


def test_a_batch_by_hand(make: Make, logged: list[str]) -> None:
    rows = [
        {"text": "w1 w2", "label": "hate"},
        {"text": "w3 w4 w5 w6", "label": "nothate"},
        {"text": " ", "label": "hate"},
        {"text": "w1", "label": None},
    ]
    data = make(rows, max_tokens=3)
    (batch,) = data.test_dataloader()
    assert isinstance(batch, LabeledBatch)
    assert batch.input_ids.tolist() == [[7, 8, 0], [9, 10, 11]]
    assert batch.attention_mask.tolist() == [[True, True, False], [True] * 3]
    assert batch.labels.tolist() == [1, 0]
    assert batch.labels.dtype == torch.long
    assert logged == ["test: 4 rows, 3 with a text, 2 with a label; 1 texts were cut at 3 tokens"]


@pytest.mark.parametrize("name", ["None", "NA", "null", "nan"])
def test_a_class_may_be_named_like_nothing(make: Make, tmp_path: Path, name: str) -> None:
    rows = [{"text": f"w{i}", "label": label} for i, label in enumerate([name, "hate", "", name])]
    source = write(tmp_path / "rows.csv", rows)
    data = make([], source=source, labels=[name, "hate"])
    assert data.rows("train")["label"][:] == [0, 1, 0]
    data = make([], source=source, label_map={name: "nothate"})
    assert data.rows("train")["label"][:] == [0, 1, 0]


@pytest.mark.parametrize("labels", [["0", "1", "1"], ["0", "", "1", "1"]])
def test_labels_in_csv_may_be_numbers(make: Make, tmp_path: Path, labels: list[str]) -> None:
    rows = [{"text": f"w{i}", "label": label} for i, label in enumerate(labels)]
    names = {"0": "nothate", "1": "hate"}
    data = make([], source=write(tmp_path / "rows.csv", rows), label_map=names)
    assert data.rows("train")["label"][:] == [0, 1, 1]


def test_a_classifier_needs_no_eos(make: Make, tmp_path: Path) -> None:
    tokenizer = save_tokenizer(tmp_path / "bare", pad_token="<pad>", unk_token="<unk>")
    data = make(named(0, 1), tokenizer=tokenizer)
    assert data.rows("train")["input_ids"][:] == [[6], [7]]


def test_labels_are_mapped_by_name(make: Make) -> None:
    rows = labeled("hate", "offensive", "neither")
    data = make(rows, label_map={"offensive": "nothate", "neither": "nothate"})
    assert data.rows("train")["label"][:] == [1, 0, 0]
    # by name, whatever the order
    turned = make(labeled("nothate", "hate"), labels=["hate", "nothate"])
    assert turned.rows("train")["label"][:] == [1, 0]


@pytest.mark.parametrize("kind", [int, str])
def test_numbers_go_by_the_map_alone(make: Make, kind: type) -> None:
    rows = labeled(*map(kind, (0, 1, 0)))
    with pytest.raises(InputError, match=r"0, 1 are none of .* --data.label_map, such as {0: noth"):
        make(rows).rows("train")
    with pytest.raises(InputError, match=r"it has the labels 0, 1, but 1 is none of"):
        make(rows, label_map={0: "hate"}).rows("train")
    for zero in ("0", 0):  # YAML makes numbers of them
        data = make(rows, label_map={zero: "hate", "1": "nothate"})
        assert data.rows("train")["label"][:] == [1, 0, 1]
    assert make(rows, labels=["1", "0"]).rows("train")["label"][:] == [1, 0, 1]  # names after all


@pytest.mark.parametrize("labels", [(True, False), (0.0, 1.0)])
def test_what_is_neither_name_nor_whole_number(make: Make, labels: tuple[Any, ...]) -> None:
    with pytest.raises(InputError, match="neither names nor whole numbers; name another or conver"):
        make(labeled(*labels)).rows("train")


@pytest.mark.parametrize(("key", "shown"), [(False, "false"), (True, "true"), (None, "null")])
def test_names_that_yaml_takes_for_something_else(make: Make, key: Any, shown: str) -> None:
    message = (
        rf"label_map=.*: YAML does not read {shown}.* as text; put it in quotes, such as .'{shown}"
    )
    with pytest.raises(InputError, match=message):
        make(labeled("no", "yes"), label_map={key: "hate"})


def test_what_has_no_label_is_none(make: Make) -> None:
    data = make(labeled("None", None, "hate"), label_map={"None": "nothate"})
    assert data.rows("train")["label"][:] == [0, 1]


def with_model(data: LabeledTextDataModule, *labels: str) -> LabeledTextDataModule:
    """The data of a trainer whose model has these labels."""
    data.trainer = fake_trainer(labels=list(labels))
    return data


def test_the_models_names_are_the_datas(make: Make) -> None:
    data = with_model(make(named(0, 1, 0)), "hate", "nothate")
    assert data.rows("train")["label"][:] == [1, 0, 1]
    same = with_model(make(named(0, 1), labels=NAMES), *NAMES)
    assert same.rows("train")["label"][:] == [0, 1]
    other = with_model(make(named(0, 1)), "kind", "rude")
    with pytest.raises(InputError, match=r"none of --model.labels=\['kind', 'rude'\]; say"):
        other.rows("train")
    mapped = with_model(make(named(0), label_map={"nothate": "nice"}), "kind", "rude")
    with pytest.raises(InputError, match=r"nice not in --model.labels=\['kind', 'rude'\]; map to"):
        mapped.rows("train")


@pytest.mark.parametrize("labels", [["hate", "nothate"], ["nothate", "hate", "other"], ["a", "b"]])
def test_names_that_aren_t_the_models_are_refused(make: Make, labels: list[str]) -> None:
    data = with_model(make(named(0, 1), labels=labels), *NAMES)
    with pytest.raises(InputError) as caught:
        data.rows("train")
    assert str(caught.value) == (
        f"--data.labels={labels} are not --model.labels=['nothate', 'hate'], in this order, by "
        "which the classifier's outputs are named: leave --data.labels out, and name all classes "
        "in --model.labels"
    )


def test_a_class_without_a_row(make: Make) -> None:
    data = make(named(0, 1), labels=["nothate", "hate", "other"])
    with pytest.raises(InputError) as caught:
        data.rows("train")
    assert str(caught.value) == (
        f"{data.sources[0]}: none of 2 training rows has the label other of "
        "--data.labels=['nothate', 'hate', 'other']; give rows of every label, or leave it out"
    )
    with pytest.warns(UserWarning, match="test: no row has the label other: F1 and AUROC say"):
        data.rows("test")


def test_a_class_label_goes_by_its_own_names(tmp_path: Path, words: str) -> None:
    kinds = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["hate", "nothate"])}
    )
    rows = datasets.Dataset.from_list(labeled(0, 1, -1), features=kinds)
    rows.to_parquet(tmp_path / "a.parquet")
    data = LabeledTextDataModule(
        str(tmp_path / "a.parquet"), tokenizer=words, validation_fraction=None
    )
    assert data.rows("train")["label"][:] == [1, 0]


def test_unknown_labels_are_listed(make: Make) -> None:
    many = labeled("hate", "neither", "offensive")
    for rows, found, unknown, first in [
        (many, "hate, neither, offensive", "neither, offensive are", "neither"),
        (labeled(0, 2), "0, 2", "0, 2 are", "0"),
        (labeled("hate", "Hate"), "Hate, hate", "Hate is", "Hate"),
    ]:
        data = make(rows, labels=NAMES)
        with pytest.raises(InputError) as caught:
            data.rows("train")
        assert str(caught.value) == (
            f"{data.sources[0]}: it has the labels {found}, but {unknown} none of "
            "--data.labels=['nothate', 'hate']; say what they mean with --data.label_map, such as "
            f"{{{first}: nothate}}"
        )


def test_several_sources_make_one(make: Make, tmp_path: Path, logged: list[str]) -> None:
    first = write(tmp_path / "a.csv", [{"label": "hate", "more": 1, "text": "w1"}])
    folder = tmp_path / "b"
    folder.mkdir()
    write(folder / "train.jsonl", named(0))
    write(folder / "test.jsonl", named(1))
    data = make(named(0), source=[first, str(folder)], test_split="test")
    assert data.rows("train")["input_ids"][:] == [[7], [6]]
    assert data.rows("train")["label"][:] == [1, 0]
    assert data.rows("test")["label"][:] == [1]
    assert logged == [
        "train: 2 rows",
        f"{first} has no split 'test', only train: it gives no rows to this split",
        "test: 1 rows",
    ]


def test_files_that_are_parts_of_the_training_rows_are_listed(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    files = [write(folder / name, named(0, 1)) for name in ("a.jsonl", "b.csv")]
    listed = f"[{files[0]}, {files[1]}]"
    with pytest.raises(InputError) as caught:
        make(named(0), source=str(folder)).rows("train")
    assert str(caught.value) == (
        f"--data.train_split=train: {folder} has no split 'train', only a, b (to train on "
        f"all files: --data.source '{listed}')"
    )
    assert len(make(named(0), source=yaml.safe_load(listed)).rows("train")) == 4
    write(folder / "test.jsonl", named(0))  # then the names may be those of splits
    with pytest.raises(InputError, match=r"only a, b, test$"):
        make(named(0), source=str(folder)).rows("train")


def test_validation_is_a_seeded_share(make: Make, logged: list[str]) -> None:
    rows = named(*[0, 1] * 5)

    def texts(data: LabeledTextDataModule, part: str) -> list[list[int]]:
        return data.rows(part)["input_ids"][:]

    data = make(rows, validation_fraction=0.3, test_split="test", split_seed=7)
    both = datasets.Dataset.from_list(rows).train_test_split(0.3, seed=7)
    assert texts(data, "train") == [[int(text[1:]) + 6] for text in both["train"]["text"]]
    assert texts(data, "validation") == [[int(text[1:]) + 6] for text in both["test"]["text"]]
    assert texts(data, "test") == texts(data, "validation")
    assert logged[2] == (
        f"{data.sources[0]} has no split 'test', only train: the validation rows "
        "(data.validation_fraction) are used to test"
    )
    assert texts(make(rows, validation_fraction=0.3, split_seed=8), "train") != texts(data, "train")


def test_without_validation_there_are_no_batches(make: Make) -> None:
    assert make(named(0, 1)).val_dataloader() == []


def test_training_batches_follow_the_seed(make: Make) -> None:
    rows = named(*[0, 1] * 4)
    drawn = [
        [batch.input_ids.tolist() for batch in make(rows, seed=seed).train_dataloader()]
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    ids = [row for batch in drawn[0] for (row,) in batch]
    assert sorted(ids) == list(range(6, 14))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": ["hate"]}, "--data.labels=['hate']: give two or more different names"),
        ({"labels": ["a", "a"]}, "--data.labels=['a', 'a']: give two or more different names"),
        (
            {"labels": NAMES, "label_map": {"x": "bad"}},
            "--data.label_map={'x': 'bad'}: bad not in --data.labels=['nothate', 'hate']; "
            "map to these",
        ),
    ],
)
def test_nonsense_is_refused_at_once(make: Make, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        make(named(0), **options)
    assert str(caught.value) == message


def test_no_row_left_gives_the_counts(make: Make) -> None:
    data = make([{"text": " ", "label": "hate"}])
    with pytest.raises(InputError) as caught:
        data.rows("train")
    assert str(caught.value) == (
        f"{data.sources[0]}: no row of 'train' is left (1 rows, 0 with a text); give other data"
    )


def test_the_command_line_takes_one_source_or_several() -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(LabeledTextDataModule, "data")
    one = parser.parse_args(["--data.source=a.csv", "--data.labels=[a,b]"])
    assert (one.data.source, list(one.data.labels)) == ("a.csv", ["a", "b"])
    more = parser.parse_args(["--data.source=[a.csv,b.csv]", "--data.label_map={x: hate}"])
    assert (more.data.source, more.data.label_map) == (["a.csv", "b.csv"], {"x": "hate"})


def test_a_checkpoint_of_other_data_is_said(make: Make) -> None:
    module = make(labeled("hate", "nothate"))
    state = module.state_dict()
    module.load_state_dict({**state, "epoch": 3})
    assert module.loaders.epoch == 3
    message = "made on the data a, b; this run goes on with .*rows.jsonl"
    with pytest.warns(UserWarning, match=message):
        module.load_state_dict({**state, "source": "a, b"})
