"""Run one batch through a model, call by call: values, gradients and attention weights."""
