"""Read a Keras model into a plain graph.

`keras_calls` and `keras_values` convert Keras's records, `reader` walks the recorded calls, `trace`
records the calls inside a composite layer, `read` returns the graph.
"""
