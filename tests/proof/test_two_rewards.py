"""Two rewards of very different scale, and what each estimator makes of them."""

from pathlib import Path

import pytest

from proof.two_rewards import gains_of_both


@pytest.mark.slow
def test_only_gdpo_heeds_a_reward_of_a_small_scale(tmp_path: Path) -> None:
    """Gains in standard deviations of each; the first is the small one."""
    (small, large), best = gains_of_both(tmp_path, "GDPO")
    assert (small, large) == pytest.approx(best, rel=0.3)
    (ignored, followed), _ = gains_of_both(tmp_path, "GRPO")
    assert ignored < 0.3 * small
    assert followed > large
