// Runs in a worker, so that the page stays responsive during a layout.
const loaded = import(engine).then(({ Graphviz }) => Graphviz.load());
loaded.then(() => postMessage({ loaded: true }), () => {}); // requests report the error
onmessage = async ({ data: { number, dot } }) => {
  try {
    const graphviz = await loaded;
    postMessage({ number, layout: graphviz.layout(dot, "json0", "dot") });
  } catch (error) {
    postMessage({ number, error: String(error?.message ?? error) });
  }
};
