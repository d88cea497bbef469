"""Model cards: names out of paths, flags and data stay names."""

import ast
import re
from typing import Any

import pytest

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
        about,
        {name: name},
        {name: 0.5},
        None,
    )._replace(**more)


def outside_code(card: str) -> str:
    """A card's Markdown without its header, blocks and spans of code."""
    body = card.split("\n---\n", 1)[1]
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


def test_a_folder_s_name_is_a_string_of_the_code() -> None:
    name = 'x"); import os; os.system("touch owned'
    [code] = re.findall(r"^```python\n(.*?)\n```$", model_card(facts(name)), re.DOTALL | re.M)
    call = ast.parse(code).body[-1]
    assert len(ast.parse(code).body) == 2
    assert [node.value for node in ast.walk(call) if isinstance(node, ast.Constant)] == [name]


def test_code_is_not_ended_by_what_is_in_it() -> None:
    assert as_code("a`b``c") == "``` a`b``c ```"
    assert as_block("a\n````\nb", "text") == "`````text\na\n````\nb\n`````"
