"""Detoxify language models with PPO, LoRA and PyTorch Lightning."""

__version__ = "0.1.0"
