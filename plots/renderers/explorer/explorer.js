// The page: one or two panes, a panel, a toolbar, and their common state.

const PATIENCE = 400; // milliseconds until the page shows that it is laying out
const FIRST_BOXES = 300; // of the first view; details are expanded on demand
const [MOST_BOXES, MOST_LINES] = [600, 3000]; // that are laid out and drawn at once

class Explorer {
  constructor(document, engine) {
    this.engine = engine;
    this.model = new Model(document); // in a comparison, including removed calls
    this.older = document.before ? new Model(document.before) : null;
    const depth = Math.min(document.depth, this.model.deepest);
    this.usual = { ...USUAL, depth, shapes: document.shapes };
    this.state = stateOf(location.hash, this.usual);
    this.panel = new Panel(byId("panel"), this);
    this.panes = [];
    this.search = new Search(this.model, byId("search-field"), (id) => this.jump(id));
    this.toolbar = new Toolbar(this);
    addEventListener("hashchange", () => this.#follow());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#showState());
  }

  async start() {
    this.#arrange();
    await this.#draw(this.state, { most: location.hash ? MOST_BOXES : FIRST_BOXES });
  }

  /** What is expanded and folded of a model in a state, and which labels are shown. */
  shownIn(model, state = this.state) {
    const { depth, flipped: odd, fold, unfolded, overlay, shapes } = state;
    return {
      isOpen: (namespace) => namespace.depth <= depth !== odd.has(namespace.name),
      isFolded: (run) => fold !== unfolded.has(run.names[0]),
      overlay: model.overlays.find(({ name }) => name === overlay) ?? null,
      range: this.range, // of the visible values of the overlay
      shapes,
    };
  }

  /** The model that has a call or cluster with this id. */
  modelOf(id) {
    return this.older?.has(id) && !this.model.has(id) ? this.older : this.model;
  }

  /** Number of levels that can be expanded; groups of too many boxes are the last one. */
  get levels() {
    const hasGroups = this.panes.some((pane) => pane.next?.sections.size);
    return this.model.deepest + (hasGroups ? 1 : 0);
  }

  // --- state ---

  /**
   * Change the state and draw it.
   *
   * @param kept   Id of the item that stays at its place on the screen.
   * @param focus  Id of the call or cluster to which the change leads: if there is too much to draw,
   *   everything around it is collapsed.
   * @returns  Whether it was drawn: false if the layout failed or a newer change came.
   */
  async change(changes, { kept = this.state.select, focus = null } = {}) {
    const { split } = this.state;
    const wanted = { ...this.state, ...changes };
    this.state = wanted;
    if (wanted.split !== split) this.#arrange();
    const anchors = this.panes.map((pane) => {
      const place = pane.place(kept);
      return place && pane.zoom.onScreen({ x: place.left, y: place.top });
    });
    if (!(await this.#draw(wanted, { focus }))) return false;
    this.panes.forEach((pane, number) => {
      const place = pane.place(kept);
      if (anchors[number] && place) pane.zoom.pin({ x: place.left, y: place.top }, anchors[number]);
    });
    if (!this.panes.some((pane) => pane.isVisible)) this.show("start"); // the picture moved away
    return true;
  }

  /** Draw a state, or as much of it as fast as `#bounded`. */
  async #draw(wanted, { focus = null, most = MOST_BOXES }) {
    const turn = (this.turn = (this.turn ?? 0) + 1);
    this.engine.cancel(); // the previous layout is obsolete
    const [state, said] = this.#bounded(wanted, focus, most);
    this.state = state;
    for (const pane of this.panes) pane.prepare(state);
    const { overlay } = this.shownIn(this.model);
    this.range = overlay && rangeOf(this.panes.flatMap((pane) => pane.values), overlay.scale);
    document.documentElement.dataset.state = "busy";
    this.#showState();
    const notice = setTimeout(() => this.#say("Laying out … (Esc stops it)"), PATIENCE);
    try {
      const paints = await Promise.all(this.panes.map((pane) => pane.lay()));
      if (turn !== this.turn) return false; // a newer change is in progress
      this.#paint(paints);
      const { size, view } = this.panes.find((pane) => pane.size.reason) ?? this.panes[0];
      this.notify([said, size.reason, groupsText(view)].filter(Boolean).slice(0, 2).join(" "));
    } catch (error) {
      if (turn !== this.turn) return false;
      this.notify(error.message === CANCELLED ? "" : `The layout failed: ${error.message}`);
      this.#takeBack();
      return false;
    } finally {
      clearTimeout(notice);
      if (turn === this.turn) document.documentElement.dataset.state = "ready";
    }
    return true;
  }

  /**
   * A state like the wanted one that draws no more than is fast, and a sentence on the difference.
   *
   * @param focus  See `change`. Without it, the deepest levels are collapsed.
   */
  #bounded(wanted, focus, most) {
    const isTooLarge = (state) => this.panes.some((pane) => {
      const { items, clusters, edges } = pane.viewIn(state);
      return items.size + clusters.size > most || edges.length > MOST_LINES;
    });
    if (!isTooLarge(wanted)) return [wanted, ""];
    const bound = `at most ${most} boxes and ${MOST_LINES.toLocaleString("en")} lines are drawn`;
    const bare = { ...wanted, depth: 0, flipped: new Set() };
    if (focus) {
      const { name } = this.modelOf(focus).cluster(focus) ?? {};
      const state = this.#revealing(bare, focus);
      const isOpened = name && wanted.flipped.has(name) !== state.flipped.has(name);
      const changed = isOpened ? { ...state, flipped: flipped(state.flipped, name) } : state;
      return [changed, `Everything else is collapsed: ${bound} at once.`];
    }
    let [fits, large] = [0, Math.min(wanted.depth, this.model.deepest + 1)];
    while (large - fits > 1) {
      const depth = Math.floor((fits + large) / 2);
      if (isTooLarge({ ...bare, depth })) large = depth;
      else fits = depth;
    }
    const words = `Expanded to depth ${fits} only: ${bound} at once. Click a box to expand it.`;
    return [{ ...bare, depth: fits }, words];
  }

  /** A state that shows a call or cluster: what hides it is expanded. */
  #revealing(state, id) {
    const model = this.modelOf(id);
    const pane = this.panes.find((each) => each.model === model) ?? this.panes[0];
    const { isOpen, isFolded } = this.shownIn(model, state);
    const closed = model.around(id).filter((name) => !isOpen(model.namespaces.get(name)));
    const call = model.cluster(id)?.calls[0] ?? id;
    const folded = model.runsOfCall.get(call)?.filter((run) =>
      isFolded(run) && run.calls.slice(run.period).some((block) => block.includes(call))) ?? [];
    let next = {
      ...state,
      flipped: flipped(state.flipped, ...closed),
      unfolded: flipped(state.unfolded, ...folded.map((run) => run.names[0])),
    };
    for (;;) {
      const view = pane.viewIn(next);
      const around = view.items.get(view.stands.get(call))?.namespace;
      if (!(around instanceof Section) || around.id === id) return next;
      next = { ...next, flipped: flipped(next.flipped, around.name) };
    }
  }

  #paint(paints) {
    const focused = this.panes.find((pane) => pane.hasFocus);
    paints.forEach((paint) => paint());
    this.drawn = { ...this.state };
    this.hovered = null;
    this.panes.forEach((pane) => pane.select(this.state.select));
    if (this.panes.some((pane) => !pane.isPlaced)) this.#place();
    else if (this.#mode) this.show(this.#mode);
    focused?.focus(this.state.select);
  }

  /** Return to the state that is drawn, after a failed layout. */
  #takeBack() {
    if (!this.drawn) return;
    const { select, theme, zoom } = this.state;
    const panesChange = this.state.split !== this.drawn.split;
    this.state = { ...this.drawn, select, theme, zoom };
    if (panesChange) this.#arrange();
    for (const pane of this.panes) pane.prepare(this.state);
    this.#showState();
    if (panesChange) this.#draw(this.state, {});
  }

  /** Set the first view of the panes: that of the address, or everything at the same scale. */
  #place() {
    const [x, y, k] = this.state.zoom.split(",").map(Number);
    this.show(this.state.zoom === "fit" ? "fit" : "start");
    for (const pane of this.panes) {
      pane.isPlaced = true;
      const selected = pane.place(this.state.select);
      if (k > 0 && Number.isFinite(x + y)) pane.zoom.centre({ x, y }, k);
      else if (selected) pane.zoom.reveal(selected);
    }
    if (!this.panes.some((pane) => pane.isVisible)) this.show("start");
  }

  select(id) {
    if ((id ?? "") === this.state.select) return;
    this.state.select = id ?? "";
    this.panes.forEach((pane) => pane.select(id));
    this.#showState();
  }

  async toggle(id) {
    const cluster = this.modelOf(id).cluster(id);
    const isStuck = () => this.panes.some((pane) => pane.view?.stuck.has(cluster.name));
    const sayStuck = () =>
      this.notify(`${cluster.name} stays expanded: a path between two of its calls leads outside`);
    if (isStuck()) {
      this.select(id);
      sayStuck();
      return;
    }
    const changes = { flipped: flipped(this.state.flipped, cluster.name), select: id };
    if (!(await this.change(changes, { kept: id, focus: id }))) return;
    this.#eachPlace(id, (pane, place) => pane.zoom.reveal(place));
    if (isStuck()) sayStuck();
  }

  /** Fold or unfold the run of equal blocks whose first block has this name. */
  toggleRun(first, kept = this.state.select) {
    return this.change({ unfolded: flipped(this.state.unfolded, first) }, { kept });
  }

  toDepth(depth) {
    return this.change({ depth: clamp(depth, 0, this.levels), flipped: new Set() });
  }

  /** Expand what hides a call or cluster, select it and centre it. */
  async jump(id) {
    const model = this.modelOf(id);
    if (!model.has(id)) return;
    const cluster = model.cluster(id);
    if (cluster?.calls.length === 1) id = cluster.calls[0]; // drawn as the call while collapsed
    const { flipped, unfolded } = this.#revealing(this.state, id);
    const same = (a, b) => a.size === b.size && [...a].every((name) => b.has(name));
    if (same(flipped, this.state.flipped) && same(unfolded, this.state.unfolded)) this.select(id);
    else if (!(await this.change({ flipped, unfolded, select: id }, { focus: id }))) return;
    this.#eachPlace(id, (pane, place) => pane.zoom.centre(place));
    this.#paneOf(id).focus(id);
  }

  /** The focused pane that shows a call or cluster, or else the first one. */
  #paneOf(id) {
    const there = this.panes.filter((pane) => pane.place(id));
    const panes = there.length ? there : this.panes;
    return panes.find((pane) => pane.hasFocus) ?? panes[0];
  }

  /** Call a function for every pane that shows a call or cluster. */
  #eachPlace(id, does) {
    for (const pane of this.panes) {
      const place = pane.place(id);
      if (place) does(pane, place);
    }
  }

  /** Follow an address that was edited, or a step back in the history. */
  async #follow() {
    const state = stateOf(location.hash, this.usual);
    if (addressOf(state, this.usual) === addressOf(this.state, this.usual)) return;
    this.panes.forEach((pane) => (pane.isPlaced = false));
    await this.change(state, { kept: null });
  }

  // --- what happens in a pane ---

  press(id) {
    if (this.modelOf(id).cluster(id)) this.toggle(id);
    else this.select(id);
  }

  /** Trace the skip paths of the item under the pointer, in all panes. */
  hover(id) {
    if (id === this.hovered || document.documentElement.dataset.state === "busy") return;
    this.hovered = id;
    let said = "";
    for (const pane of this.panes) {
      const item = id && pane.view?.items.get(pane.seenAs(id));
      const trace = item ? traceOf(pane.model, pane.view, item.id) : null;
      pane.light(trace);
      said ||= trace ? traceText(trace, item) : "";
    }
    this.#say(said || this.notice);
  }

  zoomed(pane) {
    if (pane !== this.panes[0] || !this.drawn) return;
    const { x, y, k } = pane.zoom.middle;
    const modes = { start: "", fit: "fit" };
    const zoom = modes[pane.zoom.mode] ?? [x.toFixed(0), y.toFixed(0), k.toPrecision(4)].join(",");
    if (zoom === this.state.zoom) return;
    this.state.zoom = zoom;
    clearTimeout(this.writing);
    this.writing = setTimeout(() => this.#writeAddress(), 200); // browsers allow a few changes a second
  }

  // --- for the toolbar and keys ---

  /** Select the neighbour of the selected item, and trace it as the pointer would. */
  step(key) {
    const pane = this.#paneOf(this.state.select);
    const id = pane.neighbour(this.state.select, key);
    if (!id) return;
    this.select(id);
    this.hover(id);
    pane.focus(id);
    this.#eachPlace(id, (each, place) => each.zoom.reveal(place));
  }

  leave() {
    if (document.documentElement.dataset.state === "busy") {
      this.engine.cancel();
      return;
    }
    document.activeElement?.blur();
    this.hover(null);
    this.select(null);
  }

  zoomBy(factor) {
    this.panes.forEach((pane) => pane.zoom.by(factor));
  }

  /** "start" or "fit" if all panes show that, "" otherwise. */
  get #mode() {
    const [{ zoom: { mode } }, ...others] = this.panes;
    return others.every((pane) => pane.zoom.mode === mode) ? mode : "";
  }

  /** Show the first view ("start") or the whole picture ("fit"), in all panes at the same scale. */
  show(mode) {
    const { panes } = this;
    if (!panes.every((pane) => pane.size)) return; // nothing is laid out yet
    const scaleOf = ({ zoom, size }) => (mode === "fit" ? zoom.wholeScale(size) : zoom.firstScale(size));
    const scale = Math.min(...panes.map(scaleOf));
    for (const pane of panes) {
      if (mode === "fit") pane.zoom.fit(pane.size, scale);
      else pane.start(scale);
    }
  }

  // --- display of the state ---

  setTheme(theme) {
    this.state.theme = theme;
    this.#showState();
  }

  get isDark() {
    const { theme } = this.state;
    if (["light", "dark"].includes(theme)) return theme === "dark";
    return matchMedia("(prefers-color-scheme: dark)").matches;
  }

  #showState() {
    const { state } = this;
    document.documentElement.dataset.theme = this.isDark ? "dark" : "light";
    this.toolbar.update();
    this.panel.show(state.select);
    this.#writeAddress();
  }

  #writeAddress() {
    const address = addressOf(this.state, this.usual);
    if (address === location.hash) return;
    try {
      history.replaceState(null, "", address || location.pathname + location.search);
    } catch {
      // A page inside another one (a notebook) has no address of its own.
    }
  }

  /** One pane, or two next to each other. */
  #arrange() {
    const sides = this.state.split && this.older
      ? [["before", this.older, true], ["after", this.model, false]] : [["", this.model, true]];
    byId("stage").replaceChildren();
    this.resized?.disconnect();
    this.resized = new ResizeObserver(() => this.drawn && this.#mode && this.show(this.#mode));
    this.panes = sides.map(([title, model, all]) => {
      const host = html("div", { class: "pane" });
      byId("stage").append(html("div", { class: "side" }, title && html("h2", {}, title), host));
      this.resized.observe(host);
      return new Pane(host, model, all, this);
    });
  }

  /** Set the message that is shown while there is no other. */
  notify(text) {
    this.notice = text;
    this.#say(text);
  }

  #say(text) {
    byId("status").textContent = text;
    byId("status").hidden = !text;
  }
}

/** A line on the groups in a view, while all of them are collapsed. */
function groupsText({ items, sections }) {
  const closed = [...items.values()].filter(({ namespace }) => namespace instanceof Section);
  if (!closed.length || closed.length < sections.size) return "";
  return "Many boxes are in groups, to be drawn fast. Click a group to expand it.";
}

function traceText({ paths }, { id, namespace }) {
  if (!paths.length) return "";
  if (namespace && paths.every((path) => namespace.paths.includes(path))) {
    return `${namespace.name}: ${counted(namespace.paths.length, "skip path")} inside`;
  }
  const [path] = paths;
  const place = path.line.includes(id) ? "On the" : "Bypassed by the";
  return `${place} skip path from ${path.source} to ${path.target} (${PLACEMENTS[path.placement]})`;
}

function byId(id) {
  return document.getElementById(id);
}

async function unpacked(base64) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

const engine = new Engine(); // starts while the graph is unpacked
unpacked(byId("graph").textContent)
  .then((document) => new Explorer(document, engine).start())
  .catch((error) => {
    byId("status").hidden = false;
    byId("status").textContent = `The page cannot show this model: ${error.message}`;
    document.documentElement.dataset.state = "failed";
  });
