"""How many tensors every call of a graph takes, as an overlay, and graphs as tables."""
