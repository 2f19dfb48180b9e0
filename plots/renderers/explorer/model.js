// The model that the page shows: what `page_data` has written, with indexes.

/** One dotted box, such as "decoder.block_3", with everything that lies in it at any depth. */
class Box {
  constructor(name) {
    const dot = name.lastIndexOf(".");
    this.name = name;
    this.id = `${name}.*`; // as `fold` calls its groups
    this.parent = dot < 0 ? "" : name.slice(0, dot);
    this.label = name.slice(dot + 1);
    this.depth = name.split(".").length;
    this.calls = []; // ids, in the graph's order
    this.paths = []; // skip paths that come back to the stream in it
  }
}

class Model {
  constructor(data) {
    const { graph, calls, edges, placements, differences, runs, letters, overlays } = data;
    this.graph = graph;
    this.differences = differences;
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
    this.#indexBoxes();
    this.#indexEdges();
    this.#indexRuns(runs);
  }

  #indexBoxes() {
    this.boxes = new Map(); // by name
    this.callsOfLayer = new Map(); // calls that share weights
    for (const call of this.calls.values()) {
      append(this.callsOfLayer, call.layer, call.id);
      for (const name of namesAround(call.box)) {
        if (!this.boxes.has(name)) this.boxes.set(name, new Box(name));
        this.boxes.get(name).calls.push(call.id);
      }
    }
    for (const path of this.paths) {
      const around = namesAround(this.calls.get(path.target).box);
      for (const name of around) this.boxes.get(name).paths.push(path);
    }
    this.boxesById = new Map([...this.boxes.values()].map((box) => [box.id, box]));
    this.deepest = Math.max(0, ...[...this.boxes.values()].map((box) => box.depth));
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
    this.runOfCall = new Map();
    for (const run of this.runs) {
      for (const name of run.names) this.blocks.set(name, run);
      for (const id of run.calls.flat()) this.runOfCall.set(id, run);
    }
  }

  /** Whether there is a call or a box with this id. */
  has(id) {
    return this.calls.has(id) || this.boxesById.has(id);
  }

  /** Names of the boxes around a call or a box, outermost first. */
  around(id) {
    return namesAround(this.boxesById.get(id)?.parent ?? this.calls.get(id).box);
  }

  /** Whether a call or edge is there now: in a comparison there are also those that were removed. */
  isThere(place) {
    return !this.notesAbout.get(place)?.some((note) => note.kind === "removed");
  }
}

/** A box's name and those of all boxes around it, outermost first. */
function namesAround(box) {
  if (!box) return [];
  return box.split(".").map((_, depth, parts) => parts.slice(0, depth + 1).join("."));
}

function append(map, key, value) {
  if (map.has(key)) map.get(key).push(value);
  else map.set(key, [value]);
}
