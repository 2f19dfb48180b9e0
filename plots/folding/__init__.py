"""Fold a graph into fewer nodes, and keep what plugins have found."""
