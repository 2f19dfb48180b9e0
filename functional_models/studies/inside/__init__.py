"""What happens inside the models of a study: signals, gradients, updates, attention, and losses.

* `sample`: the held-out tokens that every model of a study is measured on, and classes of tokens
* `measuring`: the measurements of a model on them
* `watching`: a Keras callback that measures a run
* `stored`: `inside.json` of a run, and `inside.parquet` of a study
"""
