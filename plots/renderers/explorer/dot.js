// The view as DOT text for Graphviz, and what Graphviz answers, by the names of the view.
//
// Sizes are in points, of which the page makes pixels. Nothing of the model's own text goes into
// the DOT: items are "i0", "i1", ..., and everything has the size that its text will take.

const STREAM_WEIGHT = 1000; // how hard Graphviz tries to keep an edge straight: the stream wins
const BRANCH_WEIGHT = 4;
const DASHED_WEIGHT = 1;
const RAIL = 14; // from the left side of a closed box to the stream that runs through it

const GRAPH_STYLE = `graph [newrank=true, nodesep=0.25, ranksep=0.3, splines=spline]
node [shape=box, fixedsize=true, label="", margin=0]
edge [arrowsize=0.6]`;

/**
 * @param sizes  {width, height} of items by id, of headers by the name of their box, of what stands
 *   beside edges by position (or nothing), and of a tag as a function of its text.
 */
function toDot(model, view, sizes) {
  const names = new Map([...view.items.keys()].map((id, position) => [id, `i${position}`]));
  const tree = new BoxTree();
  const hasFrame = needsFrame(view);
  const outside = []; // of the frame
  for (const item of inReadingOrder(model, view)) {
    const text = nodeText(names.get(item.id), item, sizes.items.get(item.id));
    if (hasFrame && isInput(item)) outside.push(text);
    else tree.add(item.around, text);
  }
  const lowered = new Set(model.below.map(([, lower]) => view.stands.get(lower)));
  const lines = [];
  view.edges.forEach((edge, position) => {
    const [source, target] = [names.get(edge.source), names.get(edge.target)];
    if (edge.tag) {
      const { around } = view.items.get(edge.target);
      tree.add(around, `t${position} [${sized(sizes.tag(edge.tag))}]`);
      lines.push(`t${position} -> ${target} [id=e${position}, weight=${DASHED_WEIGHT}]`);
      const feed = feedOf(model, view, around);
      if (feed) lines.push(`${names.get(feed.id)} -> t${position} [style=invis, weight=0]`);
    } else {
      const attributes = edgeAttributes(view, edge, lowered.has(edge.target), sizes.edges[position]);
      lines.push(`${source} -> ${target} [id=e${position}, ${attributes.join(", ")}]`);
    }
  });
  for (const [upper, lower] of pairsBelow(model, view)) {
    lines.push(`${names.get(upper)} -> ${names.get(lower)} [style=invis, weight=0, minlen=2]`);
  }
  const boxes = [...view.boxes];
  const open = (name) => `subgraph cluster_${boxes.indexOf(name)} {
    margin=10; labeljust=r; label=${blank(sizes.headers.get(name))}`;
  const inside = tree.written(open);
  const framed = ["subgraph cluster { style=invis; margin=0", ...inside, "}"];
  const all = hasFrame ? [...outside, ...framed] : inside;
  return ["digraph {", GRAPH_STYLE, ...all, ...lines, "}"].join("\n");
}

/**
 * Items in the order in which Graphviz is to read them. What it reads first is at the left: the
 * stream, then all that branches off it, of parallel sublayers the one first that merges last.
 */
function inReadingOrder(model, view) {
  const items = [...view.items.values()];
  const onStream = (item) => !isInput(item) && (item.enters || item.leaves || item.holdsStream);
  const passed = new Map(); // number of merges that lie beside an item
  for (const [id, count] of Object.entries(model.passed)) passed.set(view.stands.get(id), count);
  const latestFirst = (a, b) => (passed.get(b.id) ?? 0) - (passed.get(a.id) ?? 0);
  const branching = items.filter((item) => !onStream(item)).sort(latestFirst);
  return [...items.filter(onStream), ...branching];
}

/** Whether the stream comes into a box, and no box is around both; see `Layout.needs_frame`. */
function needsFrame({ edges, items }) {
  return edges.some((edge) => {
    const [source, target] = [items.get(edge.source), items.get(edge.target)];
    const [outermost] = namesAround(target.around);
    const isAround = namesAround(source.around).includes(outermost);
    return edge.stream && target.around && !isAround && !isInput(source);
  });
}

function isInput(item) {
  return item.call?.kind === "input" && !item.around;
}

/** Texts and boxes within boxes, in the order in which they came. */
class BoxTree {
  #parts = new Map([["", []]]);

  add(box, text) {
    let inside = this.#parts.get("");
    for (const name of namesAround(box)) {
      if (!this.#parts.has(name)) {
        this.#parts.set(name, []);
        inside.push({ name });
      }
      inside = this.#parts.get(name);
    }
    inside.push({ text });
  }

  written(open, box = "") {
    return this.#parts.get(box).flatMap(({ text, name }) =>
      text ? [text] : [open(name), ...this.written(open, name), "}"]);
  }
}

function nodeText(name, item, size) {
  if (!hasRail(item)) return `${name} [${sized(size)}]`;
  const port = `<td port="s" fixedsize="true" width="${2 * RAIL}" height="${size.height}"></td>`;
  return `${name} [${sized(size)}, label=${table(size, `${port}<td></td>`)}]`;
}

/** Whether the stream runs along the left side of an item, past what is in it. */
function hasRail(item) {
  return Boolean(item.box) && (item.enters || item.leaves || item.holdsStream);
}

function edgeAttributes(view, edge, isLowered, besideSize) {
  const attributes = [];
  if (edge.stream) {
    attributes.push(`weight=${STREAM_WEIGHT}`);
    if (hasRail(view.items.get(edge.source))) attributes.push('tailport="s:s"');
    if (hasRail(view.items.get(edge.target))) attributes.push('headport="s:n"');
  } else {
    attributes.push(`weight=${edge.dashed ? DASHED_WEIGHT : BRANCH_WEIGHT}`);
    if (isLowered && !edge.dashed) attributes.push("minlen=2"); // room to come in from above
  }
  if (besideSize) attributes.push(`label=${blank(besideSize)}`);
  return attributes;
}

/** The item from which a box is mainly fed: no tag in the box may lie above it; see `Layout.feeds`. */
function feedOf(model, view, box) {
  const feed = view.items.get(view.stands.get(model.feeds[box]));
  return feed && !namesAround(feed.around).includes(box) ? feed : null;
}

/** Pairs of items of which the first is to be above the second, though no edge says so. */
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
 * Where everything is, with y downwards.
 *
 * @returns  width, height; items: id -> {x, y} of the centre; boxes: name -> {x, y, width, height};
 *   edges: in the view's order {points, tip, label, tag}, the last two as centres {x, y} or null.
 */
function readLayout(text, view) {
  const answer = JSON.parse(text);
  const [, , width, height] = numbers(answer.bb);
  const point = (pair) => ({ x: pair[0], y: height - pair[1] });
  const [ids, names] = [[...view.items.keys()], [...view.boxes]];
  const layout = { width, height, items: new Map(), boxes: new Map(), edges: [] };
  const tags = new Map();
  for (const { name, bb, pos } of answer.objects ?? []) {
    const number = Number(name.replace(/\D+/, ""));
    if (name.startsWith("cluster")) {
      if (name === "cluster") continue; // the frame, which is not seen
      const [left, bottom, right, top] = numbers(bb);
      const size = { width: right - left, height: top - bottom };
      layout.boxes.set(names[number], { ...point([left, top]), ...size });
    } else if (name.startsWith("t")) {
      tags.set(number, point(numbers(pos)));
    } else {
      layout.items.set(ids[number], point(numbers(pos)));
    }
  }
  for (const { id, pos, lp } of answer.edges ?? []) {
    if (!id) continue; // one that only kept things in order
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
