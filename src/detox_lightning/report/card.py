"""A model card: what a folder holds, where it comes from, and its last figures.

Names come from paths, flags and other people's data. They are escaped, so that none of them becomes
Markdown or controls a terminal.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from detox_lightning.errors import visible
from detox_lightning.report.page import counted, template
from detox_lightning.report.tables import with_interval

TASKS = {
    "AutoModelForSeq2SeqLM": "summarization",
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForSequenceClassification": "text-classification",
}
MAX_NEW_TOKENS = 128  # of an answer, where the training names no number
INVISIBLE = re.compile("[\u00ad\u061c\u180e\u200b\u200e\u200f\u2060-\u2064]")
# characters that have a meaning in Markdown
MARKUP = re.compile(r"[`*\[\]<|~]|\\(?=[^\w\s])|&(?=#|\w+;)|(?<!\w)_|_(?!\w)")


class CardFacts(NamedTuple):
    """What a card says.

    Attributes:
        name: Name of the folder.
        kind: ``adapter``, ``model`` or ``classifier``.
        auto_class: Class that opens it: ``AutoModelForSeq2SeqLM``, …
        base: Name of the model that training began from.
        data: Names of the data, if they are known.
        prompt: How a text becomes a prompt: ``template`` and ``chat``; empty: the text is one.
        about: Further facts by name: stage, reward, command, versions, …
        hyper_parameters: Hyper-parameters by name.
        metrics: Metrics of the last validation, by name.
        tested: ``summary.json`` of the last test; None: there was none.
    """

    name: str
    kind: str
    auto_class: str
    base: str
    data: list[str]
    prompt: dict[str, Any]
    about: dict[str, Any]
    hyper_parameters: dict[str, Any]
    metrics: dict[str, float]
    tested: dict[str, Any] | None


def model_card(facts: CardFacts) -> str:
    """Returns the card as Markdown, with the hub's metadata in front."""
    from huggingface_hub import ModelCardData

    task = TASKS[facts.auto_class]
    metadata = ModelCardData(
        base_model=facts.base if _is_public(facts.base) else None,
        datasets=[name for name in facts.data if _is_public(name)] or None,
        library_name="peft" if facts.kind == "adapter" else "transformers",
        pipeline_tag=task,
        tags=["detox_lightning", *(["lora"] if facts.kind == "adapter" else [])],
    )
    origin = {"base": facts.base, "data": ", ".join(facts.data) or "unknown", **facts.about}
    group, figures = next(iter(facts.tested["figures"].items())) if facts.tested else ("", {})
    fill = template("card.md", as_block, as_code, cell, counted, with_interval)
    return fill(
        facts=facts,
        task=task,
        metadata=metadata.to_yaml(),
        prompt_template=_literal(facts.prompt.get("template", "")),
        max_new_tokens=facts.about.get("max_new_tokens", MAX_NEW_TOKENS),
        model=facts.auto_class.removeprefix("Auto"),
        command=origin.pop("command", None),
        origin=origin,
        group=group,
        figures=figures,
    )


def last_test(run: Path, checkpoint: Path) -> dict[str, Any] | None:
    """Returns the newest ``summary.json`` of a test of a checkpoint in a run's folder, or None."""
    found = sorted(run.glob("test*/summary.json"), key=lambda path: path.stat().st_mtime)
    for file in reversed(found):
        summary: dict[str, Any] = json.loads(file.read_text(encoding="utf8"))
        tested = summary["about"]["checkpoint"]
        # otherwise another checkpoint took its name after the test
        is_older = checkpoint.stat().st_mtime <= file.stat().st_mtime
        if tested and is_older and Path(tested).resolve() == checkpoint.resolve():
            return summary
    return None


def _is_public(name: str) -> bool:
    """Whether a name can be a hub id, and is neither a folder nor the demo's."""
    return bool(re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", name)) and not Path(name).exists()


def cell(value: Any) -> str:
    """Returns a value for a cell of a Markdown table; a mapping becomes ``name value, …``."""
    if isinstance(value, dict):
        return ", ".join(f"{cell(name)} {cell(x)}" for name, x in value.items())
    return as_markdown(f"{value:.4g}" if isinstance(value, float) else str(value))


def _visible_name(text: str) -> str:
    """Returns a name on one line, with invisible characters escaped."""
    text = INVISIBLE.sub(lambda found: found[0].encode("unicode_escape").decode(), visible(text))
    return " ".join(text.split())


def _literal(text: str) -> str:
    """Returns a text as a string of Python code."""
    return json.dumps(text, ensure_ascii=False)


def as_markdown(text: str) -> str:
    """Escapes a name for Markdown: it becomes no link, emphasis, code, cell or tag."""
    return MARKUP.sub(lambda found: f"&#{ord(found[0])};", _visible_name(text))


def as_code(text: str) -> str:
    """Returns a name as a code span in Markdown, which no character of the name can end."""
    text = _visible_name(text)
    fence = _fence(text, 1)
    room = " " if "`" in text else ""
    return f"{fence}{room}{text}{room}{fence}"


def as_block(text: str, language: str) -> str:
    """Returns lines as a code block in Markdown, which no line of them can end."""
    fence = _fence(text, 3)
    return f"{fence}{language}\n{visible(text)}\n{fence}"


def _fence(text: str, shortest: int) -> str:
    longest = max(map(len, re.findall("`+", text)), default=0)
    return "`" * max(shortest, longest + 1)
