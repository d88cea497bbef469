"""Makes the pictures of the README and the documentation from a tested run.

    python docs/pictures.py runs/demo/version_0

writes ``curves.png`` and ``first.png`` (the curves of the site's first page) into
``docs/pictures`` from the run's logs and, with Chromium (``--browser``), ``report.png``, the top of
its report.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

from detox_lightning.report.curves import read_curves
from detox_lightning.report.pictures import curves_picture

PICTURES = Path(__file__).parent / "pictures"
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def draw_curves(run: Path) -> None:
    """Draws the run's curves: all of them, and the two that matter most, from zero."""
    curves = read_curves(run)
    curves_picture(curves).savefig(PICTURES / "curves.png", dpi=110, facecolor="white")
    first = curves_picture(curves, ["Toxicity", "ROUGE-L"])
    for axes in first.get_axes():
        axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    for legend in first.legends:
        legend.remove()
    first.savefig(PICTURES / "first.png", dpi=160, facecolor="white")


def photograph(report: Path, browser: str) -> None:
    """Takes a screenshot of the top of a report."""
    with tempfile.TemporaryDirectory() as profile:
        words = [browser, *QUIET, f"--user-data-dir={profile}", "--window-size=1180,1180"]
        words += ["--force-device-scale-factor=1", "--blink-settings=preferredColorScheme=1"]
        words += [f"--screenshot={PICTURES / 'report.png'}", report.resolve().as_uri()]
        subprocess.run(words, check=True, capture_output=True)


def main() -> None:
    """Reads the command line, and makes both pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a tested run")
    parser.add_argument(
        "--browser", default="chromium", help="browser for the screenshot; default: chromium"
    )
    given = parser.parse_args()
    PICTURES.mkdir(exist_ok=True)
    draw_curves(given.run)
    photograph(given.run / "test" / "report.html", given.browser)


if __name__ == "__main__":
    main()
