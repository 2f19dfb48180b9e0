"""Studies: several settings, trained with several seeds, and what their differences are worth.

study = fm.compare(["post_norm_learned", "pre_norm_learned"], seeds=3)
print(study)

settings      specs and recipes from grids, ablations and learning rates
budgets       equal steps, tokens, training FLOPs or seconds
runs          a setting with a seed, in a folder named by a hash of all it depends on
execution     runs one after another, in processes, or on a cluster
statistics, results, verdict     means, intervals, tests, and what they show in words
folder        what a study writes and reads
"""
