"""How well a policy rewrites, beside baselines: a table of the measures."""

from collections.abc import Mapping
from typing import Any

from detox_lightning.report.tables import UNKNOWN, aligned

BASELINES = {
    "copy": "the text as it is",
    "delete": "without the listed words",
    "before": "before training",
    "after": "after training",
    "people": "people's rewriting",
}
TITLES = {"sta": "STA", "sim": "SIM", "fl": "FL", "j": "J", "chrf": "chrF"}
Estimate = Mapping[str, float | None]


def rewriting_rows(
    summary: Mapping[str, Any], figures: Mapping[str, Any]
) -> list[tuple[str, dict[str, Estimate | None]]]:
    """Returns a row for each baseline and for the policy, with estimates by the measure's title.

    Args:
        summary: See :func:`summarize_baselines`, under ``rewriting``; may be missing or None.
        figures: The policy's; see :func:`summarize`.
    """
    if not (found := summary.get("rewriting")):
        return []
    measures = [name for name in TITLES if name in figures]
    sides = {side: {name: figures[name][side] for name in measures} for side in ("before", "after")}
    systems = {**found["baselines"], **sides}
    return [
        (title, {TITLES[name]: systems[key].get(name) for name in measures})
        for key, title in BASELINES.items()
        if key in systems and measures
    ]


def rewriting_table(summary: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    """Returns these rows for the terminal, without intervals, which the report has."""
    rows = rewriting_rows(summary, figures)
    shown = [
        (title, *(f"{x['value']:.3f}" if x else UNKNOWN for x in cells.values()))
        for title, cells in rows
    ]
    return "\n".join(aligned([("Rewriting", *rows[0][1]), *shown])) if rows else ""
