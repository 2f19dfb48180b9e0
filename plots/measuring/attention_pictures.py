"""Attention weights as a small PNG: one map for every head, all in a grid."""

from __future__ import annotations

import math
import struct
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

LONGEST = 48
"""Most rows or columns of a map. Longer sequences are drawn with several tokens to a cell."""

_MAP_PIXELS = 96  # about how large a map is drawn
_GAP_PIXELS = 6
_NOTHING, _EVERYTHING, _MASKED = (255, 255, 255), (8, 48, 107), (208, 208, 208)


def heads_png(weights: np.ndarray, mask: np.ndarray) -> bytes:
    """A PNG of the attention weights (n, t, s) of all heads, side by side and in rows.

    Rows of a map are queries, its columns keys. White is a weight of 0 and dark blue one of 1, in
    between the colour follows the square root, so that one can see equal looks at many keys. What
    `mask` (n, t, s) hides is grey. Of long sequences a cell shows the largest weight of its tokens.
    """
    import numpy as np

    cells = block_maximum(np.where(mask, weights, -1.0), LONGEST)
    n, rows, columns = cells.shape
    size = max(1, _MAP_PIXELS // max(rows, columns))
    depth = np.sqrt(np.clip(cells, 0, 1))[..., None]
    colours = np.array(_NOTHING) + depth * (np.array(_EVERYTHING) - np.array(_NOTHING))
    colours[cells < 0] = _MASKED
    maps = colours.repeat(size, axis=1).repeat(size, axis=2)
    frame = ((0, 0), (0, _GAP_PIXELS), (0, _GAP_PIXELS), (0, 0))
    maps = np.pad(maps, frame, constant_values=255)
    across = _across(n, maps.shape[1], maps.shape[2])
    down = -(-n // across)
    maps = np.pad(maps, ((0, across * down - n), (0, 0), (0, 0), (0, 0)), constant_values=255)
    grid = maps.reshape(down, across, *maps.shape[1:]).swapaxes(1, 2)
    pixels = grid.reshape(down * maps.shape[1], across * maps.shape[2], 3)
    return png(pixels[:-_GAP_PIXELS, :-_GAP_PIXELS].round().astype("uint8"))


def _across(n: int, height: int, width: int) -> int:
    """How many maps to put in a row: few places are to be empty, and the picture is to be wide."""

    def away(across: int) -> float:  # from three by two
        return abs(math.log(across * width / (-(-n // across) * height) / 1.5))

    nearest = min(away(across) for across in range(1, n + 1))
    allowed = [a for a in range(1, n + 1) if away(a) <= max(nearest, math.log(2.1))]
    return min(allowed, key=lambda across: (-n % across, away(across)))


def block_maximum(maps: np.ndarray, longest: int) -> np.ndarray:
    """Maps (n, t, s), with the maximum of a block of numbers in the place of each block.

    Blocks are squares of the smallest size with which neither side is longer than `longest`.
    """
    import numpy as np

    side = max(1, -(-max(maps.shape[1:]) // longest))
    return reduced_in_blocks(maps, (side, side), np.maximum)


def reduced_in_blocks(maps: np.ndarray, blocks: tuple[int, int], by: np.ufunc) -> np.ndarray:
    """Maps (n, t, s), with what `by` makes of a block's numbers in the place of each block.

    `blocks` are the rows and columns of a block; the last ones may have fewer.
    """
    import numpy as np

    for axis, block in ((1, blocks[0]), (2, blocks[1])):
        maps = by.reduceat(maps, np.arange(0, maps.shape[axis], block), axis)
    return maps


def png(pixels: np.ndarray) -> bytes:
    """Pixels, uint8 (rows, columns, 3), as a PNG (ISO/IEC 15948)."""
    height, width, _ = pixels.shape
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)  # each begins with: no filter
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
