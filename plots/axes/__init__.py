"""Axes: which axes of a graph's tensors are one and the same, and the letter of each."""
