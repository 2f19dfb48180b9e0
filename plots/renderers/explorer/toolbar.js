// The buttons above the picture, and the keys.

const ZOOM_STEP = 1.25;

class Toolbar {
  constructor(explorer) {
    this.explorer = explorer;
    const { model } = explorer;
    const press = (id, does) => byId(id).addEventListener("click", does);
    const depth = () => Math.min(explorer.state.depth, explorer.levels);
    press("collapse", () => explorer.toDepth(0));
    press("shallower", () => explorer.toDepth(depth() - 1));
    press("deeper", () => explorer.toDepth(depth() + 1));
    press("expand", () => explorer.toDepth(explorer.levels));
    press("fold", () => explorer.change({ fold: !explorer.state.fold, unfolded: new Set() }));
    press("shapes", () => explorer.change({ shapes: !explorer.state.shapes }));
    press("split", () => explorer.change({ split: !explorer.state.split }));
    press("zoom-out", () => explorer.zoomBy(1 / ZOOM_STEP));
    press("zoom-in", () => explorer.zoomBy(ZOOM_STEP));
    press("fit", () => explorer.show("fit"));
    press("theme", () => explorer.setTheme(explorer.isDark ? "light" : "dark"));
    const overlays = byId("overlay");
    overlays.append(new Option("no overlay", ""));
    for (const { name, title } of model.overlays) overlays.append(new Option(title, name));
    overlays.addEventListener("change", () => explorer.change({ overlay: overlays.value }));
    overlays.hidden = !model.overlays.length;
    byId("split").hidden = !explorer.older;
    byId("fold").hidden = !model.runs.length;
    addEventListener("keydown", (event) => this.#key(event));
  }

  /** Show the state of the explorer. */
  update() {
    const { state, model, levels } = this.explorer;
    for (const id of ["fold", "shapes", "split"]) byId(id).setAttribute("aria-pressed", state[id]);
    byId("depth").textContent = Math.min(state.depth, levels);
    byId("depths").hidden = !levels;
    byId("overlay").value = this.explorer.shownIn(model).overlay?.name ?? "";
  }

  #key(event) {
    const { explorer } = this;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, select")) return;
    const keys = {
      "/": () => explorer.search.focus(),
      n: () => explorer.search.step(1),
      N: () => explorer.search.step(-1),
      "+": () => explorer.zoomBy(ZOOM_STEP),
      "=": () => explorer.zoomBy(ZOOM_STEP),
      "-": () => explorer.zoomBy(1 / ZOOM_STEP),
      0: () => explorer.show("fit"),
      Escape: () => explorer.leave(),
    };
    const inPicture = event.target === document.body || event.target.closest("#stage");
    const thing = event.target.closest("[data-id]");
    if (keys[event.key]) keys[event.key]();
    else if (event.key.startsWith("Arrow") && inPicture) explorer.step(event.key);
    else if (["Enter", " "].includes(event.key) && thing) explorer.press(thing.dataset.id);
    else return;
    event.preventDefault();
  }
}
