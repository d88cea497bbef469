"""Two rewards of very different scale, and what GDPO makes of them."""

from pathlib import Path

import pytest

from proof.two_rewards import gains_of_both


@pytest.mark.slow
def test_gdpo_heeds_a_reward_of_a_small_scale(tmp_path: Path) -> None:
    """Gains of the small and the large one; the best for their plain sum gives the small one up."""
    (small, large), (ignored, followed), alike = gains_of_both(tmp_path, "GDPO")
    assert min(small, large) > 0.4
    assert ignored < 0 < 0.8 < followed
    assert small + large > 0.8 * sum(alike)
