"""PPO as pure functions on tensors.

Shapes, here and everywhere: ``b`` prompts, ``t`` response positions, ``V`` vocabulary. A ``mask``
is True at real tokens of the response, its first token and its EOS included.
"""
