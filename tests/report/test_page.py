"""What stands in the report: headline, costs, facts and figures."""

from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
import pytest

from detox_lightning.evaluation.statistics import FIGURES
from detox_lightning.report.page import in_words, number, percent, render, verdict
from detox_lightning.report.report_files import short_table
from report.samples import (
    CURVES,
    estimate,
    make_comparison,
    make_summary,
    rendered,
    section,
    shown,
    small_comparison,
    table,
    text,
    toxicity,
    with_class,
)


@pytest.fixture(scope="module")
def page() -> Element:
    return rendered(curves=CURVES)


def test_sections_stand_in_order(page: Element) -> None:
    assert [text(heading) for heading in page.iter("h2")] == [
        "What it cost",
        "Largest gains",
        "Largest losses",
        "Random answers",
        "Figures",
        "Pictures",
        "Training",
        "What was compared",
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


def test_the_result_stands_in_a_sentence() -> None:
    share = toxicity(n=40, before=estimate(0.5), after=estimate(0.125))
    length = toxicity(before=estimate(30.0), after=estimate(28.0))
    figures = {"toxicity": toxicity(), "toxicity_probability": share, "length": length}
    header = next(rendered(make_summary(sampled=figures)).iter("header"))
    assert text(with_class(header, "lead")[0]) == (
        "20 of 40 prompts had a toxic response before training, and 5 after it; "
        "the mean length in tokens went from 30.0 to 28.0."
    )


@pytest.mark.parametrize(
    ("before", "after", "end"),
    [
        (
            9,
            0,
            ", and 0 after it: too few toxic texts to tell whether training changed their number.",
        ),
        (10, 0, ", and 0 after it."),
        (0, 10, ", and 10 after it."),
    ],
)
def test_few_toxic_texts_are_too_few(before: int, after: int, end: str) -> None:
    share = {"n": 400, "before": estimate(before / 400), "after": estimate(after / 400)}
    told = in_words({"toxicity_probability": share})
    assert told == f"{before} of 400 prompts had a toxic response before training{end}"


def test_the_title_names_the_run() -> None:
    summary = make_summary()
    summary["about"]["checkpoint"] = "/x/runs/demo/version_3/checkpoints/last.ckpt"
    page = rendered(summary)
    assert page.findtext("head/title") == "demo/version_3: Toxicity before and after training"
    assert text(next(page.iter("header"))[0]) == "demo/version_3"


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
        (-0.2, -0.1, "−0.200 to −0.100, excludes zero: by this measure the policy is less toxic"),
        # no more than what is shown decides
        (-0.1, -0.0001, "−0.100 to 0.000, includes zero"),
        (None, None, "There is no interval"),
        (float("nan"), 1.0, "There is no interval"),
    ],
)
def test_the_verdict_follows_the_interval(low: Any, high: Any, expected: str) -> None:
    assert expected in verdict(toxicity(low, high), "95 %")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.1, 0.1, "includes zero: these prompts don’t show that the score changed."),
        (0.1, 0.2, "by this measure the policy scores higher than the reference."),
        (-0.2, -0.1, "by this measure the policy scores lower than the reference."),
    ],
)
def test_the_verdict_on_a_score(low: float, high: float, expected: str) -> None:
    entry = toxicity(low, high, better="higher")
    assert verdict(entry, "95 %").endswith(expected)
    assert verdict({**entry, "changed": 9}, "95 %").startswith("The score changed at 9 of 3")


def test_where_toxicity_is_not_measured_the_page_is_about_the_score() -> None:
    comparison = small_comparison()
    for side in (comparison.before, comparison.after):
        del side.figures["toxicity"]
    score = toxicity(0.1, 0.2, title="Score, mean", better="higher")
    page = rendered(make_summary(sampled={"score": score}), comparison)
    assert page.findtext("head/title") == "Score before and after training"
    header = text(next(page.iter("header")))
    assert "difference −0.300 +0.100 to +0.200" in header
    assert "scores higher" in header
    assert "improvement" not in header
    gains = text(section(page, "Largest gains"))
    assert "The score of 4 answers rose by .01 or more; the largest" in gains
    assert "The score of 2 answers fell" in text(section(page, "Largest losses"))
    assert "toxic" not in text(page).lower().replace("detox", "")


def test_few_changes_are_too_few_whatever_the_interval() -> None:
    entry = {**toxicity(-0.2, -0.1), "n": 400, "changed": 9}
    assert verdict(entry, "95 %") == (
        "Toxicity changed at 9 of 400 prompts: too few to tell whether it is chance."
    )
    assert "excludes zero" in verdict({**entry, "changed": 10}, "95 %")


def test_a_figure_without_difference_has_no_verdict_on_it() -> None:
    assert "There is no interval" in verdict(toxicity(difference=None), "95 %")


def test_costs_are_what_should_not_change(page: Element) -> None:
    tiles = [text(tile) for tile in with_class(page, "tiles")[0]]
    assert tiles == [
        "ROUGE-L 0.643 → 0.662 difference +0.019 (−0.002 to +0.041)",
        "KL to the reference, nats 1,234.5",
    ]


def test_a_cost_without_difference_has_its_own_interval() -> None:
    summary = make_summary()
    summary["figures"]["sampled"]["kl"]["after"] = estimate(1.178, 0.939, 1.445)
    tile = with_class(rendered(summary), "tiles")[0][1]
    assert text(tile) == "KL to the reference, nats 1.178 0.939 to 1.445"


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


def test_a_path_breaks_behind_its_folders_only() -> None:
    summary = make_summary()
    summary["about"] |= {"checkpoint": "runs/demo/last.ckpt", "command": "test --data.source a/b"}
    whole = render(summary, small_comparison(), {})
    assert "<dd>runs/<wbr>demo/<wbr>last.ckpt</dd>" in whole.replace("\n", "")
    assert "<span>a/<wbr>b</span>" in whole.replace("\n", "")


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


def test_a_term_is_explained_without_a_mouse(page: Element) -> None:
    """A click, a tap and a key unfold ``details``; a ``title`` needs a mouse."""
    terms = with_class(page, "term")
    assert {term.tag for term in terms} == {"details"}
    names = [text(term[0]) for term in terms]
    kl = "KL to the reference, nats"
    assert names == ["ROUGE-L", kl, "Toxicity, mean", "ROUGE-L", kl]  # tiles, and a table
    meaning = "How far the policy has moved from the reference. 1 nat is 1.44 bits."
    assert text(terms[1][1]) == text(terms[4][1]) == meaning
    assert not [element for element in page.iter() if element.get("title")]


def test_every_figure_is_explained() -> None:
    every = {name: toxicity(title=figure.title) for name, figure in FIGURES.items()}
    terms = with_class(section(rendered(make_summary(sampled=every)), "Figures"), "term")
    meanings = {text(term[0]): text(term[1]) for term in terms}
    assert set(meanings) == {figure.title for figure in FIGURES.values()}
    assert meanings["Toxicity, second classifier"] == meanings["Toxicity, mean"]
    assert len(set(meanings.values())) == len(FIGURES) - 3  # those of the second classifier
    assert all(meaning.endswith(".") for meaning in meanings.values())


def test_only_intervals_without_zero_are_bold(page: Element) -> None:
    assert [text(cell) for cell in with_class(page, "certain")] == ["−0.300 −0.350 to −0.250"]


def test_greedy_responses_have_a_table_of_their_own() -> None:
    greedy = {"toxicity": toxicity(title="Greedy toxicity")}
    summary = make_summary(sampled={"toxicity": toxicity()}, greedy=greedy)
    captions = [text(caption) for caption in rendered(summary).iter("caption")]
    assert captions == ["Sampled responses", "Greedy responses"]


def test_rare_figures_and_greedy_ones_are_folded() -> None:
    sampled = {"toxicity": toxicity(), "rouge1": toxicity(title="ROUGE-1")}
    page = rendered(make_summary(sampled=sampled, greedy={"rouge1": toxicity(title="ROUGE-1")}))
    figures = section(page, "Figures")
    assert [row[0].split(" lower")[0] for row in table(page)] == ["", "Toxicity, mean"]
    folds = [part for part in figures if part.tag == "details"]
    folded = {text(fold[0]): text(next(fold.iter("tbody"))) for fold in folds}
    assert list(folded) == ["Sampled responses: more figures", "Greedy responses"]
    assert all(rows.startswith("ROUGE-1 lower is better 3 ") for rows in folded.values())


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


def test_one_prompt_is_not_many() -> None:
    summary = make_summary(sampled={"toxicity": toxicity(n=1)})
    assert "Sampled responses, 1 prompt." in text(next(rendered(summary).iter("header")))
    for prompts, start in ((1, "1 prompt, 2 sampled each"), (12, "12 prompts, 2 sampled each")):
        summary["about"] |= {"prompts": prompts, "samples": 2, "confidence": 0.95}
        assert short_table(summary).startswith(f"{start}; 95% intervals")


@pytest.mark.parametrize(
    ("group", "samples", "titles"),
    [
        ("sampled", 2, ["Toxicity, mean", "Expected maximum toxicity"]),
        ("sampled", 1, ["Toxicity, mean"]),
        ("greedy", 0, ["Toxicity, mean"]),
    ],
)
def test_a_maximum_of_one_response_is_not_told_twice(
    group: str, samples: int, titles: list[str]
) -> None:
    most = toxicity(title="Expected maximum toxicity")
    summary = make_summary(**{group: {"toxicity": toxicity(), "expected_max_toxicity": most}})
    summary["about"] |= {"prompts": 3, "samples": samples, "confidence": 0.95}
    head, _, *rows = short_table(summary).splitlines()
    assert head.split()[-3:] == ["before", "after", "improvement"]
    assert [row.partition("  ")[0] for row in rows[: rows.index("")]] == titles


def test_the_terminal_says_what_the_report_says() -> None:
    share = toxicity(n=40, before=estimate(0.5), after=estimate(0.125))
    summary = make_summary(sampled={"toxicity": toxicity(), "toxicity_probability": share})
    summary["about"] |= {"prompts": 40, "samples": 2, "confidence": 0.95}
    assert short_table(summary).splitlines()[-3:] == [
        "",
        "20 of 40 prompts had a toxic response before training, and 5 after it.",
        "The 95% interval of the difference, −0.350 to −0.250, excludes zero: by this measure the "
        "policy is less toxic than the reference.",
    ]
    summary["figures"]["sampled"]["toxicity"] |= {"n": 40, "changed": 9}
    assert short_table(summary).endswith(
        "\nToxicity changed at 9 of 40 prompts: too few to tell whether it is chance."
    )
