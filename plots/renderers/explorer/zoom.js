// Pan and zoom: the wheel and dragging pan, the wheel with a key (or two fingers) zooms.

const LEAST_ZOOM = 0.02;
const MOST_ZOOM = 4;
const READABLE_ZOOM = 0.75; // diagrams that would need a smaller scale are scrolled instead
const [LEAST_FITTED, MOST_FITTED] = [0.4, 1.25];
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
    this.isFitted = false;
    this.dragged = false;
    this.#listen();
  }

  set(place, isFitted = false) {
    this.at = place;
    this.isFitted = isFitted;
    this.world.setAttribute("transform", `translate(${place.x} ${place.y}) scale(${place.k})`);
    this.changed();
  }

  /** Show all of a diagram, or its upper part at a readable scale, up to the scale `most`. */
  fit({ width, height }, most = MOST_FITTED) {
    const { clientWidth, clientHeight } = this.host;
    const [across, down] = [(clientWidth - 2 * MARGIN) / width, (clientHeight - 2 * MARGIN) / height];
    const whole = Math.min(across, down, most);
    const k = whole >= READABLE_ZOOM ? whole : Math.min(clamp(across, LEAST_FITTED, 1), most);
    const x = Math.max((clientWidth - width * k) / 2, MARGIN);
    const y = Math.max((clientHeight - height * k) / 2, MARGIN);
    this.set({ x, y, k }, true);
  }

  /** Centre a point of the world. */
  centre({ x, y }, zoom = Math.max(this.at.k, READABLE_ZOOM)) {
    const { clientWidth, clientHeight } = this.host;
    const k = clamp(zoom, LEAST_ZOOM, MOST_ZOOM);
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
    const next = clamp(k * factor, LEAST_ZOOM, MOST_ZOOM);
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
