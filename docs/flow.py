"""Draws a PPO step and the folders of the package: ``python docs/flow.py`` writes both pictures.

The colours are legible on light and on dark pages.
"""

from html import escape
from pathlib import Path

PICTURES = Path(__file__).parent / "pictures"
WIDTH = 1000
DATA, MODEL, WORK = "#5b6b7a", "#8a5a9e", "#00796b"
LINE = "#7a8694"
Point = tuple[int, int]


def box(x: int, y: int, width: int, height: int, colour: str, *lines: str) -> str:
    """Draws a box, with its first line in bold.

    Args:
        x: Left edge.
        y: Upper edge.
        width: Width of the box.
        height: Height of the box.
        colour: Fill colour; the text is white.
        lines: Lines of text.
    """
    top = y + height / 2 - 9 * (len(lines) - 1) + 5
    text = "".join(
        f'<text x="{x + width / 2}" y="{top + 18 * i}" fill="#fff" text-anchor="middle" '
        f'font-weight="{700 if i == 0 else 400}">{escape(line)}</text>'
        for i, line in enumerate(lines)
    )
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="{colour}"/>{text}'


def arrow(*points: Point, label: str = "", at: Point | None = None) -> str:
    """Draws a line with an arrowhead at its last point.

    Args:
        points: Corners of the line.
        label: Text beside it; ``|`` begins a new line.
        at: Centre of the label's first line.
    """
    path = " ".join(f"{x},{y}" for x, y in points)
    drawn = f'<polyline points="{path}" fill="none" stroke="{LINE}" stroke-width="2" '
    drawn += 'marker-end="url(#head)"/>'
    for i, line in enumerate(label.split("|") if at else []):
        x, y = at or (0, 0)
        drawn += f'<text x="{x}" y="{y + 16 * i}" fill="{LINE}" text-anchor="middle" '
        drawn += f'font-size="13">{escape(line)}</text>'
    return drawn


def step() -> str:
    """Draws a PPO step."""
    parts = [
        box(10, 100, 100, 70, DATA, "prompts", "[b, s]"),
        box(190, 100, 150, 70, WORK, "1 rollout", "policy samples"),
        box(440, 100, 150, 70, WORK, "2 scores", "rewards read text"),
        box(665, 100, 150, 70, WORK, "4 advantages", "of each token"),
        box(880, 100, 110, 70, WORK, "5 update", "clipped steps"),
        box(190, 245, 150, 80, MODEL, "reference", "policy before", "training, frozen"),
        box(440, 245, 150, 80, WORK, "3 measure", "log-probabilities,", "KL, values"),
        box(665, 245, 150, 80, WORK, "6 controller", "KL against its", "target"),
        arrow((110, 135), (188, 135)),
        arrow((340, 135), (438, 135), label="texts", at=(386, 126)),
        arrow((590, 135), (663, 135), label="[b]", at=(622, 126)),
        arrow((815, 135), (878, 135)),
        arrow((315, 170), (315, 205), (470, 205), (470, 243), label="tokens [b, t]", at=(390, 198)),
        arrow((340, 285), (438, 285), label="ref [b, t]", at=(384, 277)),
        arrow(
            (560, 245), (560, 205), (700, 205), (700, 172), label="kl, values [b, t]", at=(628, 198)
        ),
        arrow((590, 285), (663, 285), label="mean KL", at=(621, 277)),
        arrow((770, 245), (770, 172), label="kl_coef of|the next rollout", at=(826, 206)),
        arrow((935, 100), (935, 50), (265, 50), (265, 98)),
        f'<text x="600" y="40" fill="{LINE}" text-anchor="middle" font-size="13">'
        "updated adapter and value head: the policy of the next rollout</text>",
        f'<rect x="190" y="362" width="14" height="14" rx="3" fill="{WORK}"/>'
        f'<text x="210" y="374" fill="{LINE}" font-size="13">a step of the algorithm</text>'
        f'<rect x="400" y="362" width="14" height="14" rx="3" fill="{MODEL}"/>'
        f'<text x="420" y="374" fill="{LINE}" font-size="13">never changes</text>'
        f'<rect x="545" y="362" width="14" height="14" rx="3" fill="{DATA}"/>'
        f'<text x="565" y="374" fill="{LINE}" font-size="13">data</text>',
    ]
    return svg(400, parts)


def rooms() -> str:
    """Draws the folders of the package: each imports only what lies below it."""
    layers = [
        [(WORK, "cli", "the command line"), (WORK, "compat", "TRL's interface")],
        [(WORK, "compare", "a page to try a model on; stored texts under another judge")],
        [
            (WORK, "ppo", "the PPO stage"),
            (WORK, "stages", "supervised and reward"),
            (WORK, "callbacks", "files and charts"),
            (DATA, "data", "rows to batches"),
        ],
        [
            (WORK, "evaluation", "before and after training"),
            (WORK, "report", "page, card, pictures"),
            (MODEL, "runs", "folders, checkpoints, resuming"),
        ],
        [(WORK, "rollout", "sample, score, measure")],
        [(WORK, "rewards", "scores for texts"), (WORK, "models", "policy, adapters, decoding")],
        [(WORK, "algorithm", "pure tensors: KL, advantages, losses, metrics")],
    ]
    parts = []
    for row, layer in enumerate(layers):
        width = (WIDTH - 20 - 12 * (len(layer) - 1)) // len(layer)
        for column, (colour, *lines) in enumerate(layer):
            parts.append(box(10 + column * (width + 12), 10 + 62 * row, width, 50, colour, *lines))
    return svg(20 + 62 * len(layers), parts)


def svg(height: int, parts: list[str]) -> str:
    """Combines parts into a picture.

    Args:
        height: Height of the picture.
        parts: Boxes and arrows.
    """
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="system-ui, Segoe UI, Helvetica, Arial, sans-serif" font-size="15">'
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
        f'markerHeight="7" orient="auto"><path d="M0 0L10 5L0 10z" fill="{LINE}"/></marker></defs>'
    )
    return "\n".join([head, *parts, "</svg>", ""])


if __name__ == "__main__":
    for name, picture in (("flow", step()), ("rooms", rooms())):
        (PICTURES / f"{name}.svg").write_text(picture, encoding="utf8")
        print(PICTURES / f"{name}.svg")
