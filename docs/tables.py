"""Write the tables of variants in the README and in `docs/variants.md`: `make tables`."""

from __future__ import annotations

import re
from pathlib import Path

import builders

HERE = Path(__file__).parent
BEGIN, END = "<!-- {} -->", "<!-- end of {} -->"

_KINDS = {"encoder_decoder": "encoder-decoder", "decoder_only": "decoder-only"}


def families() -> list[list[str]]:
    """Return the variants in the order of the registry, by family: those of one description."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in builders.list_variants():
        info = builders.variant_info(name)
        groups.setdefault((info.source, info.summary), []).append(name)
    return list(groups.values())


def variants_table() -> str:
    """Return the table of all variants, a row for each family."""
    rows = ["variant | kind | norm, positions | layers x width | parameters | what is special"]
    rows += ["--- | " * 5 + "---"]
    for names in families():
        info, spec = builders.variant_info(names[0]), builders.variant(names[0])
        kinds = " or ".join(_KINDS.get(kind, "encoder-only") for kind in info.kinds)
        merge = "" if spec.merge == "add" else f", {spec.merge}"
        cells = [
            ", ".join(f"`{name}`" for name in names),
            kinds,
            f"{spec.norm_placement}, {spec.positions}{merge}",
            _ends([_size(name) for name in names]),
            _ends([f"{builders.count_parameters(name).total:,}" for name in names]),
            info.summary,
        ]
        rows.append(" | ".join(cells))
    return "\n".join(f"| {row} |" for row in rows)


def families_table() -> str:
    """Return the short table: the families of every way to norm and to merge."""
    by_wiring: dict[tuple[str, str], list[str]] = {}
    for name in builders.list_variants():
        spec = builders.variant(name)
        by_wiring.setdefault((spec.norm_placement, spec.merge), []).append(_label(name))
    rows = ["norm | merge | families", "--- | --- | ---"]
    rows += [
        f"{norm} | {merge} | {', '.join(dict.fromkeys(labels))}"
        for (norm, merge), labels in sorted(by_wiring.items(), key=lambda row: -len(row[1]))
    ]
    return "\n".join(f"| {row} |" for row in rows)


def _label(name: str) -> str:
    """Return the name of a variant without its size: `gpt3` for gpt3_2.7b."""
    return re.sub(r"_(\d[\d.]*[mb]|small|medium|base|large|big|xl|xxl|xlarge|xxlarge)$", "", name)


def _size(name: str) -> str:
    spec = builders.variant(name)
    width = f"{spec.hidden_dim:,}" if spec.hidden_dim >= 10_000 else str(spec.hidden_dim)
    return f"{spec.num_layers} x {width}"


def _ends(values: list[str]) -> str:
    """Return the first and the last value, or the only one."""
    return values[0] if len(set(values)) == 1 else f"{values[0]} to {values[-1]}"


def with_table(text: str, name: str, table: str) -> str:
    """Return a text with the table between the marks of this name."""
    begin, end = BEGIN.format(name), END.format(name)
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n\n{table}\n\n{end}{after}"


def pages() -> dict[Path, str]:
    """Return what the pages with tables should hold."""
    tables = {
        HERE / "variants.md": ("variants", variants_table()),
        HERE.parent / "README.md": ("families", families_table()),
    }
    return {
        path: with_table(path.read_text("utf-8"), name, table)
        for path, (name, table) in tables.items()
    }


def main() -> None:
    """Write the tables."""
    for path, text in pages().items():
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
