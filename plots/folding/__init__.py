"""Folding: fewer calls to look at, with all that was said about the others taken along."""
