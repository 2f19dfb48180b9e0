"""Models of keras-nlp, taken over and given back, compute what they computed."""

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
import pytest
import sentencepiece
from keras_hub.src.models.qwen import qwen_attention
from keras_hub.src.models.qwen3 import qwen3_attention
from quick import slow_unless
from reference import reference_logits
from safetensors.numpy import save_file
from small_models import (
    as_array,
    in_a_row,
    random_model,
    random_tokens,
    reduced_variant,
    relative_error,
)

import builders
import functional_models as fm
from functional_models.conversion import choice, families
from functional_models.text_model import text_model_of

# keras-nlp's T5 warns of its own masks.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Layer '.*' .of type T5:UserWarning", "ignore:Layer '.*' looks like:UserWarning"
)

LENGTHS = (11, 7, 5)
SOURCE_LENGTHS = (5, 13, 7)
SIZES = {
    "vocabulary_size": 31,
    "num_layers": 3,
    "num_heads": 2,
    "hidden_dim": 14,
    "intermediate_dim": 23,
}
LONG = {**SIZES, "max_sequence_length": 17}
GROUPED = {
    "vocabulary_size": 31,
    "num_layers": 3,
    "num_query_heads": 6,
    "num_key_value_heads": 3,
    "hidden_dim": 24,  # heads of 4, since channels are turned in pairs
    "intermediate_dim": 23,
}
LLAMA3_SCALING = {
    "rope_frequency_adjustment_factor": 5.0,
    "rope_low_freq_factor": 1.0,
    "rope_high_freq_factor": 3.0,
    "rope_pretraining_sequence_length": 7,
}
GEMMA = {**GROUPED, "num_key_value_heads": 2, "head_dim": 10, "intermediate_dim": 46}
GEMMA2 = {
    **GEMMA,
    "use_post_ffw_norm": True,
    "use_post_attention_norm": True,
    "attention_logit_soft_cap": 1.5,
    "final_logit_soft_cap": 2.5,
    "use_sliding_window_attention": True,
    "sliding_window_size": 3,
}
T5 = {**SIZES, "key_value_dim": 5}
GELU_TANH = keras_hub.src.utils.keras_utils.gelu_approximate

QUICK_BACKBONES = ("gpt2", "gpt_neo_x", "bloom", "llama3", "mistral", "gemma2", "bert", "bart")
BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", LONG),
    "opt": ("OPT", LONG),
    "gpt_neo_x": ("GPTNeoX", {**LONG, "hidden_dim": 22, "rotary_percentage": 0.4}),
    "bloom": ("Bloom", {**SIZES, "num_heads": 3, "hidden_dim": 15}),
    "llama": ("Llama", GROUPED),
    "llama3": ("Llama3", {**GROUPED, **LLAMA3_SCALING, "rope_max_wavelength": 5000}),
    "llama3, tied": ("Llama3", {**GROUPED, "tie_word_embeddings": True}),
    "mistral": ("Mistral", {**GROUPED, "sliding_window": 3, "rope_scaling_factor": 2.0}),
    "mistral, wide heads": ("Mistral", {**GROUPED, "head_dim": 10, "sliding_window": None}),
    "phi3": ("Phi3", {**GROUPED, "max_sequence_length": 17, "pretraining_sequence_length": 13}),
    "qwen": ("Qwen", {**GROUPED, "tie_word_embeddings": False, "rope_scaling_factor": 2.0}),
    "qwen, window": (
        "Qwen",
        {**GROUPED, "use_sliding_window_attention": True, "sliding_window_size": 3},
    ),
    "qwen3": ("Qwen3", {**GROUPED, "head_dim": 10, "sliding_window_size": None}),
    "qwen3, window": ("Qwen3", {**GROUPED, "head_dim": 10, "sliding_window_size": 3}),
    "gemma": ("Gemma", GEMMA),
    "gemma2": ("Gemma", GEMMA2),
    "bert": ("Bert", {**LONG, "num_segments": 3}),
    "roberta": ("Roberta", LONG),
    "distil_bert": ("DistilBert", LONG),
    "bart": ("Bart", LONG),
    "t5": ("T5", {**T5, "activation": "relu", "use_gated_activation": False}),
    "t5 1.1": ("T5", {**T5, "activation": GELU_TANH, "tie_embedding_weights": False}),
}


def backbone_of(name: str, seed: int = 0) -> Any:
    """A backbone with every weight random, also norms and biases."""
    cls, config = BACKBONES[name]
    backbone = getattr(keras_hub.models, f"{cls}Backbone")(**config)
    randomise(backbone, seed)
    return backbone


def randomise(model: Any, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        noise = rng.normal(size=variable.shape).astype("float32")
        if variable.path.endswith(("gamma", "scale", "weight")):
            variable.assign(1.0 + 0.3 * noise)
        else:
            variable.assign(0.3 * noise)


def tokens_of(pad: int, lengths: Sequence[int] = LENGTHS) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (b, t) of rows of unequal length, and where they are real."""
    rng = np.random.default_rng(lengths[0])
    tokens = rng.integers(2, 31, (len(lengths), max(lengths)), dtype="int32")
    real = np.arange(max(lengths))[None] < np.array(lengths)[:, None]
    return np.where(real, tokens, pad).astype("int32"), real


def theirs(backbone: Any, pad: int) -> dict[str, Any]:
    """Hidden states and logits of keras-nlp, with the positions that count."""
    tokens, real = tokens_of(pad)
    mask = real.astype("int32")
    if "encoder_token_ids" in backbone.input:
        sources, sources_real = tokens_of(pad, SOURCE_LENGTHS)
        found = backbone(
            {
                "encoder_token_ids": sources,
                "encoder_padding_mask": sources_real.astype("int32"),
                "decoder_token_ids": tokens,
                "decoder_padding_mask": mask,
            }
        )
        hidden = found["decoder_sequence_output"]
        inputs: Any = {"source": sources, "target": tokens}
    elif "segment_ids" in backbone.input:
        segments = np.random.default_rng(2).integers(0, 3, tokens.shape, dtype="int32")
        found = backbone({"token_ids": tokens, "segment_ids": segments, "padding_mask": mask})
        hidden = found["sequence_output"]
        inputs = {"tokens": tokens, "segments": segments}
    else:
        found = hidden = backbone({"token_ids": tokens, "padding_mask": mask})
        inputs = tokens
    return {"inputs": inputs, "real": real, "hidden": as_array(hidden), "found": found}


def logits_of_task(backbone: Any, hidden: np.ndarray) -> np.ndarray:
    """Logits as keras-nlp's tasks make them from hidden states."""
    if type(backbone).__name__ == "T5Backbone" and backbone.tie_embedding_weights:
        hidden = hidden * backbone.hidden_dim**-0.5
    return as_array(backbone.token_embedding(hidden, reverse=True))


def hidden_of(model: Any, inputs: Any) -> np.ndarray:
    """What our logits are made from, by the probe: the last norm of the stack, or merge."""
    spec = model.spec
    last = f"decoder.block_{spec.num_layers - 1}.feedforward.norm"
    name = "decoder.final_norm" if spec.final_norm else last
    return as_array(builders.build_probe(model.model, spec, name)(inputs)[name])


@pytest.fixture
def _unfused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen's fused attention, which only TensorFlow lacks, leaves out the window it should have."""
    for module in (qwen_attention, qwen3_attention):
        monkeypatch.setattr(module, "fused_attention_op_available", lambda: False)


@pytest.mark.usefixtures("_unfused")
@pytest.mark.parametrize("name", slow_unless(QUICK_BACKBONES.__contains__, BACKBONES))
def test_a_backbone_taken_over_gives_its_hidden_states_and_logits(name: str) -> None:
    """And given back, it is the backbone that it came from."""
    backbone = backbone_of(name)
    model = fm.from_keras_hub(backbone)
    assert_gives_hidden_states_and_logits(model, backbone)
    again = fm.to_keras_hub(model, type(backbone).__name__)
    assert type(again) is type(backbone)
    assert len(again.weights) == len(backbone.weights)
    for ours, its in zip(again.weights, backbone.weights, strict=True):
        np.testing.assert_array_equal(as_array(ours.value), as_array(its.value), err_msg=its.path)


def assert_gives_hidden_states_and_logits(model: Any, backbone: Any) -> None:
    spec = model.spec
    expected = theirs(backbone, spec.pad_token_id or 0)
    inputs, real = expected["inputs"], expected["real"]
    if spec.kind == "encoder_only":
        found = model.model(inputs)
        assert relative_error(as_array(found["hidden"])[real], expected["hidden"][real]) < 1e-5
        if spec.pooler:
            pooled = as_array(expected["found"]["pooled_output"])
            assert relative_error(as_array(found["pooled"]), pooled) < 1e-5
        return
    assert relative_error(hidden_of(model, inputs)[real], expected["hidden"][real]) < 1e-5
    logits = logits_of_task(backbone, expected["hidden"])
    assert relative_error(as_array(model.model(inputs))[real], logits[real]) < 1e-5


# What keras-nlp does not apply ------------------------------------------------------------------

IGNORED = {
    "llama": (
        {"rope_position_scaling_factor": 3.0},
        {"rotary_scaling": "linear", "rotary_factor": 3.0},
    ),
    "gemma2": ({"query_head_dim_normalize": False}, {"attention_scale": 4**-0.5}),
}


@pytest.mark.parametrize("name", IGNORED)
def test_a_setting_that_keras_nlp_does_not_apply_is_warned_of(name: str) -> None:
    """If the first assertion fails, keras-nlp applies it now, and a spec can say it."""
    cls, config = BACKBONES[name]
    setting, fields = IGNORED[name]
    plain = backbone_of(name)
    asking = getattr(keras_hub.models, f"{cls}Backbone")(**config, **setting)
    randomise(asking)
    np.testing.assert_array_equal(theirs(asking, 0)["hidden"], theirs(plain, 0)["hidden"])
    with pytest.warns(UserWarning, match=f"{next(iter(setting))}=.*{next(iter(fields))}"):
        as_computed = fm.from_keras_hub(asking)
    assert as_computed.spec == fm.from_keras_hub(plain).spec
    as_asked = fm.from_keras_hub(asking, **fields)
    assert {field: getattr(as_asked.spec, field) for field in fields} == fields


# What is refused --------------------------------------------------------------------------------


def test_what_a_spec_cannot_say_is_refused() -> None:
    models = keras_hub.models
    with pytest.raises(ValueError, match=r"FalconBackbone is not among .* GPT2Backbone, OPT"):
        fm.from_keras_hub(models.FalconBackbone(31, 2, 2, 14, 23))
    factors = {"rope_scaling_short_factor": [1.0] * 2, "rope_scaling_long_factor": [2.0] * 2}
    su = models.Phi3Backbone(**GROUPED, rope_scaling_type="su", **factors)
    with pytest.raises(ValueError, match=r"Phi3Backbone with rope_scaling_type='su'.*=None"):
        fm.from_keras_hub(su)
    dropping = models.LlamaBackbone(**GROUPED, dropout=0.1)
    with pytest.raises(ValueError, match=r"LlamaBackbone with dropout=0.1.*say .dropout=0"):
        fm.from_keras_hub(dropping)
    t5 = fm.from_keras_hub(models.T5Backbone(**T5, dropout=0.3)).spec
    assert {t5.dropout, t5.activation_dropout, t5.final_dropout, t5.attention_dropout} == {0.3}
    half = models.GemmaBackbone(**GEMMA, use_post_ffw_norm=True)
    with pytest.raises(ValueError, match=r"use_post_ffw_norm=True.* or .*use_post_ffw_norm=True"):
        fm.from_keras_hub(half)
    with pytest.raises(TypeError, match=r"a backbone or a task .* not dict"):
        fm.from_keras_hub({})
    with pytest.raises(TypeError, match="CausalLM, Translator or TextEncoder, not Functional"):
        fm.to_keras_hub(builders.build_decoder_only("mini_gpt", num_layers=1, hidden_dim=14))


def test_fields_that_the_source_has_of_its_own_are_not_overwritten() -> None:
    with pytest.raises(ValueError, match=r"num_layers=2: the GPT2Backbone has.*: pad_token_id"):
        fm.from_keras_hub(backbone_of("gpt2"), num_layers=2)
    assert fm.from_keras_hub(backbone_of("llama"), max_sequence_length=13).spec == (
        fm.from_keras_hub(backbone_of("llama")).spec.replace(max_sequence_length=13)
    )


def test_heads_that_no_model_has_are_refused_and_their_backbone_is_not() -> None:
    backbone = backbone_of("bert")
    classifier = keras_hub.models.BertTextClassifier(backbone, num_classes=3)
    with pytest.raises(ValueError, match=r"BertTextClassifier has a head.*\.backbone"):
        fm.from_keras_hub(classifier)
    masked = keras_hub.models.BertMaskedLM(backbone)
    with pytest.raises(ValueError, match=r"activation='gelu'.*'gelu_tanh'.*\.backbone"):
        fm.from_keras_hub(masked)


def test_weights_that_nobody_reads_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = backbone_of("gpt2")
    backbone.enable_lora(2)
    with pytest.raises(ValueError, match=r"query_dense has 4 weights \(.*lora_kernel_a.*LoRA"):
        fm.from_keras_hub(backbone)
    model = fm.from_keras_hub(backbone_of("bert"))
    for family in families.FAMILIES:
        layers = {name: path for name, path in family.layers.items() if "pooler" not in name}
        shortened = dataclasses.replace(family, same={**family.same, "pooler": False})
        shortened = dataclasses.replace(shortened, layers=layers)
        if family.backbone == "BertBackbone":
            monkeypatch.setattr(choice, "FAMILIES", (shortened,))
    with pytest.raises(
        ValueError, match=r"has weights that no model here has: pooled_dense/kernel"
    ):
        fm.from_keras_hub(backbone_of("bert"))
    with pytest.raises(ValueError, match=r"BertBackbone, differs in pooler=True"):
        fm.to_keras_hub(model)


def test_a_model_that_no_backbone_computes_is_not_given_back() -> None:
    model = fm.from_keras_hub(backbone_of("gpt2"))
    other = text_model_of(model.spec.replace(qk_norm=True), model.model, {})
    with pytest.raises(ValueError, match=r"no backbone.*GPT2Backbone, differs in qk_norm=True"):
        fm.to_keras_hub(other)
    layered = text_model_of(model.spec.replace(attention="layer"), model.model, {})
    with pytest.raises(ValueError, match=r"GPT2Backbone, differs in attention='layer'"):
        fm.to_keras_hub(layered)
    with pytest.raises(ValueError, match=r"unknown backbone 'GPTBackbone'.*mean 'GPT2Backbone'"):
        fm.to_keras_hub(model, "GPTBackbone")
    with pytest.raises(ValueError, match=r"no OPTBackbone.*activation='gelu_tanh' .there 'relu'"):
        fm.to_keras_hub(model, "OPTBackbone")


# Tasks, tokenizers, folders ---------------------------------------------------------------------


def test_a_masked_language_model_keeps_its_head() -> None:
    masked = keras_hub.models.RobertaMaskedLM(backbone_of("roberta"))
    randomise(masked, seed=3)
    model = fm.from_keras_hub(masked)
    tokens, real = tokens_of(1)
    places = np.tile(np.arange(11, dtype="int32"), (3, 1))
    expected = masked(
        {"token_ids": tokens, "padding_mask": real.astype("int32"), "mask_positions": places}
    )
    logits = as_array(model.model(tokens)["logits"])
    assert relative_error(logits[real], as_array(expected)[real]) < 1e-5


def byte_pair_task() -> Any:
    """A GPT-2 task with a tokenizer of 31 tokens, which are letters."""
    vocabulary = {"<|endoftext|>": 0, **{chr(97 + i): i + 1 for i in range(26)}}
    vocabulary |= {"th": 27, "he": 28, "the": 29, "\u0120": 30}
    tokenizer = keras_hub.models.GPT2Tokenizer(vocabulary, ["t h", "h e", "th e"])
    return keras_hub.models.GPT2CausalLM(
        backbone_of("gpt2"),
        keras_hub.models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=17),
    )


@pytest.mark.slow
def test_a_task_brings_its_tokenizer_and_generates_the_same(tmp_path: Path) -> None:
    task = byte_pair_task()
    lm = fm.from_keras_hub(task)
    assert lm.tokenizer.encode(["the cat"])[0].tolist() == [29, 30, 3, 1, 20]
    task.compile(sampler="greedy")
    expected = task.generate("the cat", max_length=15, stop_token_ids=None)
    assert len(expected) > len("the cat")
    assert lm.generate("the cat", "greedy", max_new_tokens=9, echo=True) == expected
    lm.save(tmp_path / "model")
    again = fm.load(tmp_path / "model")
    assert again.generate("the cat", "greedy", max_new_tokens=9, echo=True) == expected


def test_a_preset_folder_is_loaded_with_its_tokenizer(tmp_path: Path) -> None:
    task = byte_pair_task()
    task.save_to_preset(str(tmp_path / "preset"))
    lm = fm.from_keras_hub(str(tmp_path / "preset"))
    tokens, _ = tokens_of(0)
    np.testing.assert_array_equal(
        as_array(lm.model(tokens)), as_array(fm.from_keras_hub(task).model(tokens))
    )
    assert lm.tokenizer.encode(["the"])[0].tolist() == [29]


def hugging_face_gpt2(folder: Path) -> dict[str, np.ndarray]:
    """Write a tiny GPT-2 as Hugging Face does; return its weights under the reference's names."""
    d, n, f, v, rng = 14, 2, 56, 31, np.random.default_rng(7)

    def draw(*shape: int, around: float = 0.0) -> np.ndarray:
        return (around + 0.3 * rng.normal(size=shape)).astype("float32")

    tensors = {"wte.weight": draw(v, d), "wpe.weight": draw(17, d)}
    ours = {
        "decoder.token_embedding.embeddings": tensors["wte.weight"],
        "decoder.position_embedding.embeddings": tensors["wpe.weight"],
    }

    def norm(theirs: str, name: str) -> None:
        tensors[f"{theirs}.weight"] = ours[f"{name}.gamma"] = draw(d, around=1.0)
        tensors[f"{theirs}.bias"] = ours[f"{name}.beta"] = draw(d)

    def dense(theirs: str, name: str, *shape: int) -> None:
        tensors[f"{theirs}.weight"] = ours[f"{name}.kernel"] = draw(*shape)
        tensors[f"{theirs}.bias"] = ours[f"{name}.bias"] = draw(shape[1])

    for i in range(3):
        block, at = f"decoder.block_{i}", f"h.{i}"
        norm(f"{at}.ln_1", f"{block}.self_attention.norm")
        norm(f"{at}.ln_2", f"{block}.feedforward.norm")
        dense(f"{at}.mlp.c_fc", f"{block}.feedforward.up", d, f)
        dense(f"{at}.mlp.c_proj", f"{block}.feedforward.down", f, d)
        dense(f"{at}.attn.c_proj", f"{block}.self_attention.output", d, d)
        name = f"{block}.self_attention.output.kernel"
        ours[name] = ours[name].reshape(n, d // n, d)
        kernels, biases = draw(d, 3 * d), draw(3 * d)
        tensors[f"{at}.attn.c_attn.weight"], tensors[f"{at}.attn.c_attn.bias"] = kernels, biases
        for part, role in enumerate(("query", "key", "value")):
            own = slice(part * d, (part + 1) * d)
            name = f"{block}.self_attention.{role}"
            ours[f"{name}.kernel"] = kernels[:, own].reshape(d, n, d // n)
            ours[f"{name}.bias"] = biases[own].reshape(n, d // n)
    norm("ln_f", "decoder.final_norm")
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": v}
    config |= {"n_layer": 3, "n_head": n, "n_embd": d, "n_positions": 17, "resid_pdrop": 0.1}
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "np"})
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = byte_pair_task().preprocessor.tokenizer
    (folder / "vocab.json").write_text(json.dumps(dict(tokenizer.vocabulary)))
    (folder / "merges.txt").write_text("t h\nh e\nth e\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    return ours


def test_a_folder_of_hugging_face_computes_what_its_weights_say(tmp_path: Path) -> None:
    weights = hugging_face_gpt2(tmp_path / "hugging_face")
    lm = fm.from_keras_hub(tmp_path / "hugging_face")
    tokens, _ = tokens_of(0)
    expected = reference_logits(json.loads(lm.spec.to_json()), weights, tokens)
    assert relative_error(as_array(lm.model(tokens)), expected) < 1e-5
    assert lm.tokenizer.encode(["the cat"])[0].tolist() == [29, 30, 3, 1, 20]


def test_a_folder_without_a_tokenizer_is_said_to_have_none(tmp_path: Path) -> None:
    hugging_face_gpt2(tmp_path / "weights")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (tmp_path / "weights" / name).unlink()
    with pytest.warns(UserWarning, match=r"no tokenizer that keras-nlp can load.*tokenizer="):
        lm = fm.from_keras_hub(tmp_path / "weights")
    assert lm.tokenizers == {}


@pytest.mark.slow
def test_the_command_line_takes_a_preset_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from functional_models.cli import main

    task = byte_pair_task()
    task.save_to_preset(str(tmp_path / "preset"))
    folder = str(tmp_path / "model")
    main(["import", str(tmp_path / "preset"), "--to", folder])
    said = capsys.readouterr().out
    assert "decoder_only, 3 blocks of width 14, " in said
    assert f"{task.backbone.count_params():,} parameters" in said
    assert f"functional-models generate {folder}" in said
    main(["generate", folder, "the cat", "--sampler", "greedy", "--max-new-tokens", "9"])
    expected = fm.from_keras_hub(task).generate("the cat", "greedy", max_new_tokens=9, echo=True)
    assert capsys.readouterr().out == f"{expected}\n"


def test_without_a_tokenizer_a_model_computes_but_takes_no_text(tmp_path: Path) -> None:
    lm = fm.from_keras_hub(backbone_of("llama"))
    for take_text in (lambda: lm.generate("the"), lambda: lm.tokenizer):
        with pytest.raises(ValueError, match=r"no tokenizer.*from_keras_hub\(..., tokenizer="):
            take_text()
    lm.save(tmp_path / "model")
    tokens, _ = tokens_of(0)
    again = fm.load(tmp_path / "model").model(tokens)
    np.testing.assert_array_equal(as_array(again), as_array(lm.model(tokens)))
    letters = fm.from_keras_hub(
        backbone_of("gpt2"), tokenizer=byte_pair_task().preprocessor.tokenizer
    )
    assert isinstance(letters.generate("the", "greedy", max_new_tokens=2), str)


# Translators ------------------------------------------------------------------------------------


def telling_backbone(name: str, seed: int, **changes: Any) -> Any:
    """A backbone whose embeddings are large enough for the text to decide what it writes."""
    cls, config = BACKBONES[name]
    backbone = getattr(keras_hub.models, f"{cls}Backbone")(**{**config, **changes})
    randomise(backbone, seed)
    table = backbone.token_embedding.embeddings
    table.assign(4 * table.value)
    return backbone


def t5_task(folder: Path) -> Any:
    """A T5 task with a tokenizer of 22 pieces."""
    text = ["the cat sat on the mat", "a dog ran in the park", "he has had the hat"] * 3
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_prefix=str(folder / "pieces"),
        vocab_size=22,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    tokenizer = keras_hub.models.T5Tokenizer((folder / "pieces.model").read_bytes())
    preprocessor = keras_hub.models.T5Seq2SeqLMPreprocessor(tokenizer, 13, 11)
    backbone = telling_backbone("t5", 4, vocabulary_size=22)
    return keras_hub.models.T5Seq2SeqLM(backbone, preprocessor)


def bart_task(folder: Path) -> Any:
    """A BART task with a tokenizer of 31 tokens, which are letters."""
    special = ["<s>", "<pad>", "</s>", "<mask>"]
    letters = [chr(97 + i) for i in range(25)] + ["th", "\u0120"]
    vocabulary = {token: i for i, token in enumerate(special + letters)}
    tokenizer = keras_hub.models.BartTokenizer(vocabulary, ["t h"])
    preprocessor = keras_hub.models.BartSeq2SeqLMPreprocessor(tokenizer, 13, 11)
    return keras_hub.models.BartSeq2SeqLM(telling_backbone("bart", 3), preprocessor)


@pytest.mark.slow
@pytest.mark.parametrize("make", [t5_task, bart_task])
def test_a_translator_taken_over_translates_the_same(make: Any, tmp_path: Path) -> None:
    """With its own tokens at the start of sources and targets, which no other has."""
    task = make(tmp_path)
    task.compile(sampler="greedy")
    tr = fm.from_keras_hub(task, **({"max_sequence_length": 17} if make is t5_task else {}))
    texts = ["the cat", "a hat ran"]
    new = 11 - len(tr.target_tokenizer.target_start)
    expected = [task.generate(text, max_length=11) for text in texts]
    assert len(set(expected)) == 2
    assert tr.translate(texts, max_new_tokens=new) == expected
    tr.save(tmp_path / "model")
    again = fm.load(tmp_path / "model")
    assert again.translate(texts) == tr.translate(texts)


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a SavedModel is TensorFlow's")
def test_an_exported_model_starts_as_the_one_it_came_from(tmp_path: Path) -> None:
    import tensorflow as tf

    tr, lm = fm.from_keras_hub(bart_task(tmp_path)), fm.from_keras_hub(byte_pair_task())
    texts = ["the cat", "a hat ran"]
    expected = {
        "translator": tr.translate(texts, max_new_tokens=9),
        "language_model": lm.generate(texts, "greedy", max_new_tokens=7),
    }
    for name, model in (("translator", tr), ("language_model", lm)):
        new = 9 if name == "translator" else 7
        model.export(tmp_path / name, max_new_tokens=new)
        run = tf.saved_model.load(str(tmp_path / name)).signatures["serving_default"]
        found = run(text=tf.constant(texts))["text"].numpy()
        assert [text.decode() for text in found] == expected[name], name


# Published sizes --------------------------------------------------------------------------------

QUICK_VARIANTS = ("gpt2_small", "llama3.2_1b", "gemma2_2b", "qwen3_0.6b", "bert_base")
TAKEN = [
    "gpt2_small",
    "opt_125m",
    "bloom_560m",
    "llama2_7b",
    "llama2_70b",
    "llama3_8b",
    "llama3.2_1b",
    "mistral_7b",
    "gemma_2b",
    "gemma_7b",
    "gemma2_2b",
    "qwen2.5_0.5b",
    "qwen2.5_7b",
    "qwen3_0.6b",
    "phi3_mini_4k",
    "bert_base",
    "roberta_base",
    "distilbert_base",
    "bart_base",
    "t5_small",
    "t5_v1.1_small",
]


@pytest.mark.parametrize("name", slow_unless(QUICK_VARIANTS.__contains__, TAKEN))
def test_a_published_architecture_is_that_of_a_backbone(name: str) -> None:
    """So the rows of the registry are what keras-nlp computes, to the last epsilon."""
    kind = builders.variant_info(name).kinds[0]
    spec = reduced_variant(name, kind)
    if spec.positions == "rotary" and spec.head_dim * spec.num_heads == 12:
        spec = spec.replace(hidden_dim=12, head_dim=None)  # as wide as the heads together
    model = text_model_of(spec, random_model(spec), {})
    backbone = fm.to_keras_hub(model)
    again = fm.from_keras_hub(backbone, pad_token_id=spec.pad_token_id)
    tokens = random_tokens(spec)
    found, expected = in_a_row(again.model(tokens)), in_a_row(model.model(tokens))
    assert relative_error(found, expected) < 1e-5


# Encoders ---------------------------------------------------------------------------------------


def word_pieces() -> Any:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "##s", "on", "mat"]
    return keras_hub.models.BertTokenizer(words)


def test_a_text_encoder_gives_the_vectors_of_keras_nlp(tmp_path: Path) -> None:
    backbone = backbone_of("bert")
    encoder = fm.from_keras_hub(backbone, tokenizer=word_pieces())
    texts = ["the cats sat on the mat", "the cat", "sat"]
    encoder.save(tmp_path / "model")
    for model in (encoder, fm.load(tmp_path / "model")):
        found = model.vectors(texts, batch_size=2)
        assert [len(vectors) for vectors in found] == [9, 4, 3]
        pack = keras_hub.models.BertTextClassifierPreprocessor(word_pieces(), sequence_length=13)
        expected = backbone(pack(texts))
        hidden = as_array(expected["sequence_output"])
        for vectors, row in zip(found, hidden, strict=True):
            assert relative_error(vectors, row[: len(vectors)]) < 1e-5
        pooled = as_array(expected["pooled_output"])
        assert relative_error(model.pooled(texts, batch_size=2), pooled) < 1e-5
    assert encoder.vectors([]) == []
    assert encoder.pooled([]).shape == (0, 14)
    maps = encoder.attention_maps("the cat")
    assert maps.source == maps.target == ("<start>", "the", "cat", "<end>")
    assert {x.shape for x in maps.scores.values()} == {(2, 4, 4)}


def test_what_a_text_encoder_cannot_do_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from functional_models.cli import main

    encoder = fm.from_keras_hub(backbone_of("distil_bert"), tokenizer=word_pieces())
    with pytest.raises(ValueError, match=r"no pooler .pooler=False.*vectors"):
        encoder.pooled(["the cat"])
    with pytest.raises(ValueError, match=r"has 19 tokens .* takes 17; cut it"):
        encoder.vectors(["the " * 17])
    with pytest.raises(ValueError, match="batch_size"):
        encoder.vectors(["the"], batch_size=0)
    with pytest.raises(ValueError, match="reads one text"):
        encoder.attention_maps("the", "cat")
    said = "an encoder gives vectors|a SavedModel is TensorFlow's"
    with pytest.raises(ValueError, match=said):
        encoder.export(tmp_path / "exported")
    with pytest.raises(ValueError, match="build_decode_step takes a spec with a decoder"):
        builders.build_decode_step(encoder.model, encoder.spec)
    encoder.save(tmp_path / "model")
    assert main(["evaluate", str(tmp_path / "model")]) != 0
    assert re.search(r"holds an encoder.*vectors", capsys.readouterr().err)
