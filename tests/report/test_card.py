"""Model cards: names out of paths, flags and data stay names."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from conftest import word_tokenizer
from detox_lightning.errors import visible
from detox_lightning.report.card import CardFacts, as_block, as_code, as_markdown, model_card

HOSTILE = {
    "[x](javascript:alert(1))": "&#91;x&#93;(javascript:alert(1))",
    "![x](http://h/spy.png)": "!&#91;x&#93;(http://h/spy.png)",
    "<script>": "&#60;script>",
    "`code`": "&#96;code&#96;",
    "a|b": "a&#124;b",
    "**loud** _so_ ~~gone~~": "&#42;&#42;loud&#42;&#42; &#95;so&#95; &#126;&#126;gone&#126;&#126;",
    "&lt;b&gt; &#91;": "&#38;lt;b&#38;gt; &#38;#91;",
    r"\[x](y)": "&#92;&#91;x&#93;(y)",
    "model\u202egpj.exe": r"model\u202egpj.exe",
    "a\u200eb\u2066c\u061c": r"a\u200eb\u2066c\u061c",
    "\x1b[2Jx": r"\x1b&#91;2Jx",
    "two\nlines\u2028three": r"two lines\u2028three",
}
PLAIN = ["google/flan-t5_base", "C:\\Users\\me", "a & b", "Мия", "می‌خواهم", "max_new_tokens"]


def facts(name: str, **more: Any) -> CardFacts:
    about = {
        "stage": "PPOModule",
        "reward": name,
        "command": f"python -m x --model.policy '{name}'",
    }
    return CardFacts(
        name,
        "adapter",
        "AutoModelForSeq2SeqLM",
        name,
        [name],
        {"template": f"{name} {{dialogue}}"},
        about,
        {name: name},
        {name: 0.5},
        None,
    )._replace(**more)


def use(card: str) -> str:
    """A card's Python."""
    [code] = re.findall(r"^```python\n(.*?)\n```$", card, re.DOTALL | re.MULTILINE)
    return code


def outside_code(card: str) -> str:
    """A card's Markdown without its header, blocks and spans of code."""
    body = card.split("\n---\n", 1)[1]
    body = re.sub(r"^</?(details|summary)>.*$", "", body, flags=re.MULTILINE)
    body = re.sub(r"^(`{3,})\w+\n.*?\n\1$", "", body, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", body)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_shown_as_it_is(name: str) -> None:
    assert as_markdown(name) == HOSTILE[name]
    card = model_card(facts(name))
    assert card.count(HOSTILE[name]) >= 5
    text = outside_code(card)
    assert not re.search(r"\]\(|<|`|\*\*|[\x00-\x09\x0b-\x1f\u2028-\u202e\u2066-\u2069]", text)


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_name_stays_so(name: str) -> None:
    assert as_markdown(name) == visible(name) == name
    assert as_code(name) == f"`{name}`"


def test_the_command_can_be_copied() -> None:
    command = "python -m detox_lightning fit --x 'a<b' --y \"[1, 2]\" --z '```\n# so'"
    card = model_card(facts("x", about={"stage": "PPOModule", "command": command}))
    assert f"\n````bash\n{command}\n````\n" in card
    assert "| command |" not in card
    assert "&lt;" not in card


def test_a_template_is_a_string_of_the_code() -> None:
    name = 'x"); import os; os.system("touch owned'
    code = ast.parse(use(model_card(facts(name))))
    assigned = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in code.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    }
    assert assigned["folder"] == "."
    assert assigned["template"] == f"{name} {{dialogue}}"
    assert [ast.unparse(node) for node in code.body if isinstance(node, ast.Import)] == []
    assert [ast.unparse(node)[:6] for node in code.body if isinstance(node, ast.Expr)] == ["print("]


@pytest.mark.parametrize("template", ["", 'Say "so"\\n:\n{dialogue}\n\u202e'])
@pytest.mark.parametrize("chat", [False, True])
def test_use_continues_as_in_training(
    template: str, chat: bool, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 128, "vocab_size": 200}
    model = GPT2LMHeadModel(GPT2Config(**sizes, eos_token_id=None))
    model.generation_config.suppress_tokens = [0, 1, 2]  # what decoding leaves out
    model.save_pretrained(tmp_path / "model")
    tokenizer = word_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}Ann : {{ m.content }} Bob :{% endfor %}"
    tokenizer.save_pretrained(tmp_path / "model")
    card = model_card(
        facts(
            "model", kind="model", auto_class="AutoModelForCausalLM", about={"max_new_tokens": 5}
        )._replace(prompt={"template": template, "chat": chat})
    )
    monkeypatch.chdir(tmp_path / "model")
    names: dict[str, Any] = {}
    exec(use(card), names)
    prompt = template.replace("{dialogue}", names.get("dialogue", "")) or "I think that you"
    assert names["prompt"] == prompt
    text = f"Ann : {prompt} Bob :" if chat else prompt
    ids = tokenizer(text, add_special_tokens=not chat)["input_ids"]
    assert names["inputs"]["input_ids"].tolist() == [ids]
    assert len(names["output"]) == 5
    assert capsys.readouterr().out.strip() == tokenizer.decode(names["output"])


def test_use_of_a_classifier_classifies(
    tiny_classifier: str, monkeypatch: Any, capsys: Any
) -> None:
    folder = Path(tiny_classifier)
    card = model_card(
        facts(folder.name, kind="classifier", auto_class="AutoModelForSequenceClassification")
    )
    monkeypatch.chdir(folder)
    exec(use(card), {})
    [found] = ast.literal_eval(capsys.readouterr().out)
    assert found["label"] in ("nothate", "hate")


def test_hyper_parameters_are_folded() -> None:
    card = model_card(facts("x", hyper_parameters={"kl.coef": 0.2, "seed": 1}))
    folded = card.partition("<details>\n")[2].partition("</details>")[0]
    assert " ".join(folded.split()) == (
        "<summary>2 values</summary> | | | |---|---| | kl.coef | 0.2 | | seed | 1 |"
    )


def test_code_is_not_ended_by_what_is_in_it() -> None:
    assert as_code("a`b``c") == "``` a`b``c ```"
    assert as_block("a\n````\nb", "text") == "`````text\na\n````\nb\n`````"
