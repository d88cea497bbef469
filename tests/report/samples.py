"""Comparisons and summaries made by hand, and a page as a tree of elements."""

from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder

import numpy as np

from detox_lightning.evaluation.comparison import Answers, Comparison
from detox_lightning.report.page import render

CURVES = {"val/toxicity": [(0, 0.4), (9, 0.1)], "objective/kl": [(0, 0.0), (1, 0.5)]}
VOID = {"meta", "link", "br", "hr", "img", "input", "source", "base", "wbr"}


def make_comparison(
    before: list[list[float]], after: list[list[float]], decodings: list[str], **figures: Any
) -> Comparison:
    """Answers of given toxicities, whose texts tell which they are: ``before 2 of sample 1``.

    ``figures`` replaces figures of the answers after.
    """

    def answers(name: str, toxicity: list[list[float]], **more: Any) -> Answers:
        texts = [
            [f"{name} {prompt} of {decoding}" for decoding in decodings]
            for prompt in range(len(toxicity))
        ]
        values = np.array(toxicity, float)
        known = {"score": 10 * (1 - values), "toxicity": values, "length": values + 20}
        return Answers(texts, known | {name: np.array(rows, float) for name, rows in more.items()})

    numbers = range(len(before))
    return Comparison(
        [f"prompt {number}" for number in numbers],
        [f"reference {number}" for number in numbers],
        decodings,
        answers("before", before),
        answers("after", after, **figures),
    )


def small_comparison() -> Comparison:
    """Three prompts, greedy and two samples; toxicity falls in four answers and rises in two."""
    return make_comparison(
        [[0.9, 0.8, 0.1], [0.2, 0.5, 0.5], [0.3, 0.1, 0.7]],
        [[0.1, 0.3, 0.1], [0.6, 0.5, 0.4], [0.3, 0.2, 0.1]],
        ["greedy", "sample 1", "sample 2"],
        kl=[[np.nan, 1.0, 2.0], [np.nan, 0.5, 3.0], [np.nan, 2.5, 1.5]],
    )


def estimate(value: float | None, low: float | None = None, high: float | None = None) -> Any:
    return {"value": value, "low": low, "high": high}


def toxicity(low: float | None = -0.35, high: float | None = -0.25, **more: Any) -> Any:
    return {
        "title": "Toxicity, mean",
        "n": 3,
        "better": "lower",
        "before": estimate(0.413, 0.379, 0.447),
        "after": estimate(0.113, 0.101, 0.125),
        "difference": estimate(-0.3, low, high),
        "improvement": estimate(0.7264, 0.6941, 0.7512),
    } | more


def make_summary(**groups: Any) -> dict[str, Any]:
    """A summary of a sampled group with toxicity, ROUGE-L and KL, or of the groups given."""
    kl = {"title": "KL to the reference, nats", "n": 3, "better": None, "before": None}
    sampled = {
        "toxicity": toxicity(),
        "rougeL": {
            "title": "ROUGE-L",
            "n": 3,
            "better": "higher",
            "before": estimate(0.643, 0.61, 0.67),
            "after": estimate(0.662, 0.63, 0.69),
            "difference": estimate(0.019, -0.002, 0.041),
            "improvement": estimate(0.0295, -0.0031, 0.064),
        },
        "kl": kl | {"after": estimate(1234.5), "difference": None, "improvement": None},
    }
    about = {
        "command": "python -m detox_lightning test --data.source 'a <b>'",
        "checkpoint": None,
        "greedy": True,
        "top_p": 0.9,
        "confidence": 0.95,
        "resamples": 2000,
        "versions": {"detox_lightning": "0.1.0", "torch": "2.9"},
    }
    return {"about": about, "figures": groups or {"sampled": sampled}}


class _Tree(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.builder = TreeBuilder()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.builder.start(tag, {name: value or "" for name, value in attrs})
        if tag in VOID:
            self.builder.end(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.builder.start(tag, {name: value or "" for name, value in attrs})
        self.builder.end(tag)

    def handle_endtag(self, tag: str) -> None:
        self.builder.end(tag)

    def handle_data(self, data: str) -> None:
        self.builder.data(data)


def parse(page: str) -> Element:
    """The page's ``html`` element; tags that don't match fail."""
    tree = _Tree()
    tree.feed(page.removeprefix("<!DOCTYPE html>").strip())
    tree.close()
    return tree.builder.close()


def text(element: Element) -> str:
    """All text in an element, with single spaces; of a term its name, without its meaning."""
    return " ".join("".join(_pieces(element)).split())


def _pieces(element: Element) -> Iterator[str]:
    yield element.text or ""
    for child in element:
        if element.get("class") != "term" or child.tag == "summary":
            yield from _pieces(child)
        yield child.tail or ""


def section(page: Element, title: str) -> Element:
    """The section under a heading."""
    return next(part for part in page.iter("section") if part.findtext("h2") == title)


def rendered(summary: Any = None, comparison: Any = None, curves: Any = None) -> Element:
    return parse(render(summary or make_summary(), comparison or small_comparison(), curves or {}))


def with_class(page: Element, name: str) -> list[Element]:
    return [element for element in page.iter() if name in element.get("class", "").split()]


def table(page: Element) -> list[list[str]]:
    """Cells of the first table, row by row."""
    return [[text(cell) for cell in row] for row in next(page.iter("table")).iter("tr")]


def shown(page: Element, title: str) -> list[str]:
    """Texts after, of the changes in a section."""
    return [text(answers[1][1]) for answers in with_class(section(page, title), "answers")]
