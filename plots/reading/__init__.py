"""Reading: what Keras has recorded of a model, as a plain graph.

Nothing else reads Keras' records of calls; `plots.measuring` computes those that are read here.
"""
