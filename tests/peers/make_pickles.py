"""Make tests/golden/pickles: tensors as `torch.save` writes them, in both of its formats.

Needs torch (`pip install '.[peers]'`): python tests/peers/make_pickles.py
"""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent.parent / "golden" / "pickles"


def main() -> None:
    random = torch.Generator().manual_seed(3)
    table = torch.randn((7, 5), generator=random)
    tensors = OrderedDict(
        plain=table,
        tied=table,
        parameter=torch.nn.Parameter(torch.randn((3,), generator=random)),
        transposed=torch.randn((5, 3, 2), generator=random).permute(2, 0, 1),
        rows_of_another=table[2:5, 1:4],
        half=torch.randn((2, 3), generator=random).half(),
        bfloat=torch.randn((2, 3), generator=random).bfloat16(),
        double=torch.randn((2, 3), generator=random).double(),
        number=torch.tensor(0.5),
        empty=torch.zeros((0, 4)),
    )
    expected = {name: tensor.detach().double().numpy() for name, tensor in tensors.items()}
    np.savez_compressed(FOLDER / "expected.npz", **expected)
    tensors["ids"] = torch.arange(4)
    tensors["mask"] = torch.ones((2, 2), dtype=torch.bool)
    tensors._metadata = OrderedDict({"": {"version": 1}})  # as state_dict() has it
    torch.save(tensors, FOLDER / "zip.bin")
    torch.save(tensors, FOLDER / "older.bin", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    main()
