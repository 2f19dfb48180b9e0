"""Costs: parameters, operations and bytes, by call."""
