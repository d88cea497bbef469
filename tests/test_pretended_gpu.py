"""The product on a pretended GPU: no tensors of two devices meet, and the host waits seldom.

The device refuses what CUDA refuses, and counts what makes the host wait for a GPU. Its numbers
come from the CPU's kernels, so it shows nothing of a real one's speed and rounding.
"""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from architectures import save_random
from command import tiny_recipe
from launching import codes, started
from pretended import gpu, story

# What the host waits for in a rollout of at most 6 tokens. In a longer one, each 8th token also
# asks which responses have ended (models/decoding/loop.py, DropPolicy).
WAITS = Counter(
    {
        "models/decoding/decoder.py deduplicate": 2,  # prompts, for policy and reference
        "models/decoding/loop.py decode": 1,  # the longest response
        "rollout.py generate": 1,  # the same, where stop strings shorten responses
        "algorithm/masks.py passes": 1,  # lengths of responses
        "rollout.py first_nonfinite": 1,
        "ppo/actor.py rollout_of": 1,  # whether all ranks' figures are finite
        "ppo/learner.py _learn": 1,  # lengths of responses
        "algorithm/metrics.py _numbered": 2,  # prompts and responses, to count equal ones
        "algorithm/metrics.py rollout_metrics": 1,
    }
)
MORE = {  # of a family: responses become texts; prompts that no row of a batch has are left out
    "T5": {"models/families/base.py decode_texts": 1},
    "Llama": {
        "models/families/decoder_only.py decode_texts": 1,
        "models/decoding/decoder.py without_unused": 3,
    },
}
OF_A_MINI_BATCH = Counter({"ppo/learner.py gradient": 1})  # its figures
CAPTURES = {
    "fit supervised": 1,
    "fit reward": 0,
    "fit": 1,
    "fit resumed": 1,
    "test": 2,
    "predict": 1,
}
MINI_BATCHES = 4  # of a rollout: two epochs of two


@pytest.fixture(scope="module")
def library(request: pytest.FixtureRequest) -> Path:
    """The device, built unless an earlier session has built it."""
    if gpu.COMPILER is None:
        pytest.skip("no C++ compiler is there to build the pretended GPU")
    return gpu.build(request.config.cache.mkdir("pretended"))


def run(folder: Path, function: Callable[..., None], *args: Any) -> Any:
    """What a story has written."""
    told = folder / "told.json"
    alone = [{"CUDA_VISIBLE_DEVICES": ""}]
    with started(folder, alone, function, told, *args) as processes:
        assert codes(processes) == [0], (folder / "output0").read_text()
    return json.loads(told.read_text())


def check_waits(told: Any, more: dict[str, int]) -> None:
    for found in told["mini_batches"]:
        assert Counter(found) == OF_A_MINI_BATCH
    allowed = WAITS + Counter(more)
    allowed += Counter({place: MINI_BATCHES * n for place, n in OF_A_MINI_BATCH.items()})
    for found in told["rollouts"]:
        assert Counter(found) <= allowed, Counter(found) - allowed


def test_two_rollouts(library: Path, tiny_t5: str, tiny_classifier: str, tmp_path: Path) -> None:
    tiny_recipe(tmp_path, tiny_t5, tiny_classifier)
    told = run(tmp_path, story.two_rollouts, library, tmp_path, tiny_t5, tiny_classifier)
    mixed, waits, sends, count = told["refused"]
    assert mixed.startswith("add: expected all tensors to be on the same device")
    assert waits == "operation not permitted when stream is capturing: _local_scalar_dense"
    assert sends == "operation not permitted when stream is capturing: copy from the host"
    assert count == "3 waits"  # a number, rows of a mask, a number sent; not what is sent unwaited
    assert len(told["rollouts"]) == 2
    assert len(told["mini_batches"]) == 2 * MINI_BATCHES
    check_waits(told, MORE["T5"])
    assert len(told["captures"]["fit"]) == 1  # both have a batch of the same shape


@pytest.mark.slow
@pytest.mark.parametrize("family", ["T5", "Llama"])
def test_all_stages(
    family: str,
    library: Path,
    tiny_encoder: str,
    tiny_classifier: str,
    tmp_path: Path,
) -> None:
    policy = save_random(family, tmp_path / "policy")
    tiny_recipe(tmp_path, policy, tiny_classifier)
    place = library, tmp_path, policy, tiny_classifier
    told = run(tmp_path, story.whole, tiny_encoder, *place)
    assert told["rollouts_done"] == len(told["rollouts"]) == 4
    check_waits(told, MORE[family])
    assert told["compared"] == 14  # a sampled and a greedy response to each of seven prompts
    assert len(told["predicted"]) == 7
    # Batches of two to eight rows are one bucket; a test decodes by policy and reference.
    captures = {command: len(shapes) for command, shapes in told["captures"].items()}
    assert captures == CAPTURES
    assert len({shape for shapes in told["captures"].values() for shape in shapes}) == 1
