// The part of the address after "#": what is open, selected and shown, so that it can be linked to.

/** What the address leaves out; of depth and shapes the page says what is usual. */
const USUAL = {
  depth: 0, // boxes that lie deeper are closed ...
  flipped: new Set(), // ... but for these, which are not what their depth says: names
  fold: true, // runs of equal blocks are folded ...
  unfolded: new Set(), // ... but for these: names of their first blocks
  select: "", // id of a call or box
  overlay: "",
  shapes: false,
  split: false, // before and after of a diff side by side
  theme: "", // "light" or "dark"; "" follows the system
  zoom: "", // what is in the middle, and how large: "x,y,k"; "" shows all
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

/** The state that an address asks for; what it does not say, or says wrongly, is as usual. */
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

/** A set without an item that it has, or with one that it does not have. */
function flipped(set, ...items) {
  const next = new Set(set);
  for (const item of items) if (!next.delete(item)) next.add(item);
  return next;
}
