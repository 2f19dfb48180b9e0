
// Runs in a worker, so that the page stays responsive during a layout.
onmessage = async ({ data: { number, dot } }) => {
  try {
    const { Graphviz } = await import(engine);
    const graphviz = await Graphviz.load();
    postMessage({ number, layout: graphviz.layout(dot, "json0", "dot") });
  } catch (error) {
    postMessage({ number, error: String(error?.message ?? error) });
  }
};
