"""Conversion of tasks, tokenizers and folders of KerasHub and Hugging Face."""

import json
import re
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
import pytest
import sentencepiece
from hub_backbones import BACKBONES, backbone_of, randomise, shared_backbone, tokens_of
from reference import reference_logits
from safetensors.numpy import save_file
from small_models import (
    as_array,
    relative_error,
)

import builders
import functional_models as fm

# KerasHub's T5 warns about its own masks.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Layer '.*' .of type T5:UserWarning", "ignore:Layer '.*' looks like:UserWarning"
)

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


def byte_pair_tokenizer() -> Any:
    """Return a tokenizer of 31 tokens, mostly letters."""
    vocabulary = {"<|endoftext|>": 0, **{chr(97 + i): i + 1 for i in range(26)}}
    vocabulary |= {"th": 27, "he": 28, "the": 29, "\u0120": 30}
    return keras_hub.models.GPT2Tokenizer(vocabulary, ["t h", "h e", "th e"])


def byte_pair_task() -> Any:
    """Return a GPT-2 task with this tokenizer."""
    preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(
        byte_pair_tokenizer(), sequence_length=17
    )
    return keras_hub.models.GPT2CausalLM(shared_backbone("gpt2"), preprocessor)


@pytest.mark.slow
def test_a_converted_task_has_its_tokenizer_and_generates_the_same(tmp_path: Path) -> None:
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
    """Write a tiny GPT-2 in Hugging Face format; return its weights by layer name."""
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
    tokenizer = byte_pair_tokenizer()
    (folder / "vocab.json").write_text(json.dumps(dict(tokenizer.vocabulary)))
    (folder / "merges.txt").write_text("t h\nh e\nth e\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    return ours


def test_a_hugging_face_folder_matches_the_reference(tmp_path: Path) -> None:
    weights = hugging_face_gpt2(tmp_path / "hugging_face")
    lm = fm.from_keras_hub(tmp_path / "hugging_face")
    tokens, _ = tokens_of(0)
    expected = reference_logits(json.loads(lm.spec.to_json()), weights, tokens)
    assert relative_error(as_array(lm.model(tokens)), expected) < 1e-5
    assert lm.tokenizer.encode(["the cat"])[0].tolist() == [29, 30, 3, 1, 20]


def test_a_folder_without_a_tokenizer_raises_a_warning(tmp_path: Path) -> None:
    hugging_face_gpt2(tmp_path / "weights")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (tmp_path / "weights" / name).unlink()
    with pytest.warns(UserWarning, match=r"without a tokenizer.*tokenizer="):
        lm = fm.from_keras_hub(tmp_path / "weights")
    assert lm.tokenizers == {}


@pytest.mark.slow
def test_the_command_line_imports_a_preset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from functional_models.cli import main

    task = byte_pair_task()
    task.save_to_preset(str(tmp_path / "preset"))
    folder = str(tmp_path / "model")
    main(["import", str(tmp_path / "preset"), "--to", folder])
    printed = capsys.readouterr().out
    assert "decoder_only, 3 blocks of width 14, " in printed
    assert f"{task.backbone.count_params():,} parameters" in printed
    assert f"functional-models generate {folder}" in printed
    main(["generate", folder, "the cat", "--sampler", "greedy", "--max-new-tokens", "9"])
    expected = fm.from_keras_hub(task).generate("the cat", "greedy", max_new_tokens=9, echo=True)
    assert capsys.readouterr().out == f"{expected}\n"


def test_a_model_without_a_tokenizer_processes_tokens_only(tmp_path: Path) -> None:
    lm = fm.from_keras_hub(shared_backbone("llama"))
    for take_text in (lambda: lm.generate("the"), lambda: lm.tokenizer):
        with pytest.raises(ValueError, match=r"no tokenizer.*from_keras_hub\(..., tokenizer="):
            take_text()
    lm.save(tmp_path / "model")
    tokens, _ = tokens_of(0)
    again = fm.load(tmp_path / "model").model(tokens)
    np.testing.assert_array_equal(as_array(again), as_array(lm.model(tokens)))
    letters = fm.from_keras_hub(shared_backbone("gpt2"), tokenizer=byte_pair_tokenizer())
    assert letters.tokenizer.decode([letters.tokens("the")]) == ["the"]


# Translators ------------------------------------------------------------------------------------


def backbone_with_large_embeddings(name: str, seed: int, **changes: Any) -> Any:
    """Return a backbone with large embeddings, whose output depends on the text."""
    cls, config = BACKBONES[name]
    backbone = getattr(keras_hub.models, f"{cls}Backbone")(**{**config, **changes})
    randomise(backbone, seed)
    table = backbone.token_embedding.embeddings
    table.assign(4 * table.value)
    return backbone


def t5_task(folder: Path) -> Any:
    """Return a T5 task with a tokenizer of 22 pieces."""
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
    backbone = backbone_with_large_embeddings("t5", 4, vocabulary_size=22)
    return keras_hub.models.T5Seq2SeqLM(backbone, preprocessor)


def bart_task(folder: Path) -> Any:
    """Return a BART task with a tokenizer of 31 tokens, mostly letters."""
    special = ["<s>", "<pad>", "</s>", "<mask>"]
    letters = [chr(97 + i) for i in range(25)] + ["th", "\u0120"]
    vocabulary = {token: i for i, token in enumerate(special + letters)}
    tokenizer = keras_hub.models.BartTokenizer(vocabulary, ["t h"])
    preprocessor = keras_hub.models.BartSeq2SeqLMPreprocessor(tokenizer, 13, 11)
    return keras_hub.models.BartSeq2SeqLM(backbone_with_large_embeddings("bart", 3), preprocessor)


@pytest.mark.slow
@pytest.mark.parametrize("make", [t5_task, bart_task])
def test_a_converted_translator_translates_the_same(make: Any, tmp_path: Path) -> None:
    """Each has its own tokens at the start of sources and targets."""
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
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="export requires TensorFlow")
def test_exported_models_have_the_same_start_tokens(tmp_path: Path) -> None:
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


# Encoders ---------------------------------------------------------------------------------------


def word_pieces() -> Any:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "##s", "on", "mat"]
    return keras_hub.models.BertTokenizer(words)


def test_a_text_encoder_returns_the_vectors_of_keras_hub(tmp_path: Path) -> None:
    backbone = shared_backbone("bert")
    encoder = fm.from_keras_hub(backbone, tokenizer=word_pieces())
    texts = ["the cats sat on the mat", "the cat", "sat"]
    encoder.save(tmp_path / "model")
    pack = keras_hub.models.BertTextClassifierPreprocessor(word_pieces(), sequence_length=13)
    expected = backbone(pack(texts))
    hidden = as_array(expected["sequence_output"])
    pooled = as_array(expected["pooled_output"])
    for model in (encoder, fm.load(tmp_path / "model")):
        found = model.vectors(texts, batch_size=2)
        assert [len(vectors) for vectors in found] == [9, 4, 3]
        for vectors, row in zip(found, hidden, strict=True):
            assert relative_error(vectors, row[: len(vectors)]) < 1e-5
        assert relative_error(model.pooled(texts, batch_size=2), pooled) < 1e-5
    assert encoder.vectors([]) == []
    assert encoder.pooled([]).shape == (0, 14)
    maps = encoder.attention_maps("the cat")
    assert maps.source == maps.target == ("<start>", "the", "cat", "<end>")
    assert {x.shape for x in maps.scores.values()} == {(2, 4, 4)}


def test_unsupported_uses_of_a_text_encoder_raise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from functional_models.cli import main

    encoder = fm.from_keras_hub(shared_backbone("distil_bert"), tokenizer=word_pieces())
    with pytest.raises(ValueError, match=r"no pooler .pooler=False.*vectors"):
        encoder.pooled(["the cat"])
    with pytest.raises(ValueError, match=r"has 19 tokens .* max_sequence_length is 17; shorten it"):
        encoder.vectors(["the " * 17])
    with pytest.raises(ValueError, match="batch_size"):
        encoder.vectors(["the"], batch_size=0)
    with pytest.raises(ValueError, match="reads a single text"):
        encoder.attention_maps("the", "cat")
    message = "an encoder returns vectors|export requires the TensorFlow backend"
    with pytest.raises(ValueError, match=message):
        encoder.export(tmp_path / "exported")
    with pytest.raises(ValueError, match="build_decode_step takes a spec with a decoder"):
        builders.build_decode_step(encoder.model, encoder.spec)
    encoder.save(tmp_path / "model")
    assert main(["evaluate", str(tmp_path / "model")]) == 2
    assert "masked_lm_head=True" in capsys.readouterr().err
    assert main(["generate", str(tmp_path / "model"), "the cat"]) == 2
    assert re.search(r"holds an encoder.*vectors", capsys.readouterr().err)
