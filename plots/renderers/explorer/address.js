// The part of the address after "#": the state of the page, for links.

/** The defaults, which the address omits; the page overrides those of depth and shapes. */
const USUAL = {
  depth: 0, // deeper clusters are collapsed ...
  flipped: new Set(), // ... except these namespaces, which are the opposite
  fold: true, // runs of equal blocks are folded ...
  unfolded: new Set(), // ... except these, by the names of their first blocks
  select: "", // id of a call or cluster
  overlay: "",
  shapes: false,
  split: false, // whether before and after of a comparison are side by side
  theme: "", // "light" or "dark"; "" follows the system
  zoom: "", // centre and scale as "x,y,k"; "" fits everything
};

function addressOf(state, allUsual) {
  const said = new URLSearchParams();
  for (const [key, usual] of Object.entries(allUsual)) {
    if (usual instanceof Set) state[key].forEach((item) => said.append(key, item));
    else if (state[key] !== usual) said.set(key, state[key]);
  }
  const text = said.toString();
  return text && `#${text}`;
}

/** The state of an address; missing or invalid parts have their defaults. */
function stateOf(address, allUsual) {
  const said = new URLSearchParams(address.replace(/^#/, ""));
  const read = (key, usual) => {
    if (usual instanceof Set) return new Set(said.getAll(key));
    const text = said.get(key);
    if (text === null) return usual;
    if (typeof usual === "boolean") return text === "true";
    if (typeof usual === "number") return /^\d+$/.test(text) ? Number(text) : usual;
    return text;
  };
  return Object.fromEntries(Object.entries(allUsual).map(([key, usual]) => [key, read(key, usual)]));
}

/** The symmetric difference of a set and some items. */
function flipped(set, ...items) {
  const next = new Set(set);
  for (const item of items) if (!next.delete(item)) next.add(item);
  return next;
}
