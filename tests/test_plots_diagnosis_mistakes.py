"""Every mistake of a table is found by structure, and nothing once it is put right."""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import keras
import pytest
from keras import layers
from mistaken_gates import (
    batch_norm_of_rows,
    gate_that_cancels,
    gate_that_is_added,
    groups_in_two_orders,
    joined_with_a_pooled_map,
    multiplied_by_itself,
    one_table_for_rows_and_columns,
    shares_of_another_axis,
    shares_of_contracted_experts,
    shares_of_stacked_experts,
    softmax_that_is_cut,
)
from mistaken_inputs import (
    bare_exponential,
    image_with_channels_first,
    narrow_ids,
    queries_of_the_last_positions,
    samples_as_features,
    samples_dropped_whole,
)
from mistaken_layers import (
    FROM_LOGITS,
    LOGITS,
    NAME,
    SOFTMAX,
    both_directions_in_a_row,
    channels_first_image,
    clipped_gate,
    constant_positions,
    cosine_as_probability,
    dropout_of_all,
    embedding_of_floats,
    first_step,
    fixed_noise,
    forgetful_norm,
    frozen,
    gate_without_a_range,
    head,
    hidden_softmax,
    joined_rows,
    large_epsilon,
    last_step_of_both_directions,
    linear_convolutions,
    map_without_a_range,
    masked_mean,
    masking_too_late,
    mixed_states,
    norm_for_an_activation,
    norm_of_one_pixel,
    one_gate_for_both,
    one_layer_for_mean_and_variance,
    one_number_for_all_classes,
    one_state,
    one_step,
    points_of_features,
    pooled_features,
    positions_for_features,
    rescaled_twice,
    rounded,
    rows_as_steps,
    rows_of_a_map,
    scale_near_zero,
    softmax_over_time,
    state_of_the_target,
    steps_in_two_orders,
    strips_for_squares,
    swapped_arguments,
    swapped_states,
    time_for_features,
    twins,
    two_zeros_in_series,
    unused_input,
    variance_for_deviation,
    zeros_everywhere,
)
from mistaken_models import (
    CLASSES,
    SIZE,
    added_mask_the_wrong_way_round,
    attention_over_the_batch,
    columns_by_reshape,
    heads_joined_by_reshape,
    heads_split_by_reshape,
    mask_input_of_the_target,
    mask_of_memories,
    mask_of_placed_vectors,
    mask_of_the_target,
    mask_off_by_one,
    mask_on_queries,
    mask_the_wrong_way_round,
    one_key,
    one_table,
    one_vector_for_all_positions,
    patches_by_reshape,
    positions_after_the_blocks,
    positions_by_token,
    positions_in_every_block,
    rotations,
    scaled,
    small_fill,
    softmax_axis,
    softmax_over_heads,
    token_that_no_head_reads,
    too_few_rows,
    unmixed_values,
)
from mistaken_pairs import (
    actions_times_a_mask,
    additive_scores_without_an_activation,
    cross_attention_by_name,
    cross_attention_in_steps_by_name,
    one_layer_apart,
    pooled_along_a_flattened_map,
    positions_twice,
    scores_of_instances_times_a_mask,
    scores_times_a_large_number,
    softmax_over_columns,
)
from mistaken_parts import (
    dropout_on_probabilities,
    embedding_of_one_hot_vectors,
    ids_beyond_the_table,
    log_of_softmax,
    log_of_zero,
    narrowing_linear_layers,
    one_expert_for_all,
    one_frequency,
    one_vector_for_all_patches,
    relu_after_one_addition,
    root_of_zero,
    scale_never_below_one,
    sigmoid_of_a_distance,
    skipped_pixels,
    softmax_for_ctc,
    tokens_as_pixels,
)
from mistaken_products import (
    crosses_with_one_shortcut,
    heads_of_the_whole_width,
    memory_before_the_keys,
    no_first_norm,
    norm_on_the_skip_path,
    one_softmax_for_all_pairs,
    products_of_numbers,
    recurrent_relu,
    scores_cut_to_a_triangle,
    sigmoid_of_a_cosine,
    sigmoid_of_a_cosine_by_hand,
    softmax_of_cosines,
    values_of_the_keys,
)
from mistaken_streams import (
    added_to_itself,
    always_training,
    attention_without_a_skip_path,
    batch_norm_over_rows,
    block_without_its_addition,
    branch_ends_with_relu,
    channels_joined_to_the_batch,
    dropout_on_the_stream,
    head_before_the_final_norm,
    joined_with_itself,
    linear_feedforward,
    linear_layers_in_series,
    lost_attention,
    memory_of_embeddings,
    no_final_norm,
    norm_of_a_norm,
    norm_on_branch_outputs,
    norm_on_queries_alone,
    norm_over_one_feature,
    norm_over_positions,
    norms_on_keys_and_values,
    one_part_twice,
    one_shortcut_for_all,
    positions_of_the_source,
    product_for_a_sum,
    rolled_and_not_back,
    rolled_on,
    shortcut_of_the_branch,
    skip_path_after_the_norm,
    skip_path_before_the_norm,
    swapped_memory,
    takes_a_branch,
    values_of_the_target,
)
from mistaken_weights import (
    attention_of_features,
    dropped_scores,
    first_part_for_keys,
    half_of_a_gate,
    pooled_over_features,
    products_for_weights,
    queries_for_keys,
    repeated_weights,
    scaled_dropped_weights,
    scaled_weights,
    shifted_scores,
)
from model_bricks import D

import plots


@dataclass(frozen=True)
class Mistake:
    """What a diagnosis says of `build(True)`; of `build(False)` it finds nothing.

    Attributes:
        build: Returns the model, with the mistake or without it.
        words: What the note has to match.
        verdict: "finding" for a mistake, "remark" for what may be meant.
        wrong: The argument that makes the mistake.
    """

    build: Callable[..., keras.Model]
    words: str
    verdict: str = "finding"
    wrong: bool | str = True


MISTAKES = {
    "softmax over queries": Mistake(softmax_axis, "softmax over axis 2, but a sum over axis 3"),
    "softmax over heads": Mistake(softmax_over_heads, "softmax over axis 1"),
    "values that are not mixed": Mistake(unmixed_values, "values are not mixed"),
    "no scale": Mistake(scaled(1), "not scaled", "remark"),
    "scale by the width": Mistake(scaled(D**-0.5), "width of the model", "remark"),
    "scale by h": Mistake(scaled(1 / SIZE), "1/h, not", "remark"),
    "scale multiplied": Mistake(scaled(SIZE**0.5), "multiplied by sqrt", "remark"),
    "scale multiplied by h": Mistake(scaled(SIZE), "multiplied by 4, not divided", "remark"),
    "heads split by a reshape": Mistake(heads_split_by_reshape, "mixes heads and positions"),
    "heads joined by a reshape": Mistake(heads_joined_by_reshape, "mixes heads and positions"),
    "heads of shifted scores": Mistake(shifted_scores, "mixes heads and positions"),
    "patches by a reshape": Mistake(patches_by_reshape, "A reshape mixes axes"),
    "columns by a reshape": Mistake(columns_by_reshape, "A reshape mixes axes"),
    "pooled over features": Mistake(pooled_over_features, "sum over features"),
    "repeated weights": Mistake(repeated_weights, "sum over features"),
    "groups in two orders": Mistake(groups_in_two_orders, "Groups of heads", "remark"),
    "softmax that is cut": Mistake(softmax_that_is_cut, "over more than classes"),
    "multiplied by itself": Mistake(multiplied_by_itself, "with itself", "remark"),
    "queries for keys": Mistake(queries_for_keys, "Queries are also the keys", "remark"),
    "first part for keys": Mistake(first_part_for_keys, "Queries are also the keys", "remark"),
    "products for weights": Mistake(products_for_weights, "without a softmax", "remark"),
    "half of a gate": Mistake(half_of_a_gate, "part that is not used", "remark"),
    "scaled weights": Mistake(scaled_weights, "scaled after the softmax"),
    "scaled weights, dropped": Mistake(scaled_dropped_weights, "scaled after the softmax"),
    "attention over the batch": Mistake(attention_over_the_batch, "over the batch"),
    "one key": Mistake(one_key, "axis of size 1"),
    "mask the wrong way round": Mistake(mask_the_wrong_way_round, "wrong way round"),
    "added mask the wrong way round": Mistake(added_mask_the_wrong_way_round, "wrong way round"),
    "mask off by one": Mistake(mask_off_by_one, "off by one"),
    "mask of memories": Mistake(mask_of_memories, "not moved"),
    "masked scores too large": Mistake(small_fill, "hides nothing"),
    "mask of the target": Mistake(mask_of_the_target, "mask of another sequence"),
    "mask input of the target": Mistake(mask_input_of_the_target, "mask of another sequence"),
    "mask on queries": Mistake(mask_on_queries, "on queries, not on keys"),
    "masking too late": Mistake(masking_too_late, "masks nothing"),
    "mask of placed vectors": Mistake(mask_of_placed_vectors, "masks nothing"),
    "positions after the blocks": Mistake(positions_after_the_blocks, "after all attention"),
    "one vector for all patches": Mistake(one_vector_for_all_patches, "same vector at every patch"),
    "one frequency": Mistake(one_frequency, "of one frequency"),
    "ids beyond the table": Mistake(ids_beyond_the_table, "returns ids up to 29"),
    "ReLU after one addition": Mistake(relu_after_one_addition, "after one of 3 additions"),
    "sigmoid of a distance": Mistake(sigmoid_of_a_distance, "never below 0.5"),
    "embedding of one-hot vectors": Mistake(embedding_of_one_hot_vectors, "rows 0 and 1 alone"),
    "dropout on probabilities": Mistake(dropout_on_probabilities, "dropout on probabilities"),
    "log of zero": Mistake(log_of_zero, "logarithm of 0"),
    "root of zero": Mistake(root_of_zero, "root of 0"),
    "scale never below one": Mistake(scale_never_below_one, "never below 1"),
    "log of softmax": Mistake(log_of_softmax, "log_softmax", "remark"),
    "gate that is added": Mistake(gate_that_is_added, "gate that is added", "remark"),
    "gate that cancels": Mistake(gate_that_cancels, "gate that cancels"),
    "shares of another axis": Mistake(shares_of_another_axis, "hares of another axis"),
    "shares of stacked experts": Mistake(shares_of_stacked_experts, "hares of another axis"),
    "shares of contracted experts": Mistake(shares_of_contracted_experts, "hares of another axis"),
    "one table for rows and columns": Mistake(
        one_table_for_rows_and_columns, "Two tables with the same ids"
    ),
    "batch norm of rows": Mistake(batch_norm_of_rows, "whose channels are axis 1"),
    "pooled map of a U-net": Mistake(joined_with_a_pooled_map, "joined with a pooled map"),
    "skipped pixels": Mistake(skipped_pixels, "read 25%|reads 25%", "remark"),
    "narrowing linear layers": Mistake(narrowing_linear_layers, "No activation", "remark"),
    "token that no head reads": Mistake(token_that_no_head_reads, "does not read the class token"),
    "norm over positions": Mistake(norm_over_positions, "norm over positions"),
    "norm over one feature": Mistake(norm_over_one_feature, "one number"),
    "batch norm over rows": Mistake(batch_norm_over_rows, "wrong axis"),
    "norm of a norm": Mistake(norm_of_a_norm, "norm of a norm", "remark"),
    "norm on queries alone": Mistake(norm_on_queries_alone, "norm on the queries alone"),
    "norm on branch outputs": Mistake(norm_on_branch_outputs, "branch output"),
    "skip path after the norm": Mistake(skip_path_after_the_norm, "wrong side of a norm"),
    "skip path before the norm": Mistake(skip_path_before_the_norm, "wrong side of a norm"),
    "no final norm": Mistake(no_final_norm, "without a final norm"),
    "one part twice": Mistake(one_part_twice, "joined with itself"),
    "always training": Mistake(always_training, "training=True", "remark"),
    "norms on keys and values": Mistake(norms_on_keys_and_values, "not on queries"),
    "values of the target": Mistake(values_of_the_target, "two sequences"),
    "channels joined to the batch": Mistake(channels_joined_to_the_batch, "A reshape mixes axes"),
    "head before the final norm": Mistake(head_before_the_final_norm, "before the final norm"),
    "product for a sum": Mistake(product_for_a_sum, "in the place of a sum"),
    "one shortcut for all": Mistake(one_shortcut_for_all, "same shortcut at each of 4"),
    "rolled and not back": Mistake(rolled_and_not_back, "not rolled back"),
    "rolled on": Mistake(rolled_on, "not rolled back"),
    "one expert for all": Mistake(one_expert_for_all, "called 3 times on the same tensor"),
    "tokens as pixels": Mistake(tokens_as_pixels, "4 x 4 pixels of a token"),
    "softmax for CTC": Mistake(softmax_for_ctc, "CTC takes logits"),
    "added to itself": Mistake(added_to_itself, "added to itself"),
    "joined with itself": Mistake(joined_with_itself, "joined with itself"),
    "block without its addition": Mistake(block_without_its_addition, "No skip path leads past"),
    "attention without a skip path": Mistake(attention_without_a_skip_path, "No skip path leads"),
    "attention lost to the stream": Mistake(lost_attention, "starts before"),
    "cross-attention of a branch": Mistake(takes_a_branch, "in the place of the stream"),
    "queries and memory swapped": Mistake(swapped_memory, "swapped"),
    "branch ends with a ReLU": Mistake(branch_ends_with_relu, "ends with a ReLU", "remark"),
    "linear feed-forward": Mistake(linear_feedforward, "No activation between"),
    "three linear layers": Mistake(linear_layers_in_series, "No activation between"),
    "dropout on the stream": Mistake(dropout_on_the_stream, "residual stream", "remark"),
    "softmax over columns": Mistake(softmax_over_columns, "over one side of a map"),
    "one layer apart": Mistake(one_layer_apart, "share all layers but some"),
    "cross-attention by name": Mistake(cross_attention_by_name, "by name alone"),
    "cross-attention in steps": Mistake(cross_attention_in_steps_by_name, "by name alone"),
    "positions twice": Mistake(positions_twice, "positions are added 2 times"),
    "pooled along rows": Mistake(
        pooled_along_a_flattened_map, "Windows along a flattened map", "remark"
    ),
    "instances times a mask": Mistake(scores_of_instances_times_a_mask, "a mask of 0 and 1"),
    "actions times a mask": Mistake(actions_times_a_mask, "a mask of 0 and 1"),
    "scores times -1e6": Mistake(scores_times_a_large_number, "shows what it hides"),
    "query that cancels": Mistake(additive_scores_without_an_activation, "without an effect"),
    "one vector for all positions": Mistake(one_vector_for_all_positions, "at every position"),
    "rotated queries": Mistake(rotations, "on the queries alone"),
    "rotations by heads": Mistake(rotations, "index of the head", wrong="heads"),
    "positions in every block": Mistake(positions_in_every_block, "added 2 times", "remark"),
    "constant positions": Mistake(constant_positions, "never trained"),
    "one table for both": Mistake(one_table, "One table for tokens and positions"),
    "positions by token": Mistake(positions_by_token, "Two tables with the same ids"),
    "too few rows": Mistake(too_few_rows, "Too few rows"),
    "steps in two orders": Mistake(steps_in_two_orders, "Steps in two orders"),
    "last step of both directions": Mistake(last_step_of_both_directions, "two directions"),
    "state of the target": Mistake(state_of_the_target, "knows the future"),
    "logits as probabilities": Mistake(head(SOFTMAX, (CLASSES, None, NAME)), "Logits for a"),
    "probabilities as logits": Mistake(
        head(LOGITS, (CLASSES, "softmax", FROM_LOGITS)), "softmax of"
    ),
    "sigmoid for classes": Mistake(head(SOFTMAX, (CLASSES, "sigmoid", NAME)), "A sigmoid for"),
    "ReLU on logits": Mistake(head(LOGITS, (CLASSES, "relu", FROM_LOGITS)), "ReLU on logits"),
    "ReLU before the softmax": Mistake(
        head(SOFTMAX, (CLASSES, "relu", NAME, layers.Softmax)), "ReLU on logits"
    ),
    "softmax of a softmax": Mistake(
        head(SOFTMAX, (*SOFTMAX, layers.Softmax)), "softmax of a softmax"
    ),
    "one class": Mistake(head(SOFTMAX, (1, "sigmoid", NAME)), "One class"),
    "softmax of one unit": Mistake(
        head((1, "sigmoid", "binary_crossentropy"), (1, "softmax", "binary_crossentropy")),
        "axis of size 1",
    ),
    "norm on logits": Mistake(
        head(LOGITS, (CLASSES, None, FROM_LOGITS, layers.LayerNormalization)),
        "norm on logits",
        "remark",
    ),
    "dropout on logits": Mistake(
        head(LOGITS, (CLASSES, None, FROM_LOGITS, lambda: layers.Dropout(0.5))),
        "dropout on logits",
        "remark",
    ),
    "softmax over time": Mistake(softmax_over_time, "not over the classes"),
    "all weights frozen": Mistake(frozen, "All weights are frozen"),
    "hidden softmax": Mistake(hidden_softmax, "in a hidden layer", "remark"),
    "two zeros in series": Mistake(two_zeros_in_series, "kernels of zero"),
    "zeros in all layers": Mistake(zeros_everywhere, "kernels of zero"),
    "dropout on scores": Mistake(dropped_scores, "dropout on scores", "remark"),
    "attention of features": Mistake(attention_of_features, "between features", "remark"),
    "unused input": Mistake(unused_input, "input without effect"),
    "channels first": Mistake(channels_first_image, "channels first"),
    "rescaled twice": Mistake(rescaled_twice, "Rescaled twice"),
    "one step": Mistake(one_step, "over one step", "remark"),
    "embedding of floats": Mistake(embedding_of_floats, "cut to integers"),
    "swapped states": Mistake(swapped_states, "in the other order"),
    "mixed states": Mistake(mixed_states, "mixed in each"),
    "first step": Mistake(first_step, "first step alone"),
    "masked mean": Mistake(masked_mean, "counts padding"),
    "pooled features": Mistake(pooled_features, "summary over features"),
    "swapped arguments": Mistake(swapped_arguments, "Queries and memory are swapped"),
    "rows as steps": Mistake(rows_as_steps, "does not move the axis of size 12"),
    "strips for squares": Mistake(strips_for_squares, "not squares of 2 x 2"),
    "time for features": Mistake(time_for_features, "does not move the axis"),
    "linear convolutions": Mistake(linear_convolutions, "the model is linear"),
    "norm for an activation": Mistake(norm_for_an_activation, "batch norm does not", "remark"),
    "large epsilon": Mistake(large_epsilon, "epsilon of 1e\\+06"),
    "dropout of all": Mistake(dropout_of_all, "dropout of 1"),
    "forgetful norm": Mistake(forgetful_norm, "momentum of 0.1", "remark"),
    "cosine as probability": Mistake(cosine_as_probability, "Cosines for a loss"),
    "positions for features": Mistake(positions_for_features, "Features times positions"),
    "norm of one pixel": Mistake(norm_of_one_pixel, "one number"),
    "one number for all classes": Mistake(one_number_for_all_classes, "One number for 7 classes"),
    "twins": Mistake(twins, "Twins that share nothing", "remark"),
    "ReLU of a regression": Mistake(
        head((1, None, "mse"), (1, "relu", "mse")), "no negative numbers", "remark"
    ),
    "squares of a softmax": Mistake(
        head(SOFTMAX, (CLASSES, "softmax", "mse")), "gradients vanish", "remark"
    ),
    "fixed noise": Mistake(fixed_noise, "Noise that is a constant"),
    "one gate for both": Mistake(one_gate_for_both, "One gate for both"),
    "both directions in a row": Mistake(both_directions_in_a_row, "comes twice", "remark"),
    "joined rows": Mistake(joined_rows, "one larger image"),
    "logits for KL": Mistake(
        head((CLASSES, "softmax", "kl_divergence"), (CLASSES, None, "kl_divergence")), "any sign"
    ),
    "negative rates": Mistake(
        head((1, "exponential", "poisson"), (1, None, "poisson")), "positive rates"
    ),
    "sigmoid for KL": Mistake(
        head((CLASSES, "softmax", "kl_divergence"), (CLASSES, "sigmoid", "kl_divergence")),
        "do not sum to 1",
        "remark",
    ),
    "sigmoid for hinge": Mistake(
        head((1, "tanh", "hinge"), (1, "sigmoid", "hinge")), "less than -1"
    ),
    "shortcut of the branch": Mistake(shortcut_of_the_branch, "begins at the branch"),
    "memory of embeddings": Mistake(memory_of_embeddings, "memory of embeddings", "remark"),
    "positions of the source": Mistake(positions_of_the_source, "one sequence alone", "remark"),
    "one layer for two outputs": Mistake(one_layer_for_mean_and_variance, "same tensor"),
    "rounded features": Mistake(rounded, "passes no gradient on"),
    "features of points": Mistake(points_of_features, "summary over features"),
    "one state for both": Mistake(one_state, "One state for both", "remark"),
    "clipped gate": Mistake(clipped_gate, "softmax of a ReLU", "remark"),
    "map without a range": Mistake(map_without_a_range, "map without a range", "remark"),
    "gate without a range": Mistake(gate_without_a_range, "gate without a range", "remark"),
    "scale near zero": Mistake(scale_near_zero, "scale near 0", "remark"),
    "variance for a deviation": Mistake(variance_for_deviation, "is a variance", "remark"),
    "ids of a byte": Mistake(narrow_ids("uint8"), "exact up to 255"),
    "ids of half precision": Mistake(narrow_ids("float16"), "exact up to 2048"),
    "samples as features": Mistake(samples_as_features, "beside other sizes"),
    "channels first, not square": Mistake(image_with_channels_first, "channels first", "remark"),
    "queries of the last positions": Mistake(queries_of_the_last_positions, "is not moved"),
    "samples dropped whole": Mistake(samples_dropped_whole, "Samples that are lost", "remark"),
    "bare exponential": Mistake(bare_exponential, "softmax in steps", "remark"),
    "products of numbers": Mistake(products_of_numbers, "Products number by number"),
    "memory before the keys": Mistake(memory_before_the_keys, "is not moved"),
    "sigmoid of a cosine": Mistake(sigmoid_of_a_cosine, "below 0.27", "remark"),
    "sigmoid of a cosine by hand": Mistake(sigmoid_of_a_cosine_by_hand, "below 0.27", "remark"),
    "softmax of cosines": Mistake(softmax_of_cosines, "above 0.38", "remark"),
    "crosses with one shortcut": Mistake(crosses_with_one_shortcut, "same shortcut", "remark"),
    "scores cut to a triangle": Mistake(scores_cut_to_a_triangle, "beside its triangle to 0"),
    "heads of the whole width": Mistake(heads_of_the_whole_width, "as wide as the", "remark"),
    "sigmoid for squares": Mistake(
        head((1, None, "mse"), (1, "sigmoid", "mse")), "predicts no other ones", "remark"
    ),
    "no first norm": Mistake(no_first_norm, "norms of one residual stream are mixed", "remark"),
    "one softmax for all pairs": Mistake(one_softmax_for_all_pairs, "queries and keys at once"),
    "norm on the skip path": Mistake(norm_on_the_skip_path, "norm is on the skip path"),
    "recurrent ReLU": Mistake(recurrent_relu, "state without bounds", "remark"),
    "values of the keys": Mistake(values_of_the_keys, "projection of a projection", "remark"),
    "rows of a map": Mistake(rows_of_a_map, "softmax over axis 1, but a sum over axis 2"),
}


def notes_of(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras on layers without `build`
        return plots.diagnose(plots.read_graph(model)).notes


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_found_and_nothing_once_it_is_put_right(name):
    mistake = MISTAKES[name]
    notes = notes_of(mistake.build(mistake.wrong))
    said = [n for n in notes if n.kind == mistake.verdict and re.search(mistake.words, n.text)]
    assert said, [note.text for note in notes]
    assert all(note.about and note.reference for note in said)
    if mistake.verdict == "remark":
        assert not [note.text for note in notes if note.kind == "finding"]
    right = notes_of(mistake.build(False))
    assert not [note.text for note in right if note.kind == "finding"]
    assert not [note.text for note in right if re.search(mistake.words, note.text)]
