"""Axes: which axes of a graph's tensors are the same, and the letter of each."""
