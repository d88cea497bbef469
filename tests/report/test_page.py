"""What stands in the report, in which order, and that nothing in a text becomes markup."""

import re
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
import pytest

from detox_lightning.report.page import changes, number, percent, render, verdict
from report.samples import (
    estimate,
    make_comparison,
    make_summary,
    parse,
    section,
    small_comparison,
    text,
    toxicity,
)

CURVES = {"val/toxicity": [(0, 0.4), (9, 0.1)], "objective/kl": [(0, 0.0), (1, 0.5)]}
NASTY = "<script>alert(1)</script> </style></p> \"double\" 'single' & {{ 7 * 7 }} &amp;"


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


@pytest.fixture(scope="module")
def page() -> Element:
    return rendered(curves=CURVES)


def test_sections_stand_in_order(page: Element) -> None:
    assert [text(heading) for heading in page.iter("h2")] == [
        "What it cost",
        "What was compared",
        "Figures",
        "Pictures",
        "Training",
        "Largest gains",
        "Largest losses",
    ]


def test_the_headline_says_how_much_and_how_sure(page: Element) -> None:
    header = next(page.iter("header"))
    assert text(with_class(header, "headline")[0]) == (
        "before 0.413 0.379 to 0.447 → after 0.113 0.101 to 0.125 "
        "improvement +72.6 % +69.4 % to +75.1 %"
    )
    assert text(with_class(header, "lead")[0]) == (
        "The 95 % interval of the difference, −0.350 to −0.250, excludes zero: "
        "by this measure the policy is less toxic than the reference."
    )
    assert "Sampled responses, 3 prompts." in text(header)


def test_the_headline_has_the_second_classifier() -> None:
    second = toxicity(title="Toxicity, second classifier")
    summary = make_summary(sampled={"toxicity": toxicity(), "second_toxicity": second})
    assert text(next(rendered(summary).iter("header"))).endswith(
        "Toxicity, second classifier: 0.413 → 0.113, difference −0.300 (−0.350 to −0.250)."
    )


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.1, 0.0, "includes zero: these prompts don’t show that toxicity changed."),
        (0.0, 0.0, "includes zero"),
        (-0.1, 0.1, "−0.100 to +0.100, includes zero"),
        (0.1, 0.2, "+0.100 to +0.200, excludes zero: by this measure the policy is more toxic"),
        (-0.1, -0.0001, "−0.100 to −0.000, excludes zero: by this measure the policy is less"),
        (None, None, "There is no interval"),
        (float("nan"), 1.0, "There is no interval"),
    ],
)
def test_the_verdict_follows_the_interval(low: Any, high: Any, expected: str) -> None:
    assert expected in verdict(toxicity(low, high), "95 %")


def test_a_figure_without_difference_has_no_verdict_on_it() -> None:
    assert "There is no interval" in verdict(toxicity(difference=None), "95 %")


def test_costs_are_what_should_not_change(page: Element) -> None:
    tiles = [text(tile) for tile in with_class(page, "tiles")[0]]
    assert tiles == [
        "ROUGE-L 0.643 → 0.662 difference +0.019 (−0.002 to +0.041)",
        "KL to the reference, nats 1,234.5",
    ]


def test_what_was_compared_is_told_in_order(page: Element) -> None:
    facts = with_class(page, "facts")[0]
    assert [(text(fact[0]), text(fact[1])) for fact in facts] == [
        ("command", "python -m detox_lightning test --data.source 'a <b>'"),
        ("checkpoint", "–"),
        ("greedy", "yes"),
        ("top p", "0.9"),
        ("confidence", "0.95"),
        ("resamples", "2000"),
        ("versions", "detox_lightning 0.1.0, torch 2.9"),
    ]
    assert text(next(facts.iter("code"))).startswith("python -m")


def test_nothing_is_known_of_what_was_compared() -> None:
    summary = make_summary() | {"about": {"anything": "goes"}}
    page = rendered(summary)
    assert text(with_class(page, "facts")[0]) == "anything goes"
    assert "its 95 % interval" in text(section(page, "Figures"))


def test_confidence_and_resamples_are_those_of_the_summary() -> None:
    summary = make_summary()
    summary["about"] |= {"confidence": 0.9, "resamples": 9999}
    page = rendered(summary)
    assert "The 90 % interval" in text(with_class(page, "lead")[0])
    assert "its 90 % interval" in text(section(page, "Figures"))
    assert "computed again, 9,999 times." in text(section(page, "Figures"))


def test_the_table_holds_every_figure(page: Element) -> None:
    assert table(page) == [
        ["", "n", "before", "after", "difference", "improvement"],
        [
            *("Toxicity, mean lower is better", "3"),
            *("0.413 0.379 to 0.447", "0.113 0.101 to 0.125"),
            *("−0.300 −0.350 to −0.250", "+72.6 % +69.4 % to +75.1 %"),
        ],
        [
            *("ROUGE-L higher is better", "3"),
            *("0.643 0.610 to 0.670", "0.662 0.630 to 0.690"),
            *("+0.019 −0.002 to +0.041", "+2.9 % −0.3 % to +6.4 %"),
        ],
        ["KL to the reference, nats", "3", "–", "1,234.5", "–", "–"],
    ]


def test_only_intervals_without_zero_are_bold(page: Element) -> None:
    assert [text(cell) for cell in with_class(page, "certain")] == ["−0.300 −0.350 to −0.250"]


def test_greedy_responses_have_a_table_of_their_own() -> None:
    greedy = {"toxicity": toxicity(title="Greedy toxicity")}
    summary = make_summary(sampled={"toxicity": toxicity()}, greedy=greedy)
    captions = [text(caption) for caption in rendered(summary).iter("caption")]
    assert captions == ["Sampled responses", "Greedy responses"]


def test_without_samples_the_headline_is_of_the_greedy_responses() -> None:
    page = rendered(make_summary(greedy={"toxicity": toxicity()}))
    assert "Greedy responses, 3 prompts." in text(next(page.iter("header")))
    assert [text(caption) for caption in page.iter("caption")] == ["Greedy responses"]


def test_without_figures_the_page_says_so() -> None:
    page = rendered(make_summary() | {"figures": {}})
    assert "There are no figures." in text(section(page, "Figures"))
    assert with_class(page, "headline") == []


@pytest.mark.parametrize(
    ("value", "sign", "expected"),
    [
        (0.41249, "", "0.412"),
        (-3.0, "", "−3.000"),
        (28.93, "", "28.9"),
        (12345.67, "", "12,345.7"),
        (0.019, "+", "+0.019"),
        (-0.019, "+", "−0.019"),
        (0.0, "+", "0.000"),
        (-0.0, "", "0.000"),
        (np.float64(0.5), "", "0.500"),
        (None, "", "–"),
        (float("nan"), "+", "–"),
        (float("inf"), "", "–"),
    ],
)
def test_numbers_as_people_read_them(value: Any, sign: str, expected: str) -> None:
    assert number(value, sign) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.4604, "+46.0\xa0%"),
        (-0.13, "−13.0\xa0%"),
        (12.5, "+1,250.0\xa0%"),
        (0.0, "0.0\xa0%"),
        (-0.0, "0.0\xa0%"),
        (None, "–"),
        (float("nan"), "–"),
    ],
)
def test_shares_as_percents(value: Any, expected: str) -> None:
    assert percent(value) == expected


def test_gains_and_losses_stand_by_size(page: Element) -> None:
    assert shown(page, "Largest gains") == [
        "after 0 of greedy",  # .9 → .1
        "after 2 of sample 2",  # .7 → .1
        "after 0 of sample 1",  # .8 → .3
        "after 1 of sample 2",  # .5 → .4
    ]
    assert shown(page, "Largest losses") == ["after 1 of greedy", "after 2 of sample 1"]


def test_a_change_shows_all_that_is_known(page: Element) -> None:
    first = with_class(section(page, "Largest gains"), "change")[0]
    assert text(with_class(first, "numbers")[0]) == (
        "toxicity 0.900 → 0.100 score 1.000 → 9.000 greedy"
    )
    assert "Reference summary: reference 0" in text(first)
    assert text(next(first.iter("details"))) == "Prompt prompt 0"
    assert [text(mark) for mark in first.iter("del")] == ["before"]
    assert [text(mark) for mark in first.iter("ins")] == ["after"]


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
    assert "20 of the 30 answers whose toxicity rose." in text(section(page, "Largest losses"))


def test_answers_without_toxicity_are_neither_gains_nor_losses() -> None:
    nan = float("nan")
    comparison = make_comparison(
        [[0.1], [nan], [0.9], [0.5], [nan], [0.6]],
        [[0.2], [0.5], [0.8], [nan], [nan], [0.0]],
        ["s"],
    )
    found = changes(comparison)
    assert [row["prompt"] for row in found["gains"]] == ["prompt 5", "prompt 2"]
    assert [row["prompt"] for row in found["losses"]] == ["prompt 0"]


def test_where_nothing_changed_the_page_says_so() -> None:
    page = rendered(comparison=make_comparison([[0.5], [0.5]], [[0.5], [0.5]], ["sample 1"]))
    assert text(section(page, "Largest gains")).endswith("No answer became less toxic.")
    assert text(section(page, "Largest losses")).endswith("No answer became more toxic.")


def test_an_empty_answer_is_seen() -> None:
    comparison = small_comparison()
    comparison.after.texts[0][0] = ""
    page = rendered(comparison=comparison)
    assert shown(page, "Largest gains")[0] == "(empty)"


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
    marks = {"del", "ins"}
    tags = [[e.tag for e in tree.iter() if e.tag not in marks] for tree in (page, parse(plain))]
    assert set(tags[0]) == set(tags[1])
    assert NASTY in text(next(page.iter("body")))


def test_line_ends_and_spaces_of_a_text_stay() -> None:
    comparison = small_comparison()
    comparison.prompts[0] = "Ann:  hi\n\nBob: \tho\n"
    details = next(rendered(comparison=comparison).iter("details"))
    assert "".join(details[1].itertext()) == "Ann:  hi\n\nBob: \tho\n"


def test_nothing_is_fetched_from_elsewhere() -> None:
    whole = render(make_summary(), small_comparison(), CURVES)
    page = parse(whole)
    names = {"src", "href", "srcset", "data", "action", "poster", "background", "xlink:href"}
    links = [e.get(name, "") for e in page.iter() for name in names if name in e.attrib]
    assert links
    assert all(link.startswith("#") for link in links)
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


def test_one_prompt_has_numbers_without_intervals() -> None:
    alone = toxicity(
        n=1,
        before=estimate(0.5),
        after=estimate(0.4),
        difference=estimate(-0.1),
        improvement=estimate(None),
    )
    comparison = make_comparison([[0.5]], [[0.4]], ["sample 1"])
    page = rendered(make_summary(sampled={"toxicity": alone}), comparison)
    assert table(page)[1][1:] == ["1", "0.500", "0.400", "−0.100", "–"]
    assert shown(page, "Largest gains") == ["after 0 of sample 1"]
    assert with_class(page, "certain") == []
