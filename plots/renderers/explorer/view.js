// The visible part of a model: calls, clusters, and the edges between them.

/**
 * @param model  A Model.
 * @param shown  What is expanded: isOpen(namespace), isFolded(run).
 * @param all    Whether to show also what was removed in a comparison.
 * @returns  items: id -> call or collapsed cluster, in the order of the graph;
 *   edges: edges between items; stream: pairs of items that the residual stream joins;
 *   clusters: names of the expanded clusters -> depths; sections: name -> Section; stands: id of a call -> id of its item;
 *   standIns: id of a call in a folded block -> the call that is drawn for it;
 *   stuck: names of expanded clusters that cannot be collapsed.
 */
function viewOf(model, shown, all) {
  const stuck = new Set();
  for (let round = 0; ; round += 1) {
    const isOpen = (name) => stuck.has(name) || shown.isOpen(model.namespaces.get(name));
    const view = placedCalls(model, shown, all, isOpen);
    const pairs = joinedPairs(model, view);
    const cycles = clustersInCycles(view.items, pairs);
    if (!cycles.length) return withEdges(model, shown, { ...view, stuck }, pairs);
    // A path between two calls of these leads outside. Many rounds would take long.
    for (const clusters of cycles) {
      for (const { name } of round < 8 ? clusters.slice(0, 1) : clusters) stuck.add(name);
    }
  }
}

/** The items of a view, without groups and edges. */
function placedCalls(model, shown, all, isOpen) {
  const standIns = foldedCalls(model, shown);
  const stands = new Map();
  const items = new Map();
  for (const id of model.calls.keys()) {
    const call = model.calls.get(standIns.get(id) ?? id);
    if (!all && !model.isThere(call.id)) continue;
    const itemId = drawnAs(model, call, isOpen)?.id ?? call.id;
    stands.set(id, itemId);
    if (standIns.has(id)) continue;
    if (!items.has(itemId)) items.set(itemId, newItem(model, shown, call, isOpen));
    items.get(itemId).calls.push(id);
  }
  return { all, items, stands, standIns, sections: new Map() };
}

/** Pairs of items that an edge joins. */
function joinedPairs(model, { all, items, stands, standIns }) {
  const numbers = new Map([...items.values()].map((item, number) => [item, number]));
  const known = new Set();
  const pairs = [];
  for (const edge of model.edges) {
    const [from, to] = [items.get(stands.get(edge.source)), items.get(stands.get(edge.target))];
    if (!from || !to || from === to || standIns.has(edge.target)) continue;
    if (!all && !model.isThere(edge.id)) continue;
    const key = numbers.get(from) * items.size + numbers.get(to);
    if (known.has(key)) continue;
    known.add(key);
    pairs.push([from, to]);
  }
  return pairs;
}

/** Group what is too much, and add the edges and the stream. */
function withEdges(model, shown, view, pairs) {
  const drawnFor = groupBoxes(model, view, pairs, shown.isOpen);
  if (drawnFor.size) {
    const drawn = [...view.items.values()].map((item) => drawnFor.get(item.id) ?? item);
    view.items = new Map(drawn.map((item) => [item.id, item]));
    const closed = new Map(drawn.map(({ namespace }) => [namespace, []]));
    for (const [call, id] of view.stands) {
      const item = drawnFor.get(id);
      if (!item) continue;
      view.stands.set(call, item.id);
      closed.get(item.namespace).push(call);
    }
    for (const [namespace, calls] of closed) if (namespace instanceof Section) namespace.all = calls;
  }
  const { items, stands, standIns } = view;
  view.clusters = new Map(); // name -> depth
  for (const { path } of items.values()) {
    path.forEach((name, depth) => view.clusters.set(name, depth + 1));
  }
  view.stream = new Map();
  for (const [a, b] of model.graph.stream ?? []) {
    const [source, target] = [items.get(stands.get(a)), items.get(stands.get(b))];
    if (!source || !target || standIns.has(b)) continue;
    if (source === target) {
      source.holdsStream = true;
      continue;
    }
    const pair = { source: source.id, target: target.id };
    view.stream.set(pairKey(pair), pair);
    source.leaves = true;
    target.enters = true;
  }
  let edges = null; // not needed of a view that has too many items
  return Object.defineProperty(view, "edges", { get: () => (edges ??= edgesOf(model, view)) });
}

/** Map the hidden calls of folded blocks to the calls that are drawn for them. */
function foldedCalls(model, shown) {
  const standIns = new Map();
  for (const run of model.runs.filter((each) => shown.isFolded(each))) {
    run.calls.forEach((block, number) => {
      const first = run.calls[number % run.period];
      if (block !== first) block.forEach((id, position) => standIns.set(id, first[position]));
    });
  }
  for (const [id, standIn] of standIns) { // which may be in a run inside a block, and hidden too
    let drawn = standIn;
    while (standIns.has(drawn)) drawn = standIns.get(drawn);
    standIns.set(id, drawn);
  }
  return standIns;
}

/** The outermost collapsed cluster around a call; undefined if there is none. */
function drawnAs(model, call, isOpen) {
  // A collapsed cluster with a single call is drawn as the call with a longer name.
  const isClosed = (name) => !isOpen(name) && model.namespaces.get(name).calls.length > 1;
  return model.namespaces.get(enclosingNames(call.namespace).find(isClosed));
}

/** The item that shows a call: the call, or the outermost collapsed cluster around it. */
function newItem(model, shown, call, isOpen) {
  const namespace = drawnAs(model, call, isOpen) ?? null;
  let around = namespace ? namespace.parent : call.namespace;
  let title = (namespace ?? call).label;
  while (around && !isOpen(around)) {
    const { label, parent } = model.namespaces.get(around);
    title = `${label}.${title}`;
    around = parent;
  }
  const name = namespace?.name ?? call.id;
  const run = model.blocks.get(name) ?? null;
  const before = model.graph.repeats?.[call.kind === "group" && !namespace ? call.name : name] ?? 1;
  const times = (run && shown.isFolded(run) ? run.times : 1) * before;
  const [id, path] = [namespace?.id ?? call.id, enclosingNames(around)];
  return newBox({ id, call: namespace ? null : call, namespace, around, path, title, run, times });
}

function newBox(box) {
  return {
    call: null,
    namespace: null, // a collapsed namespace or group
    around: "", // innermost expanded namespace around it
    path: [], // names of the expanded clusters around it, outermost first
    title: "",
    run: null, // the run of equal blocks that contains it
    times: 1,
    calls: [], // ids of its calls, without folded blocks
    enters: false, // whether the stream enters it
    leaves: false, // whether the stream leaves it
    holdsStream: false, // whether the stream runs inside it
    ...box,
  };
}

function edgesOf(model, { all, items, stands, standIns, stream }) {
  const joined = new Map();
  const parallel = new Map();
  for (const edge of model.edges) {
    const [from, to] = [items.get(stands.get(edge.source)), items.get(stands.get(edge.target))];
    if (!from || !to || from === to || standIns.has(edge.target)) continue;
    if (!all && !model.isThere(edge.id)) continue;
    const pair = { source: from.id, target: to.id };
    const dashed = Boolean(edge.implicit) || edge.tensor.dtype === "bool";
    const onStream = !dashed && stream.has(pairKey(pair));
    // Edges of several calls of a collapsed cluster are one line.
    const ends = [from.namespace ? "" : edge.output, to.namespace || onStream ? "" : edge.port];
    const key = JSON.stringify([pair, dashed, onStream, ends]);
    if (!joined.has(key)) {
      // Lines to all users of a mask would cross the whole diagram; they are replaced by its name.
      const byName = !onStream && !from.namespace && from.path.at(-1) !== to.path.at(-1);
      const tag = byName ? model.calls.get(edge.source).tag : "";
      joined.set(key, { ...pair, dashed, stream: onStream, tag, parts: [] });
      append(parallel, pairKey(pair), key);
    }
    joined.get(key).parts.push(edge);
  }
  const edges = [...joined.values()];
  return edges.map((edge) => ({ ...edge, parallel: parallel.get(pairKey(edge)).length > 1 }));
}

/** The collapsed clusters of every cycle of items, the smallest first. */
function clustersInCycles(items, pairs) {
  const smallestFirst = (cycle) => cycle.filter(({ namespace }) => namespace)
    .sort((a, b) => a.calls.length - b.calls.length);
  return cyclesOf(items.values(), pairs).map(smallestFirst).filter((cycle) => cycle.length)
    .map((cycle) => cycle.map(({ namespace }) => namespace));
}

/**
 * The row of every item, from 0: below all items that lead to it.
 *
 * Pairs that close a cycle do not count. The rows are in the order in which items can be drawn.
 */
function rowsOf(items, pairs) {
  const following = new Map();
  const waits = new Map(items.map((item) => [item, 0]));
  for (const [source, target] of pairs) {
    append(following, source, target);
    waits.set(target, waits.get(target) + 1);
  }
  const rows = new Map();
  const least = new Map(); // row that the items before it need
  const ready = items.filter((item) => !waits.get(item));
  for (let done = 0, first = 0; rows.size < items.length; done += 1) {
    if (done === ready.length) {
      while (rows.has(items[first])) first += 1;
      ready.push(items[first]); // all that are left wait for a cycle
    }
    const row = least.get(ready[done]) ?? 0;
    rows.set(ready[done], row);
    for (const next of following.get(ready[done]) ?? []) {
      if (rows.has(next)) continue;
      least.set(next, Math.max(least.get(next) ?? 0, row + 1));
      waits.set(next, waits.get(next) - 1);
      if (!waits.get(next)) ready.push(next);
    }
  }
  return rows;
}

/** Items that can be reached from each other, together. */
function cyclesOf(items, pairs) {
  const following = new Map();
  const preceding = new Map();
  for (const [source, target] of pairs) {
    append(following, source, target);
    append(preceding, target, source);
  }
  // Kosaraju's algorithm: items in the order in which searches leave them, then back from the last.
  const left = [];
  const seen = new Set();
  for (const item of items) reached(item, following, seen, left);
  const taken = new Set();
  const together = left.reverse().map((item) => reached(item, preceding, taken, []));
  return together.filter(({ length }) => length > 1);
}

/** Append to `left` what can be reached from an item, in the order in which a search leaves it. */
function reached(item, following, seen, left) {
  const pending = seen.has(item) ? [] : [[item, 0]];
  seen.add(item);
  while (pending.length) {
    const last = pending.at(-1);
    const next = following.get(last[0])?.[last[1]];
    last[1] += 1;
    if (!next) left.push(pending.pop()[0]);
    else if (!seen.has(next)) {
      seen.add(next);
      pending.push([next, 0]);
    }
  }
  return left;
}

/**
 * The visible skip paths that run through an item or bypass it; without any, its neighbours.
 *
 * @returns  paths; line: ids of the items along the paths; items: those and the bypassed ones.
 */
function traceOf(model, view, id) {
  const trace = { paths: [], line: new Set(), items: new Set([id]) };
  const stands = (call) => view.stands.get(call);
  view.pathsAt ??= pathsByItem(model, view);
  for (const path of view.pathsAt.get(id) ?? []) {
    trace.paths.push(path);
    path.line.forEach((call) => trace.line.add(stands(call)));
    for (const call of [...path.line, ...path.bypassed]) trace.items.add(stands(call));
  }
  if (trace.items.size === 1) {
    for (const { source, target, stream } of view.edges) {
      if (source !== id && target !== id) continue;
      trace.items.add(source).add(target);
      if (stream) trace.line.add(source).add(target);
    }
  }
  return trace;
}

/** Ids of items -> skip paths on which they are or that bypass them. */
function pathsByItem(model, view) {
  const paths = new Map();
  for (const path of model.paths) {
    // A path of a folded block is drawn as that of the block that stands for it.
    if (view.standIns.has(path.target)) continue;
    const ids = new Set([...path.line, ...path.bypassed].map((call) => view.stands.get(call)));
    for (const id of ids) append(paths, id, path);
  }
  return paths;
}

function pairKey({ source, target }) {
  return JSON.stringify([source, target]);
}
