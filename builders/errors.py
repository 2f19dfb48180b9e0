"""Error messages, with the given value, the allowed values and a remedy."""

from __future__ import annotations

import difflib
import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, TypeVar

Class = TypeVar("Class")

MOST_LISTED = 30
"""Number of allowed names above which a message lists only the similar ones."""

_MOST_SIMILAR = 6

# Names that other libraries and papers use, without signs, and the names here.
_SYNONYMS = {
    "bpe": ("byte_pair",),
    "contextlength": ("max_sequence_length",),
    "blocksize": ("max_sequence_length",),
    "maxpositionembeddings": ("max_sequence_length",),
    "maxlen": ("max_sequence_length", "max_new_tokens"),
    "maxlength": ("max_sequence_length", "max_new_tokens"),
    "maxtokens": ("max_new_tokens",),
    "dff": ("intermediate_dim",),
    "ffdim": ("intermediate_dim",),
    "ffndim": ("intermediate_dim",),
    "intermediatesize": ("intermediate_dim",),
    "mlpdim": ("intermediate_dim",),
    "dim": ("hidden_dim",),
    "dmodel": ("hidden_dim",),
    "embeddim": ("hidden_dim",),
    "hiddensize": ("hidden_dim",),
    "modeldim": ("hidden_dim",),
    "nembd": ("hidden_dim",),
    "width": ("hidden_dim",),
    "depth": ("num_layers",),
    "nblocks": ("num_layers",),
    "numblocks": ("num_layers",),
    "nlayer": ("num_layers",),
    "nlayers": ("num_layers",),
    "nhead": ("num_heads",),
    "nheads": ("num_heads",),
    "kvheads": ("num_key_value_heads",),
    "kvlorarank": ("latent_dim",),
    "qlorarank": ("query_latent_dim",),
    "vheaddim": ("value_dim",),
    "epochs": ("steps",),
    "fp16": ("float16", "mixed_float16"),
    "fp32": ("float32",),
    "half": ("float16", "mixed_float16"),
    "lr": ("learning_rate",),
    "nucleus": ("top_p",),
    "rmsnorm": ("rms",),
    "rope": ("rotary",),
    "swish": ("silu",),
    "topk": ("top_k", "k"),
    "topp": ("top_p", "p"),
    "vocabsize": ("vocabulary_size",),
}


def unknown_name(what: str, given: Any, allowed: Iterable[str], listed_by: str = "") -> str:
    """Return the message for a name that is not among the allowed ones, with similar names.

    Args:
        what: the kind of name.
        given: the name that was given.
        allowed: the allowed names.
        listed_by: what lists the allowed names, for the message if there are more than
            `MOST_LISTED`.
    """
    names = list(allowed)
    similar = [repr(name) for name in similar_names(given, names)]
    *others, last = similar or [""]
    hint = f" (did you mean {', '.join(others)}{' or ' if others else ''}{last}?)" * bool(similar)
    if listed_by and len(names) > MOST_LISTED:
        return f"unknown {what} {shown_value(given)}{hint}; {listed_by} lists all {len(names)}"
    return f"unknown {what} {shown_value(given)}{hint}; allowed: {', '.join(names)}"


def similar_names(given: Any, allowed: Iterable[str]) -> Sequence[str]:
    """Return the allowed names that a given one may stand for, the likeliest first.

    Case and signs are ignored. Of these, the first that finds a name decides: equality, a synonym,
    a common beginning, a small edit distance, and a part of the name.
    """
    keys = {name: _letters_and_digits(name) for name in allowed}
    key = _letters_and_digits(given)
    if not key:
        return []
    synonyms = {_letters_and_digits(name) for name in _SYNONYMS.get(key, ())}
    found = [name for name, other in keys.items() if other == key]
    found = found or [name for name, other in keys.items() if other in synonyms]
    found = found or [name for name, other in keys.items() if other.startswith(key)]
    if not found:
        close = difflib.get_close_matches(key, keys.values(), n=1)
        found = [name for name, other in keys.items() if other in close][:1]
    if not found and len(key) > 2:
        found = [name for name, other in keys.items() if key in other]
    return found[:_MOST_SIMILAR]


def unknown_attribute(module: ModuleType, name: str, public: Iterable[str]) -> AttributeError:
    """Return the error for an attribute that a module does not have, with the similar public name.

    Without one, Python itself looks for a similar attribute when it prints the traceback.
    """
    message = f"module {module.__name__!r} has no attribute {name!r}"
    similar = [] if name.startswith("_") else similar_names(name, public)
    if similar:
        return AttributeError(f"{message}; did you mean {similar[0]!r}?")
    return AttributeError(message, name=name, obj=module)


def public_names(module: Mapping[str, Any], public: Iterable[str]) -> list[str]:
    """Return what `dir` shows of a package: its public names, its modules and what Python adds.

    Args:
        module: the names of the package, as `globals()`.
        public: the public names, some of which may not be imported yet.
    """
    own = (
        name
        for name, value in module.items()
        if (name.startswith("__") and name.endswith("__"))
        or (isinstance(value, ModuleType) and value.__name__ == f"{module['__name__']}.{name}")
    )
    return sorted({*own, *public})


def names_similar_fields(what: str, listed_by: str = "") -> Callable[[type[Class]], type[Class]]:
    """Return a decorator of a dataclass: an unknown field raises a ValueError with similar names.

    Args:
        what: the kind of field, as in `unknown_name`.
        listed_by: as in `unknown_name`.
    """

    def decorate(cls: type[Class]) -> type[Class]:
        initialize: Any = cls.__init__

        @functools.wraps(initialize)
        def check_and_initialize(self: Any, *args: Any, **given: Any) -> None:
            for name in given:
                if name not in (names := cls.__dataclass_fields__):  # type: ignore[attr-defined]
                    raise ValueError(unknown_name(what, name, names, listed_by))
            initialize(self, *args, **given)

        cls.__init__ = check_and_initialize  # type: ignore[method-assign]
        return cls

    return decorate


def _letters_and_digits(name: Any) -> str:
    text = name if isinstance(name, str) else shown_value(name)
    return re.sub(r"[\W_]", "", text.lower())


def require(spec: Any, name: str, holds: bool, allowed: str, advice: str = "") -> None:
    """Raise a `ValueError` about the field `name` of a spec unless a condition holds."""
    if not holds:
        raise invalid_value(name, getattr(spec, name), allowed, advice)


def invalid_value(name: str, value: Any, allowed: str, advice: str = "") -> ValueError:
    """Return the error for an invalid value, with the allowed values and a remedy."""
    shown = f"{name}={shown_value(value)}: must be {allowed}"
    return ValueError(shown + (f"; {advice}" if advice else ""))


def shown_value(value: Any) -> str:
    """Return a value as in Python, and an int as 1e+5000 if it has more digits than Python writes.

    Those are 4,300, or 640 and more as the variable PYTHONINTMAXSTRDIGITS says.
    """
    if not isinstance(value, int) or abs(value) < 10**639:
        return repr(value)
    exponent = math.floor(math.log10(abs(value)))
    return f"{'-' * (value < 0)}{10 ** (math.log10(abs(value)) - exponent):.3g}e+{exponent}"
