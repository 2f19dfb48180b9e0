// A layout without Graphviz: rows from top to bottom, in time proportional to the size of the view.

const ROW_GAP = 26;
const ITEM_GAP = 20;
const FRAME_MARGIN = 12;
const ROW_WIDTH = 1600; // longer rows continue below

/**
 * The layout of a view, for views that are too large for Graphviz or at which it fails.
 *
 * @param sizes  As in `toDot`.
 * @returns  As `readLayout`.
 */
function simpleLayout(view, sizes) {
  const boxes = nestedBoxes(view, sizes);
  for (const { frame, pair } of neighbours(view, boxes)) frame.pairs.push(pair);
  // A frame is as large as its content, so the innermost come first.
  const frames = [...boxes.values()].filter((box) => box.children);
  frames.sort((a, b) => b.depth - a.depth);
  for (const frame of frames) arrangeRows(frame);
  for (const frame of frames.reverse()) {
    for (const box of frame.children) {
      box.left += frame.left;
      box.top += frame.top;
    }
  }
  return layoutOf(view, sizes, boxes);
}

const itemKey = (id) => `item ${id}`;
const frameKey = (name) => `frame ${name}`;

/** Boxes of the items and frames by their keys; "" is that of the whole picture. */
function nestedBoxes(view, sizes) {
  const boxes = new Map();
  const frame = (key, header, depth) => {
    boxes.set(key, { children: [], pairs: [], header, depth, left: 0, top: 0 });
    return boxes.get(key);
  };
  const whole = frame("", { width: 0, height: 0 }, 0);
  for (const item of view.items.values()) {
    let around = whole;
    for (const name of item.path) {
      const key = frameKey(name);
      if (!boxes.has(key)) {
        around.children.push(frame(key, sizes.headers.get(name), around.depth + 1));
      }
      around = boxes.get(key);
    }
    const { width, height } = sizes.items.get(item.id);
    const rail = hasRail(item) ? RAIL : width / 2; // where the stream runs
    const box = { width, height, rail, left: 0, top: 0 };
    boxes.set(itemKey(item.id), box);
    around.children.push(box);
  }
  return boxes;
}

/** Pairs of boxes in the same frame that an edge joins, also between their contents. */
function* neighbours(view, boxes) {
  for (const { source, target } of view.edges) {
    const [from, to] = [source, target].map((id) =>
      [...view.items.get(id).path.map(frameKey), itemKey(id)]);
    let level = 0;
    while (from[level] === to[level]) level += 1;
    const frame = boxes.get(level ? from[level - 1] : "");
    yield { frame, pair: [boxes.get(from[level]), boxes.get(to[level])] };
  }
}

/** Set the size of a frame, and the places of its children relative to its corner. */
function arrangeRows(frame) {
  const rows = [];
  let width = frame.header.width;
  const numbers = [...rowsOf(frame.children, frame.pairs)].sort(([, a], [, b]) => a - b);
  for (const [box, number] of numbers) {
    const last = rows.at(-1);
    if (last?.number === number && last.width + ITEM_GAP + box.width <= ROW_WIDTH) {
      last.boxes.push(box);
      last.width += ITEM_GAP + box.width;
    } else {
      rows.push({ number, boxes: [box], width: box.width });
    }
  }
  for (const row of rows) width = Math.max(width, row.width);
  const margin = frame.depth ? FRAME_MARGIN : 0;
  let top = margin + frame.header.height + (frame.depth ? 6 : 0);
  for (const row of rows) {
    let left = margin + (width - row.width) / 2;
    let height = 0;
    for (const box of row.boxes) {
      Object.assign(box, { left, top });
      left += box.width + ITEM_GAP;
      height = Math.max(height, box.height);
    }
    top += height + ROW_GAP;
  }
  frame.width = width + 2 * margin;
  frame.height = top - ROW_GAP + margin;
}

function layoutOf(view, sizes, boxes) {
  const { width, height } = boxes.get("");
  const layout = { width, height, items: new Map(), clusters: new Map(), edges: [] };
  for (const id of view.items.keys()) {
    const box = boxes.get(itemKey(id));
    layout.items.set(id, { x: box.left + box.width / 2, y: box.top + box.height / 2 });
  }
  for (const name of view.clusters.keys()) {
    const box = boxes.get(frameKey(name));
    layout.clusters.set(name, { x: box.left, y: box.top, width: box.width, height: box.height });
  }
  layout.edges = view.edges.map((edge) =>
    simpleEdge(edge, boxes.get(itemKey(edge.source)), boxes.get(itemKey(edge.target)), sizes));
  return layout;
}

/** A curve from the lower side of a box to the upper side of another one. */
function simpleEdge(edge, from, to, sizes) {
  const tip = { x: to.left + (edge.stream ? to.rail : to.width / 2), y: to.top };
  const end = { x: tip.x, y: tip.y - 5 };
  if (edge.tag) {
    const { width, height } = sizes.tag(edge.tag);
    const tag = { x: to.left - width / 2 - 4, y: to.top - height / 2 - 4 };
    return { points: [tag, tag, end, end], tip, label: null, tag };
  }
  const start = { x: from.left + (edge.stream ? from.rail : from.width / 2), y: from.top + from.height };
  const down = tip.y - start.y;
  if (down > 0 && down <= 2 * ROW_GAP) {
    const points = [start, { x: start.x, y: start.y + down / 2 }, { x: end.x, y: end.y - down / 2 }, end];
    return { points, tip, label: { x: (start.x + end.x) / 2, y: start.y + down / 2 }, tag: null };
  }
  // A long edge bends to the right, past the boxes between its ends.
  const right = Math.max(from.left + from.width, to.left + to.width);
  const x = right + Math.min(40 + Math.abs(down) / 8, 240);
  const points = [start, { x, y: start.y + ROW_GAP }, { x, y: end.y - ROW_GAP }, end];
  return { points, tip, label: { x: (start.x + end.x + 6 * x) / 8, y: (start.y + end.y) / 2 }, tag: null };
}
