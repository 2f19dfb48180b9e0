"""Rules on norms: pre-norm, post-norm or a mixture, norms on branch outputs, the final norm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from plots.annotations import Note, SkipPath, counted
from plots.diagnosis.attentions import attentions_of, is_sublayer_part
from plots.diagnosis.rules import diagnosis_rule, finding, named
from plots.diagnosis.streams import (
    Stream,
    Style,
    branch_ends,
    computed_from,
    streams_of,
    style_of,
    up_to_weights,
)
from plots.graph import Graph
from plots.operation_kinds import is_norm

_WORDS: dict[Style, str] = {
    "pre": "pre-norm, x + f(norm(x))",
    "post": "post-norm, norm(x + f(x))",
    "none": "without a norm, x + f(x)",
}
_XIONG = "Xiong et al. 2020, On Layer Normalization in the Transformer Architecture, figure 1"
_VASWANI = "Vaswani et al. 2017, Attention Is All You Need, section 3.1"
_SWIN_V2 = "Liu et al. 2022, Swin Transformer V2, section 3.2"
_FIXUP = "Zhang et al. 2019, Fixup Initialization, section 2"
_GPT_2 = "Radford et al. 2019, Language Models are Unsupervised Multitask Learners, section 2.3"


@diagnosis_rule("mixed_norms")
def mixed_norms(graph: Graph) -> Iterator[Note]:
    """Some sublayers of a residual stream are pre-norm, others post-norm or without a norm."""
    for stream in streams_of(graph):
        styles = _styles(graph, stream)
        ranked = Counter(style for style in styles if style is not None).most_common()
        if len(ranked) < 2 or ranked[0][0] == "none" or not stream.has_token_norms(graph):
            continue
        if _only_the_last_lacks_a_norm(styles):
            yield from _no_norm_after_the_last_merge(graph, stream)
            continue
        parts, about = [], []
        for style, number in ranked[1:]:
            places = [k for k, own in enumerate(styles) if own == style]
            merges = [stream.paths[k].target for k in places]
            parts.append(f"{number} {_WORDS[style]} (merged at {named(graph, merges)})")
            norms = stream.norms if style != "none" else [()] * len(styles)
            about += [place for k in places for place in (*norms[k], stream.paths[k].target)]
        usual, number = ranked[0]
        yield finding(
            about,
            f"The norms of one residual stream are mixed: {counted(number, 'sublayer')} "
            f"{_WORDS[usual]}, but {' and '.join(parts)}.",
            _XIONG,
        )


@diagnosis_rule("norm_on_branch_output")
def norm_on_branch_output(graph: Graph) -> Iterator[Note]:
    """The only norm of a sublayer is on the output of its branch, before the merge."""
    for stream in streams_of(graph):
        places = [k for k, path in enumerate(stream.paths) if path.placement == "branch_end"]
        norms = [norm for k in places for norm in stream.norms[k]]
        if norms and stream.has_token_norms(graph):
            yield finding(
                norms,
                "A norm on the branch output before the merge, and no other norm on the path: "
                f"{named(graph, norms)}. That is x + norm(f(x)), often a mistake for post-norm, "
                "norm(x + f(x)); Swin Transformer V2 (res-post-norm) and OLMo 2 do it on purpose.",
                f"{_VASWANI}; {_SWIN_V2}",
            )


@diagnosis_rule("no_final_norm")
def no_final_norm(graph: Graph) -> Iterator[Note]:
    """A pre-norm stream ends without a norm after its last merge."""
    streams = streams_of(graph)
    for stream in streams:
        end = stream.paths[-1].target
        if style_of(stream.paths[-1]) != "pre" or not stream.has_token_norms(graph):
            continue
        others = {other.root for other in streams if other is not stream}
        if not meets_a_norm(graph, end) and others.isdisjoint(computed_from(graph, end)):
            yield finding(
                [end],
                f"A pre-norm stream without a final norm, from {named(graph, [end])} on: what it "
                "hands on is the sum of all sublayers, which grows with the depth.",
                f"{_XIONG} (b); {_GPT_2}",
            )


@diagnosis_rule("no_norm")
def no_norm(graph: Graph) -> Iterator[Note]:
    """A residual stream of several attentions has no norm at all, and nothing in its place."""
    attentions, _ = attentions_of(graph)
    for stream in streams_of(graph):
        inside = {node_id for path in stream.paths for node_id in path.bypassed}
        merges = [path.target for path in stream.paths]
        ends = [end for path in stream.paths for end in branch_ends(graph, path)]
        is_deep = sum(attention.output in inside for attention in attentions) > 1
        # A learned factor at the end of the branch (ReZero, LayerScale) does what a norm is for.
        is_bare = all(is_sublayer_part(end) for end in ends)
        has_norm = any(is_norm(graph.node(place)) for place in inside) or any(
            meets_a_norm(graph, merge) for merge in merges
        )
        if is_deep and is_bare and not has_norm:
            yield finding(
                merges,
                f"No norm on a residual stream of {counted(len(merges), 'sublayer')}, merged at "
                f"{named(graph, merges)}: with the usual initial weights, activations and "
                "gradients grow with the depth.",
                _FIXUP,
            )


def _styles(graph: Graph, stream: Stream) -> list[Style | None]:
    """The styles of all paths of a stream.

    The final norm of a pre-norm stack makes no post-norm of a last sublayer that has no norm, as
    others of the stack have none.
    """
    styles = [_style(graph, path) for path in stream.paths]
    if styles[-1] == "post" and "none" in styles and styles.count("post") == 1:
        styles[-1] = "none"
    return styles


def _style(graph: Graph, path: SkipPath) -> Style | None:
    """As `style_of`, but of a branch without a norm only if it is a sublayer of a Transformer.

    A convolution for positions, as in wav2vec 2.0, is added to the stream as it is.
    """
    style = style_of(path)
    is_sublayer = any(is_sublayer_part(graph.node(node_id)) for node_id in path.bypassed)
    return style if style != "none" or is_sublayer else None


def _only_the_last_lacks_a_norm(styles: list[Style | None]) -> bool:
    return styles[-1] == "none" and set(styles[:-1]) == {"post"}


def _no_norm_after_the_last_merge(graph: Graph, stream: Stream) -> Iterator[Note]:
    last = stream.paths[-1].target
    if not meets_a_norm(graph, last):
        yield finding(
            [last],
            "All sublayers are post-norm, norm(x + f(x)), but no norm follows the last merge, "
            f"{named(graph, [last])}. If pre-norm was meant, the skip paths have to begin before "
            "the norms: x + f(norm(x)), not norm(x) + f(norm(x)).",
            _XIONG,
        )


def meets_a_norm(graph: Graph, start: str) -> bool:
    """Whether a norm follows `start` before anything else that has weights."""
    return any(is_norm(node) for node in up_to_weights(graph, start))
