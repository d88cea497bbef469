"""The parts of ``benchmarks/peer.py``."""
