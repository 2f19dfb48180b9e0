// The page: one or two panes, a panel, a toolbar, and their common state.

const ZOOM_STEP = 1.25;
const PATIENCE = 400; // milliseconds until the page shows that it is laying out

class Explorer {
  constructor(document) {
    this.model = new Model(document); // in a comparison, including removed calls
    this.older = document.before ? new Model(document.before) : null;
    this.engine = new Engine();
    this.usual = { ...USUAL, depth: document.depth, shapes: document.shapes };
    this.state = stateOf(location.hash, this.usual);
    this.panel = new Panel(byId("panel"), this);
    this.panes = [];
    new Search(this.model, byId("search"), byId("hits"), (id) => this.jump(id));
    this.#toolbar();
    addEventListener("keydown", (event) => this.#key(event));
    addEventListener("hashchange", () => this.#follow());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#showState());
  }

  async start() {
    this.#arrange();
    await this.#refresh();
  }

  /** What is expanded and folded of a model, and which labels are shown. */
  shownIn(model) {
    const { depth, flipped: odd, fold, unfolded, overlay, shapes } = this.state;
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

  // --- state ---

  /**
   * Change the state and draw it.
   *
   * @param kept  Id of the item that stays at its place on the screen.
   * @returns  Whether it was drawn: false if the layout failed or a newer change came.
   */
  async change(changes, kept = this.state.select) {
    const old = this.state;
    this.state = { ...old, ...changes };
    if (this.state.split !== old.split) this.#arrange();
    const anchors = this.panes.map((pane) => {
      const place = pane.place(kept);
      return place && pane.zoom.onScreen({ x: place.left, y: place.top });
    });
    if (!(await this.#refresh())) return false;
    this.panes.forEach((pane, number) => {
      const place = pane.place(kept);
      if (anchors[number] && place) pane.zoom.pin({ x: place.left, y: place.top }, anchors[number]);
    });
    if (!this.panes.some((pane) => pane.isVisible)) this.#show("start"); // the picture moved away
    return true;
  }

  async #refresh() {
    const turn = (this.turn = (this.turn ?? 0) + 1);
    this.engine.cancel(); // the previous layout is obsolete
    const { overlay } = this.shownIn(this.model);
    this.range = overlay && rangeOf(this.panes.flatMap((pane) => pane.values), overlay.scale);
    document.documentElement.dataset.state = "busy";
    this.#showState();
    const notice = setTimeout(() => this.#say("Laying out … (Esc stops it)"), PATIENCE);
    try {
      const paints = await Promise.all(this.panes.map((pane) => pane.lay()));
      if (turn !== this.turn) return false; // a newer change is in progress
      this.#paint(paints);
      this.#notify(this.panes.find((pane) => pane.size.reason)?.size.reason ?? "");
    } catch (error) {
      if (turn !== this.turn) return false;
      this.#notify(error.message === CANCELLED ? "" : `The layout failed: ${error.message}`);
      this.#takeBack();
      return false;
    } finally {
      clearTimeout(notice);
      if (turn === this.turn) document.documentElement.dataset.state = "ready";
    }
    return true;
  }

  #paint(paints) {
    const focused = this.panes.find((pane) => pane.hasFocus);
    paints.forEach((paint) => paint());
    this.drawn = { ...this.state };
    this.hovered = null;
    this.panes.forEach((pane) => pane.select(this.state.select));
    if (this.panes.some((pane) => !pane.isPlaced)) this.#place();
    else if (this.#mode) this.#show(this.#mode);
    focused?.focus(this.state.select);
  }

  /** Return to the state that is drawn, after a failed layout. */
  #takeBack() {
    if (!this.drawn) return;
    const { select, theme, zoom } = this.state;
    const panesChange = this.state.split !== this.drawn.split;
    this.state = { ...this.drawn, select, theme, zoom };
    this.#showState();
    if (panesChange) {
      this.#arrange();
      this.#refresh();
    }
  }

  /** Set the first view of the panes: that of the address, or everything at the same scale. */
  #place() {
    const [x, y, k] = this.state.zoom.split(",").map(Number);
    this.#show(this.state.zoom === "fit" ? "fit" : "start");
    for (const pane of this.panes) {
      pane.isPlaced = true;
      const selected = pane.place(this.state.select);
      if (k > 0 && Number.isFinite(x + y)) pane.zoom.centre({ x, y }, k);
      else if (selected) pane.zoom.reveal(selected);
    }
    if (!this.panes.some((pane) => pane.isVisible)) this.#show("start");
  }

  select(id) {
    if ((id ?? "") === this.state.select) return;
    this.state.select = id ?? "";
    this.panes.forEach((pane) => pane.select(id));
    this.#showState();
  }

  async toggle(id) {
    const namespace = this.modelOf(id).namespacesById.get(id);
    const isStuck = () => this.panes.some((pane) => pane.view?.stuck.has(namespace.name));
    const sayStuck = () =>
      this.#notify(`${namespace.name} stays expanded: a path between two of its calls leads outside`);
    if (isStuck()) {
      this.select(id);
      sayStuck();
      return;
    }
    const changes = { flipped: flipped(this.state.flipped, namespace.name), select: id };
    if (!(await this.change(changes, id))) return;
    this.#eachPlace(id, (pane, place) => pane.zoom.reveal(place));
    if (isStuck()) sayStuck();
  }

  /** Fold or unfold the run of equal blocks whose first block has this name. */
  toggleRun(first, kept) {
    return this.change({ unfolded: flipped(this.state.unfolded, first) }, kept ?? this.state.select);
  }

  toDepth(depth) {
    return this.change({ depth: clamp(depth, 0, this.model.deepest), flipped: new Set() });
  }

  /** Expand what hides a call or cluster, select it and centre it. */
  async jump(id) {
    const { state } = this;
    const model = this.modelOf(id);
    const shown = this.shownIn(model);
    if (!model.has(id)) return;
    const namespace = model.namespacesById.get(id);
    if (namespace?.calls.length === 1) id = namespace.calls[0]; // drawn as the call while collapsed
    const closed = model.around(id).filter((name) => !shown.isOpen(model.namespaces.get(name)));
    const call = model.namespacesById.get(id)?.calls[0] ?? id;
    const run = model.runOfCall.get(call);
    const hidden = run && shown.isFolded(run) && run.calls.slice(run.period).flat().includes(call);
    const changes = {
      flipped: flipped(state.flipped, ...closed),
      unfolded: hidden ? flipped(state.unfolded, run.names[0]) : state.unfolded,
      select: id,
    };
    if (!(await this.change(changes))) return;
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
    await this.change(state, null);
  }

  // --- what happens in a pane ---

  press(id) {
    if (this.modelOf(id).namespacesById.has(id)) this.toggle(id);
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

  // --- toolbar and keys ---

  #toolbar() {
    const { model } = this;
    const press = (id, does) => byId(id).addEventListener("click", does);
    press("collapse", () => this.toDepth(0));
    press("shallower", () => this.toDepth(Math.min(this.state.depth, model.deepest) - 1));
    press("deeper", () => this.toDepth(this.state.depth + 1));
    press("expand", () => this.toDepth(model.deepest));
    press("fold", () => this.change({ fold: !this.state.fold, unfolded: new Set() }));
    press("shapes", () => this.change({ shapes: !this.state.shapes }));
    press("split", () => this.change({ split: !this.state.split }));
    press("zoom-out", () => this.#zoomBy(1 / ZOOM_STEP));
    press("zoom-in", () => this.#zoomBy(ZOOM_STEP));
    press("fit", () => this.#show("fit"));
    press("theme", () => {
      this.state.theme = this.isDark ? "light" : "dark";
      this.#showState();
    });
    const overlays = byId("overlay");
    overlays.append(new Option("no overlay", ""));
    for (const { name, title } of model.overlays) overlays.append(new Option(title, name));
    overlays.addEventListener("change", () => this.change({ overlay: overlays.value }));
    overlays.hidden = !model.overlays.length;
    byId("split").hidden = !this.older;
    byId("fold").hidden = !model.runs.length;
    byId("depths").hidden = !model.namespaces.size;
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, select")) return;
    const keys = {
      "/": () => byId("search").focus(),
      "+": () => this.#zoomBy(ZOOM_STEP),
      "=": () => this.#zoomBy(ZOOM_STEP),
      "-": () => this.#zoomBy(1 / ZOOM_STEP),
      0: () => this.#show("fit"),
      Escape: () => this.#leave(),
    };
    const inPicture = event.target === document.body || event.target.closest("#stage");
    const thing = event.target.closest("[data-id]");
    if (keys[event.key]) keys[event.key]();
    else if (event.key.startsWith("Arrow") && inPicture) this.#step(event.key);
    else if (["Enter", " "].includes(event.key) && thing) this.press(thing.dataset.id);
    else return;
    event.preventDefault();
  }

  /** Select the neighbour of the selected item, and trace it as the pointer would. */
  #step(key) {
    const pane = this.#paneOf(this.state.select);
    const id = pane.neighbour(this.state.select, key);
    if (!id) return;
    this.select(id);
    this.hover(id);
    pane.focus(id);
    this.#eachPlace(id, (each, place) => each.zoom.reveal(place));
  }

  #leave() {
    if (document.documentElement.dataset.state === "busy") {
      this.engine.cancel();
      return;
    }
    document.activeElement?.blur();
    this.hover(null);
    this.select(null);
  }

  #zoomBy(factor) {
    this.panes.forEach((pane) => pane.zoom.by(factor));
  }

  /** "start" or "fit" if all panes show that, "" otherwise. */
  get #mode() {
    const [{ zoom: { mode } }, ...others] = this.panes;
    return others.every((pane) => pane.zoom.mode === mode) ? mode : "";
  }

  /** Show the first view ("start") or the whole picture ("fit"), in all panes at the same scale. */
  #show(mode) {
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

  get isDark() {
    const { theme } = this.state;
    if (["light", "dark"].includes(theme)) return theme === "dark";
    return matchMedia("(prefers-color-scheme: dark)").matches;
  }

  #showState() {
    const { state, model } = this;
    document.documentElement.dataset.theme = this.isDark ? "dark" : "light";
    for (const id of ["fold", "shapes", "split"]) byId(id).setAttribute("aria-pressed", state[id]);
    byId("depth").textContent = Math.min(state.depth, model.deepest);
    byId("overlay").value = this.shownIn(model).overlay?.name ?? "";
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
    this.resized = new ResizeObserver(() => this.drawn && this.#mode && this.#show(this.#mode));
    this.panes = sides.map(([title, model, all]) => {
      const host = html("div", { class: "pane" });
      byId("stage").append(html("div", { class: "side" }, title && html("h2", {}, title), host));
      this.resized.observe(host);
      return new Pane(host, model, all, this);
    });
  }

  /** Set the message that is shown while there is no other. */
  #notify(text) {
    this.notice = text;
    this.#say(text);
  }

  #say(text) {
    byId("status").textContent = text;
    byId("status").hidden = !text;
  }
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

unpacked(byId("graph").textContent)
  .then((document) => new Explorer(document).start())
  .catch((error) => {
    byId("status").hidden = false;
    byId("status").textContent = `The page cannot show this model: ${error.message}`;
    document.documentElement.dataset.state = "failed";
  });
