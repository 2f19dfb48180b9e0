"""Graph plugins and graph renderers, and how to add your own.

A **plugin** maps a graph to a graph: it marks, measures, folds or compares, and stores its results
in the graph (overlays, notes, stream, ...). A **renderer** maps a graph to the contents of a file.
Both are plain functions, registered with a decorator:

    @plots.graph_plugin("fan_in")
    def fan_in(graph: plots.Graph, factor: float = 1.0) -> plots.Graph:
        '''Number of input tensors of every call.'''
        ...

    @plots.graph_renderer("csv", suffixes=(".csv",))
    def csv(graph: plots.Graph) -> str:
        '''One row per call.'''
        ...

An installed package registers its own with entry points of the groups
`functional_models.graph_plugins` and `functional_models.graph_renderers`, each naming such a
decorated function. Lists show the first line of the docstring. `plots.conformance` checks that a
plugin or renderer follows the rules.
"""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from plots.arguments import described, takes_graphs
from plots.graph import Graph
from plots.parsing import parse_plugin

if TYPE_CHECKING:
    import keras

PLUGIN_GROUP = "functional_models.graph_plugins"
RENDERER_GROUP = "functional_models.graph_renderers"

_LONGEST_VALUE = 60


@dataclass(frozen=True)
class _Registered:
    """A named function of a graph, with options by keyword."""

    kind: ClassVar[str]
    name: str
    function: Callable[..., Any]

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Self:
        """Wrap a function that is not registered, under its own name."""
        return cls(getattr(function, "__name__", type(function).__name__), function)

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the parameters besides the graph, and besides the model of a plugin."""
        return tuple(self._keywords)

    def check_options(self, options: Iterable[str]) -> None:
        """Check that the function has the given options; one with `**options` has all.

        Raises:
            ValueError: naming the unknown options and those that it has.
        """
        unknown = sorted(set(options).difference(self._keywords))
        if unknown and not any(p.kind is p.VAR_KEYWORD for p in self.parameters):
            near = difflib.get_close_matches(unknown[0], self.options, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(
                f"the graph {self.kind} {self.name!r} has no option "
                f"{', '.join(map(repr, unknown))}{hint}; it has {', '.join(self.options) or 'none'}"
            )

    @property
    def parameters(self) -> list[inspect.Parameter]:
        """The parameters after the first one."""
        try:
            return list(inspect.signature(self.function).parameters.values())[1:]
        except (TypeError, ValueError):  # some callables of compiled modules have no signature
            return []

    @property
    def _keywords(self) -> list[str]:
        return [p.name for p in self.parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


class GraphPlugin(_Registered):
    """A named function from graph to graph.

    Attributes:
        name: The name for `draw(plugins=[name])` and the command line.
        function: Takes the graph, then options by keyword, each with a default; returns a new
            graph. A parameter `model` receives the Keras model that the graph was read from, or
            None.
    """

    kind = "plugin"

    def __call__(self, graph: Graph, **options: Any) -> Graph:
        return self.function(graph, **options)

    @property
    def options(self) -> tuple[str, ...]:
        return tuple(name for name in self._keywords if name != "model")

    @property
    def takes_model(self) -> bool:
        """Whether it has a parameter `model` for the Keras model."""
        return "model" in self._keywords


@dataclass(frozen=True)
class GraphRenderer(_Registered):
    """A named function from graph to the contents of a file.

    Attributes:
        name: The name for `draw(renderer=name)`.
        function: Takes the graph, then options by keyword, each with a default; returns text or
            bytes, equal for equal graphs.
        suffixes: File name suffixes that select it, such as (".mmd", ".mermaid").
    """

    kind = "renderer"
    suffixes: tuple[str, ...] = ()

    def __call__(self, graph: Graph, **options: Any) -> str | bytes:
        return self.function(graph, **options)


Function = TypeVar("Function", bound=Callable[..., Any])

PluginLike = str | tuple[str, Mapping[str, Any]] | Callable[..., Graph]
"""A plugin's name, with options ("fold:depth=2") or without; its name and a mapping of options; or
any function from graph to graph."""

_PLUGINS: dict[str, GraphPlugin] = {}
_RENDERERS: dict[str, GraphRenderer] = {}
_loaded_groups: set[str] = set()


def graph_plugin(name: str) -> Callable[[Function], Function]:
    """Decorator that registers a function from graph to graph under `name`.

    A function that is defined again, as by a notebook cell that is rerun, replaces itself.

    Raises:
        ValueError: if another function has the name.
    """

    def register(function: Function) -> Function:
        checked = takes_graphs(function)
        _register(_PLUGINS, GraphPlugin(name, checked))
        return checked

    return register


def graph_renderer(name: str, suffixes: str | Iterable[str]) -> Callable[[Function], Function]:
    """Decorator that registers a function from graph to text or bytes under `name`.

    A function that is defined again, as by a notebook cell that is rerun, replaces itself.

    Args:
        name: The name of the renderer.
        suffixes: One or several file name suffixes that select it.

    Raises:
        ValueError: if another renderer has the name or a suffix, or a suffix does not start with a
            dot.
    """
    suffixes = (suffixes,) if isinstance(suffixes, str) else tuple(suffixes)

    def register(function: Function) -> Function:
        for suffix in suffixes:
            if not suffix.startswith("."):
                raise ValueError(f"the suffix {suffix!r} of {name!r} must start with a dot")
            for other in _RENDERERS.values():
                if suffix in other.suffixes and other.name != name:
                    raise ValueError(f"the suffix {suffix!r} is taken by renderer {other.name!r}")
        checked = takes_graphs(function)
        _register(_RENDERERS, GraphRenderer(name, checked, suffixes))
        return checked

    return register


def _register(known: dict[str, Any], new: _Registered) -> None:
    """Add a plugin or renderer; one with the same module and qualified name is replaced."""

    def place(function: Any) -> tuple[Any, Any]:
        return getattr(function, "__module__", None), getattr(function, "__qualname__", None)

    if new.name in known:
        old = place(known[new.name].function)
        if None in old or old != place(new.function):
            raise ValueError(
                f"a graph {new.kind} {new.name!r} is already registered; choose another name"
            )
    known[new.name] = new


def list_plugins() -> dict[str, GraphPlugin]:
    """Return all plugins by name, including those of installed packages."""
    _load_group(PLUGIN_GROUP)
    return dict(sorted(_PLUGINS.items()))


def list_renderers() -> dict[str, GraphRenderer]:
    """Return all renderers by name, including those of installed packages."""
    _load_group(RENDERER_GROUP)
    return dict(sorted(_RENDERERS.items()))


def find_plugin(name: str) -> GraphPlugin:
    """Return the plugin with this name; raise ValueError if there is none."""
    return _find(name, list_plugins(), "plugin")


def find_renderer(name: str) -> GraphRenderer:
    """Return the renderer with this name; raise ValueError if there is none."""
    return _find(name, list_renderers(), "renderer")


def renderer_of_file(to_file: Any) -> GraphRenderer:
    """Return the renderer that a file name selects, by its longest known suffix.

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


def plugin_list(plugins: PluginLike | Iterable[PluginLike]) -> list[PluginLike]:
    """Return plugins as a list; a single name, (name, options) pair or function is one plugin."""
    if isinstance(plugins, str) or callable(plugins) or _is_pair(plugins):
        return [plugins]  # type: ignore[list-item]
    return list(plugins)  # type: ignore[arg-type]


@takes_graphs
def apply_plugins(
    graph: Graph,
    plugins: PluginLike | Iterable[PluginLike],
    model: keras.Model | None = None,
) -> Graph:
    """Apply plugins one after the other.

    Args:
        graph: The graph.
        plugins: Names, names with options as on the command line ("fold:depth=2"), (name, options)
            pairs or functions from graph to graph, or one of these.
        model: The Keras model that the graph was read from, for plugins that take it.

    Returns:
        The graph that the last plugin returns.

    Raises:
        ValueError: if a name is unknown or a plugin has no such option, before any is applied; if a
            plugin fails, naming it, its options and the reason.
        TypeError: if an entry is none of these.
    """
    for name, options, step in [_step(plugin, model) for plugin in plugin_list(plugins)]:
        try:
            result = step(graph)
            if not isinstance(result, Graph):
                raise TypeError(f"it returned {described(result)} instead of a Graph")
        except MemoryError:
            raise
        except Exception as error:
            given = ", ".join(f"{option}={_shown(value)}" for option, value in options.items())
            reason = "" if type(error) is ValueError else f"{type(error).__name__}: "
            raise ValueError(
                f"the graph plugin {name!r} failed{f' with {given}' * bool(given)}: {reason}{error}"
            ) from error
        graph = result
    return graph


def _shown(value: Any) -> str:
    """Return the value of an option in few words; arrays and models as their class."""
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE and text.isprintable() else described(value)


def _is_pair(plugin: Any) -> bool:
    return isinstance(plugin, tuple) and len(plugin) == 2 and isinstance(plugin[1], Mapping)


def _step(plugin: Any, model: Any) -> tuple[str, Mapping[str, Any], Callable[[Graph], Graph]]:
    """Return the name of a plugin, its options, and the function with its options bound."""
    named, options = plugin if _is_pair(plugin) else (plugin, {})
    if isinstance(named, str):
        if named not in list_plugins():
            named, written = parse_plugin(named)
            options = {**written, **options}
        known = find_plugin(named)
    elif isinstance(named, GraphPlugin):
        known = named
    elif callable(named):
        known = GraphPlugin.of(named)
    else:
        raise TypeError(
            f"{_shown(plugin)} is not a plugin; give a name, such as 'fold:depth=2', a pair (name, "
            "options) or a function from graph to graph"
        )
    known.check_options(options)
    given = {"model": model, **options} if known.takes_model else options
    return known.name, options, partial(known.function, **given)


def _find(name: str, known: Mapping[str, Any], kind: str) -> Any:
    if name in known:
        return known[name]
    near = [other for other in known if str(name) and other.startswith(str(name).lower())]
    near = near or difflib.get_close_matches(str(name).lower(), known, n=1)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise ValueError(f"there is no graph {kind} {name!r}.{hint} There are: {', '.join(known)}")


def _load_group(group: str) -> None:
    """Import the entry points of a group, once; those that fail are skipped with a warning."""
    if group in _loaded_groups:
        return
    _loaded_groups.add(group)
    for entry in entry_points(group=group):
        try:
            entry.load()  # the decorator registers the function
        except Exception as error:
            warnings.warn(
                f"skipped the entry point {entry.name!r} of the group {entry.group!r}, because "
                f"{entry.value!r} cannot be imported: {type(error).__name__}: {error}",
                stacklevel=3,
            )


graph_renderer("json", ".json")(Graph.to_json)
