// The accept rule: p and q as bars to drag or to move by the arrow keys; drawing a token is done by the library itself.
const SVG = "http://www.w3.org/2000/svg", HEIGHT = 110, WIDTH = 44, GAP = 14, LEFT = 70;
const COLOURS = { p: "#0072B2", q: "#D55E00", shared: "#009E73", residual: "#CC79A7" };

function shape(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}
function setOne(law, i, value) {  // the others keep their proportions
  const fixed = Math.min(0.98, Math.max(0.01, value)), rest = 1 - law[i];
  return law.map((x, j) => (j === i ? fixed : rest > 1e-9 ? (x / rest) * (1 - fixed) : (1 - fixed) / (law.length - 1)));
}

function render({ model, el }) {
  const root = frame(), told = element("p", { "aria-live": "polite", class: "told" });
  const chart = element("div"), controls = element("div");
  root.append(element("h4", {}, "Draw from q, keep with probability min(1, p/q)"), chart, controls, told);
  el.append(root);
  let focus = null;

  function change(name, i, value) {
    model.set(name, setOne(model.get(name), i, value));
    model.set({ tally: [0, 0], drawn: {}, counts: [] });
    model.save_changes();
  }
  function drag(bar, name, i, bottom) {
    bar.onpointerdown = (event) => {
      const move = (e) => {  // the picture is drawn anew at every move, so it is looked up each time
        const svg = chart.firstChild, box = svg.getBoundingClientRect();
        change(name, i, (bottom - ((e.clientY - box.top) * svg.viewBox.baseVal.height) / box.height) / HEIGHT);
      };
      const stop = () => { document.removeEventListener("pointermove", move); document.removeEventListener("pointerup", stop); };
      document.addEventListener("pointermove", move);
      document.addEventListener("pointerup", stop);
      event.preventDefault();
    };
    bar.onkeydown = (event) => {
      const step = { ArrowUp: 0.02, ArrowRight: 0.02, ArrowDown: -0.02, ArrowLeft: -0.02, PageUp: 0.1, PageDown: -0.1 }[event.key];
      if (step === undefined) return;
      focus = `${name}${i}`;
      change(name, i, model.get(name)[i] + step);
      event.preventDefault();
      event.stopPropagation();
    };
  }
  function bars(svg, name, label, values, top, draggable) {
    const bottom = top + HEIGHT, words = model.get("words");
    svg.append(shape("text", { x: 0, y: top + 12, "font-weight": "bold" }, label));
    values.forEach((value, i) => {
      const x = LEFT + i * (WIDTH + GAP), height = value * HEIGHT;
      const bar = shape("rect", { x, y: bottom - height, width: WIDTH, height: Math.max(height, 1), fill: COLOURS[name] });
      svg.append(bar, shape("text", { x: x + WIDTH / 2, y: bottom - height - 4, "text-anchor": "middle" }, value.toFixed(2)));
      if (!draggable) return;
      const grip = shape("rect", { x, y: bottom - HEIGHT, width: WIDTH, height: HEIGHT, fill: "transparent", class: "handle", tabindex: 0,
        role: "slider", "aria-label": `${name} of ${words[i]}`, "aria-valuemin": 0, "aria-valuemax": 1, "aria-valuenow": value.toFixed(2), "data-at": `${name}${i}` });
      drag(grip, name, i, bottom);
      svg.append(grip);
    });
    svg.append(shape("line", { x1: LEFT - 6, x2: LEFT + values.length * (WIDTH + GAP), y1: bottom, y2: bottom, stroke: "#1a1a1a" }));
  }
  function draw() {
    const p = model.get("p"), q = model.get("q"), known = model.get("guess") >= 0, rows = known ? 4 : 2;
    const shared = p.map((x, i) => Math.min(x, q[i])), overlap = shared.reduce((a, b) => a + b, 0);
    const residual = p.map((x, i) => (overlap < 1 - 1e-9 ? Math.max(0, x - q[i]) / (1 - overlap) : x));
    const step = HEIGHT + 26, width = LEFT + p.length * (WIDTH + GAP), height = rows * step + 20;
    const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": "bars of p and q; arrow keys move them" });
    bars(svg, "p", "p", p, 14, true);
    bars(svg, "q", "q", q, 14 + step, true);
    if (known) { bars(svg, "shared", "min(p, q)", shared, 14 + 2 * step, false); bars(svg, "residual", "residual", residual, 14 + 3 * step, false); }
    model.get("words").forEach((word, i) => svg.append(shape("text", { x: LEFT + i * (WIDTH + GAP) + WIDTH / 2, y: height - 4, "text-anchor": "middle" }, word)));
    chart.replaceChildren(svg);
    if (focus) chart.querySelector(`[data-at="${focus}"]`)?.focus();
    control(known, overlap);
  }
  function control(known, overlap) {
    const guess = element("input", { type: "number", min: 0, max: 1, step: 0.05, value: 0.5, "aria-label": "your guess of the acceptance" });
    const say = element("button", { class: "say" }, "that is my guess");
    say.onclick = () => { model.set("guess", Number(guess.value)); model.save_changes(); };
    const one = element("button", { class: "one" }, "draw a token"), many = element("button", { class: "many" }, "draw 100");
    one.onclick = () => model.send({ draw: 1 });
    many.onclick = () => model.send({ draw: 100 });
    controls.replaceChildren(...(known ? [one, many] : ["What share of drafted tokens will be accepted? ", guess, say]));
    told.textContent = known ? sentence(overlap) : "The rest is shown after your guess. Drag the bars, or move to one by Tab and use the arrow keys.";
    told.classList.toggle("good", known && Math.abs(overlap - model.get("goal")) < 0.005);
  }
  function sentence(overlap) {
    const goal = model.get("goal"), drawn = model.get("drawn"), [accepted, all] = model.get("tally"), words = model.get("words");
    const first = `The acceptance is the overlap, ${overlap.toFixed(3)}; you guessed ${model.get("guess").toFixed(2)}. `;
    const task = Math.abs(overlap - goal) < 0.005 ? `You made it ${goal}: well done. ` : `Now make the acceptance ${goal}. `;
    if (!all) return first + task;
    const last = `Last: q drew “${words[drawn.drafted]}”, min(1, p/q) is ${drawn.chance.toFixed(2)}: ` +
      (drawn.accepted ? "accepted. " : `rejected, and the residual gave “${words[drawn.token]}”. `);
    const shares = words.map((word, i) => `${word} ${(model.get("counts")[i] / all).toFixed(2)}`).join(", ");
    return first + task + last + `Accepted ${accepted} of ${all}. What came out: ${shares}; p is what it goes to.`;
  }
  const events = "change:p change:q change:guess change:tally change:drawn change:words";
  model.on(events, draw);
  draw();
  return () => model.off(events, draw);
}
export default { render };
