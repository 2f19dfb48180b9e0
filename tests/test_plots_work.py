"""The work on a graph grows almost linearly, also where almost everything seems to repeat."""

import random
import sys
from itertools import accumulate, repeat

import pytest
from small_graphs import WIDTH, made

import plots


def chain(length, units, name="dense#{}", activation=lambda place: None):
    """Return a graph of Dense layers in a row."""
    calls = [("x", "InputLayer", [])]
    for place in range(length):
        config = {"units": units(place), "activation": activation(place)}
        calls.append((name.format(place), "Dense", [calls[-1][0]], config))
    return made(*calls)


def uneven_steps(length):
    return chain(length, lambda place: place + (2, 3, 5, 5)[place % 4])


def growing_by_one(length):
    return chain(length, lambda place: place + 1, "decoder.block_{}")


def two_units(length):
    numbers = random.Random(13)
    return chain(length, lambda place: numbers.choice((3, 5)))


def two_activations(length):
    numbers = random.Random(17)
    return chain(length, lambda _: WIDTH, activation=lambda _: numbers.choice(("relu", "gelu")))


def fibonacci(length):
    *_, word = accumulate(repeat(("b", "a"), 17), lambda two, _: (two[1], two[1] + two[0]))
    return chain(length, lambda _: WIDTH, activation=lambda place: word[1][place])


def sums_of_earlier_ones(length):
    calls = [("x", "InputLayer", [])]
    for place in range(length):
        earlier = max(0, place - 1 - place % 7)
        calls.append((f"add#{place}", "Add", [calls[-1][0], calls[earlier][0]]))
    return made(*calls)


def equal_blocks(length):
    return chain(length, lambda place: WIDTH, "block_{}")


def lines_run(function, *args):
    """Return how many lines of Python run."""
    lines = 0

    def trace(frame, event, _):
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function(*args)
    finally:
        sys.settrace(before)
    return lines


@pytest.mark.parametrize(
    "graph",
    [
        uneven_steps,
        growing_by_one,
        two_units,
        two_activations,
        fibonacci,
        sums_of_earlier_ones,
        equal_blocks,
    ],
)
def test_four_times_the_calls_take_about_four_times_the_work(graph):
    plots.fold(graph(8))  # imports
    short, long = (lines_run(plots.fold, graph(length)) for length in (60, 240))
    assert long < 6.5 * short  # if the work were quadratic, 16


def residual_blocks(length):
    calls = [("x", "InputLayer", [])]
    for block in range(length):
        stream = calls[-1][0]
        calls += [
            (f"block_{block}.norm", "LayerNormalization", [stream]),
            (f"block_{block}.dense", "Dense", [f"block_{block}.norm"], {"units": WIDTH}),
            (f"block_{block}.residual", "Add", [stream, f"block_{block}.dense"]),
        ]
    return made(*calls)


def unnamed_blocks(length):
    calls = [("x", "InputLayer", [])]
    for block in range(length):
        stream = calls[-1][0]
        calls.append((f"dense#{block}", "Dense", [stream], {"units": WIDTH}))
        calls.append((f"add#{block}", "Add", [stream, f"dense#{block}"]))
    return made(*calls)


def sums_of_lookups(length):
    calls = [("x", "InputLayer", [])]
    for place in range(length):
        for table in "ab":
            config = {"input_dim": 11, "output_dim": WIDTH}
            calls.append((f"{table}_{place}", "Embedding", ["x"], config))
        calls.append((f"sum_{place}", "Add", [f"a_{place}", f"b_{place}"]))
    return made(*calls)


def analysed(graph):
    marked = plots.apply_plugins(graph, ["skip_paths", "diagnose"])
    plots.diagnosis_text(marked)
    plots.fold(marked)


@pytest.mark.parametrize("graph", [residual_blocks, unnamed_blocks, sums_of_lookups])
def test_four_times_the_blocks_take_about_four_times_the_work(graph):
    analysed(graph(8))  # imports
    short, long = (lines_run(analysed, graph(length)) for length in (60, 240))
    assert long < 4.5 * short


def test_ways_through_a_block_are_not_followed_one_by_one():
    calls = [("x", "InputLayer", [])]
    for block in range(4):
        start = calls[-1][0]
        calls.append((f"dense#{block}", "Dense", [start], {"units": 11}))
        for place in range(60):  # 2^60 ways
            last = calls[-1][0]
            calls.append((f"twice#{60 * block + place}", "Add", [last, last]))
        ends = [calls[-1][0], start]
        if block == 0:
            calls.append(("projection#1", "Dense", [start], {"units": 11, "use_bias": False}))
            ends[1] = "projection#1"
        calls.append((f"end#{block}", "Add", ends))
    assert list(plots.fold(made(*calls)).repeats.values()) == [4]
