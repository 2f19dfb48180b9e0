"""Claims of the literature about Transformers, measured on the models of this library.

`claim` defines a claim and its registry, `initialisation` and `training` have the claims, `running`
measures them and writes the results, and `page` shows them.
"""
