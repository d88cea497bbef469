"""Prompts that can't be gone on from."""

from pathlib import Path

import pytest
import yaml

from bad_input.cases import Case, Place, check
from bad_input.spoiling import lines, put


def prompts(*toxicities: object) -> str:
    return lines(
        *(
            {
                "prompt": {"text": f"Ann is w{i}", "toxicity": toxicity},
                "continuation": {"text": "sad"},
            }
            for i, toxicity in enumerate(toxicities)
        )
    )


def prepare(place: Place) -> Place:
    path = place.folder / "prompts.yaml"
    put("prompts.jsonl", prompts(*[i / 40 for i in range(40)]))(place)
    config = yaml.safe_load(Path(place.recipe).read_text())
    data = {"source": str(place.folder / "prompts.jsonl"), "batch_size": 8}
    config["data"] = {"class_path": "ContinuationDataModule", "init_args": data}
    path.write_text(yaml.safe_dump(config))
    return place._replace(recipe=str(path))


GIVEN = ("--data.source={folder}/in.jsonl",)
CASES = [
    Case(
        "no prompts",
        GIVEN,
        "--data.prompt_column=prompt.text: {folder}/in.jsonl has no such column; it has text",
        put("in.jsonl", lines({"text": "a"})),
    ),
    Case(
        "neither prompts nor scores",
        (*GIVEN, "--data.min_toxicity=0.5"),
        "--data.prompt_column=prompt.text, --data.min_toxicity=0.5, "
        "--data.toxicity_column=prompt.toxicity: {folder}/in.jsonl has no such columns; it has "
        "text; give each flag one of these",
        put("in.jsonl", lines({"text": "a"})),
    ),
    Case(
        "a column around the prompts",
        ("--data.prompt_column=prompt",),
        "--data.prompt_column=prompt: {folder}/prompts.jsonl has no such column; it has "
        "prompt.text, prompt.toxicity, continuation.text",
    ),
    Case(
        "no scores",
        (*GIVEN, "--data.min_toxicity=0.5"),
        "--data.min_toxicity=0.5, --data.toxicity_column=prompt.toxicity: {folder}/in.jsonl "
        "has no such column; it has prompt.text",
        put("in.jsonl", lines({"prompt": {"text": "a"}})),
    ),
    Case(
        "words for scores",
        (*GIVEN, "--data.min_toxicity=0.5"),
        "--data.min_toxicity=0.5, --data.toxicity_column=prompt.toxicity: in "
        "{folder}/in.jsonl this column holds string, not numbers; name another or convert it",
        put("in.jsonl", prompts("0.1", "high")),
    ),
    Case(
        "scores in percent",
        (*GIVEN, "--data.min_toxicity=0.5"),
        "--data.min_toxicity=0.5, --data.toxicity_column=prompt.toxicity: in "
        "{folder}/in.jsonl this column has the value 5 in row 2, which is not from 0 to 1; "
        "name another or convert it",
        put("in.jsonl", prompts(*range(0, 100, 5))),
    ),
    Case(
        "scores below zero",
        (*GIVEN, "--data.min_toxicity=0.5"),
        "--data.min_toxicity=0.5, --data.toxicity_column=prompt.toxicity: in "
        "{folder}/in.jsonl this column has the value -0.5 in row 1, which is not from 0 to 1; "
        "name another or convert it",
        put("in.jsonl", prompts(*[-0.5, 0.7] * 20)),
    ),
    Case(
        "scores that are all null",
        (*GIVEN, "--data.min_toxicity=0.5"),
        "--data.min_toxicity=0.5, --data.toxicity_column=prompt.toxicity: in "
        "{folder}/in.jsonl this column holds nothing but null, not numbers; name another or "
        "convert it",
        put("in.jsonl", prompts(*[None] * 9)),
    ),
    Case(
        "no prompt so toxic",
        ("--data.min_toxicity=0.99",),
        "{folder}/prompts.jsonl: no row is left for train (40 rows, 0 with a toxicity of at "
        "least 0.99, 0 drawn for train); change --data.min_toxicity, "
        "--data.max_prompt_tokens or the shares, or give other data",
    ),
    Case(
        "no prompt so short",
        ("--data.max_prompt_tokens=2",),
        "{folder}/prompts.jsonl: no row is left for train (40 rows, 0 with prompts of 1 to 2 "
        "tokens, 0 drawn for train); change --data.min_toxicity, --data.max_prompt_tokens or "
        "the shares, or give other data",
    ),
    Case(
        "no room for a character",
        ("--data.max_prompt_tokens=1", "--data.long_prompts=cut"),
        "--data.max_prompt_tokens=1: a single character has 2, with what the tokenizer and "
        "its chat template add; raise it",
    ),
    Case(
        "shares that take all",
        ("--data.test_fraction=0.5", "--data.validation_fraction=0.5"),
        "--data.test_fraction=0.5, --data.validation_fraction=0.5: these shares leave "
        "nothing to train on; lower them",
    ),
    Case(
        "a share of no prompt",
        ("--data.test_fraction=0.001",),
        "{folder}/prompts.jsonl: no row is left for test (40 rows, 0 drawn for test); change "
        "--data.min_toxicity, --data.max_prompt_tokens or the shares, or give other data",
        verb="test",
    ),
    Case(
        "no share to test on",
        ("--data.test_fraction=null",),
        "--data.test_split=null, --data.test_fraction=null: there are no such rows; name a "
        "split or give a share",
        verb="test",
    ),
    Case(
        "words alone, of which a share is to be the prompt",
        (*GIVEN, "--data.prompt_share=0.5"),
        "{folder}/in.jsonl: no row is left for train (9 rows, 0 with prompts of 1 to 64 "
        "tokens, 0 drawn for train); change --data.min_toxicity, --data.max_prompt_tokens or "
        "the shares, or give other data",
        put("in.jsonl", lines(*[{"prompt": {"text": "one"}}] * 9)),
    ),
    Case(
        "fewer prompts than a batch",
        ("--data.batch_size=40", "--model.mini_batch_size=40"),
        "--data.batch_size=40: the 32 training rows are less than one batch; lower it or "
        "give more rows",
    ),
    Case(
        "one of two sources that has no prompts",
        ('--data.source=["{folder}/prompts.jsonl", "{folder}/in.jsonl"]',),
        "--data.prompt_column=prompt.text: {folder}/in.jsonl has no such column; it has text",
        put("in.jsonl", lines({"text": "a"})),
    ),
    Case(
        "no sources",
        ("--data.source=[]",),
        "--data.source=[]: a name is missing; give a hub id, demo:NAME, a folder or a file",
    ),
    Case(
        "lists for continuations",
        (*GIVEN, "--data.prompt_column=p", "--data.continuation_column=c"),
        "--data.continuation_column=c: in {folder}/in.jsonl this column holds lists of texts, "
        "not text; its text columns are p",
        put("in.jsonl", lines(*[{"p": "a", "c": ["a"]}] * 9)),
    ),
    Case(
        "nothing but null",
        (*GIVEN, "--data.prompt_column=p"),
        "--data.prompt_column=p: in {folder}/in.jsonl this column holds nothing but null, "
        "not text; it has no text columns",
        put("in.jsonl", lines(*[{"p": None, "c": ["a"]}] * 9)),
    ),
]


@pytest.mark.quick(4)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_prompts_that_can_t_be_gone_on_from(case: Case, place: Place) -> None:
    check(case, prepare(place))
