"""The parts of ``benchmarks/soak.py``: readings of a process, a verdict, a picture."""
