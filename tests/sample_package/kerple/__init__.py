"""Positions as in KERPLE (Chi et al. 2022): less attention by the logarithm of the distance."""
