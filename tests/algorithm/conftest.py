"""Hypothesis draws the same examples every time, however slow the machine is."""

from hypothesis import settings

settings.register_profile("steady", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("steady")
