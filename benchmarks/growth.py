"""Measures how the cost of a rollout step grows, and whether time grows faster than the operations.

    python benchmarks/growth.py [--quick] [--json FILE] [--picture FILE]

Measures the CPU seconds of rollout, score, update and total for steps of ``fit`` on random models,
on one CPU thread. From a base setting, it varies one value at a time: batch, length of prompts and
of responses, PPO epochs, width and layers of the models. Fits exponents of the times and of the
floating point operations that the algorithm needs, over each whole range and its upper half. Exits
with 1 if a time's exponent in the upper half exceeds that of the operations of every one of its
stages (encoder, decoder and so on) by more than 0.1.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from growth.arithmetic import Setting, stages
from growth.exponents import PARTS, Point, growths, growths_table, points_table
from growth.picture import draw
from growth.point import Points
from peer.world import Shape, _roberta, _t5, build

from detox_lightning.models.decoding.recorded_step import WARM_UP

VOCABULARY = 1000
HEAD = 32  # width of an attention head
MINI_BATCH = 4
BASE = Setting(batch=8, prompt=128, response=64, epochs=1, width=128, layers=2)
AXES = {
    "batch": [1, 2, 4, 8, 16, 32, 64],
    "prompt": [32, 64, 128, 256, 512, 1024],
    "response": [16, 32, 64, 128, 256, 512],
    "epochs": [1, 2, 4, 8, 16],
    "width": [64, 128, 256, 384, 512, 768],
    "layers": [1, 2, 4, 8, 16],
}
QUICK = Setting(batch=2, prompt=16, response=8, epochs=1, width=32, layers=1)


def settings(base: Setting, axes: dict[str, list[int]]) -> list[Setting]:
    """Returns all points of all axes in a random order, so that drifts of the machine are noise.

    Args:
        base: The point that all axes share.
        axes: The values of each field.
    """
    found = {base._replace(**{axis: value}) for axis, values in axes.items() for value in values}
    return random.Random(0).sample(sorted(found), len(found))


def shape_of(setting: Setting) -> Shape:
    """Returns the sizes of a setting's models."""
    width, layers, heads = setting.width, setting.layers, setting.width // HEAD
    t5 = _t5(width, 2 * width, layers, heads, HEAD)
    return Shape(VOCABULARY, t5, _roberta(width, layers, heads))


def warm_up(response: int) -> int:
    """Returns the number of steps until the decode step is recorded, plus one."""
    return -(-(WARM_UP + 1) // (response - 1)) + 1


def measure(points: Points, setting: Setting, rounds: int) -> Point:
    """Measures a setting in a process of its own.

    Args:
        points: Starts the process.
        setting: The setting.
        rounds: Number of measured steps, after the warm-up.

    Returns:
        Medians over the steps.

    Raises:
        SystemExit: If the steps did other work than expected.
    """
    shape, first = shape_of(setting), warm_up(setting.response)
    count = first + rounds
    with tempfile.TemporaryDirectory() as folder:
        lengths = setting.prompt, setting.prompt
        positions = setting.prompt + setting.response + 2
        build(Path(folder), shape, count * setting.batch, lengths, positions)
        job = {
            "folder": folder,
            "rounds": count,
            "device": "cpu",
            "dtype": "float32",
            "threads": 1,
            "batch_size": setting.batch,
            "mini_batch_size": min(MINI_BATCH, setting.batch),
            "ppo_epochs": setting.epochs,
            "new_tokens": setting.response,
            "data": {"max_prompt_tokens": setting.prompt},
        }
        rows = points.steps(job)[first:]
    check(setting, rows)
    return {
        **setting._asdict(),
        "parameters": rows[0]["parameters"],
        "cpu": {part: median(row[part] for row in rows) for part in PARTS},
        "stages": stages(setting, shape),
        "peak_mb": max(row["peak_mb"] for row in rows),
        "every": [{part: row[part] for part in PARTS} for row in rows],
    }


def quietest(found: list[Point]) -> Point:
    """Returns the fastest measurement, which other programs disturbed least.

    Args:
        found: Measurements of one point at several times.
    """
    return min(found, key=lambda point: point["cpu"]["total"])


def check(setting: Setting, rows: list[dict[str, Any]]) -> None:
    """Checks that the steps did the work that the formulas count.

    Raises:
        SystemExit: If they did other work.
    """
    for row in rows:
        expected = {
            "prompt_tokens": setting.batch * setting.prompt,
            "response_tokens": setting.batch * setting.response,
        }
        wrong = [f"{row[name]} {name}, not {n}" for name, n in expected.items() if row[name] != n]
        scored = setting.batch * (setting.prompt + setting.response)
        if abs(row["scored_tokens"] / scored - 1) > 0.05:  # special tokens add a few
            wrong.append(f"{row['scored_tokens']} scored_tokens, not about {scored}")
        if wrong:
            raise SystemExit(f"{setting}: {', '.join(wrong)}")


def read_options() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=3, help="measured steps per point")
    parser.add_argument(
        "--passes", type=int, default=2, help="visits of each point; the fastest counts"
    )
    parser.add_argument(
        "--axes", nargs="+", choices=AXES, default=list(AXES), help="axes to measure"
    )
    parser.add_argument(
        "--quick", action="store_true", help="three small points per axis, no verdict"
    )
    parser.add_argument("--json", type=Path, help="file for points and exponents")
    parser.add_argument("--picture", type=Path, help="file for the picture, PNG")
    return parser.parse_args()


def main() -> None:
    """Measures, prints, and exits with 1 if a time grows too fast."""
    options = read_options()
    base, axes = BASE, {axis: AXES[axis] for axis in options.axes}
    if options.quick:
        base = QUICK
        axes = {axis: [getattr(base, axis) * times for times in (1, 2, 4)] for axis in options.axes}
    order = settings(base, axes)
    measured: dict[Setting, list[Point]] = {setting: [] for setting in order}
    with tempfile.TemporaryDirectory() as cache:
        processes = Points(cache)
        for setting in order * options.passes:
            measured[setting].append(measure(processes, setting, options.rounds))
            print(setting, f"{measured[setting][-1]['cpu']['total']:.3f} s", flush=True)
    points = [quietest(found) for found in measured.values()]
    found = growths(points, base)
    print(f"\n{points_table(points, base)}\n{growths_table(found)}")
    if options.json is not None:
        fits = [{**each._asdict(), "excess": each.excess} for each in found]
        result = {"base": base._asdict(), "points": points, "exponents": fits}
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    if options.picture is not None:
        draw(points, base, options.picture)
    fast = [f"{each.axis}: {each.part} by {each.excess:.2f}" for each in found if each.too_fast]
    if fast and not options.quick:
        raise SystemExit("growing faster than the arithmetic: " + ", ".join(fast))


if __name__ == "__main__":
    main()
