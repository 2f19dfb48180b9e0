"""`compare`: train several specs with the same budget and compare the results."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import builders
from functional_models.causal_lm import CausalLM
from functional_models.corpora import (
    Corpus,
    ParallelCorpus,
    TextCorpus,
    load_corpus,
)
from functional_models.loading import load, new_text_model, sized_for
from functional_models.model_folder import CHECKPOINT, MANIFEST, make_folder
from functional_models.recipe import Recipe, default_budget, make_recipe
from functional_models.tables import format_table
from functional_models.text_model import TextModel
from functional_models.tokenizer_training import shared_tokenizer
from functional_models.translator import Translator
from plots.files import write_whole

Spec = str | builders.TransformerSpec
Result = dict[str, Any]

CORNERS = ("post_norm_sinusoidal", "post_norm_learned", "pre_norm_sinusoidal", "pre_norm_learned")
BEST = "best"
RESULT, RESULTS = "result.json", "results.json"
GOAL = 0.9
"""The exact match of which `steps_to_90` reports the first step."""


def compare(
    specs: Iterable[Spec] | Mapping[str, builders.TransformerSpec] = CORNERS,
    data: str | Sequence[str] | Corpus = "embedded",
    *,
    kind: str | None = None,
    budget: Recipe | int | None = None,
    folder: str | Path = "out/comparison",
    tokenizer: str = "byte_pair",
    vocabulary_size: int | None = None,
    changes: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> list[Result]:
    """Train every spec on the same data with the same recipe, and compare the results.

    Variants that are finished in `folder` are not trained again; interrupted ones resume.

    Args:
        specs: names of variants, or specs by name.
        data: a corpus, `embedded`, or files, as for `load_parallel_corpus` and `load_text_corpus`.
        kind: `encoder_decoder` or `decoder_only`; by default the kind that the data is for, and
            `encoder_decoder` for `embedded`.
        budget: the common recipe, or the number of steps of `default_budget`.
        folder: folder for `results.json`, `results.md`, `loss_curves.png`, `variants.png`,
            `samples.md`, the best model in `best/`, and a folder for each variant with its model,
            `history.json` and `skip_paths.svg`.
        tokenizer: kind of the common tokenizer, which is trained on the training text.
        vocabulary_size: vocabulary size of the tokenizer; by default 2000, or the 256 of `byte`.
        changes: spec fields to change in every spec.
        progress: show progress bars and reports.

    Returns:
        A dict for each spec: variant, parameters, loss (nats per token), token_accuracy,
        tokens_per_second, and perplexity, or for translation exact_match and steps_to_90. All but
        the speed are measured on held-out text.

    Raises:
        ValueError: no specs, equal names, a spec of another kind than the data, data without a
            held-out part, or folders with models of other origin; otherwise as `fit`.
    """
    folder = Path(folder)
    recipe = default_budget(steps=budget) if isinstance(budget, int) else budget
    recipe = make_recipe(recipe or default_budget(), {})
    given = _by_name(specs)
    corpus = data if isinstance(data, Corpus) else load_corpus(data, kind)
    if not _held_out(corpus):
        raise ValueError(f"{corpus.name} has no held-out text to evaluate on; give more text")
    if vocabulary_size is None and tokenizer != "byte":
        vocabulary_size = 2000
    shared = shared_tokenizer(corpus, tokenizer, vocabulary_size)
    kind = "encoder_decoder" if isinstance(corpus, ParallelCorpus) else "decoder_only"
    chosen = {}
    for name, spec in given.items():
        plain = builders.variant(spec, kind=kind) if isinstance(spec, str) else spec
        if plain.kind != kind:
            raise ValueError(f"{name} is of kind={plain.kind!r}, the data is for {kind!r}")
        chosen[name] = sized_for(plain, shared, changes or {})
    _check_folders(folder, chosen)
    make_folder(folder)

    results, models = [], {}
    for number, (name, spec) in enumerate(chosen.items(), 1):
        if progress:
            print(f"\n[{number}/{len(chosen)}] {name}", flush=True)
        result, model = _train_one(name, spec, corpus, shared, recipe, folder / name, progress)
        results.append(result)
        models[name] = model
    best = min(results, key=lambda r: (-r.get("exact_match", 0), r["loss"]))["variant"]
    _write(folder, results, models, corpus, best, recipe, progress)
    return results


def _by_name(
    specs: Iterable[Spec] | Mapping[str, builders.TransformerSpec],
) -> dict[str, Spec]:
    """Return specs by name; the names become folders."""
    if isinstance(specs, Mapping):
        given: dict[str, Spec] = dict(specs)
    else:
        given = {}
        several = isinstance(specs, Iterable) and not isinstance(specs, str | bytes)
        listed: Any = specs if several else [specs]
        for spec in listed:
            if _name(spec) in given:
                raise ValueError(f"two specs have the name {_name(spec)}; name them with a dict")
            given[_name(spec)] = spec
    if not given:
        raise ValueError("there is nothing to compare; give at least one variant")
    for name, spec in given.items():
        _name(spec)  # raises for other types
        if name in ("", ".", "..", BEST) or Path(name).name != name:
            raise ValueError(f"{name!r} cannot be the name of a folder for a variant; use another")
    return given


def _check_folders(folder: Path, names: Iterable[str]) -> None:
    """Raise a ValueError if a model would be overwritten that no comparison has written."""
    results = {folder / name: folder / name / RESULT for name in names}
    for place, result in {**results, folder / BEST: folder / RESULTS}.items():
        found = [name for name in (MANIFEST, CHECKPOINT) if (place / name).exists()]
        if found and not result.exists():
            raise ValueError(
                f"{place} has a {found[0]} that does not come from a comparison; choose another "
                "folder, or move that one"
            )


def _held_out(corpus: Corpus) -> Any:
    """Return the text or the pairs that results are measured on."""
    return corpus.test or corpus.validation


def _name(spec: Spec) -> str:
    if isinstance(spec, str):
        return spec
    if not isinstance(spec, builders.TransformerSpec):
        raise TypeError(f"compare takes variants and specs, given {type(spec).__name__}")
    return f"{spec.norm_placement}_norm_{spec.positions}" + ("" if spec.residual else "_no_skips")


def _train_one(
    name: str,
    spec: builders.TransformerSpec,
    corpus: Corpus,
    tokenizer: Any,
    recipe: Recipe,
    folder: Path,
    progress: bool,
) -> tuple[Result, Any]:
    """Train a variant, or load a finished one; return its result and model."""
    import keras

    run = _run_key(spec, recipe, corpus, tokenizer)
    finished = make_folder(folder) / RESULT
    before = _read_result(finished)
    if before.get("run") != run:
        # The result and the checkpoint are those of other settings.
        (folder / CHECKPOINT).unlink(missing_ok=True)
        write_whole(finished, json.dumps({"run": run, "result": None}, indent=1))
    elif before["result"] is not None:
        if progress:
            print(f"already finished: {folder}")
        return before["result"], load(folder)

    keras.utils.set_random_seed(recipe.seed)
    model = new_text_model(spec, tokenizer)
    rows = model.fit(corpus, recipe=recipe, folder=folder, progress=progress)
    measured = model.evaluate(_held_out(corpus), batch_size=recipe.batch_size)
    if isinstance(corpus, ParallelCorpus):
        reached = [row["step"] for row in rows if row.get("val_exact_match", 0) >= GOAL]
        extra = {
            "exact_match": measured["exact_match"],
            "steps_to_90": int(reached[0]) if reached else None,
        }
    else:
        extra = {"perplexity": measured["perplexity"]}
    result: Result = {
        "variant": name,
        "parameters": model.model.count_params(),
        "loss": measured["loss"],
        "token_accuracy": measured["token_accuracy"],
        **extra,
        "tokens_per_second": _overall_speed(rows),
    }
    write_whole(folder / "history.json", json.dumps(rows, indent=1))
    write_whole(finished, json.dumps({"run": run, "result": result}, indent=1))
    return result, model


def _read_result(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (ValueError, TypeError):
        raise ValueError(f"{path} is damaged; delete it to train this variant again") from None


def _run_key(
    spec: builders.TransformerSpec,
    recipe: Recipe,
    corpus: Corpus,
    tokenizer: Any,
) -> str:
    inputs = [
        spec.to_json(),
        json.dumps(dataclasses.asdict(recipe)),
        repr(corpus),
        f"{tokenizer.kind} {tokenizer.vocabulary_size}",
    ]
    return hashlib.sha256("\0".join(inputs).encode()).hexdigest()[:16]


def _overall_speed(rows: Sequence[Mapping[str, float]]) -> float:
    """Return tokens per second over the run: the harmonic mean, since reports have equal work.

    A report that consists only of the compiled step has no speed and is skipped.
    """
    speeds = [row["tokens_per_second"] for row in rows if row["tokens_per_second"] > 0]
    return len(speeds) / sum(1 / speed for speed in speeds) if speeds else 0.0


def _write(
    folder: Path,
    results: list[Result],
    models: Mapping[str, TextModel],
    corpus: Corpus,
    best: str,
    recipe: Recipe,
    progress: bool,
) -> None:
    import plots

    write_whole(folder / RESULTS, json.dumps(results, indent=1) + "\n")
    write_whole(folder / "results.md", results_table(results, markdown=True) + "\n")
    histories = {}
    for name in models:
        rows = json.loads((folder / name / "history.json").read_text("utf-8"))
        histories[name] = {
            key.replace("val_exact", "exact"): [row[key] for row in rows] for key in rows[0]
        }
    plots.save_figure(plots.loss_curves(histories), folder / "loss_curves.png")
    for name, model in models.items():
        plots.plot_model(model.model, str(folder / name / "skip_paths.svg"))
    graphs = {name: model.model for name, model in models.items()}
    plots.plot_side_by_side(graphs, folder / "variants.png", blocks=1)
    write_whole(folder / "samples.md", samples(models[best], corpus))
    models[best].save(folder / BEST)
    if not progress:
        return
    print("\n" + results_table(results))
    print(f"\nwritten to {folder}{os.sep}: " + ", ".join(sorted(p.name for p in folder.iterdir())))
    print(f"the best variant is {best}; to use it:\n")
    print(f"    {usage_command(folder / BEST, corpus)}\n")


def usage_command(folder: str | Path, corpus: Corpus) -> str:
    """Return a shell command that uses the model of a folder, on a sample of its corpus.

    Without `functional-models` on the PATH, the command names the program as it was called.
    """
    program = "functional-models"
    if shutil.which(program) is None:
        called_as_script = Path(sys.argv[0]).name == program
        program = sys.argv[0] if called_as_script else "python -m functional_models"
    where = shlex.quote(str(folder))
    if isinstance(corpus, TextCorpus):
        return f'{program} generate {where} "The "'
    source = (corpus.test or corpus.train)[0][0]
    return f"{program} translate {where} {shlex.quote(source)}"


def samples(model: TextModel, corpus: Corpus, number: int = 20) -> str:
    """Return a Markdown page of the model's output for held-out text."""
    if isinstance(model, Translator) and isinstance(corpus, ParallelCorpus):
        pairs = _held_out(corpus)[:number]
        written = model.translate([source for source, _ in pairs])
        rows = [("source", "translation", "reference")]
        for (source, target), text in zip(pairs, written, strict=True):
            rows.append((source, text, "the same" if text == target else target))
        return format_table(rows, align="left", markdown=True) + "\n"
    assert isinstance(model, CausalLM)
    length = min(20, model.spec.max_sequence_length // 8)  # characters, of up to 4 tokens each
    texts = [text.strip() for text in corpus.validation[:5] if isinstance(text, str)]
    prompts = [text[:length] for text in texts if text]
    texts = model.generate(prompts, seed=0)
    return "\n\n".join(f"**{p}**{t}" for p, t in zip(prompts, texts, strict=True)) + "\n"


_COLUMNS = {
    "variant": ("variant", "{}"),
    "parameters": ("parameters", "{:,}"),
    "loss": ("loss", "{:.4f}"),
    "perplexity": ("perplexity", "{:.2f}"),
    "token_accuracy": ("token accuracy", "{:.1%}"),
    "exact_match": ("exact match", "{:.1%}"),
    "steps_to_90": ("steps to 90%", "{:,}"),
    "tokens_per_second": ("tokens/s", "{:,.0f}"),
}


def results_table(results: Sequence[Mapping[str, Any]], *, markdown: bool = False) -> str:
    """Return the results as an aligned text table, or as a Markdown table."""
    keys = [key for key in _COLUMNS if key in results[0]]
    rows = [[_COLUMNS[key][0] for key in keys]]
    for result in results:
        rows.append(
            ["not reached" if result[k] is None else _COLUMNS[k][1].format(result[k]) for k in keys]
        )
    return format_table(rows, markdown=markdown)
