// What can be seen at the moment: which calls and closed boxes, and the lines between them.

/**
 * @param model  A Model.
 * @param shown  What is open: isOpen(box), isFolded(run).
 * @param all    Whether to show also what a comparison says was removed.
 * @returns  items: id -> call or closed box that is drawn, in the graph's order;
 *   edges: lines between items; stream: pairs of items that the residual stream joins;
 *   boxes: names of the boxes that are drawn open; stands: id of a call -> id of its item;
 *   standIns: id of a call in a folded block -> the call that is drawn for it;
 *   stuck: names of boxes that are drawn open because they cannot be closed.
 */
function viewOf(model, shown, all) {
  const stuck = new Set();
  for (;;) {
    const isOpen = (name) => stuck.has(name) || shown.isOpen(model.boxes.get(name));
    const view = arranged(model, shown, all, isOpen);
    const box = smallestInCycle(view);
    if (!box) return { ...view, stuck };
    stuck.add(box.name); // something outside of it lies on the way between two of its calls
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
  const boxes = new Set([...items.values()].flatMap((item) => namesAround(item.around)));
  const view = { all, items, stands, standIns, boxes };
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

/** Calls of folded blocks that are left out -> the call that is drawn for them. */
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

/** A call, or the outermost closed box around it, as what is drawn. */
function newItem(model, shown, call, isOpen) {
  // A box with a single call in it is no more than a longer name as long as it is closed.
  const isClosed = (name) => !isOpen(name) && model.boxes.get(name).calls.length > 1;
  const box = model.boxes.get(namesAround(call.box).find(isClosed)) ?? null;
  let around = box ? box.parent : call.box;
  let title = (box ?? call).label;
  while (around && !isOpen(around)) {
    const { label, parent } = model.boxes.get(around);
    title = `${label}.${title}`;
    around = parent;
  }
  const name = box?.name ?? call.id;
  const run = model.blocks.get(name) ?? null;
  const before = model.graph.repeats?.[call.kind === "group" && !box ? call.name : name] ?? 1;
  return {
    id: box?.id ?? call.id,
    call: box ? null : call,
    box,
    around, // name of the innermost open box around it
    title,
    run, // the equal blocks of which it is one
    times: (run && shown.isFolded(run) ? run.times : 1) * before,
    calls: [], // ids of what it stands for, without folded blocks
    enters: false, // whether the stream comes into it
    leaves: false, // whether the stream goes on from it
    holdsStream: false, // whether the stream runs inside of it
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
    // What several calls of one box give or take is one line.
    const ends = [from.box ? "" : edge.output, to.box || onStream ? "" : edge.port];
    const key = JSON.stringify([pair, dashed, onStream, ends]);
    if (!joined.has(key)) {
      // Lines to all users of a mask would run across the whole picture: they get its name.
      const byName = !onStream && !from.box && from.around !== to.around;
      const tag = byName ? model.calls.get(edge.source).tag : "";
      joined.set(key, { ...pair, dashed, stream: onStream, tag, parts: [] });
      append(parallel, pairKey(pair), key);
    }
    joined.get(key).parts.push(edge);
  }
  const edges = [...joined.values()];
  return edges.map((edge) => ({ ...edge, parallel: parallel.get(pairKey(edge)).length > 1 }));
}

/** The smallest closed box on a way that leads back to itself; undefined if there is no such way. */
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
  const boxes = [...left].map((id) => items.get(id)).filter((item) => item.box);
  return boxes.sort((a, b) => a.calls.length - b.calls.length)[0]?.box;
}

/**
 * The skip paths that an item lies on or is by-passed by, as they can be seen; without any, what is
 * next to it.
 *
 * @returns  paths; line: ids of the items along the paths; items: those and what is by-passed.
 */
function traceOf(model, view, id) {
  const trace = { paths: [], line: new Set(), items: new Set([id]) };
  const stands = (call) => view.stands.get(call);
  for (const path of model.paths) {
    const all = [...path.line, ...path.bypassed];
    // A path of a block that is folded is seen as that of the block that stands for it.
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
