import io
import json

from detox_lightning.data.text_files import find_deeper


def find(text: str, limit: int = 3) -> int | None:
    return find_deeper(io.BytesIO(text.encode()), limit)


def test_levels_are_counted_outside_of_texts() -> None:
    assert find('[[["[[[["]]]\n[[[1], {"a": 1}]]') is None
    assert find('{"a": 1}\n\n{"a":\n[[{"b": 1}]]}\n') == 4
    for text in ['[[[["', '\\"[[[[', "\\\\", "\\", "\n[[[[", '"\\\\"']:
        line = json.dumps({"a": [{"b": text}]}) + "\n"
        assert find(line * 3) is None
        assert find(line * 3 + "[" * 4) == 4


def test_a_quote_without_an_end_hides_no_other_line() -> None:
    assert find('{"a": "[[[[\n[[[[') == 2
    assert find("]]]]\n[[[[") == 2


def test_nothing_is_no_deep_nesting() -> None:
    assert find("") is None
    assert find("no brackets") is None
