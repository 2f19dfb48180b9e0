"""The folders of `tests/golden/hugging_face`, each of which is stored as one compressed archive.

`GOLDEN` has them unpacked, in a temporary folder that all processes share.
"""

import hashlib
import io
import lzma
import os
import tarfile
import tempfile
from pathlib import Path

STORED = Path(__file__).parent / "golden" / "hugging_face"
_END = ".tar.xz"


def pack(folder: Path) -> Path:
    """Write the files of a folder to its archive, the same bytes for the same files."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for path in sorted(folder.iterdir()):
            entry = tarfile.TarInfo(path.name)
            entry.size = path.stat().st_size
            with path.open("rb") as file:
                archive.addfile(entry, file)
    found = STORED / f"{folder.name}{_END}"
    found.write_bytes(lzma.compress(raw.getvalue(), preset=9))
    return found


def unpack(name: str, to: Path) -> Path:
    """Unpack the folder of a case into a folder, and return it."""
    with tarfile.open(STORED / f"{name}{_END}") as archive:
        archive.extractall(to / name, filter="data")
    return to / name


def _unpacked() -> Path:
    archives = sorted(STORED.glob(f"*{_END}"))
    state = [(path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in archives]
    key = hashlib.sha256(f"{STORED}{state}".encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"functional_models-golden-{os.getuid()}-{key}"
    if not folder.exists():
        scratch = Path(tempfile.mkdtemp(dir=folder.parent))
        for path in archives:
            unpack(path.name.removesuffix(_END), scratch)
        try:
            scratch.rename(folder)
        except OSError:  # another process was faster
            return folder if folder.exists() else scratch
    return folder


GOLDEN = _unpacked()
