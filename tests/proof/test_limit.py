"""``fit`` with a limit, held to the best policy that keeps the limit."""

from pathlib import Path

import pytest

from proof.two_rewards import AT_LEAST, fit_within_limit
from proof.world import KINDS, Kind


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_it_comes_near_the_best_policy_that_keeps_the_limit(tmp_path: Path, kind: Kind) -> None:
    reached = fit_within_limit(tmp_path, kind)
    assert reached.free < AT_LEAST - 0.4  # the limit costs something
    assert reached.measure == pytest.approx(AT_LEAST, abs=0.03)
    assert reached.multiplier == pytest.approx(reached.best_multiplier, rel=0.1)
    assert 0.97 < reached.share <= 1
    assert reached.gain == pytest.approx(reached.best_gain, rel=0.06)
    assert reached.distance < 0.015
