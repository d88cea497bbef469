"""How a model writes a response, one token at a time."""
