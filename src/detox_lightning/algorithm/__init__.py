"""PPO on tensors; only ``RunningMoments`` and ``UpdateMeter`` keep state.

Shapes, here and everywhere: ``b`` responses, ``m`` of them in a micro-batch, ``s`` prompt
positions, ``t`` response positions, ``V`` vocabulary. A ``mask`` is True at real tokens of the
response, its first token and its EOS included.
"""
