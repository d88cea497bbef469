"""The sets, each replayed once, and the table of deviations."""

from collections.abc import Iterator

import pytest

from golden.deviations import Deviations
from golden.records import golden_set
from golden.replay import Replay, replay

PLAIN = ["seed", "epochs4"]
VARIANTS = [
    *("kl_abs", "kl_mse", "kl_full", "whiten", "score_norm", "score_scale", "score_clip"),
    *("fixed_kl", "gamma", "earlystop"),
]
REPLAYED = [*PLAIN, *VARIANTS, "clipnorm"]


@pytest.fixture(scope="session")
def deviations() -> Iterator[Deviations]:
    seen = Deviations()
    yield seen
    print(f"\n\n{seen.table()}")


@pytest.fixture(scope="session", params=REPLAYED)
def replayed(
    request: pytest.FixtureRequest,
    tiny_classifier: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Replay:
    """A set as ``PPOModule`` runs it."""
    folder = tmp_path_factory.mktemp(request.param)
    return replay(golden_set(request.param), tiny_classifier, folder)
