"""Every registered variant builds, matches the reference and has its parameter count."""

import itertools
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from quick import slow_unless
from reference import reference_logits
from reference_weights import parameter_count
from small_models import (
    ALL_KINDS,
    ALL_VARIANTS,
    flatten_outputs,
    logits_of,
    random_model,
    random_tokens,
    reduced_variant,
    relative_error,
    small_spec,
    weights_by_name,
)

import builders
import plots


def with_all_pairs() -> list[tuple[str, str]]:
    """Return variants that have all pairs of main components that variants have."""
    pairs: dict[tuple[str, str], set[Any]] = {}
    for name, kind in ALL_VARIANTS:
        spec = reduced_variant(name, kind)
        wiring = (kind, spec.norm_placement, spec.merge, spec.norm, spec.norm_gain, spec.positions)
        wiring += (spec.feedforward, bool(spec.block_overrides), spec.qk_norm_heads * spec.qk_norm)
        wiring += (spec.latent_dim, spec.num_expert_groups, spec.group_score_experts)
        pairs[name, kind] = set(itertools.combinations(enumerate(wiring), 2))
    found, missing = [], set().union(*pairs.values())
    while missing:
        found.append(max(pairs, key=lambda variant: len(pairs[variant] & missing)))
        missing -= pairs[found[-1]]
    return found


QUICK_AT_REDUCED_SIZE = with_all_pairs()


@pytest.mark.sampled(10)
@pytest.mark.parametrize(
    ("name", "kind"),
    slow_unless(lambda name, kind: (name, kind) in QUICK_AT_REDUCED_SIZE, ALL_VARIANTS),
)
def test_every_variant_at_reduced_size_equals_the_reference(name: str, kind: str) -> None:
    spec = reduced_variant(name, kind)
    assert builders.TransformerSpec.from_json(spec.to_json()) == spec
    if not spec.block_overrides:  # all blocks are equal
        spec = spec.replace(num_layers=1)
    model = random_model(spec)
    tokens = random_tokens(spec)
    fields = json.loads(spec.to_json())
    expected = flatten_outputs(reference_logits(fields, weights_by_name(model), tokens))
    # Unscaled scores amplify the rounding of queries and keys.
    tolerance = 1e-5 if spec.attention_scale is None else 2e-5
    assert relative_error(logits_of(model, tokens), expected) < tolerance
    assert model.count_params() == parameter_count(fields)


QUICK = (
    *("pre_norm_learned", "vaswani_base", "tf_tutorial", "mini_gpt", "gpt2_small", "opt_125m"),
    *("pythia_70m", "bert_base", "bart_base", "t5_small", "t5_v1.1_small", "opus_mt_en_de"),
)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("name", "kind"),
    slow_unless(
        lambda name, kind: name in QUICK,
        [(n, k) for n in builders.list_variants() for k in builders.variant_info(n).kinds],
    ),
)
def test_every_variant_at_full_size_has_the_counted_parameters(name: str, kind: str) -> None:
    spec = builders.variant(name, kind=kind)
    model = builders.build(spec, abstract=True)
    assert model.count_params() == builders.count_parameters(spec).total


# Abstract models --------------------------------------------------------------------------------


def test_an_abstract_model_allocates_no_weights_and_cannot_be_called() -> None:
    """Keras allocates uninitialized variables at the end of a stateless scope."""
    model = builders.build_decoder_only("gpt3_175b", abstract=True, num_layers=3)
    assert model.count_params() > 6e9
    with keras.StatelessScope():
        pass
    assert all(variable._value is None for variable in model.variables)
    with pytest.raises(RuntimeError, match=r"decoder_only.*abstract=True.*build it without"):
        model(np.zeros((1, 3), "int32"))


def test_an_abstract_model_has_no_weights_to_save_or_to_return(tmp_path: Path) -> None:
    model = builders.build("mini_gpt", abstract=True)
    for use in (model.get_weights, lambda: model.save(tmp_path / "model.keras")):
        with pytest.raises(RuntimeError, match=r"decoder_only.*abstract=True.*build it without"):
            use()
    assert list(tmp_path.iterdir()) == []


def test_an_abstract_model_has_the_same_graph_as_the_real_model() -> None:
    for kind in ALL_KINDS:
        spec = small_spec(kind=kind)
        abstract, real = builders.build(spec, abstract=True), builders.build(spec)
        assert plots.read_graph(abstract) == plots.read_graph(real)


@pytest.mark.slow
def test_gpt2_small_with_real_weights_runs_at_full_length() -> None:
    model = builders.build_decoder_only("gpt2_small", num_layers=1)
    tokens = np.random.default_rng(0).integers(0, 50_257, (1, 1024), dtype="int32")
    assert np.isfinite(logits_of(model, tokens)).all()
