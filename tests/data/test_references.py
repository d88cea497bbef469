"""Rows without an answer of people's: who can do without it, and what is said of them."""

from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from command import run, tiny_recipe
from detox_lightning.data.continuation import ContinuationDataModule
from detox_lightning.errors import InputError
from detox_lightning.ppo.module import PPOModule
from detox_lightning.rewards import ClassifierReward, LengthReward, RougeReward, WeightedReward
from detox_lightning.stages.supervised import SupervisedModule
from toys import make_trainer, pairs_loader

from .conftest import CHAT, Make, fake_trainer, save_tokenizer, write

ROWS = [
    {"dialogue": "w1", "summary": "w5", "clean": "w6"},
    {"dialogue": "w2", "summary": " ", "clean": "w7"},
    {"dialogue": "w3", "summary": "w8", "clean": None},
    {"dialogue": None, "summary": "w9", "clean": "w9"},
]


@pytest.mark.parametrize(
    ("needs", "references", "said"),
    [
        ((), ["w6", "w7", ""], "4 rows, 3 with a dialogue; 1 without a reference"),
        (
            ("summary",),
            ["w6", ""],
            "4 rows, 3 with a dialogue, 2 with a summary; 1 without a reference",
        ),
        (("reference",), ["w6", "w7"], "4 rows, 3 with a dialogue, 2 with a reference"),
    ],
)
def test_rows_stay_that_have_what_is_needed(
    make: Make, logged: list[str], needs: tuple[str, ...], references: list[str], said: str
) -> None:
    data = make(rows=ROWS, reference_column="clean", test_fraction=None)
    data.trainer = fake_trainer(needs=needs)
    assert data.rows("train")["reference"][:] == references
    (line,) = logged
    assert line.startswith(f"train: {said}")
    assert line.endswith("which ROUGE leaves out") == ("" in references)


def test_who_needs_what() -> None:
    needing, other = RougeReward(), LengthReward(1, 2)
    assert SupervisedModule.needs == ("summary",)
    assert (needing.needs, other.needs, ClassifierReward("c").needs) == (("reference",), (), ())
    both = WeightedReward([other, needing], [1, 1])
    assert both.needs == ("reference",)
    assert WeightedReward([other], [1]).needs == ()


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.parquet"])
@pytest.mark.parametrize("nothing", [None, ""])
def test_a_column_without_texts(make: Make, tmp_path: Path, name: str, nothing: str | None) -> None:
    source = write(tmp_path / name, [{"dialogue": "w1", "summary": nothing}] * 2)
    data = make(source=source, test_fraction=None)
    assert data.rows("train")["reference"][:] == ["", ""]
    assert data.rows("train")["target_ids"][:] == [[1], [1]]
    data = make(source=source, test_fraction=None)
    data.trainer = fake_trainer(needs=("summary",))
    with pytest.raises(InputError) as caught:
        data.rows("train")
    assert str(caught.value) in (
        f"{source}: no row of 'train' is left (2 rows, 0 with a summary): each needs text in its "
        "column 'summary'; fill it in, or name another column with --data.summary_column",
        f"--data.summary_column=summary: in {source} this column holds nothing but null, not "
        "text; its text columns are dialogue",
    )


def test_continuations_that_a_reward_compares_with(
    tmp_path: Path, words: str, logged: list[str]
) -> None:
    columns = {"prompt_column": "p", "continuation_column": "c", "tokenizer": words}
    shares = {"validation_fraction": None, "test_fraction": None}
    source = write(tmp_path / "a.jsonl", [{"p": "w1", "c": "w2"}, {"p": "w3", "c": None}])
    data = ContinuationDataModule(source, **columns, **shares)
    assert data.rows("train")["reference"][:] == ["w2", ""]
    data = ContinuationDataModule(source, **columns, **shares)
    data.trainer = fake_trainer(needs=("reference",))
    assert data.rows("train")["reference"][:] == ["w2"]
    assert logged == ["train: 2 rows", "train: 2 rows, 1 with a reference"]
    data = ContinuationDataModule(source, **(columns | {"continuation_column": None}), **shares)
    data.trainer = fake_trainer(needs=("reference",))
    with pytest.raises(InputError) as caught:
        data.rows("train")
    assert str(caught.value) == (
        f"{source}: the reward compares with people's continuations, and no row has one (2 rows, 0 "
        "with a reference); name their column with --data.continuation_column, give "
        "--data.prompt_share, or take another reward"
    )


def test_a_chat_template_longer_than_prompts_is_named(tmp_path: Path) -> None:
    folder = save_tokenizer(tmp_path / "chatty", eos_token="</s>", chat_template=CHAT)
    source = write(tmp_path / "a.jsonl", [{"p": "w1"}])
    options = {"prompt_column": "p", "chat_template": True, "max_prompt_tokens": 3}
    with pytest.raises(InputError) as caught:
        ContinuationDataModule(source, folder, **options).rows("train")
    assert str(caught.value) == (
        "--data.max_prompt_tokens=3: the chat template alone has 4; raise it"
    )


def test_rouge_of_the_supervised_stage_leaves_them_out(
    tiny_t5: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SupervisedModule, "summarize", lambda *_: ["Ann is sad"] * 8)
    module, trainer = SupervisedModule(tiny_t5), make_trainer(tmp_path)
    (batch,) = pairs_loader(8)

    def validated(references: list[str]) -> dict[str, float]:
        loader = DataLoader([batch._replace(references=references)], batch_size=None)
        (figures,) = trainer.validate(module, loader, verbose=False)
        return dict(figures)

    shared = validated([*["Ann is sad"] * 2, *["Bob"] * 6])
    assert shared["val/rougeL"] == 0.25
    assert validated([*["Ann is sad"] * 2, *[" "] * 6])["val/rougeL"] == 1
    assert validated([""] * 8) == {"val/loss": shared["val/loss"]}


def test_a_policy_learns_without_summaries(
    tmp_path: Path,
    tiny_t5: str,
    tiny_classifier: str,
    logged: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = tiny_recipe(tmp_path, tiny_t5, tiny_classifier)
    for split in ("train", "validation"):
        rows = [{"dialogue": f"Ann : sad and late {i}", "summary": None} for i in range(8)]
        write(tmp_path / f"{split}.jsonl", rows)
    outcome = run("fit", "--config", recipe, "--trainer.limit_train_batches=1")
    assert outcome.code == 0, outcome.err
    assert "train: 8 rows, 8 with characters <= 1000; 8 without a reference" in "".join(logged)


def test_the_policy_s_module_asks_its_reward(tiny_t5: str, tiny_classifier: str) -> None:
    reward = WeightedReward([ClassifierReward(tiny_classifier), RougeReward()], [1, 1])
    assert PPOModule(tiny_t5, reward).needs == ("reference",)
    assert PPOModule(tiny_t5, ClassifierReward(tiny_classifier)).needs == ()
