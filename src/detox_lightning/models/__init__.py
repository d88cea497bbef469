"""The models: policy (base, adapters, value head), and how they are opened."""
