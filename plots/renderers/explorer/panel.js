// The side panel: the selected item, or else the whole model. It is built from elements, never from
// markup, so that no text of a model can become part of the page.

const ROLES = {
  input: "input",
  embedding: "embedding or positions",
  norm: "normalisation",
  attention: "attention",
  weights: "other weights",
  unused: "weights that no call takes",
  plain: "no weights",
};
const PLACEMENTS = {
  pre: "pre-norm: the norm is first on the branch",
  post: "post-norm: the norm is on the stream, after the merge",
  sandwich: "sandwich: norms are first and last on the branch",
  branch_end: "the norm is last on the branch",
  none: "no norm",
};
const MOST_LINKED = 120; // letters of a link
const MOST_ROWS = 100; // of a list
const KEYS = [
  ["/", "search"],
  ["n N", "next hit, hit before"],
  ["← ↑ ↓ →", "go to the next node"],
  ["Enter", "expand or collapse a cluster"],
  ["+ − 0", "zoom in, out, all"],
  ["Esc", "deselect"],
];

class Panel {
  constructor(host, explorer) {
    this.host = host;
    this.explorer = explorer;
  }

  show(id) {
    this.model = this.explorer.modelOf(id);
    const { calls } = this.model;
    const cluster = this.model.cluster(id);
    if (cluster) this.#fill(this.#namespace(cluster));
    else if (calls.has(id)) this.#fill(this.#call(calls.get(id)));
    else this.#fill(this.#model());
  }

  #fill(parts) {
    this.host.replaceChildren(...parts.filter(Boolean));
    this.host.scrollTop = 0;
  }

  #model() {
    const { model } = this;
    const shown = this.explorer.shownIn(model);
    const { graph, calls, paths } = model;
    return [
      html("h2", {}, graph.name),
      facts([
        ["parameters", parametersText(graph.parameters, graph.trainable_parameters)],
        ["calls", calls.size.toLocaleString("en")],
        ["skip paths", paths.length.toLocaleString("en")],
        ["inputs", this.#links(graph.inputs)],
        ["outputs", this.#links(graph.outputs.map(([id]) => id))],
        ["loss", [...new Set((graph.losses ?? []).map((loss) => loss?.class_name))].filter(Boolean).join(", ")],
      ]),
      section("Letters", model.letters.map((line) => html("p", {}, line))),
      section("Notes", this.#notes(model.notes)),
      shown.overlay ? ramp(shown) : section("Colours", [legend(model)]),
      section("Keys", [html("dl", { class: "keys" }, ...KEYS.flatMap(([key, does]) =>
        [html("dt", {}, html("kbd", {}, key)), html("dd", {}, does)]))]),
    ];
  }

  #namespace(namespace) {
    const { model } = this;
    const shown = this.explorer.shownIn(model);
    const calls = namespace.calls.map((id) => model.calls.get(id));
    const layers = [...new Map(calls.map((call) => [call.layer, call])).values()];
    const [all, trained] = ["parameters", "trainable_parameters"].map((field) =>
      sum(layers.map((layer) => layer[field])));
    return [
      html("h2", {}, namespace.label),
      html("p", { class: "path" }, namespace.name),
      this.#run(namespace.name),
      facts([
        ["parameters", parametersText(all, trained)],
        ["calls", namespace.size.toLocaleString("en")],
        ["skip paths", namespace.paths.length || ""],
      ]),
      section("Overlays", overlayFacts(model, (overlay) => valueOf(overlay, { namespace }))),
      section("Notes", this.#notes(this.#notesOf(namespace.calls))),
      section("Skip paths", this.#paths(namespace.calls)),
      section("Inside", [html("ul", {}, ...this.#children(namespace))]),
      ramp(shown),
    ];
  }

  #call(call) {
    const { model } = this;
    const shown = this.explorer.shownIn(model);
    const { id, parameters, config, constants = [] } = call;
    const ties = model.callsOfLayer.get(call.layer).filter((other) => other !== id);
    return [
      html("h2", {}, call.label),
      html("p", { class: "path" }, id),
      this.#run(id),
      facts([
        ["class", call.class_name],
        ["gives out", call.outputs.map(tensorText).join(", ")],
        ["parameters", parameters ? parametersText(parameters, call.trainable_parameters) : ""],
        ["frozen", parameters && call.trainable === false ? "yes" : ""],
      ]),
      section("Overlays", overlayFacts(model, (overlay) => overlay.places[id])),
      section("Notes", this.#notes(this.#notesOf([id]))),
      this.#picture(id),
      section("Skip paths", this.#paths([id])),
      section("Takes", this.#edges(model.incoming.get(id), "source")),
      section("Goes to", this.#edges(model.outgoing.get(id), "target")),
      section("Shares weights with", ties.length ? [this.#links(ties)] : []),
      section("Constants", constants.length ? [facts(constants.map(constantText))] : []),
      section("Configuration", Object.keys(config).length ? [
        html("pre", {}, JSON.stringify(config, null, 1)),
      ] : []),
      ramp(shown),
    ];
  }

  #children(namespace) {
    const { model } = this;
    const rows = new Map();
    for (const id of namespace.calls) {
      const call = model.calls.get(id);
      const child = enclosingNames(call.namespace).map((name) => model.namespaces.get(name))
        .find(({ parent }) => parent === namespace.container);
      const row = child ? [child.id, child.label, counted(child.size, "call")]
        : [id, call.label, call.class_name];
      rows.set(row[0], row);
    }
    return limited([...rows.values()], ([id, label, word]) =>
      html("li", {}, this.#link(id, label), quiet(` ${word}`)));
  }

  /** How many equals a block has, and a button that folds or unfolds them. */
  #run(name) {
    const { model } = this;
    const shown = this.explorer.shownIn(model);
    const run = model.blocks.get(name);
    if (!run) return null;
    const button = html("button", { type: "button" }, shown.isFolded(run) ? "Show all" : "Fold");
    button.addEventListener("click", () => this.explorer.toggleRun(run.names[0]));
    const pattern = run.period === 1 ? "equal blocks" : `blocks, ${run.times} times a pattern`;
    return html("p", { class: "run" }, `One of ${run.names.length} ${pattern} `, button);
  }

  /** Notes about calls and about the edges into them. */
  #notesOf(calls) {
    const { incoming, notesAbout } = this.model;
    const edges = calls.flatMap((id) => incoming.get(id) ?? []).map((edge) => edge.id);
    return [...new Set([...calls, ...edges].flatMap((place) => notesAbout.get(place) ?? []))];
  }

  /** Notes, those that say the same of calls with the same name as one. */
  #notes(notes) {
    if (!notes.length) return [];
    const { calls, edges } = this.model;
    const alike = new Map();
    for (const note of notes) {
      const [first] = note.about;
      const place = calls.has(first) ? first : edges.find((edge) => edge.id === first)?.target;
      const title = place ? calls.get(place).label : "";
      append(alike, JSON.stringify([note.kind, note.text, note.reference, title]), { note, place });
    }
    return [html("ul", { class: "notes" }, ...limited([...alike.values()], (rows) => this.#note(rows)))];
  }

  #note(rows) {
    const [{ note: { kind, text, reference }, place }, ...others] = rows;
    const more = others.length > 0 && html("details", {},
      html("summary", {}, `and ${others.length} more`), this.#links(others.map((row) => row.place)));
    return html("li", { class: `note-${kind}` },
      text.startsWith(kind) ? "" : html("b", {}, `${kind} `), `${text} `, place && this.#link(place),
      reference && html("cite", {}, reference), more);
  }

  /** Skip paths that a call lies on, and those that lead past calls and come back behind them. */
  #paths(calls) {
    const inside = new Set(calls);
    const on = (path) => calls.length === 1 && path.line.includes(calls[0]);
    const past = ({ target, bypassed }) => !inside.has(target) && bypassed.some((id) => inside.has(id));
    const paths = this.model.paths.filter((path) => on(path) || past(path));
    return limited(paths, (path) =>
      html("p", {}, on(path) ? "on the path from " : "by-passed by the path from ",
        this.#link(path.source), " to ", this.#link(path.target), ", past ",
        `${counted(path.bypassed.length, "call")} (${PLACEMENTS[path.placement]})`));
  }

  #picture(id) {
    const png = this.model.graph.pictures?.[id];
    const image = png && html("img", { src: `data:image/png;base64,${png}`, alt: `picture of ${id}` });
    return section("Picture", image ? [image] : []);
  }

  #edges(edges, end) {
    if (!edges) return [];
    return [html("ul", {}, ...limited(edges, (edge) =>
      html("li", {}, quiet(`${edge.port} `), this.#link(edge[end]),
        quiet(` ${tensorText(edge.tensor)}`))))];
  }

  #links(ids) {
    return html("ul", {}, ...limited(ids, (id) => html("li", {}, this.#link(id))));
  }

  #link(id, label = shortened(id, MOST_LINKED)) {
    const link = html("a", { href: "#", title: id }, label);
    link.addEventListener("click", (event) => {
      event.preventDefault();
      this.explorer.jump(id);
    });
    return link;
  }
}

/** The elements of the first items, and one that counts the others. */
function limited(items, elementOf) {
  const elements = items.slice(0, MOST_ROWS).map(elementOf);
  const more = items.length - MOST_ROWS;
  if (more > 0) elements.push(html("li", { class: "quiet" }, `and ${more.toLocaleString("en")} more`));
  return elements;
}

function constantText({ port, value, shape, dtype, pattern }) {
  if (!shape) return [port, JSON.stringify(value ?? null)];
  return [port, [shape.join(" × ") || "scalar", dtype, pattern].filter(Boolean).join(", ")];
}

function parametersText(all, trained) {
  const frozen = all - trained;
  const text = all.toLocaleString("en");
  return frozen ? `${text} (${frozen.toLocaleString("en")} not trainable)` : text;
}

function overlayFacts(model, valueIn) {
  const rows = model.overlays.map((overlay) => [overlay.title, valueIn(overlay)?.[1]]);
  return rows.some(([, text]) => text) ? [facts(rows)] : [];
}

/** From which colour to which the overlay's numbers go. */
function ramp({ overlay, range }) {
  if (!overlay) return null;
  const ends = [range.least, range.most].map((text) => html("span", {}, text));
  return section(overlay.title, [
    html("div", { class: "ramp" }),
    html("p", { class: "ramp-ends" }, ...ends),
    overlay.whole && html("p", {}, overlay.whole),
  ]);
}

function legend(model) {
  const there = new Set([...model.calls.values()].map((call) => call.role || "plain"));
  const rows = Object.entries(ROLES).filter(([role]) => there.has(role));
  const swatch = (kind, word) => html("li", {}, html("span", { class: `swatch ${kind}` }), word);
  return html("ul", { class: "legend" }, ...rows.map(([role, word]) => swatch(`role-${role}`, word)),
    model.paths.length && swatch("stream", "residual stream"));
}

function section(title, contents) {
  return contents.length ? html("section", {}, html("h3", {}, title), ...contents) : null;
}

/** Rows of a name and a text or element; those without are left out. */
function facts(rows) {
  const said = rows.filter(([, value]) => value);
  return html("dl", { class: "facts" }, ...said.flatMap(([name, value]) =>
    [html("dt", {}, name), html("dd", {}, value)]));
}

function quiet(text) {
  return html("span", { class: "quiet" }, text);
}

/** An element of the page. What is "", 0, false, null or undefined among the children is left out. */
function html(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children.filter(Boolean));
  return element;
}
