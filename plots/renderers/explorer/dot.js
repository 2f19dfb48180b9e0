// The view as DOT text for Graphviz, and the layout that Graphviz returns.
//
// Sizes are in points, which the page draws as pixels. The DOT contains no text of the model: items
// are "i0", "i1", ..., with the sizes of their texts.

const STREAM_WEIGHT = 1000; // Graphviz keeps edges of a large weight straight
const BRANCH_WEIGHT = 4;
const DASHED_WEIGHT = 1;
const RAIL = 14; // from the left side of a collapsed cluster to the stream through it

const MOST_EXACT = 100; // items for which Graphviz optimises without a limit
const MOST_LABELS = 200; // of lines that Graphviz places
const GRAPH_STYLE = `graph [newrank=true, nodesep=0.25, ranksep=0.3, splines=spline]
node [shape=box, fixedsize=true, label="", margin=0]
edge [arrowsize=0.6]`;

const MOST_WORK = 4000; // items, rows that lines cross, and frames around items

/** Whether Graphviz needs long for a view: it has nodes for the rows that a line crosses. */
function isLarge({ items, edges }) {
  const ids = [...items.keys()];
  const rows = rowsOf(ids, edges.map(({ source, target }) => [source, target]));
  const spanned = sum(edges.map(({ source, target }) => Math.abs(rows.get(target) - rows.get(source))));
  const nested = sum([...items.values()].map(({ path }) => path.length)) / 4;
  return items.size + spanned + nested > MOST_WORK;
}

/**
 * @param sizes  {width, height} of items by id, of headers by namespace, of edge labels by
 *   position (or nothing), and of a tag as a function of its text.
 */
function toDot(model, view, sizes) {
  const names = new Map([...view.items.keys()].map((id, position) => [id, `i${position}`]));
  const tree = new ClusterTree();
  const hasFrame = needsFrame(view);
  const outside = []; // of the frame
  for (const item of inReadingOrder(model, view)) {
    const text = nodeText(names.get(item.id), item, sizes.items.get(item.id));
    if (hasFrame && isInput(item) && !item.leaves) outside.push(text);
    else tree.add(item.path, text);
  }
  const beside = sizes.edges.filter(Boolean).length <= MOST_LABELS ? sizes.edges : [];
  const lowered = new Set(model.below.map(([, lower]) => view.stands.get(lower)));
  const lines = [];
  view.edges.forEach((edge, position) => {
    const [source, target] = [names.get(edge.source), names.get(edge.target)];
    if (edge.tag) {
      const { around, path } = view.items.get(edge.target);
      tree.add(path, `t${position} [${sized(sizes.tag(edge.tag))}]`);
      lines.push(`t${position} -> ${target} [id=e${position}, weight=${DASHED_WEIGHT}]`);
      const feed = feedOf(model, view, around);
      if (feed) lines.push(`${names.get(feed.id)} -> t${position} [style=invis, weight=0]`);
    } else {
      const attributes = edgeAttributes(view, edge, lowered.has(edge.target), beside[position]);
      lines.push(`${source} -> ${target} [id=e${position}, ${attributes.join(", ")}]`);
    }
  });
  for (const [upper, lower] of pairsBelow(model, view)) {
    lines.push(`${names.get(upper)} -> ${names.get(lower)} [style=invis, weight=0, minlen=2]`);
  }
  const numbers = new Map([...view.clusters.keys()].map((name, number) => [name, number]));
  const open = (name) => `subgraph cluster_${numbers.get(name)} {
    margin=10; labeljust=r; label=${blank(sizes.headers.get(name))}`;
  const inside = tree.written(open);
  const framed = ["subgraph cluster { style=invis; margin=0", ...inside, "}"];
  const all = hasFrame ? [...outside, ...framed] : inside;
  const limit = view.items.size > MOST_EXACT ? ["nslimit=4; nslimit1=4"] : [];
  return ["digraph {", ...limit, GRAPH_STYLE, ...all, ...lines, "}"].join("\n");
}

/**
 * Items in the order for Graphviz, which places what it reads first at the left: the stream, then
 * its branches, of parallel sublayers first the one that merges last.
 */
function inReadingOrder(model, view) {
  const items = [...view.items.values()];
  const onStream = (item) => item.enters || item.leaves || item.holdsStream;
  const passed = new Map(); // item -> number of merges beside it
  for (const [id, count] of Object.entries(model.passed)) passed.set(view.stands.get(id), count);
  const latestFirst = (a, b) => (passed.get(b.id) ?? 0) - (passed.get(a.id) ?? 0);
  const branching = items.filter((item) => !onStream(item)).sort(latestFirst);
  return [...items.filter(onStream), ...branching];
}

/**
 * Whether the stream enters a cluster and no cluster contains both. Graphviz would draw the sublayers
 * of such a cluster to the left of the stream, and others to its right.
 */
function needsFrame({ edges, items }) {
  return edges.some((edge) => {
    const [source, target] = [items.get(edge.source), items.get(edge.target)];
    const [outermost] = target.path;
    return edge.stream && outermost && source.path[0] !== outermost;
  });
}

function isInput(item) {
  return item.call?.kind === "input" && !item.around;
}

/** Texts and nested clusters, in the order of insertion. */
class ClusterTree {
  #parts = new Map([["", []]]);

  add(path, text) {
    let inside = this.#parts.get("");
    for (const name of path) {
      if (!this.#parts.has(name)) {
        this.#parts.set(name, []);
        inside.push({ name });
      }
      inside = this.#parts.get(name);
    }
    inside.push({ text });
  }

  written(open, namespace = "") {
    return this.#parts.get(namespace).flatMap(({ text, name }) =>
      text ? [text] : [open(name), ...this.written(open, name), "}"]);
  }
}

function nodeText(name, item, size) {
  if (!hasRail(item)) return `${name} [${sized(size)}]`;
  const port = `<td port="s" fixedsize="true" width="${2 * RAIL}" height="${size.height}"></td>`;
  return `${name} [${sized(size)}, label=${table(size, `${port}<td></td>`)}]`;
}

/** Whether the stream runs along the left side of an item. */
function hasRail(item) {
  return Boolean(item.namespace) && (item.enters || item.leaves || item.holdsStream);
}

function edgeAttributes(view, edge, isLowered, besideSize) {
  const attributes = [];
  if (edge.stream) {
    attributes.push(`weight=${STREAM_WEIGHT}`);
    if (hasRail(view.items.get(edge.source))) attributes.push('tailport="s:s"');
    if (hasRail(view.items.get(edge.target))) attributes.push('headport="s:n"');
  } else {
    attributes.push(`weight=${edge.dashed ? DASHED_WEIGHT : BRANCH_WEIGHT}`);
    if (isLowered && !edge.dashed) attributes.push("minlen=2"); // room to enter from above
  }
  if (besideSize) attributes.push(`label=${blank(besideSize)}`);
  return attributes;
}

/** The main source of a cluster, above which it has no tags; see `Layout.feeds`. */
function feedOf(model, view, namespace) {
  const feed = view.items.get(view.stands.get(model.feeds[namespace]));
  return feed && !enclosingNames(feed.around).includes(namespace) ? feed : null;
}

/** Pairs of items without an edge, the first to be drawn above the second. */
function pairsBelow(model, { edges, stands, standIns }) {
  const joined = new Set(edges.map(pairKey));
  const pairs = new Map();
  for (const [upper, lower] of model.below) {
    const [source, target] = [stands.get(upper), stands.get(lower)];
    const key = pairKey({ source, target });
    if (source && target && source !== target && !standIns.has(lower) && !joined.has(key)) {
      pairs.set(key, [source, target]);
    }
  }
  return pairs.values();
}

function sized({ width, height }) {
  return `width=${(width / 72).toFixed(4)}, height=${(height / 72).toFixed(4)}`; // in inches
}

function blank(size) {
  return table(size, "<td></td>");
}

function table({ width, height }, cells) {
  const style = 'border="0" cellborder="0" cellspacing="0" cellpadding="0" fixedsize="true"';
  return `<<table ${style} width="${Math.ceil(width)}" height="${height}"><tr>${cells}</tr></table>>`;
}

/**
 * The layout with y downwards.
 *
 * @returns  width, height; items: id -> {x, y} of the centre; clusters: name -> {x, y, width, height};
 *   edges: in the order of the view {points, tip, label, tag}, the last two as centres {x, y} or null.
 *   A label without a place is drawn on the line.
 */
function readLayout(text, view) {
  const answer = JSON.parse(text);
  const [, , width, height] = numbers(answer.bb);
  const point = (pair) => ({ x: pair[0], y: height - pair[1] });
  const [ids, names] = [[...view.items.keys()], [...view.clusters.keys()]];
  const layout = { width, height, items: new Map(), clusters: new Map(), edges: [] };
  const tags = new Map();
  for (const { name, bb, pos } of answer.objects ?? []) {
    const number = Number(name.replace(/\D+/, ""));
    if (name.startsWith("cluster")) {
      if (name === "cluster") continue; // the invisible frame
      const [left, bottom, right, top] = numbers(bb);
      const size = { width: right - left, height: top - bottom };
      layout.clusters.set(names[number], { ...point([left, top]), ...size });
    } else if (name.startsWith("t")) {
      tags.set(number, point(numbers(pos)));
    } else {
      layout.items.set(ids[number], point(numbers(pos)));
    }
  }
  for (const { id, pos, lp } of answer.edges ?? []) {
    if (!id) continue; // an invisible edge
    const parts = pos.split(" ");
    const tip = parts[0].startsWith("e,") ? point(numbers(parts.shift().slice(2))) : null;
    const number = Number(id.slice(1));
    layout.edges[number] = {
      points: parts.map((part) => point(numbers(part))),
      tip,
      label: lp ? point(numbers(lp)) : null,
      tag: tags.get(number) ?? null,
    };
  }
  return layout;
}

function numbers(text) {
  return text.split(",").map(Number);
}
