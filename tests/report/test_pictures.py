"""What is drawn, and that it can stand in a page."""

import re
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch

from detox_lightning.evaluation.agreement import agreement
from detox_lightning.report.curves import PANELS, present_panels
from detox_lightning.report.pictures import (
    AFTER,
    BEFORE,
    INK,
    MAX_POINTS,
    curves_picture,
    effects_picture,
    has_effects,
    histogram,
    reliability_picture,
    score_against_kl,
    svg,
)

CURVES = {
    "objective/kl": [(0, 0.0), (1, 0.5), (2, float("nan"))],
    "val/kl": [(0, 0.0), (2, 1.5)],
    "val/toxicity": [(0, 0.4)],
    "time/total": [(0, 3.0)],
}
KL = "KL to the reference, nats"
SPACE = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"


def steps(figure: Figure) -> dict[str, list[float]]:
    """Counts of the outlines, by their names in the legend."""
    patches = [patch for patch in figure.axes[0].patches if isinstance(patch, StepPatch)]
    outlines = [patch for patch in patches if not patch.get_label().startswith("_")]
    return {patch.get_label(): patch.get_data().values.tolist() for patch in outlines}


def edges(figure: Figure) -> list[float]:
    return figure.axes[0].patches[0].get_data().edges.tolist()


def points(figure: Figure) -> list[list[float]]:
    return figure.axes[0].lines[0].get_xydata().tolist()


def test_reliability_has_a_point_for_each_bin() -> None:
    found = agreement(np.array([0.1, 0.3, 0.32, 0.9]), np.array([0.0, 0.2, 0.6, 1.0]))
    figure = reliability_picture({"toxicity": found, "insult": found})
    assert [axes.get_title("left") for axes in figure.axes] == ["toxicity", "insult"]
    equal, drawn = figure.axes[1].lines
    assert equal.get_xydata().tolist() == [[0, 0], [1, 1]]
    assert np.allclose(drawn.get_xydata(), [[0.1, 0], [0.31, 0.4], [0.9, 1]])
    (areas,) = figure.axes[1].collections
    assert areas.get_sizes().tolist() == [75, 150, 75]


def ids(root: Element) -> set[str]:
    return {element.get("id", "") for element in root.iter()} - {""}


VALUES = np.linspace(0, 1, 12).reshape(4, 3)
PICTURES = {
    "histogram": lambda: histogram(VALUES, VALUES**2, "toxicity", (0, 1)),
    "points": lambda: score_against_kl(VALUES, 3 - VALUES),
    "curves": lambda: curves_picture(CURVES),
    "panel": lambda: curves_picture(CURVES, [KL]),
}


@pytest.fixture(params=PICTURES)
def figure(request: pytest.FixtureRequest) -> Figure:
    return PICTURES[request.param]()


def test_bins_are_common_and_hold_all_values() -> None:
    before, after = np.array([[0.0, 0.01], [1.0, 0.5]]), np.array([[0.0, 0.0], [0.03, np.nan]])
    figure = histogram(before, after, "toxicity", (0, 1))
    counts = steps(figure)
    assert counts["before"] == [2.0, *[0.0] * 11, 1.0, *[0.0] * 11, 1.0]
    assert counts["after"] == [3.0, *[0.0] * 24]
    assert edges(figure) == pytest.approx(np.linspace(0, 1, 26).tolist())


def test_without_limits_bins_span_both_sides() -> None:
    figure = histogram(np.array([[-3.0]]), np.array([[7.0]]), "score")
    assert (edges(figure)[0], edges(figure)[-1]) == (-3, 7)
    assert (steps(figure)["before"][0], steps(figure)["after"][-1]) == (1, 1)


@pytest.mark.parametrize("values", [[2.0], [2.0, 2.0 + 1e-15]])
def test_alike_values_have_a_histogram(values: list[float]) -> None:
    figure = histogram(np.array([values]), np.array([values]), "score")
    assert (edges(figure)[0], edges(figure)[-1]) == pytest.approx((1.5, 2.5))
    assert sum(steps(figure)["after"]) == len(values)


def test_a_probability_a_hair_above_one_is_counted() -> None:
    figure = histogram(np.array([[1 + 1e-7]]), np.array([[-1e-9]]), "toxicity", (0, 1))
    assert (steps(figure)["before"][-1], steps(figure)["after"][0]) == (1, 1)


def test_sides_differ_in_more_than_colour() -> None:
    figure = histogram(np.zeros((1, 1)), np.ones((1, 1)), "toxicity")
    lines = {patch.get_label(): patch.get_linestyle() for patch in figure.axes[0].patches}
    assert (lines["before"], lines["after"]) == ("--", "-")


def test_a_point_for_each_response_that_has_both() -> None:
    kl = np.array([[np.nan, 1.0], [2.0, 3.0]])
    score = np.array([[5.0, 6.0], [np.nan, 8.0]])
    assert points(score_against_kl(kl, score)) == [[1, 6], [3, 8]]


def test_of_many_responses_some_are_drawn_from_all_parts() -> None:
    values = np.arange(2.5 * MAX_POINTS).reshape(-1, 1)
    drawn = points(score_against_kl(values, values))
    assert drawn == [[value, value] for value in range(0, 2500, 3)]


def test_panels_are_those_with_data() -> None:
    assert present_panels(CURVES) == ["Toxicity", KL]
    assert present_panels({"val/score": []}) == []
    axes = curves_picture(CURVES).axes
    assert [panel.get_title(loc="left") for panel in axes] == ["Toxicity", KL]
    rollouts, validation = axes[1].lines
    assert rollouts.get_xydata()[:2].tolist() == [[0, 0], [1, 0.5]]
    assert validation.get_xydata().tolist() == [[0, 0], [2, 1.5]]


def test_panels_stand_in_rows() -> None:
    curves = {panel.fixed: [(0, 1.0)] for panel in PANELS.values()}
    rows = [axes.get_subplotspec().rowspan.start for axes in curves_picture(curves).axes]
    assert rows == [0, 0, 0, 1, 1, 1]


def test_one_legend_names_each_kind_of_line_once() -> None:
    (legend,) = curves_picture(CURVES).legends
    assert [text.get_text() for text in legend.get_texts()] == ["validation", "each rollout"]
    assert curves_picture(CURVES, [KL]).legends == []


def test_two_validations_are_points_and_no_line() -> None:
    [two], [three] = (
        curves_picture({"val/toxicity": [(i, 0.5) for i in range(n)]}).axes[0].get_lines()
        for n in (2, 3)
    )
    assert (two.get_linewidth(), two.get_marker()) == (0, "o")
    assert three.get_linewidth() > 0


def effect(title: str, *ends: float | None) -> dict[str, Any]:
    part = None if not ends else dict(zip(("value", "low", "high"), ends, strict=True))
    return {"title": title, "improvement": part}


def test_effects_are_intervals_one_below_the_other() -> None:
    figures = {
        "a": effect("Toxicity, mean", 0.75, 0.5, 1.0),
        "b": effect("Length, tokens"),
        "c": effect("ROUGE-L", 0.5, None, None),
        "d": effect("Expected maximum toxicity, second classifier", -0.25, -0.5, 0.25),
    }
    axes = effects_picture(figures).axes[0]
    drawn = [np.ravel(line.get_xdata()).tolist() for line in axes.get_lines()]
    assert drawn[:4] == [[50, 100], [75], [-50, 25], [-25]]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "Toxicity, mean",
        "Expected maximum toxicity,\nsecond classifier",
    ]
    assert has_effects(figures)
    assert not has_effects({name: figures[name] for name in "bc"})


def test_nothing_to_draw_is_said() -> None:
    with pytest.raises(ValueError, match="no panel has data"):
        curves_picture({"time/total": [(0, 3.0)]})


def test_matplotlib_s_settings_stay(figure: Figure) -> None:
    before = dict(matplotlib.rcParamsDefault)
    svg(figure)
    changed = {name for name, value in matplotlib.rcParams.items() if value != before[name]}
    assert not changed & {"text.color", "svg.fonttype", "font.size", "axes.grid"}


def test_svg_takes_on_the_page_s_colours(figure: Figure) -> None:
    drawn = svg(figure)
    assert INK not in drawn
    assert "currentColor" in drawn
    assert set(re.findall(r"#[0-9a-f]{6}\b", drawn)) <= {BEFORE, AFTER}
    assert drawn.count(AFTER) == drawn.count(f"var(--after, {AFTER})") > 0
    assert drawn.count(BEFORE) == drawn.count(f"var(--before, {BEFORE})")


def test_svg_is_an_element_for_a_page(figure: Figure) -> None:
    drawn = svg(figure)
    assert drawn.startswith("<svg ")
    root = ElementTree.fromstring(drawn)
    assert (root.get("role"), root.get("aria-label")) == ("img", figure.get_label())
    assert figure.get_label()
    tags = {element.tag.removeprefix(SPACE) for element in root.iter()}
    assert "text" in tags
    assert not tags & {"style", "script", "metadata", "title", "image"}
    assert "rollout" in drawn or "toxicity" in drawn or "score after" in drawn


def test_background_is_the_page_s(figure: Figure) -> None:
    root = ElementTree.fromstring(svg(figure))
    backgrounds = [e for e in root.iter() if "-patch_1" in e.get("id", "")]
    assert [path.get("style") for group in backgrounds for path in group] == ["fill: none"]


@pytest.mark.parametrize("name", PICTURES)
def test_the_same_numbers_give_the_same_text(name: str) -> None:
    assert svg(PICTURES[name]()) == svg(PICTURES[name]())


def test_references_lead_to_the_picture_s_own_ids(figure: Figure) -> None:
    root = ElementTree.fromstring(svg(figure))
    values = [value for element in root.iter() for value in element.attrib.values()]
    clips = {id for value in values for id in re.findall(r"url\(#([^)]*)\)", value)}
    links = {link.removeprefix("#") for e in root.iter() if (link := e.get(LINK))}
    assert clips
    assert links
    assert clips | links <= ids(root)


def test_pictures_share_no_ids() -> None:
    panels = [ElementTree.fromstring(svg(curves_picture(CURVES, [title]))) for title in PANELS]
    known = [ids(root) for root in panels]
    assert len(set.union(*known)) == sum(map(len, known))
