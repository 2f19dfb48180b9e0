"""Measure memory and time of reading a folder of Hugging Face.

    python benchmarks/hugging_face.py [--sizes qwen2_0.5b gpt2] [--dtypes float32 bfloat16]

Writes folders with random weights in bfloat16, of published sizes, and reads each in a process of
its own. Memory is the peak of the process (VmHWM), with and without what the imports of modules
took, and relative to the weights.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

SIZES: dict[str, dict[str, Any]] = {
    "qwen2_0.5b": {  # Qwen 2.5 0.5B, 494 million parameters
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        **{"vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864},
        **{"num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2},
        **{"max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "tie_word_embeddings": True},
    },
    "gpt2": {  # 124 million parameters
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        **{"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12},
    },
}

READ = """
import json, sys, time, warnings
import functional_models as fm
import functional_models.conversion
fm.from_hugging_face
import tensorflow
def peak():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
    return int(lines["VmHWM"].split()[0]) * 1024
warnings.simplefilter("ignore")
before, started = peak(), time.perf_counter()
model = fm.from_hugging_face(sys.argv[1], dtype=sys.argv[2])
print(json.dumps({
    "imports": before,
    "peak": peak(),
    "seconds": time.perf_counter() - started,
    "weights": model.model.count_params() * (4 if sys.argv[2] == "float32" else 2),
}))
"""


def write_folder(name: str, folder: Path) -> None:
    """Write the configuration and random weights of a model, tensor by tensor."""
    import builders
    from functional_models.hugging_face.convert import family_of
    from functional_models.hugging_face.export import model_tensors

    config = SIZES[name]
    family, head = family_of(config)
    # Names and shapes are those of a model with the same blocks, of which there are fewer.
    spec = builders.TransformerSpec(**family.spec_fields(config, head))
    with_one = spec.replace(num_layers=1)
    tensors = model_tensors(builders.build(with_one), with_one, family, config)
    shapes: dict[str, Any] = {}
    for key, array in tensors.items():
        blocks = range(spec.num_layers) if ".0." in key else (0,)
        shapes |= {key.replace(".0.", f".{i}."): array.shape for i in blocks}
    header, start = {}, 0
    for key, shape in shapes.items():
        end = start + 2 * int(np.prod(shape))
        header[key] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
        start = end
    random = np.random.default_rng(0)
    with (folder / "model.safetensors").open("wb") as file:
        content = json.dumps(header).encode()
        file.write(len(content).to_bytes(8, "little") + content)
        for shape in shapes.values():
            values = random.standard_normal(shape, dtype="float32") * 0.02
            file.write(values.astype(ml_dtypes.bfloat16).tobytes())
    (folder / "config.json").write_text(json.dumps(config))


def main() -> None:
    """Write and read models, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    options = parser.parse_args()
    for name in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_folder(name, Path(folder))
            for dtype in options.dtypes:
                command = [sys.executable, "-c", READ, folder, dtype]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                row = json.loads(done.stdout.splitlines()[-1])
                weights, peak = row["weights"], row["peak"]
                print(
                    f"{name} {dtype}: weights {weights / 1e9:.2f} GB, peak {peak / 1e9:.2f} GB "
                    f"({peak / weights:.2f} of the weights; {(peak - row['imports']) / weights:.2f}"
                    f" without {row['imports'] / 1e9:.2f} GB of imports), {row['seconds']:.1f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
