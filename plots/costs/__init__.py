"""Costs: parameters, FLOPs and bytes, by call."""
