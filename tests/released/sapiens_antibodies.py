"""Sapiens: a RoBERTa for antibodies, in a checkpoint of fairseq (Prihoda et al. 2022)."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from packages import assert_drawn, released, skip_shares
from safetensors.numpy import save_file

import functional_models as fm
from functional_models.hugging_face import pickle_files
from functional_models.hugging_face.pickle_files import pickled_tensors, read_pickle

CHECKPOINT = "sapiens/models/v1/checkpoint_vh.pt"
# The variable region of the heavy chain of trastuzumab, PDB 1N8Z.
ANTIBODY = (
    "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTA"
    "VYYCSRWGGDGFYAMDYWGQGTLVTVSS"
)
CYSTEINES = [21, 95]  # those that a bond joins

# Name in fairseq -> name in Hugging Face, of what it ends with; {} is the number of a block.
_LAYER, _THEIRS = "sentence_encoder.layers.{}", "roberta.encoder.layer.{}"
NAMES = {
    "sentence_encoder.embed_tokens": "roberta.embeddings.word_embeddings",
    "sentence_encoder.embed_positions": "roberta.embeddings.position_embeddings",
    "sentence_encoder.emb_layer_norm": "roberta.embeddings.LayerNorm",
    f"{_LAYER}.self_attn.q_proj": f"{_THEIRS}.attention.self.query",
    f"{_LAYER}.self_attn.k_proj": f"{_THEIRS}.attention.self.key",
    f"{_LAYER}.self_attn.v_proj": f"{_THEIRS}.attention.self.value",
    f"{_LAYER}.self_attn.out_proj": f"{_THEIRS}.attention.output.dense",
    f"{_LAYER}.self_attn_layer_norm": f"{_THEIRS}.attention.output.LayerNorm",
    f"{_LAYER}.fc1": f"{_THEIRS}.intermediate.dense",
    f"{_LAYER}.fc2": f"{_THEIRS}.output.dense",
    f"{_LAYER}.final_layer_norm": f"{_THEIRS}.output.LayerNorm",
    "lm_head": "lm_head",
    "lm_head.dense": "lm_head.dense",
    "lm_head.layer_norm": "lm_head.layer_norm",
}


def write_folder(checkpoint: dict[str, Any], letters: list[str], folder: Path) -> None:
    """Write a checkpoint as a folder of Hugging Face."""
    args = vars(checkpoint["args"])
    blocks = range(args["encoder_layers"])
    names = {old.format(i): new.format(i) for old, new in NAMES.items() for i in blocks}
    tensors = {}
    for name, tensor in checkpoint["model"].items():
        owner, _, last = name.removeprefix("decoder.").rpartition(".")
        tensors[f"{names[owner]}.{last}"] = tensor.read()
    tensors["lm_head.decoder.weight"] = tensors.pop("lm_head.weight")
    # The one segment of RoBERTa, which fairseq does not have.
    width = args["encoder_embed_dim"]
    tensors["roberta.embeddings.token_type_embeddings.weight"] = np.zeros((1, width), "float32")
    save_file(tensors, folder / "model.safetensors")
    config = {
        "model_type": "roberta",
        "architectures": ["RobertaForMaskedLM"],
        "vocab_size": len(tensors["lm_head.bias"]),
        "hidden_size": width,
        "num_hidden_layers": args["encoder_layers"],
        "num_attention_heads": args["encoder_attention_heads"],
        "intermediate_size": args["encoder_ffn_embed_dim"],
        "max_position_embeddings": args["max_positions"] + 2,
        "type_vocab_size": 1,
        "hidden_act": args["activation_fn"],
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
    }
    (folder / "config.json").write_text(json.dumps(config))
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", *letters, "<mask>"]
    model = tokenizers.models.WordLevel({t: i for i, t in enumerate(vocabulary)}, "<unk>")
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("."), "isolated")
    around = [("<s>", 0), ("</s>", 2)]
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=around
    )
    backend.add_special_tokens([vocabulary[i] for i in (0, 1, 2, 3, -1)])
    backend.save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("sapiens")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(pickle_files.KNOWN, ("argparse", "Namespace"), argparse.Namespace)
        checkpoint = read_pickle(released(CHECKPOINT))
    lines = released("sapiens/models/v1/dict.txt").read_text().splitlines()
    write_folder(checkpoint, [line.split()[0] for line in lines], folder)
    return fm.from_hugging_face(folder)


def test_a_checkpoint_of_fairseq_is_not_only_tensors() -> None:
    with pytest.raises(ValueError, match=r"is a pickle that names argparse\.Namespace, "):
        pickled_tensors(released(CHECKPOINT))


def test_it_has_4_blocks_of_width_128(encoder: Any) -> None:
    assert encoder.model.count_params() == 568_601
    spec = encoder.spec
    assert (spec.num_layers, spec.hidden_dim, spec.num_heads) == (4, 128, 8)
    assert (spec.vocabulary_size, spec.masked_lm_head) == (25, True)


def masked_top_1(encoder: Any, sequence: str) -> np.ndarray:
    """Return, for each amino acid, whether it is the most probable one where it is masked."""
    masked = [f"{sequence[:i]}<mask>{sequence[i + 1 :]}" for i in range(len(sequence))]
    tokens = np.stack(encoder.tokenizer.encode(masked, start=True, end=True))
    assert tokens.shape == (len(sequence), len(sequence) + 2)
    logits = np.asarray(encoder.model(tokens, training=False)["logits"])
    found = logits[np.arange(len(sequence)), 1 + np.arange(len(sequence))].argmax(-1)
    (expected,) = encoder.tokenizer.encode([sequence])
    return found == expected


def test_it_fills_in_an_antibody_and_not_a_shuffled_one(encoder: Any) -> None:
    assert len(ANTIBODY) == 120
    right = masked_top_1(encoder, ANTIBODY)
    assert right.sum() == 92
    assert right[CYSTEINES].all()
    shuffled = "".join(np.random.default_rng(0).permutation(list(ANTIBODY)))
    assert masked_top_1(encoder, shuffled).sum() < 20  # 120 / 20 letters are 6


def test_it_is_drawn(encoder: Any, tmp_path: Path) -> None:
    assert_drawn(encoder, {"encoder": 4}, tmp_path / "sapiens.svg")


def test_heads_of_the_inner_blocks_attend_to_neighbours(encoder: Any) -> None:
    """Each of some heads has one offset, of up to 3 amino acids, with much of its attention."""
    maps = encoder.attention_maps(ANTIBODY)
    offsets = (-3, -2, -1, 1, 2, 3)
    largest = [
        max(np.diagonal(head, offset).mean() for head in scores for offset in offsets)
        for scores in maps.scores.values()
    ]
    assert largest[0] < 0.05  # an equal share would be 1 / 122
    assert min(largest[1:3]) > 0.2


def test_more_of_the_gradient_comes_back_along_skip_paths(encoder: Any) -> None:
    (tokens,) = encoder.tokenizer.encode([ANTIBODY], start=True, end=True)
    shares = skip_shares(encoder, tokens[None])
    assert len(shares) == 8
    assert min(shares) > 0.5
