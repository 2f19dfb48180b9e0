"""`compare`: train several specs with the same budget and compare the results."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import builders
from functional_models.causal_lm import CausalLM
from functional_models.checks import read_json, read_manifest
from functional_models.corpora import (
    Corpus,
    ParallelCorpus,
    TextCorpus,
    load_corpus,
)
from functional_models.corpora.corpus import fingerprint
from functional_models.corpora.stored import in_pieces
from functional_models.folders import (
    COMPARISON,
    GO_ON,
    LOCK,
    check_content,
    folder_path,
    make_folder,
    only_writer,
)
from functional_models.loading import load, new_text_model, sized_for
from functional_models.recipe import Recipe, default_budget, make_recipe
from functional_models.tables import format_table
from functional_models.text_model import TextModel
from functional_models.tokenizer_training import shared_tokenizer
from functional_models.translator import Translator
from plots.files import write_whole

Spec = str | builders.TransformerSpec
Result = dict[str, Any]


class Results(list[Result]):
    """The results of `compare`: a dict for each spec. It is printed as a table."""

    def __repr__(self) -> str:
        return results_table(self) if self else "[]"

    def _repr_markdown_(self) -> str:
        return results_table(self, markdown=True) if self else "[]"


CORNERS = ("post_norm_sinusoidal", "post_norm_learned", "pre_norm_sinusoidal", "pre_norm_learned")
BEST = "best"
FORMAT = 1
RESULT, RESULTS = "result.json", "results.json"
_WRITTEN = (BEST, RESULTS, "results.md", "samples.md", "loss_curves.png", "variants.png")
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
    overwrite: bool = False,
    progress: bool = True,
) -> Results:
    """Train every spec on the same data with the same recipe, and compare the results.

    Variants that are finished in `folder` are not trained again; interrupted ones resume. Further
    variants may be added to a comparison. A picture that fails costs no results.

    Args:
        specs: names of variants, or specs by name.
        data: a corpus, `embedded`, or files, as for `load_parallel_corpus` and `load_text_corpus`.
        kind: `encoder_decoder` or `decoder_only`; by default the kind that the data is for, and
            `encoder_decoder` for `embedded`.
        budget: the common recipe, or the number of steps of `default_budget`.
        folder: folder for `results.json`, `results.md`, `loss_curves.png`, `variants.png`,
            `samples.md`, the best model in `best/`, a folder for each variant with its model,
            `history.json` and `skip_paths.svg`, and `comparison.json`, which identifies the runs.
        tokenizer: kind of the common tokenizer, which is trained on the training text.
        vocabulary_size: vocabulary size of the tokenizer; by default 2000, or the 256 of `byte`.
        changes: spec fields to change in every spec.
        overwrite: replace another comparison in `folder`; variants with equal settings are kept.
        progress: show progress bars and reports.

    Returns:
        A dict for each spec: variant, parameters, loss (nats per token), token_accuracy,
        tokens_per_second, and perplexity, or for translation exact_match and steps_to_90. All but
        the speed are measured on held-out text. The list is printed as a table.

    Raises:
        ValueError: no specs, equal names, a spec of another kind than the data, or data without a
            held-out part; otherwise as `fit`.
        FileExistsError: the folder holds something else, such as a comparison with other settings.
        BlockingIOError: another process or thread writes the folder.
    """
    if not (budget is None or isinstance(budget, Recipe | int)):
        raise TypeError(f"budget must be a Recipe or a number of steps, given {budget!r:.60}")
    folder = folder_path(folder)
    check_content(folder, (COMPARISON,), overwrite=True)
    recipe = default_budget(steps=budget) if isinstance(budget, int) else budget
    recipe = make_recipe(recipe or default_budget(), {})
    given = _by_name(specs)
    if kind not in (None, "encoder_decoder", "decoder_only"):
        raise ValueError(
            f"kind={kind!r}: must be 'encoder_decoder' or 'decoder_only'; compare trains "
            "translators and language models"
        )
    corpus = data if isinstance(data, Corpus) else load_corpus(data, kind, progress=progress)
    if not _held_out(corpus):
        raise ValueError(f"{corpus.name} has no held-out text to evaluate on; give more text")
    if vocabulary_size is None and tokenizer != "byte":
        vocabulary_size = 2000
    shared = shared_tokenizer(corpus, tokenizer, vocabulary_size, progress=progress)
    kind = "encoder_decoder" if isinstance(corpus, ParallelCorpus) else "decoder_only"
    chosen = {}
    for name, spec in given.items():
        plain = builders.variant(spec, kind=kind) if isinstance(spec, str) else spec
        if plain.kind != kind:
            raise ValueError(f"{name} is of kind={plain.kind!r}, the data is for {kind!r}")
        chosen[name] = sized_for(plain, shared, changes or {})
    runs = {name: _run_key(spec, recipe, corpus, shared) for name, spec in chosen.items()}
    _check_folder(folder, runs, overwrite)  # before it is made
    with only_writer(make_folder(folder)):
        _check_folder(folder, runs, overwrite)
        write_whole(folder / COMPARISON, json.dumps({"format": FORMAT, "runs": runs}, indent=1))
        results, models = Results(), {}
        for number, (name, spec) in enumerate(chosen.items(), 1):
            if progress:
                print(f"\n[{number}/{len(chosen)}] {name}", flush=True)
            settings = (corpus, shared, recipe, folder / name, runs[name], progress)
            result, models[name] = _train_one(name, spec, *settings)
            results.append(result)
        best = min(results, key=lambda r: (-r.get("exact_match", 0), r["loss"]))["variant"]
        _write(folder, results, models, corpus, best, progress)
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


def _check_folder(folder: Path, runs: Mapping[str, str], overwrite: bool) -> None:
    """Check that the folder holds nothing but a part of the comparison of these runs."""
    if overwrite:
        return
    path = folder / COMPARISON
    before: Any = {}
    if path.exists():
        before = read_manifest(path, FORMAT).get("runs")
        if not isinstance(before, dict):
            raise ValueError(f"{path} is damaged: it has no runs; {GO_ON}")
        for name, run in before.items():
            if name not in runs:
                raise FileExistsError(
                    f"{folder} holds a comparison with {name!r} too; also give {name}, or {GO_ON}"
                )
            if run != runs[name]:
                raise FileExistsError(
                    f"{folder} holds a comparison of {name!r} with other settings or data; {GO_ON}"
                )
    for name in runs.keys() - before.keys() if before else (*runs, *_WRITTEN):
        place = folder / name
        if place.exists() and not (place.is_dir() and not any(place.iterdir())):
            raise FileExistsError(
                f"{folder} has {name!r}, which does not come from this comparison; {GO_ON}"
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
    run: str,
    progress: bool,
) -> tuple[Result, Any]:
    """Train a variant, or load a finished one; return its result and model."""
    import keras

    finished = folder / RESULT
    if (before := _read_result(finished)).get("run") == run:
        if progress:
            print(f"already finished: {folder}")
        return before["result"], load(folder)

    keras.utils.set_random_seed(recipe.seed)
    model = new_text_model(spec, tokenizer)
    # What may be replaced has been checked for the whole comparison.
    rows = model.fit(corpus, recipe=recipe, folder=folder, overwrite=True, progress=progress)
    measured = model.evaluate(_held_out(corpus), batch_size=recipe.batch_size, progress=progress)
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
        saved: dict[str, Any] = read_json(path)
        if {"run", "result"} <= saved.keys() and {"loss", "variant"} <= saved["result"].keys():
            return saved
    except (ValueError, TypeError, AttributeError):
        pass
    raise ValueError(f"{path} is damaged; delete it to train this variant again")


def _run_key(
    spec: builders.TransformerSpec,
    recipe: Recipe,
    corpus: Corpus,
    tokenizer: Any,
) -> str:
    import keras

    inputs = [
        spec.to_json(),
        json.dumps(dataclasses.asdict(recipe)),
        fingerprint(corpus),
        f"{tokenizer.kind} {tokenizer.vocabulary_size}",
        keras.config.dtype_policy().name,
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
    progress: bool,
) -> None:
    """Write and print the results, then what may fail without a loss."""
    write_whole(folder / RESULTS, json.dumps(results, indent=1) + "\n")
    write_whole(folder / "results.md", results_table(results, markdown=True) + "\n")
    models[best].save(folder / BEST, overwrite=True)
    if progress:
        print("\n" + results_table(results), flush=True)

    def write_samples() -> None:
        write_whole(folder / "samples.md", samples(models[best], corpus))

    def draw_losses() -> None:
        import plots

        histories = {}
        for name in models:
            rows = read_json(folder / name / "history.json")
            histories[name] = {
                key.replace("val_exact", "exact"): [row[key] for row in rows] for key in rows[0]
            }
        plots.save_figure(plots.loss_curves(histories), folder / "loss_curves.png")

    def draw_model(name: str) -> None:
        import plots

        plots.plot_model(models[name].model, folder / name / "skip_paths.svg")

    def draw_models() -> None:
        import plots

        graphs = {name: model.model for name, model in models.items()}
        plots.plot_side_by_side(graphs, folder / "variants.png", blocks=1)

    _try("samples.md", write_samples)
    _try("loss_curves.png", draw_losses)
    for name in models:
        _try(f"{name}/skip_paths.svg", partial(draw_model, name))
    _try("variants.png", draw_models)
    if progress:
        names = sorted(path.name for path in folder.iterdir() if path.name != LOCK)
        print(f"\nwritten to {folder}{os.sep}: " + ", ".join(names))
        print(f"the best variant is {best}; to use it:\n")
        print(f"    {usage_command(folder / BEST, corpus)}\n")


def _try(what: str, write: Callable[[], None]) -> None:
    """Write something that is not worth the loss of results, or say why it was not written."""
    try:
        write()
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"{what} was not written: {reason}", file=sys.stderr, flush=True)


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
    assert isinstance(corpus, TextCorpus)
    length = min(20, model.spec.max_sequence_length // 8)  # characters, of up to 4 tokens each
    starts = (next(iter(pieces), "") for pieces in in_pieces(corpus.validation[:5]))
    prompts = [start.strip()[:length] for start in starts if start.strip()]
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
