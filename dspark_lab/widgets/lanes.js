// Two lanes of a race, as the kernel tells them: text by fate, a bar a pass, a clock each.
const BAR = 4, TALL = 36;

function lane(data) {
  const text = element("div", { class: "text", tabindex: 0, role: "region", "aria-label": `text of ${data.name}` });
  for (const [piece, fate] of data.pieces) text.append(element("span", { class: fate ?? "plain" }, piece));
  const best = Math.max(1, ...data.lengths), bars = data.lengths.slice(-120);
  const strip = element("div", { class: "strip", role: "img", "aria-label": `${data.passes} passes, the longest gave ${best} tokens` });
  strip.style.cssText = `display:flex; align-items:flex-end; gap:1px; height:${TALL}px; margin:6px 0; overflow:hidden`;
  for (const n of bars) {
    const bar = element("span");
    bar.style.cssText = `width:${BAR}px; flex:none; height:${(n / best) * TALL}px; background:#0072B2`;
    strip.append(bar);
  }
  const speed = data.seconds ? (data.tokens / data.seconds).toFixed(0) : "0";
  const clock = `${data.seconds.toFixed(2)} s   ${data.tokens} tokens   ${data.passes} passes   ${speed} tokens/s`;
  const title = element("strong", {}, data.name + (data.finished ? ", finished" : ""));
  return [element("div", { class: `lane ${data.finished ? "finished" : ""}` }, title, text, strip, element("div", { class: "clock" }, clock)), text];
}

function render({ model, el }) {
  const label = element("p", { class: "label" }), lanes = element("div", { class: "lanes" });
  const status = element("p", { class: "status", role: "status", "aria-live": "polite" });
  el.append(frame(label, lanes, status));
  function draw() {
    label.textContent = model.get("label");
    const drawn = model.get("lanes").map(lane);
    lanes.replaceChildren(...drawn.map(([box]) => box));
    for (const [, text] of drawn) text.scrollTop = text.scrollHeight;
  }
  function tell() { status.textContent = model.get("status"); }
  model.on("change:lanes change:label", draw);
  model.on("change:status", tell);
  draw();
  tell();
  return () => { model.off("change:lanes change:label", draw); model.off("change:status", tell); };
}
export default { render };
