"""Batches: teacher forcing shifts labels, every token counts once, and steps are pure functions."""

import itertools
from collections import Counter

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import builders
from functional_models.batches import (
    PairBatches,
    TokenBatches,
    check_tokens,
    teacher_forcing,
)
from functional_models.fit_data import evaluation_data, training_data

PAD, START, END = 0, 1, 2


def stream(length: int) -> np.ndarray:
    """Return tokens that encode their positions, so that every label can be traced."""
    return np.arange(1000, 1000 + length)


def pairs(number: int, longest: int = 23, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return pairs whose first source token is their number."""
    rng = np.random.default_rng(seed)
    return [
        (
            np.array([100 + i, *rng.integers(3, 90, rng.integers(0, longest))]),
            np.array([START, *rng.integers(3, 90, rng.integers(0, longest - 1)), END]),
        )
        for i in range(number)
    ]


def same(first: object, second: object) -> bool:
    """Return whether two batches are equal, array by array."""
    (one, *ones), (two, *twos) = first, second
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        ones, twos = [*ones, *one.values()], [*twos, *two.values()]
    else:
        ones, twos = [*ones, one], [*twos, two]
    return all(np.array_equal(a, b) for a, b in zip(ones, twos, strict=True))


# Teacher forcing


def test_the_label_of_a_position_is_the_input_of_the_next():
    tokens = np.array([[5, 6, 7, 8], [9, 3, PAD, PAD]])
    inputs, labels, weights = teacher_forcing(tokens, PAD)
    assert inputs.tolist() == [[5, 6, 7], [9, 3, PAD]]
    assert labels.tolist() == [[6, 7, 8], [3, PAD, PAD]]
    assert weights.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert weights.dtype == np.float32


def test_without_a_padding_id_every_label_counts():
    _, _, weights = teacher_forcing(np.zeros((2, 4), int), None)
    assert weights.sum() == 6


# Streams


@given(st.integers(0, 200), st.integers(1, 11), st.integers(1, 7), st.integers(0, 3))
def test_blocks_of_an_epoch_do_not_overlap(extra, block, batch_size, epoch):
    batches = TokenBatches(stream(block + 1 + extra), block=block, batch_size=batch_size)
    steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
    rows = np.concatenate([batches.batch(step)[0] for step in steps])
    assert rows.shape[1] == block
    blocks = {tuple(row) for row in rows.tolist()}
    seen = [token for row in blocks for token in row]
    assert len(seen) == len(set(seen))
    # At most one block at each end is skipped, and only the last batch repeats blocks.
    assert len(seen) > block + extra - 2 * block
    assert len(rows) - len(blocks) < batch_size or len(blocks) < batch_size


def test_labels_of_a_stream_are_the_next_tokens_and_have_weight_1():
    inputs, labels, weights = TokenBatches(stream(101), block=7, batch_size=3).batch(4)
    np.testing.assert_array_equal(labels, inputs + 1)
    assert inputs.shape == labels.shape == weights.shape == (3, 7)
    assert weights.all()


def test_epochs_differ_in_order_and_offset():
    batches = TokenBatches(stream(1009), block=11, batch_size=5)
    first, second = (
        np.concatenate([batches.batch(epoch * batches.steps_per_epoch + i)[0] for i in range(7)])
        for epoch in (0, 1)
    )
    assert not np.array_equal(first, second)
    assert first[0, 0] % 11 != second[0, 0] % 11  # true of this seed


@given(st.integers(0, 150), st.integers(1, 11), st.integers(1, 7))
def test_eval_batches_have_every_label_of_a_stream_once_and_in_order(extra, block, batch_size):
    tokens = stream(block + 1 + extra)
    batches = TokenBatches(tokens, block=block, batch_size=batch_size)
    found = list(batches.eval_batches())
    assert len(found) == batches.num_eval_batches
    counted = np.concatenate([labels[weights > 0] for _, labels, weights in found])
    np.testing.assert_array_equal(counted, tokens[1:])
    assert {inputs.shape for inputs, _, _ in found} == {(batch_size, block)}


# Pairs


@settings(max_examples=25)
@given(st.integers(1, 60), st.integers(1, 7), st.integers(0, 3))
def test_an_epoch_contains_every_pair_exactly_once(number, batch_size, epoch):
    given_pairs = pairs(number)
    batches = PairBatches(given_pairs, pad_id=PAD, batch_size=batch_size)
    steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
    found = Counter()
    for inputs, labels, weights in map(batches.batch, steps):
        for source, target, label, weight in zip(
            inputs["source"], inputs["target"], labels, weights, strict=True
        ):
            if not weight.any():
                assert not source.any()  # an empty row
                assert not target.any()
                continue
            reference_source, reference = given_pairs[source[0] - 100]
            found[source[0]] += 1
            length = len(reference) - 1
            assert source[source != PAD].tolist() == reference_source.tolist()
            assert target[:length].tolist() == reference[:-1].tolist()
            assert label[:length].tolist() == reference[1:].tolist()
            assert weight.tolist() == [1] * length + [0] * (len(weight) - length)
    assert found == Counter(range(100, 100 + number))


def test_eval_batches_have_the_pairs_of_an_epoch():
    batches = PairBatches(pairs(53), pad_id=PAD, batch_size=5)
    found = list(batches.eval_batches())
    assert len(found) == batches.num_eval_batches == batches.steps_per_epoch
    firsts = np.concatenate([inputs["source"][:, 0] for inputs, _, _ in found])
    assert sorted(firsts[firsts != PAD]) == list(range(100, 153))


def test_pairs_are_in_the_smallest_shape_unless_they_fill_a_larger_one():
    batches = PairBatches(pairs(97, longest=300), pad_id=PAD, batch_size=5, max_shapes=7)
    assert len(batches.shapes) == 7
    moved = 0
    for inputs, _, weights in batches.eval_batches():
        widths = inputs["source"].shape[1], weights.shape[1]
        assert [*widths] in batches.shapes.tolist()
        assert inputs["target"].shape == weights.shape
        for row in zip((inputs["source"] != PAD).sum(1), weights.sum(1), strict=True):
            if any(row):
                fits = next(shape for shape in batches.shapes if (row <= shape).all())
                moved += fits.tolist() != [*widths]
    assert 0 < moved < 7 * 5


@settings(max_examples=25)
@given(st.integers(1, 60), st.integers(1, 7), st.integers(1, 9))
def test_empty_rows_are_only_in_batches_that_no_larger_one_can_fill(number, size, max_shapes):
    options = {"pad_id": PAD, "batch_size": size, "max_shapes": max_shapes}
    batches = PairBatches(pairs(number), **options)
    assert len(batches.shapes) <= min(max_shapes, -(-number // size))
    for epoch in (0, 2):
        steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
        found = [batches.batch(step) for step in steps]
        shapes = [(inputs["source"].shape[1], labels.shape[1]) for inputs, labels, _ in found]
        filled = [
            shape
            for shape, (*_, weights) in zip(shapes, found, strict=True)
            if not weights.any(axis=1).all()
        ]
        assert len(filled) == len({*filled})
        for source, target in filled:
            wider = [s for s in batches.shapes.tolist() if s[0] >= source and s[1] >= target]
            assert wider == [[source, target]]


def test_the_mean_loss_over_an_epoch_is_that_of_one_pair_at_a_time():
    """Padding, and the batch that a pair is in, do not change its loss."""
    fields = {"vocabulary_size": 157, "source_vocabulary_size": 157, "max_sequence_length": 41}
    model = builders.build_encoder_decoder(
        "pre_norm_learned", num_layers=1, hidden_dim=8, num_heads=2, intermediate_dim=13, **fields
    )
    given_pairs = pairs(47, longest=31)
    losses = []
    for options in ({"batch_size": 5}, {"batch_size": 1, "max_shapes": 47}):
        batches = PairBatches(given_pairs, pad_id=PAD, **options)
        total = count = 0.0
        for inputs, labels, weights in batches.eval_batches():
            logits = keras.ops.convert_to_numpy(model(inputs)).astype("float64")
            shifted = logits - logits.max(axis=-1, keepdims=True)
            each = np.log(np.exp(shifted).sum(-1)) - np.take_along_axis(
                shifted, labels[..., None], -1
            ).squeeze(-1)
            total += (each * weights).sum()
            count += weights.sum()
        losses.append(total / count)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_the_number_of_shapes_is_checked():
    with pytest.raises(ValueError, match="max_shapes"):
        PairBatches(pairs(7), pad_id=PAD, batch_size=3, max_shapes=0)


def test_rows_are_as_wide_as_the_longest_pair_at_most():
    batches = PairBatches(pairs(53, longest=23), pad_id=PAD, batch_size=5, max_length=29)
    lengths = {inputs["source"].shape[1] for inputs, _, _ in batches.eval_batches()}
    assert max(lengths) == batches.longest == 23


def test_a_pair_longer_than_max_length_raises():
    with pytest.raises(ValueError, match="above max_length=7"):
        PairBatches(pairs(53, longest=23), pad_id=PAD, batch_size=5, max_length=7)


# Steps are pure

BOTH = [
    lambda seed: TokenBatches(stream(211), block=7, batch_size=3, seed=seed),
    lambda seed: PairBatches(pairs(53), pad_id=PAD, batch_size=5, seed=seed),
]


@pytest.mark.parametrize("make", BOTH)
def test_a_batch_depends_only_on_seed_and_step(make):
    forwards = [make(3).batch(step) for step in range(40)]
    batches = make(3)
    backwards = [batches.batch(step) for step in reversed(range(40))][::-1]
    assert all(map(same, forwards, backwards))
    assert not all(map(same, forwards, [make(4).batch(step) for step in range(40)]))


@pytest.mark.parametrize("make", BOTH)
def test_training_data_starts_at_any_step(make):
    found = itertools.islice(iter(training_data(make(3), 17)), 31)
    for step, batch in enumerate(found, 17):
        inputs, *rest = batch
        inputs = (
            {k: np.asarray(v) for k, v in inputs.items()}
            if isinstance(inputs, dict)
            else (np.asarray(inputs))
        )
        assert same((inputs, *map(np.asarray, rest)), make(3).batch(step))


@pytest.mark.parametrize("make", BOTH)
def test_evaluation_data_ends_after_num_eval_batches(make):
    assert len(list(evaluation_data(make(0)))) == make(0).num_eval_batches


@pytest.mark.parametrize("make", BOTH)
@given(most=st.integers(1, 30))
def test_a_sample_of_the_evaluation_is_spread_over_the_data(make, most):
    batches = make(0)
    whole, found = list(batches.eval_batches()), list(batches.eval_batches(most))
    assert len(found) == min(most, len(whole)) == len(list(evaluation_data(batches, most=most)))
    places = [next(i for i, other in enumerate(whole) if same(batch, other)) for batch in found]
    assert places[0] == 0
    gaps = np.diff([*places, len(whole)])
    assert gaps.min() >= 1  # none twice
    assert gaps.max() - gaps.min() <= 1


def test_fingerprints_differ_with_data_and_sizes():
    def of(length=211, block=7, batch_size=3, shift=0):
        tokens = stream(length) + shift
        return TokenBatches(tokens, block=block, batch_size=batch_size).fingerprint()

    assert of() == of()
    assert len({of(), of(length=212), of(block=8), of(batch_size=4), of(shift=1)}) == 5

    def of_pairs(number=11, seed=0, batch_size=3):
        return PairBatches(
            pairs(number, seed=seed), pad_id=PAD, batch_size=batch_size
        ).fingerprint()

    assert of_pairs() == of_pairs()
    assert len({of_pairs(), of_pairs(12), of_pairs(seed=1), of_pairs(batch_size=4)}) == 4


# Bad input


def test_a_stream_shorter_than_a_block_raises_with_both_lengths():
    TokenBatches(stream(8), block=7, batch_size=3)
    with pytest.raises(ValueError, match=r"has 7 tokens, fewer than a block of 7 .*=6 in its spec"):
        TokenBatches(stream(7), block=7, batch_size=3)


@pytest.mark.parametrize("sizes", [{"block": 0}, {"batch_size": 0}, {"batch_size": 2.5}])
def test_sizes_below_one_raise(sizes):
    with pytest.raises(ValueError, match="integer, 1 or more"):
        TokenBatches(stream(99), **{"block": 7, "batch_size": 3, **sizes})


def test_no_pairs_raise():
    with pytest.raises(ValueError, match="no sentence pairs"):
        PairBatches([], pad_id=PAD, batch_size=3)


def test_a_source_without_tokens_raises_with_its_number():
    empty = (np.array([], int), np.array([START, END]))
    with pytest.raises(ValueError, match="pair number 3"):
        PairBatches([*pairs(2), empty], pad_id=PAD, batch_size=3)


@pytest.mark.parametrize(("tokens", "found"), [([3, 31], "31"), ([-1, 3], "-1")])
def test_ids_outside_the_vocabulary_raise(tokens, found):
    check_tokens(np.array([0, 30]), 31, "the array")
    with pytest.raises(ValueError, match=rf"token id {found}, allowed: 0 to 30"):
        check_tokens(np.array(tokens), 31, "the array")


@pytest.mark.parametrize("tokens", [np.zeros((2, 3), int), np.zeros(5), np.array(["a"])])
def test_tokens_that_are_not_a_vector_of_integers_raise(tokens):
    with pytest.raises(ValueError, match=r"must be integers of shape \(N,\)"):
        check_tokens(tokens, 31, "the array")


def test_the_mean_over_parts_is_the_mean_over_the_tokens_of_a_batch():
    batches = PairBatches(pairs(30), pad_id=PAD, batch_size=12, seed=3)
    data = training_data(batches, 1, labelled=True, parts=3)
    inputs, labels, weights = batches.batch(1)
    losses = np.sqrt(labels + 1.0)
    means, counts = [], set()
    for number, (part, *_) in enumerate(itertools.islice(data, 3)):
        np.testing.assert_array_equal(part["labels"], labels[number::3])
        np.testing.assert_array_equal(part["inputs"]["source"], inputs["source"][number::3])
        of_part = np.asarray(part["weights"])
        (total,) = np.unique(np.asarray(part["total"]))
        means.append((losses[number::3] * of_part).sum() / total)
        counts.add(float(of_part.sum()))
    assert len(counts) > 1
    assert np.mean(means) == pytest.approx((losses * weights).sum() / weights.sum(), rel=1e-6)
