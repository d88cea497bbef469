"""What judges and policy make of groups of people: in sentences, and in tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from detox_lightning.errors import visible
from detox_lightning.report.frontier import JUDGES
from detox_lightning.report.tables import aligned, with_interval

MAX_SHOWN = 20  # groups in a table
MAX_NAMED = 8  # groups in a sentence
DIFFERENCE = "minus other groups"
TITLES = {
    "toxicity": "toxicity",
    "second_toxicity": "toxicity, second classifier",
    "perplexity": "perplexity",
    "length": "length, tokens",
}
Estimate = Mapping[str, float | None]
Row = tuple[str, dict[str, Estimate | None]]


def audit_text(audit: Mapping[str, Any]) -> str:
    """Returns what :func:`audit_judges` has found, for the terminal."""
    about = audit["about"]
    left_out = about.get("left_out")
    parts = [
        f"{about['sentences']:,} sentences about {about['groups']} groups of people; "
        f"{about['harmless']:,} are harmless"
        + (f"; {left_out:,} without a group are left out" if left_out else "")
        + f". {about['confidence']:.0%} intervals, wider ones of differences"
    ]
    for name, found in audit["judges"].items():
        rows = audit_rows(found)
        shown = [(row, *_cells(cells)) for row, cells in rows[: MAX_SHOWN + 1]]
        lines = aligned([("", *rows[0][1]), *shown])
        if more := len(rows) - len(shown):
            lines.append(f"… and {more} more")
        head = f"{JUDGES[name].capitalize()}: {found['model']}, label {found['label']}"
        said = false_alarms(name, found, about)
        parts.append("\n".join([f"{head}, {found['identity']}", *lines, "", said]))
        parts += [_worst(found["worst"])] * bool(found["worst"])
    return "\n\n".join([*parts, *_comparisons(audit["judges"])])


def _cells(cells: Mapping[str, Estimate | None]) -> list[str]:
    forms = {DIFFERENCE: "{:+.3f}"}
    return [with_interval(x, forms.get(title, "{:.3f}")) for title, x in cells.items()]


def audit_rows(found: Mapping[str, Any]) -> list[Row]:
    """Returns rows of estimates by title: those of all groups together, then the worst first."""
    alarms, misses = found["false_alarms"], found["misses"]

    def row(alarm: Estimate, difference: Estimate | None, miss: Estimate | None) -> dict[str, Any]:
        cells = {"false alarms": alarm, DIFFERENCE: difference}
        return {**cells, "misses": miss} if misses else cells

    rows = [("all", row(alarms["overall"], None, misses and misses["overall"]))]
    for group, entry in alarms["groups"].items():
        miss = misses and misses["groups"].get(group, {}).get("rate")
        rows.append((group, row(entry["rate"], entry["difference"], miss)))
    return rows


def false_alarms(name: str, found: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """Returns a sentence on the groups of which a judge calls harmless sentences toxic."""
    rates, judge = found["false_alarms"], JUDGES[name].capitalize()
    return (
        _too_few(rates, about)
        or _named(rates, f"{judge} calls harmless sentences toxic more often if they are about")
        or f"{judge} has no more false alarms for one group than for the others, by the margin of "
        f"{100 * about['margin']:g} points."
    )


def identity_words(identity: Mapping[str, Any]) -> str:
    """Returns the findings of a test in sentences."""
    about, answers = identity["audit"]["about"], identity["answers"]
    said = [false_alarms(name, x, about) for name, x in identity["audit"]["judges"].items()]
    rates = answers["shortened"]
    shortened = (
        _too_few(rates, about, "no group's answers", " (model.evaluation.identity_prompts)")
        or _named(rates, "Training shortened answers more often to sentences about")
        or "Training shortened the answers to no group more often than to the others, by the "
        f"margin of {100 * about['margin']:g} points."
    )
    compared = _comparisons(identity["audit"]["judges"], rates)
    return "\n".join([*dict.fromkeys([*said, shortened]), *compared])


def identity_part(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns what the page says of groups; None if nothing is known of them."""
    identity = summary.get("identity")
    if not identity:
        return None
    audit, answers = identity["audit"], identity["answers"]
    tables = [
        (f"{JUDGES[name].capitalize()}: {found['model']}", audit_rows(found))
        for name, found in audit["judges"].items()
    ]
    return {
        "words": identity_words(identity).split("\n"),
        "tables": [*tables, ("Answers", answer_rows(answers))],
        "prompts": answers["prompts"],
        "harmless": audit["about"]["harmless"],
    }


def answer_rows(answers: Mapping[str, Any]) -> list[Row]:
    """Returns rows of estimates of each group's answers, before and after, by title."""
    rows = []
    for group, entry in answers["shortened"]["groups"].items():
        cells: dict[str, Estimate | None] = {"shortened": entry["rate"]}
        for name, title in TITLES.items():
            if name in answers["figures"]:
                change = answers["figures"][name][group]
                cells |= {f"{title}, {side}": change[side] for side in ("before", "after")}
        rows.append((group, cells))
    return rows


def _too_few(
    rates: Mapping[str, Any], about: Mapping[str, Any], what: str = "no group", why: str = ""
) -> str:
    if rates["tested"]:
        return ""
    return f"{what.capitalize()} had {about['min_templates']} templates: too few to compare{why}."


def _comparisons(judges: Mapping[str, Any], *others: Mapping[str, Any]) -> list[str]:
    """Returns a sentence on how many comparisons were made, and what allows for that."""
    found = [*(judge["false_alarms"] for judge in judges.values()), *others]
    rates = max(found, key=lambda each: each["tested"])
    if not rates["tested"]:
        return []
    return [
        f"{rates['tested']} groups were each compared with all others, so the intervals of "
        f"differences are {rates['confidence']:.2%} ones (Bonferroni), from a bootstrap over "
        "templates."
    ]


def _named(rates: Mapping[str, Any], start: str) -> str:
    """Names groups that stand out, the worst first; empty if there are none."""
    named: Sequence[str] = rates["named"]
    shares = {name: 100 * rates["groups"][name]["rate"]["value"] for name in named[:MAX_NAMED]}
    shown = ", ".join(f"{name} ({share:.1f}\xa0%)" for name, share in shares.items())
    more = f" and {len(named) - MAX_NAMED} more" if len(named) > MAX_NAMED else ""
    overall = rates["overall"]["value"]
    return f"{start}: {shown}{more}; of all groups {100 * overall:.1f}\xa0%." if named else ""


def _worst(sentences: Iterable[Mapping[str, Any]]) -> str:
    shown = list(sentences)[:5]
    texts = [visible(" ".join(entry["text"].split())) for entry in shown]
    lines = [f"  {x['toxicity']:.3f}  {text}" for x, text in zip(shown, texts, strict=True)]
    return "\n".join(["The worst false alarms, one of each group:", *lines])
