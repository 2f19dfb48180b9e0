"""Output of `inspect`: parameters, floating-point operations, memory."""

import re
from types import SimpleNamespace

import pytest
from small_models import as_array

import builders
from builders import components
from functional_models.cli import _parser, main
from functional_models.cli_options import load_spec, spec_changes
from functional_models.descriptions import BINARY, with_prefix


def inspected(capsys, *arguments):
    """Return the output of inspect below the spec."""
    assert main(["inspect", *arguments]) == 0
    return capsys.readouterr().out.partition("\n}\n")[2]


def cells(printed, name):
    """Return the cells of a table row."""
    return re.split("  +", re.search(rf"^{re.escape(name)}  +(.+)$", printed, re.M)[1])


def test_inspect_prints_parameters_by_component(capsys):
    printed = inspected(capsys, "mini_gpt")
    assert re.search(r"^parameters +10,939,168$", printed, re.M)
    counts = builders.count_parameters(builders.variant("mini_gpt"))
    for name, count in counts.items():
        if not count:
            assert not re.search(rf"^{re.escape(name)}  ", printed, re.M)
            continue
        share = f"{count / counts.total:.1%}"
        assert cells(printed, name) == [f"{count:,}", share]
    assert "self_attention.query " not in printed


@pytest.mark.parametrize(
    ("arguments", "rules"),
    [
        (["gpt2_xl"], ["a block, without biases and norms: 4 d^2 + 8 d^2 = 12 d^2 = 30,720,000"]),
        (
            ["vaswani_base"],
            ["an encoder block, ", "a decoder block, with 4 d^2 more for cross-atten"],
        ),
        (["gpt2_xl", "--set", "feedforward=glu"], []),
        (["gpt2_xl", "--set", "intermediate_dim=3200"], []),
        (["gpt2_xl", "--set", "num_key_value_heads=5"], []),
        (["gpt2_xl", "--set", "head_dim=32"], []),
    ],
    ids=" ".join,
)
def test_inspect_prints_the_rule_of_12_d_squared_if_it_holds(capsys, arguments, rules):
    printed = inspected(capsys, *arguments)
    assert all(rule in printed for rule in rules)
    assert ("d^2" in printed) == bool(rules)


def test_inspect_prints_the_shares_of_attention_and_feedforward(capsys):
    assert "attention 33.3%, feed-forward 66.7%" in inspected(capsys, "gpt3_175b")
    assert "attention 40.0%, feed-forward 60.0%" in inspected(capsys, "qwen3_0.6b")


def test_inspect_prints_operations_per_token_at_several_lengths(capsys):
    printed = inspected(capsys, "gpt2_small")
    spec = builders.variant("gpt2_small")
    assert cells(printed, "tokens")[-1] == "1,024"
    for at, length in ((-4, 1), (-3, 256), (-2, 512), (-1, 1024)):
        counts = builders.count_flops(spec, length)
        for name, total in {**counts, "forward": counts.total}.items():
            assert cells(printed, name)[at] == with_prefix(total // length)
        training = with_prefix(3 * counts.total // length)
        assert cells(printed, "training, 3 x forward")[at] == training
        step = with_prefix(builders.count_decode_flops(spec, length).total)
        assert cells(printed, "decoding, with as many tokens in the cache")[at] == step
    flat, slope = re.search(
        r"^forward per token, for t tokens: ([\d,]+) \+ ([\d,]+) t", printed, re.M
    ).groups()
    per_token = builders.count_flops(spec, 7).total // 7
    assert int(flat.replace(",", "")) + 7 * int(slope.replace(",", "")) == per_token


def test_inspect_prints_the_cost_of_encoding_a_source(capsys):
    printed = inspected(capsys, "vaswani_base")
    spec = builders.variant("vaswani_base")
    reading = with_prefix(builders.count_encode_flops(spec, 1024).total)
    assert cells(printed, "encoding the source, once")[-1] == reading
    assert "the source is as long as the target\n" in printed
    assert "source" not in inspected(capsys, "gpt2_small")


def test_inspect_prints_no_decoding_costs_for_an_encoder(capsys):
    printed = inspected(capsys, "bert_base")
    spec = builders.variant("bert_base")
    flat, slope, pooler = (
        int(number.replace(",", ""))
        for number in re.search(
            r"tokens: ([\d,]+) \+ ([\d,]+) t \+ ([\d,]+) / t$", printed, re.M
        ).groups()
    )
    assert flat * 7 + slope * 49 + pooler == builders.count_flops(spec, 7).total
    assert "decod" not in printed
    assert "cache" not in printed


def test_inspect_prints_distinct_positive_lengths(capsys):
    printed = inspected(capsys, "gpt2_small", "--set", "max_sequence_length=3")
    assert cells(printed, "tokens") == ["1", "3"]


@pytest.mark.parametrize(
    ("dtype", "title", "weights", "cache"),
    [
        ("float32", "memory, float32", 4, "float32"),
        ("mixed_bfloat16", "memory, mixed_bfloat16: weights in float32", 4, "bfloat16"),
        ("float16", "memory, float16", 2, "float16"),
    ],
)
def test_inspect_prints_the_memory_of_training(capsys, dtype, title, weights, cache):
    printed = inspected(capsys, "gpt2_small", "--dtype", dtype)
    assert f"\n{title}\n" in printed
    assert f"\nkey/value cache, {cache}\n" in printed
    number = 124_439_808 * weights
    rows = {"weights": 1, "gradients": 1, "AdamW moments": 2}
    for name, times in {**rows, "training, without activations": 4}.items():
        assert f"{times * number:,} bytes" in cells(printed, name)


@pytest.mark.parametrize(
    ("number", "decimal", "binary"),
    [
        (0, "0", "0 bytes"),
        (999, "999", "999 bytes"),
        (1000, "1.00 k", "1000 bytes"),
        (1024, "1.02 k", "1.00 KiB"),
        (1_234_567, "1.23 M", "1.18 MiB"),
        (5 * 2**30, "5.37 G", "5.00 GiB"),
        (3 * 10**15, "3.00 P", "2.66 PiB"),
    ],
)
def test_numbers_are_printed_in_the_largest_unit_not_above_them(number, decimal, binary):
    assert with_prefix(number) == decimal
    assert with_prefix(number, BINARY) == binary


def test_inspect_prints_layers_on_request(capsys):
    printed = inspected(capsys, "mini_gpt", "--layers")
    assert re.search(r"^parameters by layer +10,939,168$", printed, re.M)
    assert re.search(r"^decoder\.block_\*\.self_attention\.query +131,584 +1\.2%$", printed, re.M)
    assert "skip paths: 2\n" in printed
    assert "skip paths" not in inspected(capsys, "mini_gpt")


def test_inspect_counts_a_custom_component_from_its_graph(capsys, monkeypatch):
    monkeypatch.setattr(components, "_components", dict(components._components))
    builders.register_component("feedforward", "own")(lambda scope, x: x)
    options = ["--set", "feedforward=own", "--set", "intermediate_dim=256"]
    printed = inspected(capsys, "mini_gpt", *options)
    spec = builders.variant("mini_gpt", feedforward="own", intermediate_dim=256)
    parameters = builders.build(spec, abstract=True).count_params()
    assert re.search(rf"^parameters by layer +{parameters:,}$", printed, re.M)
    assert "feedforward='own' is a custom component" in printed
    assert f"{4 * parameters:,} bytes" in cells(printed, "weights")
    assert "key/value cache, float32\n" in printed
    assert "operations per token" not in printed


INSPECTED = [
    ("gpt2_small", []),
    ("post_norm_learned", ["--kind", "encoder_decoder"]),
    ("post_norm_learned", ["--kind", "decoder_only", "--set", "attention_window=7"]),
    ("pre_norm_learned", ["--kind", "decoder_only", "--set", "num_key_value_heads=1"]),
    (
        "gemma2_2b",
        ["--set", "max_sequence_length=19", "--set", "num_layers=3", "--set", "attention_window=7"],
    ),
]


@pytest.mark.parametrize(("name", "options"), INSPECTED)
def test_inspect_prints_the_size_of_the_cache(capsys, name, options):
    assert main(["inspect", name, *options]) == 0
    printed = capsys.readouterr().out
    assert "key/value cache, float32\n" in printed
    given = _parser().parse_args(["inspect", name, *options])
    spec = load_spec(name, spec_changes(given))
    model = SimpleNamespace(layers=[SimpleNamespace(weights=[1], compute_dtype="float32")])

    def real_bytes(length):
        arrays = builders.empty_cache(model, spec, 1, length).values()
        return sum(as_array(array).nbytes for array in arrays)

    each = re.search(r"^per token +([\d,]+) bytes$", printed, re.M)[1].replace(",", "")
    row = re.search(r"^per sequence +([\d,]+) bytes, for (\d+) (or more )?tokens", printed, re.M)
    slots = 7 if set(spec.windows) == {7} else spec.max_sequence_length
    assert int(each) == real_bytes(1)
    assert int(row[1].replace(",", "")) == real_bytes(spec.max_sequence_length)
    if len(set(spec.windows)) == 1:
        assert int(row[1].replace(",", "")) == slots * int(each)
    assert int(row[2]) == slots
    assert bool(row[3]) == (slots == 7)
    assert ("per source token" in printed) == (spec.kind == "encoder_decoder")
