// Labels of nodes, clusters and edges, and their sizes.

const LINE_HEIGHT = 16;
const PADDING = 6; // above the first line and below the last one
const GAP = 6; // between two texts of one line
const MERGE_SIZE = 24;
const MOST_LETTERS = 48; // of a text in the picture; the tooltip and the panel have all of it

/**
 * The label of an item: its lines of {text, style}, its size, its classes.
 *
 * @param shown  overlay: as in `page_data`, or null; range: see `rangeOf`.
 */
function labelOf(model, item, shown) {
  const value = valueOf(shown.overlay, item);
  const notes = item.calls.flatMap((id) => model.notesAbout.get(id) ?? []);
  const loud = notes.filter((note) => !model.quiet.includes(note.kind));
  const kind = kindOfNotes(model, item, loud);
  const closed = Boolean(item.namespace) || item.call.kind === "group";
  const label = {
    classes: ["item", closed ? "closed" : `role-${item.call.role || "plain"}`],
    heat: value ? heatOf(shown.overlay, value[0], shown.range) : null,
    spoken: spokenText(item, value, notes),
    noted: notes.length > 0,
  };
  if (item.enters || item.leaves) label.classes.push("onstream");
  if (shown.overlay) label.classes.push("weighed");
  if (kind) label.classes.push("noted", `note-${kind}`);
  else if (notes.length) label.classes.push(`note-${notes.at(-1).kind}`); // a mark, no frame
  if (item.call?.role === "merge" && !value && item.times === 1) {
    return { ...label, circle: item.call.sign, width: MERGE_SIZE, height: MERGE_SIZE };
  }
  const outputs = outputsText(model, item); // shapes of other tensors are on the edges
  const lines = [[{ text: shortened(item.title), style: "title" }]];
  const { type = "", tag = "", details = "", shared = "" } = item.call ?? {};
  const rest = type.startsWith(item.title) ? type.slice(item.title.length).trim() : type;
  if (rest) lines[0].push({ text: shortened(rest), style: "small" });
  if (shared) lines[0].push({ text: shared, style: "shared" });
  if (details) lines.push([{ text: shortened(details), style: "small" }]);
  if (tag && tag !== item.title) lines[0].push({ text: `= ${shortened(tag)}`, style: "small" });
  const { ends } = item.namespace ?? {};
  if (ends) lines.push([{ text: ends, style: "small" }]);
  if (closed) lines.push([{ text: insideText(item), style: "small" }]);
  if (shown.shapes && outputs) lines.push([{ text: `→ ${shortened(outputs)}`, style: "small" }]);
  if (value) lines.push([{ text: value[1], style: "small" }]);
  const badge = badgeText(item.run, shown, item.times, item.namespace?.name ?? item.id);
  const indent = (hasRail(item) ? 2 * RAIL - 4 : 10) + (item.namespace ? 14 : 0);
  const wide = lines.map((line) => sum(line.map(({ text, style }) => textWidth(text, style) + GAP)));
  if (badge) wide[0] += textWidth(badge, "times") + 2 * GAP;
  return {
    ...label,
    lines,
    badge,
    indent,
    width: Math.ceil(indent + largest(wide) + 4),
    height: 2 * PADDING + LINE_HEIGHT * lines.length,
  };
}

/** The value of an item in an overlay, as [number, text]; undefined if there is none. */
function valueOf(overlay, item) {
  if (!overlay) return undefined;
  if (item.namespace instanceof Section) return sectionValue(overlay, item.namespace);
  return item.namespace ? overlay.namespaces[item.namespace.name] : overlay.places[item.id];
}

/** The value of a group: the sum of its calls, or that of the last one; see `Overlay.combine`. */
function sectionValue({ places, combine, unit, total }, { all }) {
  const values = all.map((id) => places[id]).filter(Boolean);
  if (!values.length || combine !== "sum") return values.at(-1);
  const number = sum(values.map(([each]) => each));
  return [number, numberText(number, unit) + (total ? ` (${percentText(number / total)})` : "")];
}

/** As `number_text` of the annotations: 590592 B is "591 kB". */
function numberText(number, unit) {
  for (const [prefix, factor] of [["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
    if (Math.abs(number) < 0.9995 * factor) continue;
    return `${Number((number / factor).toPrecision(3))} ${prefix}${unit}`;
  }
  return `${Number(number.toPrecision(3))} ${unit}`.trim();
}

function percentText(share) {
  return share > 0 && share < 0.0005 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`;
}

/** The kind that sets the colour, as in `main_kind`: a difference, a finding, a remark, or the last. */
function mainKind(model, notes) {
  const kinds = notes.map((note) => note.kind);
  const differences = new Set(kinds.filter((kind) => model.differences.includes(kind)));
  if (differences.size > 1) return "changed";
  const [only] = differences;
  return only ?? ["finding", "remark"].find((kind) => kinds.includes(kind)) ?? kinds.at(-1);
}

/** The kind that sets the colour of the frame. */
function kindOfNotes(model, item, notes) {
  if (!notes.length) return "";
  const kind = mainKind(model, notes);
  // A cluster of which only a part was added or removed has changed.
  const isNoted = (id) => notes.some((note) => note.about.includes(id));
  const isPart = item.namespace && !item.calls.every(isNoted);
  return isPart && ["added", "removed"].includes(kind) ? "changed" : kind;
}

/** From 0 to 1, as in `heat_colour`. */
function heatOf(overlay, number, { low, high }) {
  const value = overlay.scale === "log" ? (number > 0 ? Math.log(number) : low) : number;
  const heat = high > low ? clamp((value - low) / (high - low), 0, 1) : 0;
  return overlay.scale === "log" ? heat : Math.sqrt(heat);
}

/** The smallest and largest of [number, text] pairs, and their texts. */
function rangeOf(values, scale) {
  const isLog = scale === "log";
  const counted = values.filter(([number]) => !isLog || number > 0).sort(([a], [b]) => a - b);
  if (!counted.length) return { low: 0, high: 0, least: "", most: "" };
  const [least, most] = [counted[0], counted.at(-1)];
  if (isLog) return { low: Math.log(least[0]), high: Math.log(most[0]), least: least[1], most: most[1] };
  return { low: 0, high: Math.max(0, most[0]), least: "0", most: most[1] };
}

/** Shapes of the outputs of the model that a call returns. */
function outputsText(model, { call }) {
  const outputs = model.graph.outputs.filter(([id]) => id === call?.id);
  return outputs.map(([, number]) => shapeText(call.outputs[number])).join(", ");
}

/** The content of a collapsed cluster: "14 calls · 2 skip paths". */
function insideText({ namespace, call }) {
  const calls = namespace ? namespace.size : call.config.calls;
  const paths = namespace ? namespace.paths.length : call.config.skip_paths;
  return [counted(calls, "call"), counted(paths, "skip path")].filter(Boolean).join(" · ");
}

/** The accessible name and tooltip of an item. */
function spokenText(item, value, notes) {
  const name = item.namespace ? item.namespace.name : item.id;
  const what = item.namespace ? `collapsed cluster, ${insideText(item)}` : item.call.class_name;
  const shapes = item.namespace ? [] : item.call.outputs.map(tensorText);
  const said = [...new Set(notes.map((note) => note.text))].slice(0, 3);
  return [`${name} (${what})`, ...shapes, ...(value ? [value[1]] : []), ...said].join("\n");
}

/** "× 12" for a folded run of twelve blocks, "1 of 12" for one of them when unfolded. */
function badgeText(run, shown, times, name) {
  if (times > 1) return `× ${times}`;
  return run && !shown.isFolded(run) ? `${run.names.indexOf(name) + 1} of ${run.names.length}` : "";
}

/** The lines of the label of an edge. */
function edgeLines(model, edge, shown) {
  if (edge.tag) return [];
  const lines = edge.parts.some(({ id }) => model.subtracted.has(id)) ? ["−"] : [];
  if (edge.parallel) lines.push(shortened(edge.parts[0].port));
  if (shown.shapes) lines.push(shortened(shapeText(edge.parts[0].tensor)));
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

/** The header of an expanded cluster, at the right, away from the stream. */
function headerOf(model, name, shown) {
  const block = model.blocks.get(name) ?? null;
  const folded = block && shown.isFolded(block);
  const times = (folded ? block.times : 1) * (model.graph.repeats?.[name] ?? 1);
  const text = shortened(model.named(name).label);
  const badge = badgeText(block, shown, times, name);
  const width = 18 + textWidth(text, "title") + (badge ? textWidth(badge, "times") + 14 : 0) + 8;
  return { text, badge, run: block, width: Math.ceil(width), height: 20 };
}

/** The letters of the plugin `shapes`, "b t d", or else the sizes, "? × 7 × 16". */
function shapeText({ letters, shape }) {
  if (letters?.length) return letters.join(" ");
  return shape.map((size) => size ?? "?").join(" × ") || "scalar";
}

function tensorText(tensor) {
  return `${shapeText(tensor)} ${tensor.dtype}`;
}

function counted(count, word, several = `${word}s`) {
  return count ? `${count.toLocaleString("en")} ${count === 1 ? word : several}` : "";
}

/** A text without its middle if it is long. */
function shortened(text, most = MOST_LETTERS) {
  if (text.length <= most) return text;
  const letters = Array.from(text); // code points
  if (letters.length <= most) return text;
  const end = Math.floor(most / 3);
  return `${letters.slice(0, most - end - 1).join("")}…${letters.slice(-end).join("")}`;
}

function sum(numbers) {
  return numbers.reduce((total, number) => total + number, 0);
}
