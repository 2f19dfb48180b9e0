"""Models that the installed transformers makes and saves now are read with equal outputs.

Needs torch and transformers 4 or 5: `make test-peers`. The stored models of
`tests/golden/hugging_face` are of the same cases, with other weights.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from cases import CASES
from make_golden import OF_TEXTS, make_inputs, make_model, outputs_of, settle, shake
from safetensors.numpy import load_file, save_file
from small_models import relative_error
from test_hugging_face import outputs, read

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_a_saved_model_is_read_with_equal_outputs(name: str, seed: int, tmp_path: Path) -> None:
    model = make_model(name)
    shake(model, seed)
    inputs = make_inputs(model, seed)
    settle(model, inputs, 100 * seed)
    expected = outputs_of(model, inputs)
    model.save_pretrained(tmp_path / "saved", max_shard_size="20KB" if seed == 2 else "1GB")
    found = outputs(read(tmp_path / "saved"), inputs)
    for key, value in expected.items():
        real = slice(None) if key in OF_TEXTS else inputs["real"]
        assert relative_error(found[key][real], value[real]) < 1e-5


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("name", ["gpt2", "bert", "t5"])
def test_a_state_dict_that_torch_saves_is_read(name: str, is_zip: bool, tmp_path: Path) -> None:
    model = make_model(name)
    inputs = make_inputs(model)
    expected = outputs_of(model, inputs)
    model.config.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["architectures"] = [type(model).__name__]
    (tmp_path / "config.json").write_text(json.dumps(config))
    path = tmp_path / "pytorch_model.bin"
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=is_zip)
    found = outputs(read(tmp_path), inputs)
    for key, value in expected.items():
        assert relative_error(found[key][inputs["real"]], value[inputs["real"]]) < 1e-5


@pytest.mark.parametrize("name", ["llama", "gemma2", "bert", "t5"])
def test_weights_in_bfloat16_are_read_exactly(name: str, tmp_path: Path) -> None:
    model = make_model(name)
    inputs = make_inputs(model)
    settle(model, inputs)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "saved")
    loaded = type(model).from_pretrained(
        tmp_path / "saved", dtype=torch.float32, attn_implementation="eager"
    )
    expected = outputs_of(loaded.eval(), inputs)
    found = outputs(read(tmp_path / "saved"), inputs)
    for key, value in expected.items():
        assert relative_error(found[key][inputs["real"]], value[inputs["real"]]) < 1e-5


@pytest.mark.skipif(transformers.__version__ < "5", reason="of transformers 5")
@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe_dense", "qwen3_moe", "deepseek_v3"])
def test_the_experts_of_a_block_may_be_one_tensor(name: str, tmp_path: Path) -> None:
    model = make_model(name)
    inputs = make_inputs(model)
    model.save_pretrained(tmp_path, save_original_format=False)
    names = load_file(tmp_path / "model.safetensors")
    assert any(name.endswith("experts.gate_up_proj") for name in names)
    found = outputs(read(tmp_path), inputs)["logits"]
    expected = outputs_of(model, inputs)["logits"]
    assert relative_error(found[inputs["real"]], expected[inputs["real"]]) < 1e-5


def test_the_language_model_of_a_model_of_images_is_read(tmp_path: Path) -> None:
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "image_size": 28}
    config = transformers.Gemma3Config(
        text_config=CASES["gemma3_text_options"][1],
        vision_config={**vision, "num_attention_heads": 2, "patch_size": 14},
        mm_tokens_per_image=4,
        image_token_index=30,
        tie_word_embeddings=False,
    )
    cls = transformers.Gemma3ForConditionalGeneration
    model = cls._from_config(config, attn_implementation="eager").eval()
    shake(model, 3)
    inputs = make_inputs(model.model.language_model)
    tokens = inputs["tokens"] % 30  # no images
    given = {"input_ids": torch.from_numpy(tokens).long()}
    with torch.no_grad():
        expected = model(**given, attention_mask=torch.from_numpy(inputs["real"]).long()).logits
    model.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="tensors of images are left out"):
        found = outputs(read(tmp_path), {"tokens": tokens})["logits"]
    real = inputs["real"]
    assert relative_error(found[real], expected.float().numpy()[real]) < 1e-5


def test_a_file_of_safetensors_is_that_of_the_package(tmp_path: Path) -> None:
    from functional_models.hugging_face.weight_files import SINGLE, stored_tensors

    tensors = {"a": np.arange(6, dtype="float16").reshape(2, 3), "b": np.zeros((0, 5), "float32")}
    save_file(tensors, tmp_path / SINGLE)
    assert load_file(tmp_path / SINGLE).keys() == tensors.keys()
    for name, tensor in stored_tensors(tmp_path).items():
        np.testing.assert_array_equal(tensor.read(), tensors[name])
