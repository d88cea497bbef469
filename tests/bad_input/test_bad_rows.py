"""Files that can be read, and rows or flags of theirs that can't be used."""

import pytest

from bad_input.cases import Case, Place, check
from bad_input.spoiling import lines, parquet, put

GIVEN = ("--data.source={folder}/in.jsonl", "--data.validation_split=null")
TABLE = ("--data.source={folder}/in.parquet", "--data.validation_split=null")


def dialogue(*values: object) -> str:
    return lines(*({"dialogue": value, "summary": "a b"} for value in values))


CASES = [
    Case(
        "a line break in a column's name",
        GIVEN,
        "--data.dialogue_column=dialogue, --data.summary_column=summary: {folder}/in.jsonl has no "
        "such columns; it has a b; give each flag one of these",
        put("in.jsonl", lines({"a\nb": "c"})),
    ),
    Case(
        "a file of one's own in a recipe with references",
        (*GIVEN, "--data.reference_column=clean"),
        "--data.dialogue_column=dialogue, --data.summary_column=summary, "
        "--data.reference_column=clean: {folder}/in.jsonl has no such columns; it has text, short; "
        "give each flag one of these; --data.reference_column=null takes the summaries",
        put("in.jsonl", lines({"text": "a", "short": "b"})),
    ),
    Case(
        "no references",
        ("--data.reference_column=clean",),
        "--data.reference_column=clean: {folder} has no such column; it has dialogue, summary; "
        "--data.reference_column=null takes the summaries",
    ),
    Case(
        "nearly a dialogue column",
        ("--data.dialogue_column=dialog",),
        "--data.dialogue_column=dialog: {folder} has no such column; it has dialogue, "
        "summary; did you mean dialogue?",
    ),
    Case(
        "nearly a summary column",
        ("--data.summary_column=Summary",),
        "--data.summary_column=Summary: {folder} has no such column; it has dialogue, "
        "summary; did you mean summary?",
    ),
    Case(
        "numbers for text",
        GIVEN,
        "--data.dialogue_column=dialogue: in {folder}/in.jsonl this column holds int64, not "
        "text; its text columns are summary",
        put("in.jsonl", dialogue(1, 2)),
    ),
    Case(
        "lists for text",
        GIVEN,
        "--data.dialogue_column=dialogue: in {folder}/in.jsonl this column holds lists of texts, "
        "not text; its text columns are summary",
        put("in.jsonl", dialogue(["a"], ["b"])),
    ),
    Case(
        "text one level deeper",
        GIVEN,
        "--data.dialogue_column=dialogue: {folder}/in.jsonl has no such column; it has "
        "dialogue.text, summary",
        put("in.jsonl", dialogue({"text": "a"}, {"text": "b"})),
    ),
    Case(
        "nothing but null",
        GIVEN,
        "--data.dialogue_column=dialogue: in {folder}/in.jsonl this column holds nothing but "
        "null, not text; its text columns are summary",
        put("in.jsonl", dialogue(None, None)),
    ),
    Case(
        "texts and numbers",
        GIVEN,
        "--data.dialogue_column=dialogue: in {folder}/in.jsonl this column holds values of "
        "several kinds, not text; its text columns are summary",
        put("in.jsonl", dialogue("a", 1)),
    ),
    Case(
        "bytes for text",
        TABLE,
        "--data.dialogue_column=dialogue: in {folder}/in.parquet this column holds binary, "
        "not text; its text columns are summary",
        parquet("in.parquet", dialogue=[b"a", b"b"], summary=["a", "b"]),
    ),
    Case(
        "blank dialogues",
        GIVEN,
        "{folder}/in.jsonl: no row of 'train' is left (4 rows, 0 with a dialogue): each "
        "needs text in its column 'dialogue'; fill it in, or name another column with "
        "--data.dialogue_column",
        put("in.jsonl", dialogue("", " \n", "\t", None)),
    ),
    Case(
        "no reference for a reward that compares with it",
        (
            *GIVEN,
            "--model.reward=detox_lightning.rewards.RougeReward",
            "--model.evaluation.toxicity_model={classifier}",
        ),
        "{folder}/in.jsonl: no row of 'train' is left (2 rows, 0 with a reference): each needs "
        "text in its column 'summary'; fill it in, or name another column with "
        "--data.reference_column",
        put("in.jsonl", lines(*[{"dialogue": "a", "summary": ""}] * 2)),
    ),
    Case(
        "no row within the one bound there is",
        (*GIVEN, "--data.max_chars=2"),
        "{folder}/in.jsonl: no row of 'train' is left (1 rows, 0 with characters <= 2); change "
        "--data.max_chars, or give other data",
        put("in.jsonl", dialogue("abc")),
    ),
    Case(
        "no row left after the filters",
        (*GIVEN, "--data.min_chars=5", "--data.max_chars=8"),
        "{folder}/in.jsonl: no row of 'train' is left (3 rows, 2 with a dialogue, 0 "
        "with 5 < characters <= 8); change --data.min_chars and --data.max_chars, or give "
        "other data",
        put("in.jsonl", dialogue("", "abc", "a long one")),
    ),
    Case(
        "fewer rows than a batch",
        GIVEN,
        "--data.batch_size=8: the 2 training rows are less than one batch; lower it or give "
        "more rows",
        put("in.jsonl", dialogue("a", "b")),
    ),
    Case(
        "fewer samples than a batch",
        ("--data.num_samples=7",),
        "--data.batch_size=8: the 7 training rows are less than one batch; lower it or give "
        "more rows",
    ),
    Case(
        "a share that takes all",
        (*GIVEN, "--data.test_fraction=0.5"),
        "--data.test_fraction=0.5: no row would be left to train on (1 rows, 1 with "
        "characters <= 1000); give more rows or a smaller share",
        put("in.jsonl", dialogue("a")),
    ),
    Case(
        "a template without a place for the dialogue",
        ("--data.template=Summarize",),
        "--data.template='Summarize': it must contain {dialogue} once",
    ),
    Case(
        "a template with two places for it",
        ("--data.template={dialogue} {dialogue}",),
        "--data.template='{dialogue} {dialogue}': it must contain {dialogue} once",
    ),
    Case(
        "a template that is too long",
        ("--data.max_prompt_tokens=3",),
        "--data.max_prompt_tokens=3: the template alone has 8; raise it",
    ),
    Case(
        "bounds that meet",
        ("--data.min_chars=9", "--data.max_chars=9"),
        "--data.min_chars=9, --data.max_chars=9: no dialogue is longer than the first and no "
        "longer than the second; raise max_chars",
    ),
    Case(
        "a chat template that is not there",
        ("--data.chat_template=true",),
        "--data.tokenizer={policy}: it has no chat template, which lists of messages and "
        "--data.chat_template=true need; name one that has, or give prompts as text",
    ),
    Case(
        "a tokenizer for a larger model",
        ("--data.tokenizer=demo:policy",),
        "--data.tokenizer=demo:policy: it has 1000 tokens, and the model {policy} embeds "
        "200; leave this out, and the model's own is used",
    ),
    Case(
        "a seed below zero",
        ("--data.shuffle_split=true", "--data.test_fraction=0.1", "--data.split_seed=-1"),
        "--data.split_seed=-1: must be a whole number of at least 0",
    ),
    Case(
        "nothing to validate on",
        ("--data.validation_split=null",),
        "--data.validation_split=null: there is nothing to validate on; name a split",
        verb="validate",
    ),
    Case(
        "NaN for text",
        GIVEN,
        "--data.dialogue_column=dialogue: in {folder}/in.jsonl this column holds float64, "
        "not text; its text columns are summary",
        put("in.jsonl", '{"dialogue": NaN, "summary": "b"}\n'),
    ),
]


@pytest.mark.quick(5)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rows_that_can_t_be_used(case: Case, place: Place) -> None:
    check(case, place)
