// Graphviz, in a worker made of text in the page.

/** The message of the error of a cancelled layout. */
const CANCELLED = "cancelled";

/** The address of a script in the page. */
function scriptAddress(...parts) {
  return URL.createObjectURL(new Blob(parts, { type: "text/javascript" }));
}

class Engine {
  #source = scriptAddress(
    `import { Graphviz } from "${scriptAddress(document.getElementById("engine").textContent)}";`,
    document.getElementById("worker").textContent,
  );
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
    this.#worker = new Worker(this.#source, { type: "module" });
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
