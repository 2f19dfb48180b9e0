"""Measuring: one batch run through a model, call by call: values, gradients and attention."""
