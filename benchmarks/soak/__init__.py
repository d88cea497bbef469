"""The parts of ``benchmarks/soak.py``: readings of a process, what they amount to, a picture."""
