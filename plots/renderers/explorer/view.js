// The visible part of a model: calls, clusters, and the edges between them.

/**
 * @param model  A Model.
 * @param shown  What is expanded: isOpen(namespace), isFolded(run).
 * @param all    Whether to show also what was removed in a comparison.
 * @returns  items: id -> call or collapsed cluster, in the order of the graph;
 *   edges: edges between items; stream: pairs of items that the residual stream joins;
 *   clusters: names of the expanded clusters; stands: id of a call -> id of its item;
 *   standIns: id of a call in a folded block -> the call that is drawn for it;
 *   stuck: names of expanded clusters that cannot be collapsed.
 */
function viewOf(model, shown, all) {
  const stuck = new Set();
  for (;;) {
    const isOpen = (name) => stuck.has(name) || shown.isOpen(model.namespaces.get(name));
    const view = arranged(model, shown, all, isOpen);
    const namespace = smallestInCycle(view);
    if (!namespace) return { ...view, stuck };
    stuck.add(namespace.name); // a path between two of its calls leads outside
  }
}

function arranged(model, shown, all, isOpen) {
  const standIns = foldedCalls(model, shown);
  const stands = new Map();
  const items = new Map();
  for (const id of model.calls.keys()) {
    const call = model.calls.get(standIns.get(id) ?? id);
    if (!all && !model.isThere(call.id)) continue;
    const item = newItem(model, shown, call, isOpen);
    stands.set(id, item.id);
    if (standIns.has(id)) continue;
    if (!items.has(item.id)) items.set(item.id, item);
    items.get(item.id).calls.push(id);
  }
  const clusters = new Set([...items.values()].flatMap((item) => item.path));
  const view = { all, items, stands, standIns, clusters };
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
  view.edges = edgesOf(model, view);
  return view;
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
  return standIns;
}

/** The item that shows a call: the call, or the outermost collapsed cluster around it. */
function newItem(model, shown, call, isOpen) {
  // A collapsed cluster with a single call is drawn as the call with a longer name.
  const isClosed = (name) => !isOpen(name) && model.namespaces.get(name).calls.length > 1;
  const namespace = model.namespaces.get(enclosingNames(call.namespace).find(isClosed)) ?? null;
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
  return {
    id: namespace?.id ?? call.id,
    call: namespace ? null : call,
    namespace,
    around, // innermost expanded namespace around it
    path: enclosingNames(around), // expanded clusters around it, outermost first
    title,
    run, // the run of equal blocks that contains it
    times: (run && shown.isFolded(run) ? run.times : 1) * before,
    calls: [], // ids of its calls, without folded blocks
    enters: false, // whether the stream enters it
    leaves: false, // whether the stream leaves it
    holdsStream: false, // whether the stream runs inside it
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
      const byName = !onStream && !from.namespace && from.around !== to.around;
      const tag = byName ? model.calls.get(edge.source).tag : "";
      joined.set(key, { ...pair, dashed, stream: onStream, tag, parts: [] });
      append(parallel, pairKey(pair), key);
    }
    joined.get(key).parts.push(edge);
  }
  const edges = [...joined.values()];
  return edges.map((edge) => ({ ...edge, parallel: parallel.get(pairKey(edge)).length > 1 }));
}

/** The smallest collapsed cluster on a cycle; undefined if there is none. */
function smallestInCycle({ items, edges }) {
  const left = new Set(items.keys());
  for (const [start, end] of [["source", "target"], ["target", "source"]]) {
    const waits = new Map([...left].map((id) => [id, 0]));
    const following = new Map();
    for (const edge of edges.filter((each) => left.has(each.source) && left.has(each.target))) {
      waits.set(edge[end], waits.get(edge[end]) + 1);
      append(following, edge[start], edge[end]);
    }
    const ready = [...left].filter((id) => !waits.get(id));
    while (ready.length) {
      const id = ready.pop();
      left.delete(id);
      for (const next of following.get(id) ?? []) {
        waits.set(next, waits.get(next) - 1);
        if (!waits.get(next)) ready.push(next);
      }
    }
  }
  const clusters = [...left].map((id) => items.get(id)).filter((item) => item.namespace);
  return clusters.sort((a, b) => a.calls.length - b.calls.length)[0]?.namespace;
}

/**
 * The visible skip paths that run through an item or bypass it; without any, its neighbours.
 *
 * @returns  paths; line: ids of the items along the paths; items: those and the bypassed ones.
 */
function traceOf(model, view, id) {
  const trace = { paths: [], line: new Set(), items: new Set([id]) };
  const stands = (call) => view.stands.get(call);
  for (const path of model.paths) {
    const all = [...path.line, ...path.bypassed];
    // A path of a folded block is drawn as that of the block that stands for it.
    if (view.standIns.has(path.target) || !all.some((call) => stands(call) === id)) continue;
    trace.paths.push(path);
    path.line.forEach((call) => trace.line.add(stands(call)));
    all.forEach((call) => trace.items.add(stands(call)));
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

function pairKey({ source, target }) {
  return JSON.stringify([source, target]);
}
