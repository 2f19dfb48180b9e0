"""KerasHub tokenizers with a common interface, and the padding, start and end ids of models.

Four kinds can be trained on any text (`tokenizer_training`), and saved as a folder of plain files:

| kind | ids | lossless |
| --- | --- | --- |
| `byte` | the 256 bytes of UTF-8 | yes |
| `byte_pair` | bytes, and merges of frequent pairs (GPT-2) | yes |
| `sentence_piece` | pieces of a unigram model, bytes of rare characters | except U+2581, a space |
| `word_piece` | words and parts of words (BERT) | no: spaces and unknown characters are lost |

Tokenizers run on KerasHub's pure Python path and do not need TensorFlow. Only training `word_piece`
does.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from functional_models.checks import read_manifest
from plots.files import write_whole

TOKENIZER_KINDS = ("byte", "word_piece", "sentence_piece", "byte_pair")

MANIFEST = "tokenizer.json"
FORMAT = 1

# KerasHub has 256 ids for bytes and reads id 0 as padding. The ASCII control characters "start of
# text" and "end of text" are the start and the end; plain text contains none of the three.
BYTE_PAD, BYTE_START, BYTE_END = 0, 2, 3
_BYTE_RESERVED = re.compile("[\x00\x02\x03]")

PAD, START, END, UNKNOWN = "[PAD]", "[START]", "[END]", "[UNK]"


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """A KerasHub tokenizer and its special ids.

    Attributes:
        keras_tokenizer: the wrapped `keras_hub.tokenizers.Tokenizer`.
        kind: one of `TOKENIZER_KINDS`.
        vocabulary_size: number of ids; every id is in `range(vocabulary_size)`.
        pad_id: padding id; 0 for the tokenizers of `train_tokenizer`.
        start_id: id before the first token of a target.
        end_id: id after the last token.
        lowercase: whether text is lowercased before it is encoded.
        second_start_id: id after `start_id`, in targets of BART.
        input_start_id: id before the first token of prompts and sources, for published models that
            were trained with it.
        ends_sources: whether sources end with `end_id`.
    """

    keras_tokenizer: Any
    kind: str
    vocabulary_size: int
    pad_id: int
    start_id: int
    end_id: int
    lowercase: bool = False
    second_start_id: int | None = None
    input_start_id: int | None = None
    ends_sources: bool = False

    def encode(
        self, texts: Sequence[str], *, start: bool = False, end: bool = False
    ) -> list[np.ndarray]:
        """Return the token ids of each text, without padding.

        Args:
            texts: texts; encoding them in one call is much faster than one by one.
            start: prepend `target_start`.
            end: append `end_id`.

        Returns:
            For each text an int32 array (t,), of its own length.

        Raises:
            ValueError: a text is not a string, has a lone surrogate or, for `byte`, one of the
                characters U+0000, U+0002 and U+0003, which are padding, start and end.
        """
        before = self.target_start if start else []
        return self._encoded(texts, before, [self.end_id] if end else [])

    def encode_prompts(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the token ids of prompts; see `encode`."""
        return self._encoded(texts, self._input_start, [])

    def encode_sources(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the token ids of sources to translate; see `encode`."""
        return self._encoded(texts, self._input_start, [self.end_id] if self.ends_sources else [])

    def _encoded(
        self, texts: Sequence[str], before: Sequence[int], after: Sequence[int]
    ) -> list[np.ndarray]:
        texts = checked_texts(texts)
        if self.kind == "byte":
            _check_reserved_bytes(texts)
        if not texts:
            return []
        if self.lowercase:
            texts = [text.lower() for text in texts]
        sequences = self.keras_tokenizer.tokenize(texts)
        return [np.array([*before, *ids, *after], dtype=np.int32) for ids in sequences]

    @property
    def target_start(self) -> list[int]:
        """The ids before the first token of a target: one, or BART's two."""
        second = [] if self.second_start_id is None else [self.second_start_id]
        return [self.start_id, *second]

    @property
    def _input_start(self) -> list[int]:
        return [] if self.input_start_id is None else [self.input_start_id]

    @property
    def start_ids(self) -> frozenset[int]:
        """All ids that can start a sequence and stand for no text."""
        return frozenset((*self.target_start, *self._input_start))

    def decode(self, sequences: Iterable[Sequence[int] | np.ndarray]) -> list[str]:
        """Return the text of each sequence of ids.

        Padding and start ids are dropped, and the first end id with everything after it. Bytes that
        are not UTF-8, which a model can generate, become U+FFFD, the replacement character.

        Args:
            sequences: sequences of ids, or one integer array of shape (b, t).

        Raises:
            ValueError: an id is outside the vocabulary, or not an integer.
        """
        content = [self._content(ids) for ids in sequences]
        return list(self.keras_tokenizer.detokenize(content)) if content else []

    def _content(self, sequence: Sequence[int] | np.ndarray) -> list[int]:
        """Check ids, and drop those that stand for no text."""
        ids = np.asarray(sequence)
        if ids.size == 0:
            return []
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(
                f"decode takes a list of sequences of integer ids; one of them has shape "
                f"{ids.shape} and type {ids.dtype}: for a single sequence write decode([ids])"
            )
        outside = ids[(ids < 0) | (ids >= self.vocabulary_size)]
        if outside.size:
            raise ValueError(
                f"token id {outside[0]} is outside the vocabulary of this {self.kind} tokenizer; "
                f"ids are 0 to {self.vocabulary_size - 1}: is this the model's own tokenizer?"
            )
        # The start is dropped first: in GPT-2's vocabulary one id is both the start and the end.
        starts = self.start_ids
        while ids.size and ids[0] in starts:
            ids = ids[1:]
        ends = np.flatnonzero(ids == self.end_id)
        if ends.size:
            ids = ids[: ends[0]]
        return ids[~np.isin(ids, [self.pad_id, *starts])].tolist()

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Save the vocabulary in KerasHub's files, and a manifest, `tokenizer.json`.

        Each file is written atomically, the manifest last. It has the checksums of the other files,
        so that loading an incomplete folder raises an error. Files of an earlier save are replaced.

        Raises:
            ValueError: the class of the tokenizer is not in `keras_hub.tokenizers`, or the folder
                has a file of the same name that `save` did not write.
        """
        import keras_hub

        keras_tokenizer = self.keras_tokenizer
        class_name = type(keras_tokenizer).__name__
        if getattr(keras_hub.tokenizers, class_name, None) is not type(keras_tokenizer):
            raise ValueError(
                f"a tokenizer of class {class_name} cannot be saved: only classes of "
                "keras_hub.tokenizers can be loaded"
            )
        config = keras_tokenizer.get_config()
        for transient in ("name", "trainable", "dtype", "config_file"):
            config.pop(transient, None)

        folder = Path(folder)
        assets = _assets(keras_tokenizer)
        manifest = {
            "format": FORMAT,
            **{name: getattr(self, name) for name in _saved_fields()},
            "class": class_name,
            "config": config,
            "assets": {name: hashlib.sha256(data).hexdigest() for name, data in assets.items()},
        }
        files = {
            **assets,
            MANIFEST: (json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode(),
        }
        _check_replaceable(folder, files)
        for name, data in files.items():  # the manifest last
            write_whole(folder / name, data)


def _check_replaceable(folder: Path, files: Mapping[str, bytes]) -> None:
    """Raise an error if writing would change a file that `Tokenizer.save` did not write."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        own = {MANIFEST, *manifest["assets"]} if "format" in manifest else set()
    except (OSError, ValueError, KeyError, TypeError):
        own = set()
    for name in files.keys() - own:
        path = folder / name
        if path.exists() and not (path.is_file() and path.read_bytes() == files[name]):
            raise ValueError(
                f"{path} was not written by Tokenizer.save and is not overwritten; save "
                "to another folder, or remove it"
            )


def _assets(keras_tokenizer: Any) -> dict[str, bytes]:
    """Return the vocabulary files of a KerasHub tokenizer: name -> content."""
    if not keras_tokenizer.file_assets:
        return {}
    with tempfile.TemporaryDirectory() as scratch:
        keras_tokenizer.save_assets(scratch)
        return {path.name: path.read_bytes() for path in sorted(Path(scratch).iterdir())}


def load_tokenizer(folder: str | os.PathLike[str]) -> Tokenizer:
    """Load a tokenizer that `Tokenizer.save` wrote.

    Raises:
        FileNotFoundError: the folder, its `tokenizer.json` or one of its files is missing.
        ValueError: `tokenizer.json` is damaged or of a newer format, or a file has changed.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no tokenizer in {folder}: {MANIFEST} is missing"
            f"{'' if folder.is_dir() else ' (and so is the folder)'}; give a folder that "
            "Tokenizer.save wrote, or train a new tokenizer"
        )
    manifest = read_manifest(path, FORMAT)
    try:
        for name, checksum in manifest["assets"].items():
            asset = folder / name
            if not asset.is_file():
                raise FileNotFoundError(
                    f"the tokenizer in {folder} is incomplete: {name} is missing; copy the whole "
                    "folder, or save the tokenizer again"
                )
            if hashlib.sha256(asset.read_bytes()).hexdigest() != checksum:
                raise ValueError(
                    f"{asset} does not have the checksum in {MANIFEST}; copy the whole "
                    "folder, or save the tokenizer again"
                )
        return _tokenizer_from_manifest(manifest, folder)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); save the tokenizer again") from error


def _tokenizer_from_manifest(manifest: dict[str, Any], folder: Path) -> Tokenizer:
    import keras_hub

    # Only classes of this namespace, so that a manifest cannot name arbitrary classes.
    cls = getattr(keras_hub.tokenizers, manifest["class"])
    keras_tokenizer = cls(**manifest["config"])
    if isinstance(keras_tokenizer, keras_hub.tokenizers.SentencePieceTokenizer):
        # Its load_assets does not close the file.
        (name,) = manifest["assets"]
        keras_tokenizer.set_proto((folder / name).read_bytes())
    elif manifest["assets"]:
        keras_tokenizer.load_assets(str(folder))
    return Tokenizer(keras_tokenizer, **{name: manifest[name] for name in _saved_fields()})


def _saved_fields() -> list[str]:
    """Return the fields of a `Tokenizer` but `keras_tokenizer`, the first."""
    return [field.name for field in dataclasses.fields(Tokenizer)][1:]


def as_tokenizer(tokenizer: Any) -> Tokenizer:
    """Return a `Tokenizer` as it is; wrap a KerasHub tokenizer with its special ids.

    Without a padding token in the vocabulary (GPT-2, Llama), the end token is the padding; without
    a start token (GPT-2), it is the start.

    Raises:
        TypeError: `tokenizer` is neither.
        ValueError: it has no end token, or adds padding, start or end by itself.
    """
    if isinstance(tokenizer, Tokenizer):
        return tokenizer
    import keras_hub

    classes = {
        "byte": keras_hub.tokenizers.ByteTokenizer,
        "word_piece": keras_hub.tokenizers.WordPieceTokenizer,
        "sentence_piece": keras_hub.tokenizers.SentencePieceTokenizer,
        "byte_pair": keras_hub.tokenizers.BytePairTokenizer,
    }
    kind = next((kind for kind, cls in classes.items() if isinstance(tokenizer, cls)), None)
    if kind is None:
        raise TypeError(
            f"expected a functional_models Tokenizer or a KerasHub tokenizer "
            f"({', '.join(cls.__name__ for cls in classes.values())}), got "
            f"{type(tokenizer).__name__}"
        )
    name = type(tokenizer).__name__
    for setting in ("sequence_length", "add_bos", "add_eos"):
        if getattr(tokenizer, setting, None):
            raise ValueError(
                f"{name}({setting}={getattr(tokenizer, setting)!r}): padding, start and end are "
                f"added when batches are made; create the tokenizer without {setting}"
            )
    ids = (BYTE_PAD, BYTE_START, BYTE_END) if kind == "byte" else _special_ids(tokenizer)
    return Tokenizer(tokenizer, kind, int(tokenizer.vocabulary_size()), *ids)


def _special_ids(tokenizer: Any) -> tuple[int, int, int]:
    """Return the ids (pad, start, end) that a KerasHub tokenizer or its vocabulary defines."""
    vocabulary = set(tokenizer.get_vocabulary())

    def find(attribute: str, names: Sequence[str]) -> int | None:
        # `GPT2Tokenizer.pad_token_id` is 0, the token "!", so an id counts only with its token.
        value = getattr(tokenizer, f"{attribute}_id", None)
        if value is not None and getattr(tokenizer, attribute, None) is not None:
            return int(value)
        for name in names:
            if name in vocabulary:
                return int(tokenizer.token_to_id(name))
        return None

    end = find("end_token", (END, "[SEP]", "</s>", "<eos>", "<|endoftext|>"))
    if end is None:
        raise ValueError(
            f"{type(tokenizer).__name__} has no end token: neither an attribute end_token nor one "
            f"of {END}, [SEP], </s>, <eos>, <|endoftext|> in its vocabulary; add one, or train a "
            "tokenizer with train_tokenizer"
        )
    start = find("start_token", (START, "[CLS]", "<s>", "<bos>", "<|startoftext|>"))
    pad = find("pad_token", (PAD, "<pad>", "<|pad|>"))
    return (end if pad is None else pad), (end if start is None else start), end


def checked_texts(texts: Iterable[str]) -> list[str]:
    """Return the texts as a list; raise a ValueError unless all are encodable strings."""
    if isinstance(texts, str | bytes):
        raise ValueError("expected a list of texts, got a single one; write [text]")
    texts = list(texts)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"text {number} is of type {type(text).__name__}, expected str")
        if text.isascii():
            continue
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"text {number} has a lone surrogate, U+{ord(text[error.start]):04X}, at character "
                f"{error.start}, which UTF-8 cannot encode; replace it"
            ) from error
    return texts


def _check_reserved_bytes(texts: Sequence[str]) -> None:
    for number, text in enumerate(texts):
        found = _BYTE_RESERVED.search(text)
        if found:
            raise ValueError(
                f"text {number} has the control character U+{ord(found[0]):04X} at character "
                f"{found.start()}, which a byte tokenizer uses for padding (U+0000), start "
                "(U+0002) or end (U+0003); remove it, or use a byte_pair tokenizer"
            )
