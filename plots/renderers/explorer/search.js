// The search field: clusters and calls by name, class and configuration.

const MOST_HITS = 40;

class Search {
  /**
   * @param picked  Called with the id of the chosen hit.
   */
  constructor(model, field, list, picked) {
    Object.assign(this, { model, field, list, picked, hits: [], active: 0 });
    field.addEventListener("input", () => {
      this.hits = found(model, field.value);
      this.active = 0;
      this.#show();
    });
    field.addEventListener("keydown", (event) => this.#key(event));
    field.addEventListener("blur", () => this.#showList(false));
    field.addEventListener("focus", () => this.#show());
  }

  #key(event) {
    const last = this.hits.length - 1;
    if (event.key === "Enter") this.#pick(this.active);
    else if (event.key === "ArrowDown") this.active = Math.min(this.active + 1, last);
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
    this.#close();
    this.picked(hit.id);
  }

  #close() {
    this.field.value = "";
    this.hits = [];
    this.field.blur();
  }

  #show() {
    const asked = this.field.value.trim() !== "";
    this.list.replaceChildren(...this.hits.map((hit, number) => this.#row(hit, number)));
    if (asked && !this.hits.length) this.list.append(html("li", { class: "quiet" }, "nothing found"));
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
  const consider = (id, label, word, places) => {
    const lower = places.map((place) => place.toLowerCase());
    if (!words.every((each) => lower.some((place) => place.includes(each)))) return;
    const best = lower.findIndex((place) => words.every((each) => place.includes(each)));
    const rank = lower[0] === words[0] ? -1 : best < 0 ? places.length : best;
    hits.push({ id, label, word, rank });
  };
  for (const { id, name, label, calls } of model.namespaces.values()) {
    if (calls.length > 1) consider(id, label, counted(calls.length, "call"), [label, name]);
  }
  for (const call of model.calls.values()) {
    const { id, class_name: className, bases, config } = call;
    const title = call.label;
    const kinds = [className, ...bases].join(" ");
    consider(id, title, className, [title, id, kinds, JSON.stringify(config)]);
  }
  return hits.sort((a, b) => a.rank - b.rank).slice(0, MOST_HITS);
}
