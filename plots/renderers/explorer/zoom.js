// Pan and zoom: the wheel and dragging pan, the wheel with a key (or two fingers) zooms.

const LEAST_ZOOM = 0.02; // less for a diagram that fits at less
const MOST_ZOOM = 4;
const READABLE_ZOOM = 0.75; // diagrams that would need a smaller scale are scrolled at first
const LEAST_FIRST = 0.5; // least scale of the first view
const MOST_FITTED = 1.25;
const MARGIN = 20;

class Zoom {
  /**
   * @param host     The element that contains the diagram.
   * @param picture  The SVG in it.
   * @param world    The group that moves.
   * @param changed  Called after every change.
   */
  constructor(host, picture, world, changed) {
    Object.assign(this, { host, picture, world, changed });
    this.at = { x: 0, y: 0, k: 1 }; // a point p of the world is at p * k + (x, y) on the screen
    this.mode = "start"; // "start" or "fit" after these methods; "" after any other change
    this.least = LEAST_ZOOM;
    this.dragged = false;
    this.#listen();
  }

  set(place, mode = "") {
    this.at = place;
    this.mode = mode;
    this.world.setAttribute("transform", `translate(${place.x} ${place.y}) scale(${place.k})`);
    this.changed();
  }

  /** The scales at which a diagram is as wide and as high as the space for it. */
  #scales({ width, height }) {
    const { clientWidth, clientHeight } = this.host;
    const scale = (room, size) => Math.max(room - 2 * MARGIN, 1) / Math.max(size, 1);
    return [scale(clientWidth, width), scale(clientHeight, height)];
  }

  /** The scale at which all of a diagram is visible. */
  wholeScale(size) {
    return Math.min(...this.#scales(size), MOST_FITTED);
  }

  /** The scale of the first view: all of a diagram, or a readable part of it. */
  firstScale(size) {
    const whole = this.wholeScale(size);
    return whole >= READABLE_ZOOM ? whole : clamp(this.#scales(size)[0], LEAST_FIRST, 1);
  }

  /** Show all of a diagram in the middle. */
  fit({ width, height }, k) {
    const { clientWidth, clientHeight } = this.host;
    this.least = Math.min(LEAST_ZOOM, k);
    this.set({ x: (clientWidth - width * k) / 2, y: (clientHeight - height * k) / 2, k }, "fit");
  }

  /** Show all of a diagram, or the part of it around its first item, at the scale `k`. */
  start({ width, height }, first, k) {
    const { clientWidth, clientHeight } = this.host;
    const shift = (room, size, point) => {
      const least = room - MARGIN - size * k;
      return least >= MARGIN ? (least + MARGIN) / 2 : clamp(room / 2 - point * k, least, MARGIN);
    };
    this.least = Math.min(LEAST_ZOOM, this.wholeScale({ width, height }));
    const place = { x: shift(clientWidth, width, first.x), y: shift(clientHeight, height, 0), k };
    this.set(place, "start");
  }

  /** Whether a rectangle is visible, at least in part. */
  sees({ left, top, width, height }) {
    const { x, y, k } = this.at;
    const { clientWidth, clientHeight } = this.host;
    const meets = (start, size, room) => start < room && start + size > 0;
    return meets(left * k + x, width * k, clientWidth) && meets(top * k + y, height * k, clientHeight);
  }

  /** Centre a point of the world. */
  centre({ x, y }, zoom = Math.max(this.at.k, READABLE_ZOOM)) {
    const { clientWidth, clientHeight } = this.host;
    const k = clamp(zoom, this.least, MOST_ZOOM);
    this.set({ k, x: clientWidth / 2 - x * k, y: clientHeight / 2 - y * k });
  }

  /** The point of the world at the centre. */
  get middle() {
    const { x, y, k } = this.at;
    const { clientWidth, clientHeight } = this.host;
    return { x: (clientWidth / 2 - x) / k, y: (clientHeight / 2 - y) / k, k };
  }

  /** Pan as little as possible to show a rectangle, or its upper left part. */
  reveal({ left, top, width, height }) {
    const { x, y, k } = this.at;
    const { clientWidth, clientHeight } = this.host;
    const shift = (start, size, room) => {
      const [least, most] = [MARGIN - start, room - MARGIN - start - size];
      return least <= most ? clamp(0, least, most) : least;
    };
    const dx = shift(left * k + x, width * k, clientWidth);
    const dy = shift(top * k + y, height * k, clientHeight);
    if (dx || dy) this.set({ k, x: x + dx, y: y + dy });
  }

  onScreen({ x, y }) {
    return { x: x * this.at.k + this.at.x, y: y * this.at.k + this.at.y };
  }

  /** Move the world so that a point of it is at a point of the screen. */
  pin(point, screen) {
    const { k } = this.at;
    this.set({ k, x: screen.x - point.x * k, y: screen.y - point.y * k });
  }

  /** Zoom about a point of the screen, by default the centre. */
  by(factor, point = { x: this.host.clientWidth / 2, y: this.host.clientHeight / 2 }) {
    const { x, y, k } = this.at;
    const next = clamp(k * factor, this.least, MOST_ZOOM);
    const real = next / k;
    this.set({ k: next, x: point.x - (point.x - x) * real, y: point.y - (point.y - y) * real });
  }

  #listen() {
    let drag = null; // of the primary pointer; a second finger is another pointer
    const release = (event) => {
      if (!event.isPrimary) return;
      drag = null;
      this.picture.classList.remove("dragged");
    };
    this.picture.addEventListener("pointerdown", (event) => {
      if (!event.isPrimary) return;
      this.dragged = false;
      if (event.button === 0) drag = { x: event.clientX, y: event.clientY, from: this.at };
    });
    this.picture.addEventListener("pointermove", (event) => {
      if (!drag || !event.isPrimary) return;
      if (!event.buttons) {
        release(event); // the button was released outside of the window
        return;
      }
      const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
      if (!this.dragged && Math.hypot(dx, dy) > 4) {
        this.dragged = true; // not earlier, or clicks would not reach their targets
        this.picture.setPointerCapture(event.pointerId);
        this.picture.classList.add("dragged");
      }
      if (this.dragged) this.set({ ...drag.from, x: drag.from.x + dx, y: drag.from.y + dy });
    });
    this.picture.addEventListener("pointerup", release);
    this.picture.addEventListener("pointercancel", release);
    this.picture.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
  }

  #wheel(event) {
    event.preventDefault();
    const step = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
    const [dx, dy] = [event.deltaX * step, event.deltaY * step];
    if (event.ctrlKey || event.metaKey) {
      const { left, top } = this.host.getBoundingClientRect();
      this.by(Math.exp(-dy * 0.01), { x: event.clientX - left, y: event.clientY - top });
    } else {
      const [right, down] = event.shiftKey && !dx ? [dy, 0] : [dx, dy];
      this.set({ ...this.at, x: this.at.x - right, y: this.at.y - down });
    }
  }
}
