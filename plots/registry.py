"""Graph plugins and graph renderers: the two small types, and how others add their own.

A **plugin** maps a graph to a graph: it marks, measures, folds or compares, and puts what it found
into the second part of `Graph` (overlays, notes, stream, ...). A **renderer** maps a graph to the
contents of a file. Both are plain functions, registered with a decorator:

    @plots.graph_plugin("fan_in")
    def fan_in(graph: plots.Graph, factor: float = 1.0) -> plots.Graph:
        '''Number of tensors that every call takes.'''
        ...

    @plots.graph_renderer("csv", suffixes=(".csv",))
    def csv(graph: plots.Graph) -> str:
        '''One row per call.'''
        ...

An installed package registers its own by entry points of the groups
`functional_models.graph_plugins` and `functional_models.graph_renderers`, each naming such a
decorated function. The first line of the docstring is what lists show. `plots.conformance` checks
that a plugin or renderer keeps the rules.
"""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from plots.graph import Graph

if TYPE_CHECKING:
    import keras

PLUGIN_GROUP = "functional_models.graph_plugins"
RENDERER_GROUP = "functional_models.graph_renderers"

VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
"""Kinds of parameters that are no options themselves: `*args` and `**options`."""


@dataclass(frozen=True, slots=True)
class GraphPlugin:
    """A function from graph to graph, by name.

    Attributes:
        name: What `draw(plugins=[name])` and the command line call it.
        apply: Takes the graph, then options by keyword, each with a default; gives a new graph.
            One that has a parameter `model` is given the Keras model that the graph was read from,
            or None if there is none.
    """

    name: str
    apply: Callable[..., Graph]

    @staticmethod
    def of(function: Callable[..., Graph]) -> GraphPlugin:
        """A function that is not registered, under its own name."""
        return GraphPlugin(getattr(function, "__name__", type(function).__name__), function)

    def __call__(self, graph: Graph, **options: Any) -> Graph:
        return self.apply(graph, **options)

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return _first_line(self.apply)

    @property
    def options(self) -> tuple[str, ...]:
        """Names of what it takes besides the graph and the model."""
        return tuple(name for name in _keywords(self.apply) if name != "model")

    @property
    def takes_model(self) -> bool:
        """Whether it looks at the Keras model, and not at its graph alone."""
        return "model" in _keywords(self.apply)


@dataclass(frozen=True, slots=True)
class GraphRenderer:
    """A function from graph to the contents of a file, by name.

    Attributes:
        name: What `draw(renderer=name)` calls it.
        suffixes: Ends of file names that ask for it, such as (".mmd", ".mermaid").
        render: Takes the graph, then options by keyword, each with a default; gives text or bytes,
            the same for the same graph.
    """

    name: str
    suffixes: tuple[str, ...]
    render: Callable[..., str | bytes]

    @staticmethod
    def of(function: Callable[..., str | bytes]) -> GraphRenderer:
        """A function that is not registered, under its own name and for no file."""
        name = getattr(function, "__name__", type(function).__name__)
        return GraphRenderer(name, (), function)

    def __call__(self, graph: Graph, **options: Any) -> str | bytes:
        return self.render(graph, **options)

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return _first_line(self.render)

    @property
    def options(self) -> tuple[str, ...]:
        """Names of what it takes besides the graph."""
        return _keywords(self.render)


Apply = TypeVar("Apply", bound=Callable[..., Graph])
Render = TypeVar("Render", bound=Callable[..., str | bytes])

PluginLike = str | tuple[str, Mapping[str, Any]] | Callable[..., Graph]
"""A plugin's name, its name with options, or any function from graph to graph."""

_PLUGINS: dict[str, GraphPlugin] = {}
_RENDERERS: dict[str, GraphRenderer] = {}
_loaded_groups: set[str] = set()


def graph_plugin(name: str) -> Callable[[Apply], Apply]:
    """Decorator that registers a function from graph to graph under `name`, and gives it back.

    The same function once more, as from a cell of a notebook that is run again, replaces itself.

    Raises:
        ValueError: if the name is taken by another one.
    """

    def register(apply: Apply) -> Apply:
        if name in _PLUGINS and not _is_same(_PLUGINS[name].apply, apply):
            _refuse_taken(name, "plugin")
        _PLUGINS[name] = GraphPlugin(name, apply)
        return apply

    return register


def graph_renderer(name: str, suffixes: tuple[str, ...]) -> Callable[[Render], Render]:
    """Decorator that registers a function from graph to text or bytes, and gives it back.

    The same function once more, as from a cell of a notebook that is run again, replaces itself.

    Raises:
        ValueError: if the name or a suffix is taken by another one, or a suffix does not begin with
            a dot.
    """

    def register(render: Render) -> Render:
        if name in _RENDERERS and not _is_same(_RENDERERS[name].render, render):
            _refuse_taken(name, "renderer")
        for suffix in suffixes:
            if not suffix.startswith("."):
                raise ValueError(f"the suffix {suffix!r} of renderer {name!r} needs a dot in front")
            for other in _RENDERERS.values():
                if suffix in other.suffixes and other.name != name:
                    raise ValueError(f"the suffix {suffix!r} is taken by renderer {other.name!r}")
        _RENDERERS[name] = GraphRenderer(name, suffixes, render)
        return render

    return register


def list_plugins() -> dict[str, GraphPlugin]:
    """All plugins by name, those of installed packages too."""
    _load_group(PLUGIN_GROUP)
    return dict(sorted(_PLUGINS.items()))


def list_renderers() -> dict[str, GraphRenderer]:
    """All renderers by name, those of installed packages too."""
    _load_group(RENDERER_GROUP)
    return dict(sorted(_RENDERERS.items()))


def find_plugin(name: str) -> GraphPlugin:
    """The plugin with this name.

    Raises:
        ValueError: if there is none.
    """
    return _find(name, list_plugins(), "plugin")


def find_renderer(name: str) -> GraphRenderer:
    """The renderer with this name.

    Raises:
        ValueError: if there is none.
    """
    return _find(name, list_renderers(), "renderer")


def renderer_of_file(to_file: Any) -> GraphRenderer:
    """The renderer that a file name asks for, by the longest suffix that it ends with.

    Raises:
        ValueError: if the name ends with no known suffix.
    """
    name = Path(to_file).name.lower()
    known = {suffix: r for r in list_renderers().values() for suffix in r.suffixes}
    fitting = [suffix for suffix in known if name.endswith(suffix)]
    if not fitting:
        raise ValueError(
            f"cannot write {str(to_file)!r}: the suffix {Path(to_file).suffix!r} names no known "
            f"format. Known are {', '.join(sorted(known))}"
        )
    return known[max(fitting, key=len)]


def apply_plugins(
    graph: Graph, plugins: Iterable[PluginLike], model: keras.Model | None = None
) -> Graph:
    """Apply plugins one after the other.

    A plugin that raises is named in a warning and left out, so that the rest still comes.

    Args:
        graph: The graph to begin with.
        plugins: Names, (name, options) pairs, or functions from graph to graph.
        model: What the graph was read from, for the plugins that take it.

    Raises:
        ValueError: if a name is unknown, or a plugin has no such option; before any is applied.
        TypeError: if an entry is none of the three.
    """
    for name, step in [_step(plugin, model) for plugin in plugins]:
        try:
            result = step(graph)
            if not isinstance(result, Graph):
                raise TypeError(f"it returned a {type(result).__name__} instead of a Graph")
        except Exception as error:  # whatever somebody's plugin may raise, the picture still comes
            warnings.warn(
                f"the graph plugin {name!r} was left out, because it failed: "
                f"{type(error).__name__}: {error}",
                stacklevel=3,
            )
        else:
            graph = result
    return graph


def _step(plugin: PluginLike, model: Any) -> tuple[str, Callable[[Graph], Graph]]:
    """(name, what to do) for one entry of a list of plugins."""
    named, options = plugin if isinstance(plugin, tuple) and len(plugin) == 2 else (plugin, {})
    if isinstance(named, str):
        known = find_plugin(named)
    elif isinstance(named, GraphPlugin):
        known = named
    elif callable(named):
        known = GraphPlugin.of(named)
    else:
        raise TypeError(
            "a plugin is given by its name, as a pair (name, options), or as a function from graph "
            f"to graph, not as {plugin!r}"
        )
    check_options(known, options)
    given = {"model": model} | dict(options) if known.takes_model else dict(options)
    return known.name, partial(known.apply, **given)


def check_options(thing: GraphPlugin | GraphRenderer, options: Mapping[str, Any]) -> None:
    """Refuse options that a plugin or renderer does not have.

    Raises:
        ValueError: naming them and those that it has.
    """
    takes_model = isinstance(thing, GraphPlugin) and thing.takes_model
    known = {*thing.options, "model"} if takes_model else set(thing.options)
    unknown = sorted(set(options) - known)
    if unknown:
        kind = "plugin" if isinstance(thing, GraphPlugin) else "renderer"
        raise ValueError(
            f"the graph {kind} {thing.name!r} has no option {', '.join(map(repr, unknown))}; "
            f"it has {', '.join(thing.options) or 'none'}"
        )


def _find(name: str, known: Mapping[str, Any], kind: str) -> Any:
    if name in known:
        return known[name]
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"there is no graph {kind} {name!r}.{hint} There are: {', '.join(known)}")


def _is_same(known: Callable[..., Any], function: Callable[..., Any]) -> bool:
    """Whether both are from the same place of the same module, and have a name there."""
    places = [
        (getattr(f, "__module__", None), getattr(f, "__qualname__", None))
        for f in (known, function)
    ]
    return places[0] == places[1] and None not in places[0]


def _refuse_taken(name: str, kind: str) -> None:
    raise ValueError(f"a graph {kind} named {name!r} is registered already; take another name")


def _load_group(group: str) -> None:
    """Import what installed packages register, once; what fails is named in a warning."""
    if group in _loaded_groups:
        return
    _loaded_groups.add(group)
    for entry in entry_points(group=group):
        _load_entry(entry)


def _load_entry(entry: EntryPoint) -> None:
    try:
        entry.load()  # the decorator registers what is imported
    except Exception as error:
        warnings.warn(
            f"the entry point {entry.name!r} of the group {entry.group!r} was left out, because "
            f"{entry.value!r} cannot be imported: {type(error).__name__}: {error}",
            stacklevel=4,
        )


def _keywords(function: Callable[..., Any]) -> tuple[str, ...]:
    """Names of a function's parameters after the first one, without `*args` and `**options`."""
    try:
        _, *others = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some callables of compiled modules have none
        return ()
    return tuple(p.name for p in others if p.kind not in VARIADIC)


def _first_line(function: Callable[..., Any]) -> str:
    return (inspect.getdoc(function) or "").partition("\n")[0]
