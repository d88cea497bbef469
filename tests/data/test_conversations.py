"""TRL's formats: prompts, completions and messages, without the name of any column."""

import json
from pathlib import Path
from typing import Any

import pytest

from detox_lightning.data.continuation import ContinuationDataModule
from detox_lightning.data.dialogue import FIELD, DialogueDataModule
from detox_lightning.data.prompts import PromptDataModule
from detox_lightning.errors import InputError

from .conftest import CHAT, TEMPLATE, Make, fake_trainer, save_tokenizer, write
from .test_jobs import Nothing, trainer

SAY, COLON, SHORT, W1, W2, W3, W4, END = 3, 4, 5, 7, 8, 9, 10, 1


def say(*contents: str, first: str = "user") -> list[dict[str, str]]:
    """Messages of user and assistant in turn; CHAT writes ``Say :`` before each."""
    roles = [first, *("assistant", "user") * 3]
    return [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]


@pytest.fixture(scope="session")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("chatty")
    return save_tokenizer(folder, pad_token="<pad>", eos_token="</s>", chat_template=CHAT)


def columns(data: PromptDataModule, *names: str, split: str = "train") -> list[Any]:
    rows = data.rows(split)
    return [rows[name][:] for name in names]


def default(**options: Any) -> dict[str, Any]:
    """The options of a recipe, which suit dialogues, and would suit no row here."""
    return {"min_chars": 200, "max_chars": 1000, "reference_column": "clean", **options}


def test_a_prompt_is_used_as_it_is(make: Make, logged: list[str]) -> None:
    data = make(rows=[{"prompt": "w1 w2"}, {"prompt": " "}], **default(test_fraction=None))
    assert columns(data, "prompt", "prompt_ids", "reference", "cut") == [
        ["w1 w2"],
        [[W1, W2]],
        [""],
        [False],
    ]
    assert data.template == FIELD  # for the model card
    source = data.sources[0]
    assert f"{source}: the prompts have TRL's format, and are used as they are" in logged


def test_a_completion_is_what_to_learn_and_to_compare_with(make: Make) -> None:
    rows = [{"prompt": "w1", "completion": "w2 w3"}, {"prompt": "w2", "completion": None}]
    data = make(rows=rows, **default(test_fraction=None))
    data.trainer = fake_trainer(needs=("summary",))
    found = columns(data, "prompt", "prompt_ids", "target_ids", "reference")
    assert found == [["w1"], [[W1]], [[W2, W3, END]], ["w2 w3"]]


def test_columns_of_ones_own_count_first(make: Make) -> None:
    rows = [{"prompt": "w1", "completion": "w2", "dialogue": "w3", "summary": "w4"}]
    data = make(rows=rows, test_fraction=None)
    assert columns(data, "prompt", "reference") == [["Say : w3 Short :"], ["w4"]]
    named = make(
        rows=rows, test_fraction=None, dialogue_column="prompt", summary_column="completion"
    )
    assert columns(named, "prompt", "reference") == [["Say : w1 Short :"], ["w2"]]
    clean = [{"prompt": "w1", "completion": "w2", "clean": "w3"}]
    kept = make(rows=clean, **default(test_fraction=None))
    assert columns(kept, "prompt", "reference", "target_ids") == [["w1"], ["w3"], [[W2, END]]]


def test_a_conversation_goes_through_the_chat_template(
    make: Make, chatty: str, logged: list[str]
) -> None:
    rows = [
        {"prompt": say("w1"), "completion": say("w2", first="assistant")},
        {"prompt": say("w1", "w2", "w3"), "completion": say("w4", first="assistant")},
    ]
    data = make(rows=rows, tokenizer=chatty, **default(test_fraction=None))
    assert columns(data, "prompt", "prompt_ids", "target_ids", "reference") == [
        ["w1", "user: w1\nassistant: w2\nuser: w3"],
        [
            [SAY, COLON, W1, SHORT, COLON],
            [SAY, COLON, W1, SAY, COLON, W2, SAY, COLON, W3, SHORT, COLON],
        ],
        [[W2, END], [W4, END]],
        ["w2", "w4"],
    ]
    assert data.chat_template  # for the model card
    assert logged[0].endswith("and are used in the tokenizer's chat template")


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_the_last_message_of_the_assistant_is_the_target(
    make: Make, chatty: str, tmp_path: Path, kind: str
) -> None:
    rows = [
        {"messages": [{"role": "system", "content": "w3"}, *say("w1", "w2")]},
        {"messages": say("w1", "w2", "w3")},  # answers nothing
    ]
    source = write(tmp_path / f"talks.{kind}", rows)
    options = {"source": source, "tokenizer": chatty, "test_fraction": None}
    data = make(**default(**options))
    system = [SAY, COLON, W3, SAY, COLON, W1, SHORT, COLON]
    whole = [SAY, COLON, W1, SAY, COLON, W2, SAY, COLON, W3, SHORT, COLON]
    assert columns(data, "prompt_ids", "reference") == [[system, whole], ["w2", ""]]
    data = make(**default(**options))
    data.trainer = fake_trainer(needs=("summary",))
    assert columns(data, "prompt_ids", "target_ids") == [[system], [[W2, END]]]


def test_prompts_to_continue_come_in_the_same_formats(chatty: str, tmp_path: Path) -> None:
    whole = {"test_fraction": None, "validation_fraction": None, "tokenizer": chatty}
    plain = write(tmp_path / "plain.jsonl", [{"prompt": "w1", "completion": "w2"}])
    data = ContinuationDataModule(plain, **whole)
    assert columns(data, "prompt_ids", "reference") == [[[W1]], ["w2"]]
    talks = write(tmp_path / "talks.jsonl", [{"prompt": say("w1", "w2", "w3")}])
    data = ContinuationDataModule(talks, max_prompt_tokens=8, long_prompts="cut", **whole)
    assert columns(data, "prompt_ids", "cut") == [[[SAY, COLON, W3, SHORT, COLON]], [True]]
    data = ContinuationDataModule(talks, prompt_share=0.5, **whole)
    assert "are not divided" in failure(data)


def test_a_long_prompt_loses_its_beginning(make: Make, logged: list[str]) -> None:
    rows = [{"prompt": "w1 w2 w3 w4"}, {"prompt": "w1"}]
    data = make(rows=rows, **default(test_fraction=None, max_prompt_tokens=2))
    assert columns(data, "prompt_ids", "prompt", "cut") == [
        [[W3, W4], [W1]],
        [" w3 w4", "w1"],
        [True, False],
    ]
    assert "; 1 dialogues were cut to prompts of 2 tokens; " in logged[-1]


@pytest.mark.parametrize(
    ("room", "kept"),
    [
        (16, ["w3", "w1", "w2", "w1 w2 w4"]),
        (15, ["w3", "w1 w2 w4"]),  # an answer without its question is left out, too
        (10, ["w3", "w1 w2 w4"]),
        (9, ["w3", " w2 w4"]),
        (8, ["w3", " w4"]),
    ],
)
def test_a_long_conversation_keeps_the_system_message_and_the_newest_words(
    make: Make, chatty: str, room: int, kept: list[str]
) -> None:
    messages = [{"role": "system", "content": "w3"}, *say("w1", "w2", "w1 w2 w4")]
    options = {"tokenizer": chatty, "test_fraction": None, "max_prompt_tokens": room}
    data = make(rows=[{"prompt": messages}], **default(**options))
    roles = ["system", "user", "assistant", "user"]
    pairs = zip(roles if len(kept) == 4 else roles[::3], kept, strict=True)
    assert columns(data, "prompt", "cut") == [
        ["\n".join(f"{role}: {content}" for role, content in pairs)],
        [room < 16],
    ]
    (ids,) = columns(data, "prompt_ids")[0]
    assert len(ids) <= room
    assert ids[-3:] == [W4, SHORT, COLON]


def test_predictions_are_asked_for_in_the_same_formats(
    make: Make, chatty: str, tmp_path: Path
) -> None:
    talks = write(tmp_path / "talks.jsonl", [{"prompt": say("w1", "w2", "w3")}, {"prompt": "w4"}])
    asked = predicted(make(tokenizer=chatty, predict_source=talks))
    assert asked == [
        "user: w1\nassistant: w2\nuser: w3",
        "w4",
    ]
    plain = write(tmp_path / "plain.parquet", [{"prompt": "w1"}, {"prompt": "w2"}])
    assert predicted(make(predict_source=plain)) == ["w1", "w2"]


@pytest.mark.parametrize(
    ("rows", "expected", "chats"),
    [
        ([{"prompt": "w1"}], "w3 w4", False),
        ([{"prompt": say("w1")}], "w3 w4", True),
        ([{"dialogue": "w1", "summary": "w2"}], "Say : w3 w4 Short :", False),
    ],
)
def test_lines_of_text_are_answered_as_in_training(
    make: Make, chatty: str, tmp_path: Path, rows: list[Any], expected: str, chats: bool
) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("w3 w4\n")
    data = make(rows=rows, tokenizer=chatty, predict_source=str(lines))
    assert predicted(data) == [expected]
    assert data.chat_template == chats


def predicted(data: DialogueDataModule) -> list[str]:
    module = Nothing()
    trainer().predict(module, data)
    return module.seen["predict"]


def failure(data: PromptDataModule) -> str:
    with pytest.raises(InputError) as caught:
        data.rows("train")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"prompt": []},
            "'prompt' is an empty list; give messages with role and content, or remove",
        ),
        ({"messages": []}, "'messages' is an empty list"),
        ({"messages": say("w1", first="assistant")}, "'prompt' is an empty list"),
        ({"prompt": 3}, "'prompt' is neither text nor a list of messages"),
        (
            {"prompt": [{"role": "human", "content": "w1"}]},
            "message 1 of 'prompt' is {'role': 'human', 'content': 'w1'}; give it a role (system, "
            "user, assistant) and a text as content",
        ),
        (
            {"prompt": [{"role": "user", "content": ["w1"]}]},
            "message 1 of 'prompt' is {'role': 'user', 'content': ['w1']}; give it a role",
        ),
        ({"prompt": ["w1"]}, "message 1 of 'prompt' is 'w1'; give it a role"),
        (
            {"prompt": say("w1", "w2")},
            "its prompt ends with the role 'assistant'; end it with user",
        ),
        (
            {"prompt": say("w1"), "completion": say("w2")},
            "its completion must be one message of the role assistant",
        ),
    ],
)
def test_what_is_no_conversation_is_named_with_its_row(
    make: Make, chatty: str, tmp_path: Path, row: Any, message: str
) -> None:
    first = dict.fromkeys(row)
    data = make(rows=[first, row], tokenizer=chatty, test_fraction=None)
    assert failure(data).startswith(f"{data.sources[0]}: row 2: {message}")
    asked = tmp_path / "asked.jsonl"
    asked.write_text(json.dumps({"prompt": "w1"}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(InputError) as caught:
        predicted(make(tokenizer=chatty, predict_source=str(asked)))
    assert str(caught.value).startswith(f"--data.predict_source={asked}: line 2: {message}")


def test_a_tokenizer_must_have_a_chat_template_and_take_the_roles(
    make: Make, words: str, tmp_path: Path
) -> None:
    rows = [{"prompt": [{"role": "system", "content": "w1"}, *say("w2")]}]
    data = make(rows=rows, test_fraction=None)
    assert failure(data) == (
        f"--data.tokenizer={words}: it has no chat template, which lists of messages and "
        "--data.chat_template=true need; name one that has, or give prompts as text"
    )
    strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    folder = save_tokenizer(tmp_path / "strict", eos_token="</s>", chat_template=strict + CHAT)
    assert failure(make(rows=rows, tokenizer=folder, test_fraction=None)) == (
        f"--data.source: the chat template of {folder} refuses the prompt "
        r"'system: w1\nuser: w2' (no system); change its messages"
    )


def test_a_system_message_without_room_is_named(make: Make, chatty: str) -> None:
    rows = [{"prompt": [{"role": "system", "content": "w1 w2 w3"}, *say("w4")]}]
    data = make(rows=rows, tokenizer=chatty, test_fraction=None, max_prompt_tokens=7)
    assert failure(data) == (
        "--data.max_prompt_tokens=7: the chat template and the system message 'w1 w2 w3' leave no "
        "room; raise it"
    )


def test_answers_that_are_needed_and_not_there_are_named(make: Make) -> None:
    data = make(rows=[{"prompt": "w1"}], test_fraction=None)
    data.trainer = fake_trainer(needs=("summary",))
    assert failure(data) == (
        f"{data.sources[0]}: no row of 'train' is left (1 rows, 0 with a summary): each needs text "
        "in its column 'completion'; fill it in, or name another column with --data.summary_column"
    )


def test_the_template_of_dialogues_is_unchanged(make: Make) -> None:
    assert make().template == TEMPLATE
