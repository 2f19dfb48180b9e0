// Groups of the boxes of a cluster that has too many to draw at once, such as 10,000 calls in a row.

const MOST_BOXES_INSIDE = 300; // boxes of one cluster that are drawn without groups
const MOST_LINES_INSIDE = 1500; // between them
const MOST_ABREAST = 100; // boxes in one row
const SHORT_NAME = 22; // letters of the names at the ends of a group

/** Consecutive boxes of a cluster, drawn as one box that can be expanded like a namespace. */
class Section {
  constructor(model, container, children, { title, ends }) {
    this.name = `${children[0].id}…${children.at(-1).id}`; // the same when other clusters change
    this.id = this.name;
    this.parent = container; // name of the namespace around it
    this.container = container; // the namespace of which it contains a part
    this.label = title;
    this.ends = ends;
    this.depth = model.deepest + 1; // expanded with the last level
    this.calls = children.flatMap(({ items }) => items).flatMap((item) => item.calls);
    this.all = this.calls; // also those of folded blocks
    this.size = this.calls.filter((id) => model.calls.get(id).kind !== "weights").length;
    const inside = new Set(this.calls);
    this.paths = model.paths.filter(({ target }) => inside.has(target));
  }
}

/**
 * Group the boxes of every cluster that has too many; changes the items of a view.
 *
 * A group contains consecutive boxes in topological order, so no path leads out of it and back.
 *
 * @param pairs   Pairs of items that an edge joins.
 * @param isOpen  Whether a Section is expanded.
 * @returns  Id of an item that is not drawn -> the item of its group.
 */
function groupBoxes(model, view, pairs, isOpen) {
  const drawnFor = new Map();
  if (view.items.size <= MOST_ABREAST && pairs.length <= MOST_LINES_INSIDE) return drawnFor;
  const inserted = new Map(); // id of an item -> number of open groups around it
  const place = ({ id }, level) => level + (inserted.get(id) ?? 0);
  const group = ({ name, level }, children, words) => {
    const section = new Section(model, name, children, words);
    view.sections.set(section.name, section);
    const items = children.flatMap((child) => child.items);
    if (isOpen(section)) {
      for (const item of items) {
        item.path = item.path.toSpliced(place(item, level), 0, section.name);
        inserted.set(item.id, (inserted.get(item.id) ?? 0) + 1);
      }
      return true;
    }
    const path = items[0].path.slice(0, place(items[0], level));
    const box = newBox({ id: section.id, namespace: section, around: name, path, title: section.label });
    for (const item of items) {
      for (const id of item.calls) box.calls.push(id);
      drawnFor.set(item.id, box);
    }
    return false;
  };
  let containers = clustersOf(view, pairs);
  while (dissolve(containers)) containers = clustersOf(view, pairs);
  for (const cluster of containers.filter(isCrowded)) {
    if (drawnFor.has(cluster.children[0].items[0].id)) continue; // inside a closed group
    partition(cluster, (children, words) => group(cluster, children, words));
  }
  return drawnFor;
}

/**
 * Part the children of a cluster into groups of about the same size, and those again if need be.
 *
 * @param group  Called with the children in a group and its words; returns whether it is expanded.
 */
function partition({ children, pairs }, group) {
  const ordered = topological(children, pairs);
  const crossing = crossings(ordered, pairs);
  const levels = Math.max(2, Math.ceil(Math.log(ordered.length) / Math.log(MOST_BOXES_INSIDE)));
  let ranges = [[0, ordered.length]];
  for (let left = levels - 1; left > 0; left -= 1) {
    const parts = ranges.flatMap(([start, end]) =>
      cut(start, end, Math.ceil((end - start) ** (left / (left + 1))), crossing));
    ranges = parts.filter(([start, end]) =>
      group(ordered.slice(start, end), wordsOn(ordered, start, end)));
  }
}

/**
 * The expanded clusters and the whole picture, outermost first.
 *
 * @returns  [{name, level, children, pairs}]: the name of the cluster and its depth in the view; its
 *   children {id, label, level, cluster, items}: items, or expanded clusters (by name) with the items
 *   in them; pairs of children.
 */
function clustersOf(view, pairs) {
  const containers = new Map();
  const keysOf = new Map(); // id of an item -> keys of the children around it
  for (const item of view.items.values()) {
    const keys = [...item.path.map((name) => `in ${name}`), `at ${item.id}`];
    keysOf.set(item.id, keys);
    keys.forEach((key, level) => {
      const name = level ? item.path[level - 1] : "";
      if (!containers.has(name)) containers.set(name, { name, level, children: new Map(), pairs: [] });
      const { children } = containers.get(name);
      if (!children.has(key)) {
        const cluster = item.path[level] ?? null;
        const label = cluster ? cluster.split(".").at(-1) : item.title;
        children.set(key, { id: item.calls[0], label, level, cluster, items: [] });
      }
      children.get(key).items.push(item);
    });
  }
  for (const [source, target] of pairs) {
    const [from, to] = [keysOf.get(source.id), keysOf.get(target.id)];
    let level = 0;
    while (from[level] === to[level]) level += 1;
    const container = containers.get(level ? source.path[level - 1] : "");
    container.pairs.push([container.children.get(from[level]), container.children.get(to[level])]);
  }
  return [...containers.values()]
    .map((each) => ({ ...each, children: [...each.children.values()] }))
    .sort((a, b) => a.level - b.level);
}

/**
 * Draw the content of crowded clusters without them, where paths lead out of a cluster and back: it
 * cannot be in one group.
 *
 * @returns  Whether there were any.
 */
function dissolve(containers) {
  let found = false;
  const crowded = new Set(containers.filter(isCrowded).map(({ name }) => name));
  if (!crowded.size) return false;
  for (const { name, children, pairs } of containers) {
    const isConcerned = ({ cluster }) => cluster && (crowded.has(name) || crowded.has(cluster));
    for (const { level, label, items } of cyclesOf(children, pairs).flat().filter(isConcerned)) {
      found = true;
      for (const item of items) {
        item.title = `${label}.${item.title}`;
        item.path = item.path.toSpliced(level, 1);
      }
    }
  }
  return found;
}

function isCrowded({ children, pairs }) {
  const { length } = children;
  const isDense = pairs.length > MOST_LINES_INSIDE && pairs.length > 4 * length;
  return length > MOST_BOXES_INSIDE || isDense || isWide(children, pairs);
}

function isWide(children, pairs) {
  if (children.length <= MOST_ABREAST) return false;
  const inRow = new Map(); // row -> number of boxes
  for (const row of rowsOf(children, pairs).values()) inRow.set(row, (inRow.get(row) ?? 0) + 1);
  return largest([...inRow.values()]) > MOST_ABREAST;
}

/** Children in topological order, near to the given one; edges that close a cycle do not count. */
function topological(children, pairs) {
  const before = new Map(children.map((child) => [child, []]));
  for (const [source, target] of pairs) before.get(target).push(source);
  const ordered = [];
  const seen = new Set();
  for (const child of children) {
    const pending = seen.has(child) ? [] : [[child, 0]];
    seen.add(child);
    while (pending.length) {
      const last = pending.at(-1);
      const source = before.get(last[0])[last[1]];
      last[1] += 1;
      if (!source) ordered.push(pending.pop()[0]);
      else if (!seen.has(source)) pending.push([source, 0]) && seen.add(source);
    }
  }
  return ordered;
}

/** The number of pairs that every place between two children separates. */
function crossings(ordered, pairs) {
  const position = new Map(ordered.map((child, number) => [child, number]));
  const changes = new Array(ordered.length + 1).fill(0);
  for (const [source, target] of pairs) {
    changes[position.get(source) + 1] += 1;
    changes[position.get(target) + 1] -= 1;
  }
  let crossing = 0;
  return changes.map((change) => (crossing += change));
}

/** Ranges of about `size` children, between which few lines run. */
function cut(start, end, size, crossing) {
  const count = Math.ceil((end - start) / size);
  const ranges = [];
  for (let number = 1, from = start; number <= count; number += 1) {
    let to = number === count ? end : Math.round(start + ((end - start) * number) / count);
    const reach = number === count ? 0 : Math.floor(size / 3);
    const middle = to;
    for (let shift = 1; shift <= reach; shift += 1) {
      for (const other of [middle - shift, middle + shift]) {
        if (other > from && other < end && crossing[other] < crossing[to]) to = other;
      }
    }
    if (to > from) ranges.push([from, to]);
    from = to;
  }
  return ranges;
}

function wordsOn(ordered, start, end) {
  const numbers = [start + 1, end, ordered.length].map((number) => number.toLocaleString("en"));
  const [first, last] = [start, end - 1].map((place) => shortened(ordered[place].label, SHORT_NAME));
  return { title: `${numbers[0]}–${numbers[1]} of ${numbers[2]}`, ends: `${first} … ${last}` };
}
