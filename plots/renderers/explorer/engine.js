// Graphviz, in a worker made of text in the page.

/** The message of the error of a cancelled layout. */
const CANCELLED = "cancelled";

/** Address of the engine. A page opened from a file can import data addresses only. */
const engineAddress = () =>
  `data:text/javascript,${encodeURIComponent(document.getElementById("engine").textContent)}`;

class Engine {
  #source = URL.createObjectURL(new Blob(
    [`const engine = "${engineAddress()}";`, document.getElementById("worker").textContent],
    { type: "text/javascript" },
  ));
  #worker = null;
  #waiting = new Map(); // number of a request -> its promise
  #requests = 0;

  constructor() {
    this.#start();
  }

  /** Lay out DOT text; resolve to the JSON of Graphviz, or reject with its error or CANCELLED. */
  layout(dot) {
    const number = ++this.#requests;
    return new Promise((resolve, reject) => {
      this.#waiting.set(number, { resolve, reject });
      this.#worker.postMessage({ number, dot });
    });
  }

  /** Stop all layouts. */
  cancel() {
    if (!this.#waiting.size) return;
    this.#worker.terminate();
    this.#fail(CANCELLED);
    this.#start();
  }

  #start() {
    this.#worker = new Worker(this.#source);
    this.#worker.onerror = (event) => this.#fail(event.message ?? "the layout engine did not start");
    this.#worker.onmessage = ({ data: { number, layout, error } }) => {
      const { resolve, reject } = this.#waiting.get(number);
      this.#waiting.delete(number);
      if (error) reject(new Error(error));
      else resolve(layout);
    };
  }

  #fail(message) {
    for (const { reject } of this.#waiting.values()) reject(new Error(message));
    this.#waiting.clear();
  }
}
