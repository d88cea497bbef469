"""Makes the pictures of the README and the documentation from a tested run.

    python docs/pictures.py runs/demo/version_0

writes ``curves.png`` and ``first.png`` (the curves of the site's first page) into
``docs/pictures`` from the run's logs and, with Chromium (``--browser``), two parts of its report:
``report.png``, the top, and ``figures.png``.
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


def photograph(address: str, size: str, picture: Path, browser: str) -> None:
    """Takes a screenshot of a page: of its top, or of the part that the address names."""
    with tempfile.TemporaryDirectory() as profile:
        words = [browser, *QUIET, f"--user-data-dir={profile}", f"--window-size={size}"]
        words += ["--force-device-scale-factor=1", "--blink-settings=preferredColorScheme=1"]
        words += [f"--screenshot={picture}", address]
        subprocess.run(words, check=True, capture_output=True)


def main() -> None:
    """Reads the command line, and makes all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a tested run")
    parser.add_argument(
        "--browser", default="chromium", help="browser for the screenshot; default: chromium"
    )
    given = parser.parse_args()
    PICTURES.mkdir(exist_ok=True)
    draw_curves(given.run)
    report = (given.run / "test" / "report.html").resolve().as_uri()
    photograph(report, "1180,1180", PICTURES / "report.png", given.browser)
    photograph(f"{report}#figures", "1180,960", PICTURES / "figures.png", given.browser)


if __name__ == "__main__":
    main()
