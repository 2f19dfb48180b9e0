// SVG elements, and the widths of texts.

const SVG = "http://www.w3.org/2000/svg";

/** Style of a text -> its font; the style sheet has a rule of the same name. */
const FONTS = {
  title: "600 12.5px",
  small: "400 10.5px",
  shared: "600 10.5px",
  times: "600 13.5px",
};

function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  for (const child of children) element.append(child);
  return element;
}

function svgText(x, y, text, style) {
  const element = svg("text", { x, y, class: style });
  element.textContent = text;
  return element;
}

/** The tooltip of an element. */
function svgTitle(text) {
  const element = svg("title");
  element.textContent = text;
  return element;
}

/** Attributes of a button; `expanded` is null for one that does not expand. */
function buttonRole(label, expanded) {
  const role = { role: "button", tabindex: -1, "aria-label": label };
  return expanded === null ? role : { ...role, "aria-expanded": expanded };
}

function chevron(x, y, open) {
  const d = open ? `M${x - 4} ${y - 2}l4 4 4-4` : `M${x - 2} ${y - 4}l4 4-4 4`;
  return svg("path", { class: "chevron", d });
}

function arrowHead(base, tip, half) {
  const [dx, dy] = [tip.x - base.x, tip.y - base.y];
  const length = Math.hypot(dx, dy) || 1;
  const side = { x: (-dy * half) / length, y: (dx * half) / length };
  return `M${at(tip)}L${base.x + side.x} ${base.y + side.y}L${base.x - side.x} ${base.y - side.y}Z`;
}

function at({ x, y }) {
  return `${x.toFixed(1)} ${y.toFixed(1)}`;
}

const canvas = document.createElement("canvas").getContext("2d");
const widths = new Map();

function textWidth(text, style) {
  const key = `${style} ${text}`;
  if (!widths.has(key)) {
    canvas.font = `${FONTS[style]} ${getComputedStyle(document.body).fontFamily}`;
    widths.set(key, canvas.measureText(text).width);
  }
  return widths.get(key);
}

/** The largest of numbers that are 0 or more; 0 without any. */
function largest(numbers) {
  return numbers.reduce((most, number) => Math.max(most, number), 0);
}

function clamp(number, low, high) {
  return Math.min(Math.max(number, low), high);
}
