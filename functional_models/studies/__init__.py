"""Studies: several settings, trained with several seeds, and what their differences are worth.

* `compare`: `fm.compare`, which uses all of these
* `settings`: specs and recipes from grids, ablations and learning rates
* `budgets`: equal steps, tokens, training FLOPs or seconds
* `runs`: a setting with a seed, in a folder named by a hash of all that its result depends on
* `execution`: runs one after another, in processes, or on a cluster
* `statistics`, `results`: means, intervals and tests, and what they show in words
* `folder`, `samples`, `report`: what a study writes
"""
