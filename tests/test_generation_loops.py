"""The compiled loops of generation: when they are traced, their weights, and their number."""

import keras
import numpy as np
import pytest
from small_generators import PROMPTS, assert_greedy, generator_of, run
from small_models import as_array, dtype_policy_scope

from builders import build_decode_step, empty_cache
from functional_models import compiled, generation
from functional_models.prompts import bucket

compiles = pytest.mark.skipif(keras.backend.backend() == "torch", reason="nothing is compiled")


@pytest.fixture(scope="module")
def generator():
    return generator_of()


def count_traces(generator, monkeypatch):
    """Return a list that grows whenever a decode graph is traced."""
    traced = []

    def counted(graph):
        return lambda *given, **options: traced.append(1) or graph(*given, **options)

    for name in ("_step", "_steps"):
        monkeypatch.setitem(generator.__dict__, name, counted(getattr(generator, name)))
    return traced


@pytest.mark.slow
@compiles
def test_other_prompt_lengths_and_seeds_do_not_trace_again(generator, monkeypatch):
    run(generator, PROMPTS)
    traced = count_traces(generator, monkeypatch)
    run(generator, PROMPTS, "top_k", k=4, seed=0)
    assert traced
    traced.clear()
    for number, prompts in [(6, PROMPTS[::-1]), (5, [PROMPTS[0]] * 3), (14, PROMPTS)]:
        run(generator, prompts, "top_k", number, k=4, seed=1)
    assert not traced
    run(generator, PROMPTS, "top_k", k=2)  # another loop
    assert traced


@compiles
@pytest.mark.parametrize("changes", [{}, {"attention_bias": False, "num_key_value_heads": 1}])
def test_the_step_with_projections_equals_the_decode_step(changes):
    generator = generator_of(**changes)
    model, spec, step, weights = (
        getattr(generator, name) for name in ("_model", "_spec", "_step", "_weights")
    )
    wrapped = {layer.name for layer in step.layers if isinstance(layer, compiled.Projection)}
    kernels = {w.path.removesuffix("/kernel") for w in model.weights if w.path.endswith("kernel")}
    assert wrapped == kernels
    inputs = {
        "tokens": np.array([[3], [11], [7]], "int32"),
        "index": np.int32(2),
        "start": np.array([0, 1, 2], "int32"),
        "cache": empty_cache(model, spec, 3),
    }
    wanted = build_decode_step(model, spec, 3, 1)(inputs, training=False)
    for form in (weights.matrices, weights.transposed):
        with weights.step_scope(form(weights.values())):
            found = step(inputs, training=False)
        np.testing.assert_allclose(as_array(found["logits"]), as_array(wanted["logits"]), atol=1e-5)
        for name, entry in wanted["cache"].items():
            np.testing.assert_allclose(as_array(found["cache"][name]), as_array(entry), atol=1e-6)


def test_lengths_are_rounded_up_by_about_a_tenth():
    lengths = np.arange(1, 3000)
    rounded = np.array([bucket(int(length)) for length in lengths])
    assert (rounded >= lengths).all()
    assert (rounded - lengths <= np.maximum(15, lengths / 8)).all()
    assert len(np.unique(rounded)) < 90


def test_the_number_of_compiled_loops_is_limited(generator, monkeypatch):
    monkeypatch.setattr(generator, "_loops", {})
    monkeypatch.setattr(generation, "_MAX_LOOPS", 8)
    first = generator._loop(generator.sampler("greedy"), (), generator._continue)
    for k in range(1, 20):
        generator._loop(generator.sampler("top_k", k=k), (), generator._continue)
        assert generator._loop(generator.sampler("greedy"), (), generator._continue) is first
    assert len(generator._loops) == 8


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.slow
def test_models_in_half_precision_generate(policy):
    if (keras.backend.backend(), policy) == ("jax", "mixed_float16"):
        pytest.skip("on CPUs, JAX has no product of float16 that is added up in float32")
    with dtype_policy_scope(policy):
        generator = generator_of()
    assert generator._model.get_layer("logits").compute_dtype == policy.removeprefix("mixed_")
    found = run(generator, PROMPTS)
    assert_greedy(generator, PROMPTS, found, 6, tolerance=0.2)
    news = [np.array(new) for new in found]
    for scores in generator.log_probabilities(PROMPTS, news):
        assert np.isfinite(scores).all()
