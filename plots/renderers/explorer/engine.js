// Graphviz, in a worker made of the text that the page carries.

/** What a layout that was cancelled fails with. */
const CANCELLED = "cancelled";

class Engine {
  #source = URL.createObjectURL(
    new Blob([document.getElementById("engine").textContent], { type: "text/javascript" }),
  );
  #worker = null;
  #waiting = new Map(); // number of a request -> what to do with the answer
  #requests = 0;

  constructor() {
    this.#start();
  }

  /** The layout of DOT text, as Graphviz' JSON. Fails when it is cancelled, or with Graphviz' words. */
  layout(dot) {
    const number = ++this.#requests;
    return new Promise((resolve, reject) => {
      this.#waiting.set(number, { resolve, reject });
      this.#worker.postMessage({ number, dot });
    });
  }

  /** Stop what is being laid out. */
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
