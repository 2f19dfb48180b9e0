// The model that the page shows: the output of `page_data`, with indexes.

/** A namespace, such as "decoder.block_3", with its content at any depth. */
class Namespace {
  constructor(name, label) {
    const dot = name.lastIndexOf(".");
    this.name = name;
    this.id = `${name}.*`; // like the groups of `fold`
    this.parent = dot < 0 ? "" : name.slice(0, dot);
    this.label = label;
    this.container = name; // whose children it contains
    this.depth = enclosingNames(name).length;
    this.calls = []; // ids, in the order of the graph
    this.size = 0; // number of calls, without weights that no call takes
    this.paths = []; // skip paths that merge in it
  }
}

class Model {
  constructor(data) {
    const { graph, calls, edges, placements, differences, runs, letters, overlays } = data;
    this.graph = graph;
    this.differences = differences;
    this.quiet = data.quiet;
    this.subtracted = new Set(data.subtracted); // ids of edges
    this.frames = data.frames;
    this.notes = graph.notes ?? [];
    this.feeds = data.feeds;
    this.below = data.below;
    this.passed = data.passed;
    this.letters = letters;
    this.overlays = overlays;
    this.calls = new Map(graph.nodes.map((call) => [call.id, { ...call, ...calls[call.id] }]));
    this.edges = graph.edges.map((edge, number) => ({ ...edge, id: edges[number] }));
    this.paths = (graph.skip_paths ?? []).map((path, number) => ({
      ...path,
      placement: placements[number],
      line: [path.source, ...path.through, path.target],
    }));
    this.#indexNamespaces();
    this.#indexEdges();
    this.#indexRuns(runs);
  }

  #indexNamespaces() {
    this.namespaces = new Map(); // by name
    this.sections = new Map(); // groups of the current view, by name
    this.callsOfLayer = new Map(); // calls that share weights
    for (const call of this.calls.values()) {
      append(this.callsOfLayer, call.layer, call.id);
      for (const name of enclosingNames(call.namespace)) {
        if (!this.namespaces.has(name)) {
          this.namespaces.set(name, new Namespace(name, this.frames[name]));
        }
        this.namespaces.get(name).calls.push(call.id);
        this.namespaces.get(name).size += call.kind === "weights" ? 0 : 1;
      }
    }
    for (const path of this.paths) {
      const around = enclosingNames(this.calls.get(path.target).namespace);
      for (const name of around) this.namespaces.get(name).paths.push(path);
    }
    const all = [...this.namespaces.values()];
    this.namespacesById = new Map(all.map((each) => [each.id, each]));
    this.deepest = largest(all.map(({ depth }) => depth));
  }

  #indexEdges() {
    this.incoming = new Map(); // id of a call -> edges
    this.outgoing = new Map();
    for (const edge of this.edges) {
      append(this.incoming, edge.target, edge);
      append(this.outgoing, edge.source, edge);
    }
    this.notesAbout = new Map(); // id of a call or edge -> notes
    for (const note of this.notes) {
      for (const place of note.about) append(this.notesAbout, place, note);
    }
  }

  #indexRuns(runs) {
    this.runs = runs.map((run) => ({ ...run, times: run.names.length / run.period }));
    this.blocks = new Map(); // name of a block (or id of its only call) -> its run
    this.runsOfCall = new Map();
    for (const run of this.runs) {
      for (const name of run.names) this.blocks.set(name, run);
      for (const id of run.calls.flat()) append(this.runsOfCall, id, run);
    }
  }

  /** Whether there is a call or a cluster with this id. */
  has(id) {
    return this.calls.has(id) || Boolean(this.cluster(id));
  }

  /** The namespace or group with this id; undefined if there is none. */
  cluster(id) {
    return this.namespacesById.get(id) ?? this.sections.get(id);
  }

  /** The namespace or group with this name. */
  named(name) {
    return this.namespaces.get(name) ?? this.sections.get(name);
  }

  /** Names of the namespaces around a call or a cluster, outermost first. */
  around(id) {
    return enclosingNames(this.cluster(id)?.parent ?? this.calls.get(id).namespace);
  }

  /** Whether a call or edge exists in the newer model of a comparison. */
  isThere(place) {
    return !this.notesAbout.get(place)?.some((note) => note.kind === "removed");
  }
}

/** The name of a namespace and those around it, outermost first: "a" and "a.b" for "a.b". */
function enclosingNames(namespace) {
  if (!knownNames.has(namespace)) {
    const names = [];
    for (let dot = namespace.indexOf("."); dot >= 0; dot = namespace.indexOf(".", dot + 1)) {
      names.push(namespace.slice(0, dot));
    }
    if (namespace) names.push(namespace);
    knownNames.set(namespace, names);
  }
  return knownNames.get(namespace);
}

const knownNames = new Map();

function append(map, key, value) {
  if (map.has(key)) map.get(key).push(value);
  else map.set(key, [value]);
}
