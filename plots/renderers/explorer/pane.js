// One diagram: a view, drawn at the positions of Graphviz.

const EDGE_LINE = 13; // height of a line of an edge label
const TAG_HEIGHT = 17;
const GLIDE = { duration: 250, easing: "ease-out" };
const MOST_GLIDING = 600; // more items are not animated
const MOST_VIEWS = 10; // that are kept
const MOST_WIDTH = 4000; // of a picture that is a strip

class Pane {
  /**
   * @param host      The element that contains the diagram.
   * @param model     The model.
   * @param all       See `viewOf`.
   * @param explorer  Has the state, and handles clicks and hovering.
   */
  constructor(host, model, all, explorer) {
    Object.assign(this, { model, all, explorer });
    // id -> {element, x, y, left, top, width, height}: centre and rectangle of an item; for an
    // expanded cluster the centre of its header and the rectangle of the cluster
    this.places = new Map();
    this.edges = []; // [{edge, element}]
    this.views = new Map(); // text of a state -> its view
    this.world = svg("g");
    this.picture = svg("svg", { class: "picture", role: "group", "aria-label": model.graph.name });
    this.picture.append(this.world);
    host.append(this.picture);
    this.zoom = new Zoom(host, this.picture, this.world, () => explorer.zoomed(this));
    this.#listen();
  }

  /** Lay out the state of the explorer. @returns  A promise of a function that draws it. */
  async lay() {
    const { model, explorer } = this;
    const shown = explorer.shownIn(model);
    const view = this.next;
    const labels = new Map([...view.items].map(([id, item]) => [id, labelOf(model, item, shown)]));
    const headers = new Map([...view.clusters.keys()].map((name) => [name, headerOf(model, name, shown)]));
    const beside = view.edges.map((edge) => edgeLines(model, edge, shown));
    const sizes = {
      items: labels,
      headers,
      edges: beside.map((lines) => lines.length && {
        width: Math.max(...lines.map((line) => textWidth(line, "small"))) + 8,
        height: lines.length * EDGE_LINE + 4,
      }),
      tag: (tag) => ({ width: textWidth(tag, "small") + 14, height: TAG_HEIGHT }),
    };
    const layout = await this.#layout(view, sizes);
    return () => this.#paint(view, layout, labels, headers, beside);
  }

  /** The layout of a view by Graphviz, or else a simple one, with the `reason`. */
  async #layout(view, sizes) {
    const { model, explorer } = this;
    const simple = (reason) => ({ ...simpleLayout(view, sizes), reason });
    const content = `${counted(view.items.size, "box", "boxes")} and ${counted(view.edges.length, "line")}`;
    if (isLarge(view)) return simple(`Drawn in rows: ${content} are too many for Graphviz.`);
    try {
      const layout = readLayout(await explorer.engine.layout(toDot(model, view, sizes)), view);
      const isStrip = layout.width > MOST_WIDTH && layout.width > 8 * layout.height;
      return isStrip ? simple("Drawn in rows: side by side, the boxes are too wide to read.") : layout;
    } catch ({ message }) {
      if (message === CANCELLED && explorer.drawn) throw new Error(CANCELLED);
      const reasons = {
        [CANCELLED]: "Drawn in rows: the layout was stopped.",
        [TOO_LONG]: `Drawn in rows: Graphviz needs too long for ${content}.`,
      };
      return simple(reasons[message] ?? `Drawn in rows: Graphviz failed (${message}).`);
    }
  }

  /** Set the first view, at a common scale of all panes. */
  start(k) {
    const places = [...this.places.values()];
    const first = places.reduce((a, b) => (b.top < a.top ? b : a), places[0] ?? { x: 0, top: 0 });
    this.zoom.start(this.size, first, k);
  }

  /** Whether any item is visible. */
  get isVisible() {
    return [...this.view.items.keys()].some((id) => this.zoom.sees(this.places.get(id)));
  }

  /** The view of a state. The latest ones are kept. */
  viewIn(state) {
    const { depth, flipped: odd, fold, unfolded } = state;
    const key = JSON.stringify([depth, [...odd].sort(), fold, [...unfolded].sort()]);
    const view = this.views.get(key)
      ?? viewOf(this.model, this.explorer.shownIn(this.model, state), this.all);
    this.views.delete(key);
    this.views.set(key, view); // the latest is the last
    if (this.views.size > MOST_VIEWS) this.views.delete(this.views.keys().next().value);
    return view;
  }

  /** Set the view that is drawn next. */
  prepare(state) {
    this.next = this.viewIn(state);
    this.model.sections = this.next.sections;
  }

  /** The [number, text] pairs of the overlay on the visible items. */
  get values() {
    const { overlay } = this.explorer.shownIn(this.model);
    const items = overlay ? [...this.next.items.values()] : [];
    return items.map((item) => valueOf(overlay, item)).filter(Boolean);
  }

  #paint(view, layout, labels, headers, beside) {
    const before = this.places;
    this.view = view;
    this.size = layout;
    this.places = new Map();
    const outermostFirst = [...view.clusters].sort(([, a], [, b]) => a - b);
    const clusters = outermostFirst.map(([name]) => [name, layout.clusters.get(name)]);
    const frame = (name, place) =>
      svg("rect", { class: `cluster ${this.#shade(name)}`, ...place, rx: 8 });
    this.edges = view.edges.map((edge, number) => ({
      edge,
      element: this.#edge(edge, layout.edges[number], beside[number]),
    }));
    const items = [...view.items.values()].map((item) =>
      this.#item(item, labels.get(item.id), layout.items.get(item.id)));
    this.world.replaceChildren(
      svg("g", { class: "clusters" }, ...clusters.map(([name, place]) => frame(name, place))),
      svg("g", { class: "edges" }, ...this.edges.map(({ element }) => element)),
      svg("g", {}, ...clusters.map(([name, place]) => this.#header(name, place, headers.get(name)))),
      svg("g", {}, ...items),
    );
    this.light(null);
    this.#glide(before);
  }

  /** Nested clusters alternate between three shades. */
  #shade(name) {
    return `depth-${this.view.clusters.get(name) % 3}`;
  }

  #header(name, { x, y, width, height }, header) {
    const { id } = this.model.named(name);
    const [left, top] = [x + width - header.width - 8, y + 5];
    const element = svg("g", {
      class: `header ${this.#shade(name)}`,
      "data-id": id,
      transform: `translate(${left} ${top})`,
      ...buttonRole(`${name} (expanded cluster)`, true),
    });
    element.append(
      svgTitle(name),
      svg("rect", { class: "hit", width: header.width, height: header.height, rx: 5 }),
      chevron(9, 10, true),
      svgText(18, 14, header.text, "title"),
    );
    if (header.badge) element.append(badge(header.badge, header.width - 6, 14.5, header.run));
    const middle = { x: left + header.width / 2, y: top + header.height / 2 };
    this.places.set(id, { element, ...middle, left: x, top: y, width, height });
    return element;
  }

  #item(item, label, { x, y }) {
    const { width, height } = label;
    const [left, top] = [x - width / 2, y - height / 2];
    const element = svg("g", {
      class: label.classes.join(" "),
      "data-id": item.id,
      transform: `translate(${left} ${top})`,
      ...buttonRole(label.spoken, item.namespace ? false : null),
    });
    if (label.heat !== null) element.style.setProperty("--heat", `${Math.round(100 * label.heat)}%`);
    element.append(svgTitle(label.spoken));
    if (label.circle) {
      element.append(
        svg("circle", { class: "shape", cx: width / 2, cy: height / 2, r: width / 2 }),
        sign(label.circle, width / 2),
      );
    } else {
      const shape = { width, height, rx: 6 };
      if (item.times > 1) element.append(svg("rect", { ...shape, class: "shape", x: 5, y: 5 }));
      element.append(svg("rect", { ...shape, class: "shape" }));
      if (hasRail(item)) element.append(rail(item, height));
      if (item.namespace) element.append(chevron(label.indent - 9, PADDING + LINE_HEIGHT / 2, false));
      label.lines.forEach((line, number) => element.append(...texts(line, label.indent, number)));
      if (label.badge) element.append(badge(label.badge, width - 8, PADDING + 13, item.run));
    }
    if (label.noted) element.append(svg("circle", { class: "mark", cx: width, cy: 0, r: 4.5 }));
    this.places.set(item.id, { element, x, y, left, top, width, height });
    return element;
  }

  #edge(edge, line, beside) {
    const { model } = this;
    const notes = edge.parts.flatMap((part) => model.notesAbout.get(part.id) ?? [])
      .filter((note) => !model.quiet.includes(note.kind));
    const classes = ["edge", edge.stream && "stream", edge.dashed && "dashed"];
    if (notes.length) classes.push("noted", `note-${mainKind(model, notes)}`);
    const element = svg("g", { class: classes.filter(Boolean).join(" ") }, svgTitle(edgeTip(edge)));
    const { points, tip } = edge.stream ? straightened(line) : line;
    const d = `M${at(points[0])}C${points.slice(1).map(at).join(" ")}`;
    element.append(svg("path", { class: "reach", d }), svg("path", { class: "line", d }));
    if (tip) {
      const head = arrowHead(points.at(-1), tip, edge.stream ? 6.5 : 3.2);
      element.append(svg("path", { class: "head", d: head }));
    }
    beside.forEach((text, number) => {
      const place = line.label ?? points[Math.floor(points.length / 2)];
      const top = place.y - (beside.length * EDGE_LINE) / 2;
      element.append(svgText(place.x, top + EDGE_LINE * number + 10, text, "small beside"));
    });
    if (edge.tag) element.append(tag(edge, line.tag));
    return element;
  }

  /** Move the items that were there before, and fade in new ones. */
  #glide(before) {
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (still || !before.size || this.places.size > MOST_GLIDING) return;
    for (const [id, { element, left, top }] of this.places) {
      const was = before.get(id);
      const moves = was && element.classList.contains("item") && was.element.classList.contains("item");
      if (moves) {
        const [from, to] = [was, { left, top }].map((p) => `translate(${p.left}px, ${p.top}px)`);
        element.animate([{ transform: from }, { transform: to }], GLIDE);
      } else {
        element.animate([{ opacity: 0 }, { opacity: 1 }], GLIDE);
      }
    }
    for (const group of this.world.querySelectorAll(".edges, .clusters")) {
      group.animate([{ opacity: 0.2 }, { opacity: 1 }], GLIDE);
    }
  }

  /** Dim everything but a trace, {items, line} as sets of ids; null ends this. */
  light(trace) {
    this.picture.classList.toggle("tracing", Boolean(trace));
    for (const [id, { element }] of this.places) {
      element.classList.toggle("lit", Boolean(trace?.items.has(id)));
    }
    for (const { edge, element } of this.edges) {
      const ends = [edge.source, edge.target];
      const lit = trace && ends.every((id) => trace.items.has(id));
      element.classList.toggle("lit", Boolean(lit));
      const along = lit && edge.stream && ends.every((id) => trace.line.has(id));
      element.classList.toggle("along", Boolean(along));
    }
  }

  /** Mark the selected item, and make it the target of the tab key. */
  select(id) {
    const seen = this.seenAs(id) ?? this.places.keys().next().value;
    for (const [place, { element }] of this.places) {
      element.classList.toggle("selected", Boolean(id) && place === seen);
      element.setAttribute("tabindex", place === seen ? "0" : "-1");
    }
  }

  /** The id under which a call or cluster is drawn: its own, or that of the item that contains it. */
  seenAs(id) {
    if (this.places.has(id)) return id;
    const seen = this.view?.stands.get(id);
    return this.places.has(seen) ? seen : null;
  }

  place(id) {
    return this.places.get(this.seenAs(id)) ?? null;
  }

  focus(id) {
    this.place(id)?.element.focus({ preventScroll: true });
  }

  get hasFocus() {
    return this.picture.contains(document.activeElement);
  }

  /** The id of the nearest item in a direction ("ArrowUp", ...) from the selected one. */
  neighbour(id, key) {
    const here = this.place(id);
    if (!here) return this.places.keys().next().value;
    const ways = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };
    const [dx, dy] = ways[key];
    let best = { cost: Infinity, place: null };
    for (const [place, { x, y }] of this.places) {
      const ahead = (x - here.x) * dx + (y - here.y) * dy;
      const aside = Math.abs((x - here.x) * dy) + Math.abs((y - here.y) * dx);
      const cost = ahead + 2 * aside;
      if (ahead >= 1 && aside <= 3 * ahead + 40 && cost < best.cost) best = { cost, place };
    }
    return best.place;
  }

  #listen() {
    const idAt = (event) => event.target.closest?.("[data-id]")?.dataset.id ?? null;
    const dataAt = (event, name) => event.target.closest?.(`[data-${name}]`)?.dataset[name];
    this.picture.addEventListener("click", (event) => {
      if (this.zoom.dragged) return;
      const [run, jump] = [dataAt(event, "run"), dataAt(event, "jump")];
      if (run !== undefined) this.explorer.toggleRun(run, idAt(event));
      else if (jump !== undefined) this.explorer.jump(jump);
      else this.explorer.press(idAt(event));
    });
    this.picture.addEventListener("pointerover", (event) => this.explorer.hover(idAt(event)));
    this.picture.addEventListener("pointerleave", () => this.explorer.hover(null));
    this.picture.addEventListener("focusin", (event) => this.explorer.select(idAt(event)));
  }
}

/** Draw the residual stream as a straight line where its ends are above each other. */
function straightened({ points, tip }) {
  const [start, stop] = [points[0], points.at(-1)];
  const { x } = tip ?? stop;
  if (Math.abs(start.x - x) > 2) return { points, tip };
  const middle = { x, y: (start.y + stop.y) / 2 };
  return { points: [{ x, y: start.y }, middle, middle, { x, y: stop.y }], tip };
}

/** The stream through a collapsed cluster. */
function rail(item, height) {
  const inset = 8; // where it starts or ends inside
  const [from, to] = [item.enters ? 0 : inset, item.leaves ? height : height - inset];
  return svg("path", { class: "rail", d: `M${RAIL} ${from}V${to}` });
}

/** The sign of a merge in a circle: "+" and "−" as lines, "mean" as a text. */
function sign(what, middle) {
  const lines = { "+": "h10m-5-5v10", "−": "h10" }[what];
  if (!lines) return svgText(middle, middle + 2.5, what, "sign");
  return svg("path", { class: "plus", d: `M${middle - 5} ${middle}${lines}` });
}

function texts(line, indent, number) {
  let x = indent;
  return line.map(({ text, style }) => {
    const element = svgText(x, PADDING + LINE_HEIGHT * number + 12, text, style);
    x += textWidth(text, style) + GAP;
    return element;
  });
}

function badge(text, right, baseline, run) {
  const element = svg("g", { class: text.startsWith("×") ? "badge" : "badge quiet" });
  if (run) {
    const width = textWidth(text, "times") + 8;
    element.dataset.run = run.names[0];
    element.append(
      svgTitle(text.startsWith("×") ? "Show all of these equal blocks" : "Fold these equal blocks"),
      svg("rect", { class: "hit", x: right - width + 4, y: baseline - 14, width, height: 19, rx: 5 }),
    );
  }
  element.append(svgText(right, baseline, text, "times"));
  return element;
}

/** The name of the source of an edge, instead of a long line. */
function tag(edge, { x, y }) {
  const width = textWidth(edge.tag, "small") + 14;
  return svg(
    "g",
    {
      class: "tag",
      "data-jump": edge.parts[0].source,
      transform: `translate(${x - width / 2} ${y - TAG_HEIGHT / 2})`,
    },
    svg("rect", { width, height: TAG_HEIGHT, rx: TAG_HEIGHT / 2 }),
    svgText(width / 2, 12, edge.tag, "small"),
  );
}
