"""All that differs between encoder-decoder and decoder-only models."""
