"""A fine-tuned flan-T5 small: graphs of ONNX with weights in 8 bits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from packages import assert_drawn, released, skip_shares
from safetensors.numpy import save_file

import functional_models as fm

SPAN = "traceforge_title_model/data/span"
PREFIXES = {"enc.": "encoder.", "m.": ""}
SENTENCE = "translate English to German: The house is wonderful."
TRANSLATION = "Das Haus ist wunderbar."
CONFIG = {
    "model_type": "t5",
    "architectures": ["T5ForConditionalGeneration"],
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 1024,
    "num_layers": 8,
    "num_heads": 6,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "is_encoder_decoder": True,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}


def dequantized(graph: Any) -> dict[str, np.ndarray]:
    """Return the weights of a graph by their names in Hugging Face.

    A matrix that is multiplied has a number as its name, and that of its layer as the name of the
    call: /enc/block.0/layer.0/SelfAttention/q/MatMul_quant.
    """
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    layers = {}
    for node in graph.node:
        if node.op_type == "MatMulInteger":
            path = node.name.strip("/").removesuffix("/MatMul_quant")
            layers[node.input[1].removesuffix("_quantized")] = path.replace("/", ".")
    found = {}
    for name, array in stored.items():
        if array.ndim == 0:  # a scale or a zero point
            continue
        short = name.removesuffix("_quantized")
        if short != name:
            scale, zero = stored[f"{short}_scale"], stored[f"{short}_zero_point"]
            array = (array.astype("float32") - zero) * scale
        if short in layers:  # (inputs, outputs)
            short, array = f"{layers[short]}.weight", array.T
        prefix = next(prefix for prefix in PREFIXES if short.startswith(prefix))
        found[PREFIXES[prefix] + short.removeprefix(prefix)] = np.ascontiguousarray(array)
    return found


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("t5")
    tensors = {}
    for name in ("encoder", "decoder"):
        tensors |= dequantized(onnx.load(released(f"{SPAN}/{name}.onnx")).graph)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    shutil.copy(released(f"{SPAN}/tokenizer.json"), folder)
    return fm.from_hugging_face(folder)


def test_it_has_8_blocks_in_each_stack(translator: Any) -> None:
    assert translator.model.count_params() == 76_961_152
    spec = translator.spec
    assert (spec.num_encoder_layers, spec.num_layers, spec.num_heads) == (8, 8, 6)
    assert (spec.positions, spec.feedforward, spec.tie_embeddings) == ("relative", "glu", False)


def test_it_translates(translator: Any) -> None:
    assert translator.translate([SENTENCE]) == [TRANSLATION]


def test_it_is_drawn(translator: Any, tmp_path: Path) -> None:
    assert_drawn(translator, {"encoder": 8, "decoder": 8}, tmp_path / "t5.svg")


def test_heads_of_the_cross_attention_align_the_words(translator: Any) -> None:
    maps = translator.attention_maps(SENTENCE, TRANSLATION)
    assert maps.target == ("<start>", "Das", "Haus", "ist", "wunderbar", ".")
    cross = {n: scores for n, scores in maps.scores.items() if n.endswith("cross_attention")}

    def attended(block: int, head: int) -> list[str]:
        weights = cross[f"decoder.block_{block}.cross_attention"][head]
        return [maps.source[i] for i in weights.argmax(-1)]

    # One head looks at the word that was written, another at the one that comes next.
    assert attended(0, 2)[2:] == ["house", "is", "wonderful", "."]
    assert attended(3, 3)[1:4] == ["house", "is", "wonderful"]
    # All others have little to do: they look at the end token.
    assert maps.source[-1] == "<end>"
    assert np.mean([weights[..., -1].mean() for weights in cross.values()]) > 0.4


def test_most_of_the_gradient_comes_back_along_skip_paths(translator: Any) -> None:
    source = translator.tokenizers["source_tokenizer"].encode_sources([SENTENCE])[0]
    (target,) = translator.tokenizers["target_tokenizer"].encode([TRANSLATION])
    inputs = {"source": source[None], "target": np.concatenate([[0], target])[None]}
    shares = skip_shares(translator, inputs)
    assert len(shares) == 2 * 8 + 3 * 8
    assert np.median(shares) > 0.65
