"""KERPLE position biases (Chi et al. 2022), logarithmic in the distance."""
