"""Position schemes and variants of installed packages work like the built-in ones.

`sample_package/` is installed with pip beside a package with broken entry points, and used by a new
process that finds both through their entry points.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from installed_packages import ROOT, install, run_python
from small_models import relative_error

pytestmark = pytest.mark.slow  # an installation and processes

BROKEN = """\
[functional_models.components]
no_such_module = broken_package.components

[functional_models.variants]
no_such_attribute = kerple.variants:no_such_variant
"""
USE = """
import json, sys, warnings
from pathlib import Path

folder = Path(sys.argv[1])
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import builders

    listed = builders.list_variants()
    try:
        builders.register_component("norm", "layer")(lambda scope, x, name: x)
    except ValueError as error:
        refused = str(error)
    keras_was_imported = "keras" in sys.modules
    spec = builders.variant("kerple_small", pad_token_id=5)
reported = [str(warning.message) for warning in caught if warning.category is UserWarning]

import keras
import numpy as np
from functional_models.model_folder import ModelFolder, read_model_folder, write_model_folder

rng = np.random.default_rng(0)
model = builders.build_decoder_only(spec)
for variable in model.weights:
    size = 0.4 * rng.normal(size=variable.shape)
    variable.assign(1 + abs(size) if "distance_bias" in variable.path else size)
tokens = rng.integers(0, 31, (3, 11), dtype="int32")
tokens[1, -4:] = 5
logits = keras.ops.convert_to_numpy(model(tokens))

step = builders.build_decode_step(model, spec, batch_size=3, num_tokens=None)
cache, decoded = builders.empty_cache(model, spec, batch_size=3), []
for first, last in ((0, 4), (4, 5), (5, 11)):
    inputs = {"tokens": tokens[:, first:last], "index": np.int32(first), "cache": cache}
    output = step({**inputs, "start": np.zeros(3, "int32")})
    decoded.append(keras.ops.convert_to_numpy(output["logits"]))
    cache = output["cache"]

write_model_folder(folder / "model", ModelFolder(spec, model, {}))
loaded = read_model_folder(folder / "model").model
model.save(folder / "model.keras")
loaded_by_keras = keras.saving.load_model(folder / "model.keras")
np.savez(
    folder / "numbers.npz",
    tokens=tokens,
    logits=logits,
    decoded=np.concatenate(decoded, axis=1),
    loaded=keras.ops.convert_to_numpy(loaded(tokens)),
    loaded_by_keras=keras.ops.convert_to_numpy(loaded_by_keras(tokens)),
    **{"weight " + v.path: keras.ops.convert_to_numpy(v.value) for v in model.weights},
)
found = {"listed": listed, "reported": reported, "keras_was_imported": keras_was_imported}
found |= {"refused": refused, "spec": spec.to_json()}
found |= {"summary": builders.variant_info("kerple_small").summary}
(folder / "found.json").write_text(json.dumps(found))
"""
LOAD = """
import sys
from pathlib import Path

import keras
import numpy as np
from functional_models.model_folder import read_model_folder

folder = Path(sys.argv[1])
loaded = read_model_folder(folder / "model").model
tokens = np.load(folder / "numbers.npz")["tokens"]
np.save(folder / "again.npy", keras.ops.convert_to_numpy(loaded(tokens)))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the sample package and a broken one; return their folder."""
    packages = install("sample_package", tmp_path_factory.mktemp("installed"))
    broken = packages / "broken_package-1.0.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-package\nVersion: 1.0\n")
    (broken / "entry_points.txt").write_text(BROKEN)
    return packages


@pytest.fixture(scope="module")
def used(installed: Path) -> Path:
    """Use the installed packages in a new process; return the folder of its results."""
    folder = installed.parent / "used"
    folder.mkdir()
    run_python(USE, folder, path=(ROOT, installed))
    return folder


def read_found(used: Path) -> dict[str, Any]:
    return json.loads((used / "found.json").read_text())


def read_numbers(used: Path) -> dict[str, np.ndarray]:
    return dict(np.load(used / "numbers.npz"))


def test_a_variant_of_an_installed_package_is_listed_after_built_in_ones(used: Path) -> None:
    found = read_found(used)
    assert found["listed"].count("kerple_small") == 1
    assert found["listed"].index("kerple_small") > found["listed"].index("gpt2_small")
    assert found["summary"] == "trained biases that fall with the logarithm of the distance"
    assert not found["keras_was_imported"]


def test_a_built_in_component_cannot_be_replaced_even_before_it_is_imported(used: Path) -> None:
    message = "norm='layer' is registered already, by builders; choose another value"
    assert read_found(used)["refused"] == message


def test_broken_entry_points_are_reported_and_skipped(used: Path) -> None:
    variants, components = read_found(used)["reported"]
    assert "functional_models.variants: no_such_attribute (kerple.variants:no_such" in variants
    assert "left out: AttributeError" in variants
    assert "functional_models.components: no_such_module (broken_package.components" in components
    assert "left out: ModuleNotFoundError: No module named 'broken_package'" in components


def kerple_bias(
    spec: dict, weights: dict, side: str, length: int, causal: bool, block: int = 0
) -> np.ndarray:
    """Return -r1 log(1 + r2 |m - n|) for each head (Chi et al. 2022, equation 5)."""
    r1, r2 = (weights[f"{side}.log_distance_bias.{name}"] for name in ("height", "rate"))
    bias = np.zeros((spec["num_heads"], length, length))
    for head in range(spec["num_heads"]):
        for m in range(length):
            for n in range(length):
                bias[head, m, n] = -r1[head] * math.log(1.0 + r2[head] * abs(m - n))
    return bias


def test_logits_with_installed_positions_equal_the_reference(
    used: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Substitute the position bias of the NumPy reference."""
    numbers, spec = read_numbers(used), json.loads(read_found(used)["spec"])
    assert spec["positions"] == "kerple"
    weights = {
        name.removeprefix("weight ").replace("/", "."): value
        for name, value in numbers.items()
        if name.startswith("weight ")
    }
    assert weights["decoder.log_distance_bias.rate"].shape == (3,)
    without = {**spec, "positions": "none"}
    plain = reference.reference_logits(without, weights, numbers["tokens"])
    monkeypatch.setattr(reference, "score_bias", kerple_bias)
    expected = reference.reference_logits(without, weights, numbers["tokens"])
    assert relative_error(numbers["logits"], expected) < 1e-5
    assert relative_error(plain, expected) > 1e-2


def test_models_of_an_installed_variant_decode_and_load(used: Path) -> None:
    numbers = read_numbers(used)
    real = numbers["tokens"] != 5
    assert relative_error(numbers["decoded"][real], numbers["logits"][real]) < 1e-5
    for loaded in ("loaded", "loaded_by_keras"):
        np.testing.assert_array_equal(numbers[loaded], numbers["logits"])


@pytest.mark.slow
def test_models_of_an_installed_variant_load_in_another_process(
    used: Path, installed: Path
) -> None:
    run_python(LOAD, used, path=(ROOT, installed))
    np.testing.assert_array_equal(np.load(used / "again.npy"), read_numbers(used)["logits"])


def test_the_readme_names_the_sample_package_and_its_entry_point_groups() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    project = (ROOT / "tests" / "sample_package" / "pyproject.toml").read_text("utf-8")
    assert "`tests/sample_package`" in readme
    for group in ("functional_models.variants", "functional_models.components"):
        assert f"`{group}`" in readme
        assert f'[project.entry-points."{group}"]' in project
