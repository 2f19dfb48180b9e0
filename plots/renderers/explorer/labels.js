// What the boxes and lines of the picture say, and how large that makes them.

const LINE_HEIGHT = 16;
const PADDING = 6; // above the first line and below the last one
const GAP = 6; // between two texts of one line
const MERGE_SIZE = 24;

/**
 * What an item looks like: its lines of {text, style}, its size, its classes.
 *
 * @param shown  overlay: what `page_data` says of it, or null; range: see `rangeOf`.
 */
function labelOf(model, item, shown) {
  const value = valueOf(shown.overlay, item);
  const notes = item.calls.flatMap((id) => model.notesAbout.get(id) ?? []);
  const kind = kindOfNotes(model, item, notes);
  const closed = Boolean(item.box) || item.call.kind === "group";
  const label = {
    classes: ["item", closed ? "closed" : `role-${item.call.role || "plain"}`],
    heat: value ? heatOf(shown.overlay, value[0], shown.range) : null,
    spoken: spokenText(item, value, notes),
    noted: notes.length > 0,
  };
  if (item.enters || item.leaves) label.classes.push("onstream");
  if (shown.overlay) label.classes.push("weighed");
  if (kind) label.classes.push("noted", `note-${kind}`);
  if (item.call?.role === "merge" && !value && item.times === 1) {
    return { ...label, circle: true, width: MERGE_SIZE, height: MERGE_SIZE };
  }
  const outputs = outputsText(model, item); // shapes of all other tensors stand beside lines
  const lines = [[{ text: item.title, style: "title" }]];
  const { class_name: className = "", tag = "" } = closed ? {} : item.call;
  if (className !== item.title) lines[0].push({ text: className, style: "small" });
  if (tag && tag !== item.title) lines[0].push({ text: `= ${tag}`, style: "small" });
  if (closed) lines.push([{ text: insideText(item), style: "small" }]);
  if (shown.shapes && outputs) lines.push([{ text: `→ ${outputs}`, style: "small" }]);
  if (value) lines.push([{ text: value[1], style: "small" }]);
  const badge = badgeText(item.run, shown, item.times, item.box?.name ?? item.id);
  const indent = (hasRail(item) ? 2 * RAIL - 4 : 10) + (item.box ? 14 : 0);
  const wide = lines.map((line) => sum(line.map(({ text, style }) => textWidth(text, style) + GAP)));
  if (badge) wide[0] += textWidth(badge, "times") + 2 * GAP;
  return {
    ...label,
    lines,
    badge,
    indent,
    width: Math.ceil(indent + Math.max(...wide) + 4),
    height: 2 * PADDING + LINE_HEIGHT * lines.length,
  };
}

/** What an overlay says of an item, as [number, text]; undefined if nothing. */
function valueOf(overlay, item) {
  return item.box ? overlay?.boxes[item.box.name] : overlay?.places[item.id];
}

/** As `main_kind`: the kind that gives the colour, a difference, then a finding, then the last. */
function mainKind(model, notes) {
  const kinds = notes.map((note) => note.kind);
  const differences = new Set(kinds.filter((kind) => model.differences.includes(kind)));
  if (differences.size > 1) return "changed";
  const [only] = differences;
  return only ?? (kinds.includes("finding") ? "finding" : kinds.at(-1));
}

/** The kind that gives the frame its colour. */
function kindOfNotes(model, item, notes) {
  const kind = mainKind(model, notes);
  // A box is no more than changed if something in it was added, and something was there before.
  const isPart = item.box && !item.calls.every((id) => notes.some((note) => note.about.includes(id)));
  return isPart && ["added", "removed"].includes(kind) ? "changed" : kind;
}

/** From 0 to 1, as `heat_colour` has it. */
function heatOf(overlay, number, { low, high }) {
  const value = overlay.scale === "log" ? (number > 0 ? Math.log(number) : low) : number;
  const heat = high > low ? clamp((value - low) / (high - low), 0, 1) : 0;
  return overlay.scale === "log" ? heat : Math.sqrt(heat);
}

/** The least and the largest of an overlay's [number, text] pairs, and what they say. */
function rangeOf(values, scale) {
  const isLog = scale === "log";
  const counted = values.filter(([number]) => !isLog || number > 0).sort(([a], [b]) => a - b);
  if (!counted.length) return { low: 0, high: 0, least: "", most: "" };
  const [least, most] = [counted[0], counted.at(-1)];
  if (isLog) return { low: Math.log(least[0]), high: Math.log(most[0]), least: least[1], most: most[1] };
  return { low: 0, high: Math.max(0, most[0]), least: "0", most: most[1] };
}

/** Shapes of the model's outputs that come out of a call. */
function outputsText(model, { call }) {
  const outputs = model.graph.outputs.filter(([id]) => id === call?.id);
  return outputs.map(([, number]) => shapeText(call.outputs[number])).join(", ");
}

/** What is inside of a closed box: "14 calls · 2 skip paths". */
function insideText({ box, call }) {
  const calls = box ? box.calls.length : call.config.calls;
  const paths = box ? box.paths.length : call.config.skip_paths;
  return [counted(calls, "call"), counted(paths, "skip path")].filter(Boolean).join(" · ");
}

/** What a screen reader says and the browser shows when the pointer rests on an item. */
function spokenText(item, value, notes) {
  const name = item.box ? item.box.name : item.id;
  const what = item.box ? `closed box, ${insideText(item)}` : item.call.class_name;
  const shapes = item.box ? [] : item.call.outputs.map(tensorText);
  const said = [...new Set(notes.map((note) => note.text))].slice(0, 3);
  return [`${name} (${what})`, ...shapes, ...(value ? [value[1]] : []), ...said].join("\n");
}

/** "× 12" on what stands for twelve blocks, "1 of 12" on one of them that can be folded again. */
function badgeText(run, shown, times, name) {
  if (times > 1) return `× ${times}`;
  return run && !shown.isFolded(run) ? `${run.names.indexOf(name) + 1} of ${run.names.length}` : "";
}

/** Lines that stand beside an edge. */
function edgeLines(edge, shown) {
  if (edge.tag) return [];
  const lines = edge.parallel ? [edge.parts[0].port] : [];
  if (shown.shapes) lines.push(shapeText(edge.parts[0].tensor));
  const value = shown.overlay?.places[edge.parts.at(-1).id];
  if (value) lines.push(value[1]);
  return lines;
}

function edgeTip(edge) {
  const tips = edge.parts.slice(0, 4).map(({ source, target, port, tensor }) =>
    `${source} → ${target} (${port}): ${tensorText(tensor)}`);
  if (edge.parts.length > tips.length) tips.push(`and ${edge.parts.length - tips.length} more`);
  return tips.join("\n");
}

/** The header of a box that is open: its name at the right, away from the stream. */
function headerOf(model, name, shown) {
  const block = model.blocks.get(name) ?? null;
  const folded = block && shown.isFolded(block);
  const times = (folded ? block.times : 1) * (model.graph.repeats?.[name] ?? 1);
  const text = model.boxes.get(name).label;
  const badge = badgeText(block, shown, times, name);
  const width = 18 + textWidth(text, "title") + (badge ? textWidth(badge, "times") + 14 : 0) + 8;
  return { text, badge, run: block, width: Math.ceil(width), height: 20 };
}

/** "b t d" where the plugin `shapes` has found letters, else the sizes: "? × 7 × 16". */
function shapeText({ letters, shape }) {
  if (letters?.length) return letters.join(" ");
  return shape.map((size) => size ?? "?").join(" × ") || "scalar";
}

function tensorText(tensor) {
  return `${shapeText(tensor)} ${tensor.dtype}`;
}

function counted(count, word) {
  return count ? `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}` : "";
}

function sum(numbers) {
  return numbers.reduce((total, number) => total + number, 0);
}
