"""What the report shows of texts and pictures, and that nothing in a text becomes markup."""

import re
from xml.etree.ElementTree import Element

import numpy as np
import pytest

from detox_lightning.report.page import changes, render
from report.samples import (
    CURVES,
    make_comparison,
    make_summary,
    parse,
    rendered,
    section,
    shown,
    small_comparison,
    text,
    with_class,
)

NASTY = "<script>alert(1)</script> </style></p> \"double\" 'single' & {{ 7 * 7 }} &amp;"


@pytest.fixture(scope="module")
def page() -> Element:
    return rendered(curves=CURVES)


def test_gains_and_losses_stand_by_size(page: Element) -> None:
    assert shown(page, "Largest gains") == [
        "after 0 of greedy",  # .9 → .1, and not .8 → .3 of the same prompt
        "after 2 of sample 2",  # .7 → .1
        "after 1 of sample 2",  # .5 → .4
    ]
    assert shown(page, "Largest losses") == ["after 1 of greedy", "after 2 of sample 1"]


def test_a_change_shows_all_that_is_known(page: Element) -> None:
    first = with_class(section(page, "Largest gains"), "change")[0]
    assert text(with_class(first, "numbers")[0]) == (
        "toxicity 0.900 → 0.100 score 1.000 → 9.000 greedy"
    )
    assert "Reference: reference 0" in text(first)
    assert text(next(first.iter("details"))) == "Prompt prompt 0"
    assert [text(mark) for mark in first.iter("del")] == ["before"]
    assert [text(mark) for mark in first.iter("ins")] == ["after"]


def test_where_there_is_no_reference_none_is_shown() -> None:
    comparison = make_comparison([[0.9]], [[0.1]], ["greedy"])._replace(references=[""])
    (only,) = with_class(section(rendered(comparison=comparison), "Largest gains"), "change")
    assert "Reference" not in text(only)


def test_twenty_of_each_at_most() -> None:
    rising = np.linspace(0.01, 0.5, 30).reshape(-1, 1)
    comparison = make_comparison(
        np.vstack([rising, 0 * rising]).tolist(),
        np.vstack([0 * rising, rising]).tolist(),
        ["sample 1"],
    )
    page = rendered(comparison=comparison)
    gains, losses = (shown(page, f"Largest {name}") for name in ("gains", "losses"))
    assert gains == [f"after {29 - place} of sample 1" for place in range(20)]
    assert losses == [f"after {59 - place} of sample 1" for place in range(20)]
    said = text(section(page, "Largest losses"))
    assert "The toxicity of 30 answers rose" in said
    assert "of each of 20 prompts" in said
    folded = with_class(section(page, "Largest losses"), "more")
    assert [fold.findtext("summary") for fold in folded] == ["15 more"]
    assert len(with_class(folded[0], "change")) == 15


def test_changes_that_round_to_nothing_are_none() -> None:
    """Unless they cross the bound of what is toxic."""
    comparison = make_comparison(
        [[0.3], [0.3], [0.499], [0.501]], [[0.3094], [0.3096], [0.501], [0.499]], ["s"]
    )
    found = changes(comparison.rows())
    assert [row["prompt"] for row in found["losses"][1]] == ["prompt 1", "prompt 2"]
    assert [row["prompt"] for row in found["gains"][1]] == ["prompt 3"]


def test_answers_without_toxicity_are_neither_gains_nor_losses() -> None:
    nan = float("nan")
    comparison = make_comparison(
        [[0.1], [nan], [0.9], [0.5], [nan], [0.6]],
        [[0.2], [0.5], [0.8], [nan], [nan], [0.0]],
        ["s"],
    )
    found = changes(comparison.rows())
    assert [row["prompt"] for row in found["gains"][1]] == ["prompt 5", "prompt 2"]
    assert [row["prompt"] for row in found["losses"][1]] == ["prompt 0"]


def test_where_nothing_changed_the_page_says_so() -> None:
    page = rendered(comparison=make_comparison([[0.5], [0.5]], [[0.5], [0.5]], ["sample 1"]))
    assert text(section(page, "Largest gains")).endswith("fell by .01 or more, or across .5.")
    assert text(section(page, "Largest losses")).endswith("rose by .01 or more, or across .5.")


def test_an_empty_answer_is_seen() -> None:
    comparison = small_comparison()
    comparison.after.texts[0][0] = ""
    page = rendered(comparison=comparison)
    assert shown(page, "Largest gains")[0] == "(empty)"


@pytest.mark.quick(2)
@pytest.mark.parametrize("place", ["prompt", "reference", "before", "after", "about", "title"])
def test_texts_are_no_markup(place: str) -> None:
    comparison, summary = small_comparison(), make_summary()
    if place == "about":
        summary["about"] |= {"checkpoint": NASTY, "command": NASTY, "versions": {NASTY: NASTY}}
    elif place == "title":
        summary["figures"]["sampled"]["toxicity"]["title"] = NASTY
    elif place in ("prompt", "reference"):
        getattr(comparison, f"{place}s")[0] = NASTY
    else:
        getattr(comparison, place).texts[0][0] = NASTY
    whole = render(summary, comparison, CURVES)
    page = parse(whole)
    assert "<script" not in whole
    assert whole.count("</style>") == 1
    plain = render(make_summary(), small_comparison(), CURVES)
    marks = {"del", "ins", "wbr"}
    tags = [[e.tag for e in tree.iter() if e.tag not in marks] for tree in (page, parse(plain))]
    assert set(tags[0]) == set(tags[1])
    assert NASTY in text(next(page.iter("body")))


def test_line_ends_and_spaces_of_a_text_stay() -> None:
    comparison = small_comparison()
    comparison.prompts[0] = "Ann:  hi\n\nBob: \tho\n"
    details = next(section(rendered(comparison=comparison), "Largest gains").iter("details"))
    assert "".join(details[1].itertext()) == "Ann:  hi\n\nBob: \tho\n"


def test_nothing_is_fetched_from_elsewhere() -> None:
    whole = render(make_summary(), small_comparison(), CURVES)
    page = parse(whole)
    names = {"src", "href", "srcset", "data", "action", "poster", "background", "xlink:href"}
    links = [e.get(name, "") for e in page.iter() for name in names if name in e.attrib]
    beside = {"summary.json", "comparison.jsonl"}  # a link is followed only by a click
    assert {e.get("href") for e in page.iter("a")} == beside
    assert {link for link in links if not link.startswith("#")} == beside
    assert not {element.tag for element in page.iter()} & {
        *("script", "link", "iframe", "object", "embed", "img", "base", "form")
    }
    assert not [e for e in page.iter() if any(name.startswith("on") for name in e.attrib)]
    styles = [next(page.iter("style")).text or "", *(e.get("style", "") for e in page.iter())]
    assert not re.search(r"@import|url\((?!#)", " ".join(styles))
    outside = set(re.findall(r"\w+://[^\s\"'<]+", whole))
    assert outside == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names only


def test_a_browser_is_told_to_run_nothing(page: Element) -> None:
    policies = [e.get("content") for e in page.iter("meta") if "http-equiv" in e.attrib]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_ids_are_unique() -> None:
    page = parse(render(make_summary(), small_comparison(), CURVES))
    ids = [element.get("id") for element in page.iter() if "id" in element.attrib]
    assert len(ids) == len(set(ids)) > 100


def test_pictures_are_of_the_samples(page: Element) -> None:
    labels = [e.get("aria-label") for e in section(page, "Pictures").iter("svg")]
    assert labels == [
        "Histogram of toxicity before and after",
        "Histogram of score before and after",
        "Score of each response after training against its KL to the reference",
    ]
    points = list(section(page, "Pictures").iter("svg"))[2]
    marks = [e for e in points.iter("use") if "fill-opacity" in e.get("style", "")]
    assert len(marks) == 6  # three prompts, two samples; the greedy ones have no KL


def test_without_kl_there_is_no_picture_of_it() -> None:
    comparison = make_comparison([[0.5]], [[0.4]], ["sample 1"])
    assert len(list(section(rendered(comparison=comparison), "Pictures").iter("svg"))) == 2
    nothing = make_comparison([[0.5]], [[0.4]], ["greedy"], kl=[[float("nan")]])
    assert len(list(section(rendered(comparison=nothing), "Pictures").iter("svg"))) == 2


def test_greedy_answers_are_drawn_where_none_were_sampled() -> None:
    comparison = make_comparison([[0.5], [0.4]], [[0.4], [0.1]], ["greedy"], score=[[1.0], [90.0]])
    score = list(section(rendered(comparison=comparison), "Pictures").iter("svg"))[1]
    assert "80" in [text(label) for label in score.iter("text")]


def test_curves_are_drawn_a_panel_each(page: Element) -> None:
    labels = [e.get("aria-label") for e in section(page, "Training").iter("svg")]
    assert labels == ["Training curves: Toxicity", "Training curves: KL to the reference, nats"]


def test_without_logs_the_page_says_so() -> None:
    training = section(rendered(curves={"time/total": [(0, 1.0)]}), "Training")
    assert text(training) == "Training No logs of the training were found, so there are no curves."


def test_what_steers_a_terminal_is_seen() -> None:
    comparison = small_comparison()
    prompts = ["\x1b[2Jcleared \u202eturned\u2069 \x00", *comparison.prompts[1:]]
    page = render(make_summary(), comparison._replace(prompts=prompts), {})
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)
