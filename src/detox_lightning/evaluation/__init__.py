"""Evaluation: metrics of responses before and after training."""
