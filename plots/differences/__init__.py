"""Differences: which call is which in two graphs, what has changed, and how to say and draw it."""
