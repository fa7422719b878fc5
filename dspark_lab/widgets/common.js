// What the widgets share; it is put in front of each one's own code.
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
// A widget's root. JupyterLab must not take its keys (Enter, arrows) for commands of its own.
function frame(...children) {
  return element("div", { class: "dspark", "data-lm-suppress-shortcuts": "true" }, ...children);
}
const shown = (text) => text.replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "∅";
