// The search field: clusters and calls by name, class and configuration.

const MOST_HITS = 40; // in the list

class Search {
  /**
   * @param host    The element with the field, the list of hits and the buttons.
   * @param picked  Called with the id of the chosen hit.
   */
  constructor(model, host, picked) {
    const [field, list, steps] = ["input", "ul", ".steps"].map((each) => host.querySelector(each));
    Object.assign(this, { model, field, list, steps, picked, hits: [], active: 0 });
    field.addEventListener("input", () => {
      this.hits = found(model, field.value);
      this.active = 0;
      this.steps.hidden = true;
      this.#show();
    });
    field.addEventListener("keydown", (event) => this.#key(event));
    field.addEventListener("blur", () => this.#showList(false));
    field.addEventListener("focus", () => this.#show());
    const [before, after] = steps.querySelectorAll("button");
    before.addEventListener("click", () => this.step(-1));
    after.addEventListener("click", () => this.step(1));
  }

  focus() {
    this.field.focus();
    this.field.select();
  }

  /** Go to the next hit, or to the one before it. */
  step(by) {
    const { length } = this.hits;
    if (length) this.#pick((this.active + by + length) % length);
  }

  #key(event) {
    const last = Math.min(this.hits.length, MOST_HITS) - 1;
    if (event.key === "Enter") {
      event.preventDefault();
      event.stopPropagation();
      this.#pick(this.active);
      return;
    }
    if (event.key === "ArrowDown") this.active = Math.min(this.active + 1, last);
    else if (event.key === "ArrowUp") this.active = Math.max(this.active - 1, 0);
    else if (event.key === "Escape") this.#close();
    else return;
    event.preventDefault();
    event.stopPropagation();
    this.#show();
  }

  #pick(number) {
    const hit = this.hits[number];
    if (!hit) return;
    this.active = number;
    this.field.blur();
    const [at, all] = [number + 1, this.hits.length].map((each) => each.toLocaleString("en"));
    this.steps.querySelector("output").textContent = `${at} of ${all}`;
    this.steps.hidden = false;
    this.picked(hit.id);
  }

  #close() {
    this.field.value = "";
    this.hits = [];
    this.steps.hidden = true;
    this.field.blur();
  }

  #show() {
    const asked = this.field.value.trim() !== "";
    const more = this.hits.length - MOST_HITS;
    const rows = this.hits.slice(0, MOST_HITS).map((hit, number) => this.#row(hit, number));
    if (more > 0) rows.push(html("li", { class: "quiet" }, `and ${more.toLocaleString("en")} more`));
    if (asked && !rows.length) rows.push(html("li", { class: "quiet" }, "nothing found"));
    this.list.replaceChildren(...rows);
    this.#showList(asked);
    this.field.setAttribute("aria-activedescendant", this.hits.length ? `hit-${this.active}` : "");
    this.list.children[this.active]?.scrollIntoView({ block: "nearest" });
  }

  #showList(isShown) {
    this.list.hidden = !isShown;
    this.field.setAttribute("aria-expanded", isShown);
  }

  #row({ id, label, word }, number) {
    const row = html(
      "li",
      { role: "option", id: `hit-${number}`, "aria-selected": number === this.active },
      html("b", {}, label),
      quiet(` ${word}`),
      html("small", {}, id),
    );
    row.addEventListener("mousedown", (event) => event.preventDefault()); // the field keeps the focus
    row.addEventListener("click", () => this.#pick(number));
    return row;
  }
}

/** The hits that contain all words in title, path, class or configuration, best first. */
function found(model, text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return [];
  const hits = [];
  for (const { id, label, word, places } of searchable(model)) {
    if (!words.every((each) => places.some((place) => place.includes(each)))) continue;
    const best = places.findIndex((place) => words.every((each) => place.includes(each)));
    const rank = places[0] === words[0] ? -1 : best < 0 ? places.length : best;
    hits.push({ id, label, word, rank });
  }
  return hits.sort((a, b) => a.rank - b.rank);
}

/** Everything that can be found, with its texts in lower case. */
function searchable(model) {
  if (model.searchable) return model.searchable;
  model.searchable = [];
  const add = (id, label, word, places) =>
    model.searchable.push({ id, label, word, places: places.map((place) => place.toLowerCase()) });
  for (const { id, name, label, calls } of model.namespaces.values()) {
    if (calls.length > 1) add(id, label, counted(calls.length, "call"), [label, name]);
  }
  for (const { id, label, class_name: className, bases, config } of model.calls.values()) {
    const kinds = [className, ...bases].join(" ");
    add(id, label, className, [label, id, kinds, JSON.stringify(config)]);
  }
  return model.searchable;
}
