// Graphviz, in a worker made of text in the page.

/** The messages of the errors of a layout that was cancelled, or took too long. */
const CANCELLED = "cancelled";
const TOO_LONG = "too long";

const LOAD_LIMIT = 20_000; // milliseconds
const LAYOUT_LIMIT = 3000;
const MOST_KEPT = 40; // layouts

/** Address of the engine. A page opened from a file can import data addresses only. */
const engineAddress = () =>
  `data:text/javascript,${encodeURIComponent(document.getElementById("engine").textContent)}`;

class Engine {
  #source = URL.createObjectURL(new Blob(
    [`const engine = "${engineAddress()}";`, document.getElementById("worker").textContent],
    { type: "text/javascript" },
  ));
  #worker = null;
  #isLoaded = false;
  #broken = ""; // why there is no worker
  #waiting = new Map(); // number of a request -> its promise, in the order of the requests
  #requests = 0;
  #kept = new Map(); // DOT text -> promise of its layout
  #limit = null;

  constructor() {
    this.#start();
  }

  /**
   * Lay out DOT text.
   *
   * @returns  A promise of the JSON of Graphviz; it fails with the error of Graphviz, TOO_LONG or
   *   CANCELLED. All answers but the last are kept.
   */
  layout(dot) {
    const answer = this.#kept.get(dot) ?? this.#request(dot);
    this.#kept.delete(dot);
    this.#kept.set(dot, answer); // the latest is the last
    if (this.#kept.size > MOST_KEPT) this.#kept.delete(this.#kept.keys().next().value);
    return answer;
  }

  #request(dot) {
    if (this.#broken) return Promise.reject(new Error(this.#broken));
    const number = ++this.#requests;
    return new Promise((resolve, reject) => {
      this.#waiting.set(number, { dot, resolve, reject });
      this.#worker.postMessage({ number, dot });
      if (this.#waiting.size === 1) this.#watch();
    });
  }

  /** Stop all layouts. */
  cancel() {
    if (!this.#waiting.size) return;
    this.#worker.terminate();
    for (const { dot } of this.#waiting.values()) this.#kept.delete(dot);
    this.#fail(CANCELLED);
    this.#start();
  }

  #start() {
    this.#isLoaded = false;
    try {
      this.#worker = new Worker(this.#source);
    } catch (error) {
      this.#broken = error.message;
      return;
    }
    this.#worker.onerror = ({ message }) => {
      this.#broken = message ?? "it did not start";
      this.#fail(this.#broken);
    };
    this.#worker.onmessage = ({ data: { loaded, number, layout, error } }) => {
      if (loaded) {
        this.#isLoaded = true;
      } else {
        const { resolve, reject } = this.#waiting.get(number);
        this.#waiting.delete(number);
        if (error) reject(new Error(error));
        else resolve(layout);
      }
      this.#watch();
    };
  }

  /** Limit the time until the next answer. */
  #watch() {
    clearTimeout(this.#limit);
    if (!this.#waiting.size) return;
    const limit = this.#isLoaded ? LAYOUT_LIMIT : LOAD_LIMIT;
    this.#limit = setTimeout(() => this.#expire(), limit);
  }

  /** Give up the layout in progress, and start with the next one. */
  #expire() {
    const [[number, { reject }]] = this.#waiting;
    this.#waiting.delete(number);
    this.#worker.terminate();
    reject(new Error(TOO_LONG));
    this.#start();
    for (const [next, { dot }] of this.#waiting) this.#worker.postMessage({ number: next, dot });
    this.#watch();
  }

  #fail(message) {
    clearTimeout(this.#limit);
    for (const { reject } of this.#waiting.values()) reject(new Error(message));
    this.#waiting.clear();
  }
}
