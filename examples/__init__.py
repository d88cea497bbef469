"""Toys of others, whose best score is known."""
