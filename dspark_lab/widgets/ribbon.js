// The token ribbon: a round a row. The reader guesses where the next row is rejected before its fates are shown.
const GLYPHS = { accepted: "✓", rejected: "✗", behind: "·", unverified: "?", correction: "→", bonus: "+", plain: "" };
const number = (value) => (value === null || value === undefined ? "not known" : value.toFixed(2));

function detail(cell, revealed) {
  if (cell.position === null) return `“${shown(cell.text)}”: the target's own token, the ${cell.fate}`;
  const known = `“${shown(cell.text)}”, position ${cell.position}: q ${number(cell.q)}, confidence ${number(cell.confidence)}`;
  if (!revealed) return `${known}; p and its fate are shown after your guess`;
  return `${known}, p ${number(cell.p)}, min(1, p/q) ${number(cell.chance)}, overlap ${number(cell.overlap)}: ${cell.fate}`;
}

function render({ model, el }) {
  const rows = element("div", { role: "group", "aria-label": "rounds, a row each" });
  const question = element("p", { "aria-live": "polite", class: "question" });
  const told = element("p", { "aria-live": "polite", class: "detail" });
  const controls = element("div");
  const root = frame(element("h4", {}, "Where will it be rejected?"), question, rows, told, controls);
  el.append(root);

  const reject = (row) => row.find((cell) => cell.fate === "rejected")?.position ?? 0;
  const guesses = () => model.get("guesses");
  function guess(position) {
    if (guesses().length >= model.get("rows").length) return;
    model.set("guesses", [...guesses(), position]);
    model.save_changes();
  }
  function open(i, j) {
    const cell = model.get("rows")[i][j];
    told.textContent = detail(cell, i < guesses().length);
    if (String(model.get("opened")) !== String([i, j])) { model.set("opened", [i, j]); model.save_changes(); }
  }
  function move(event, i, j) {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!step) return;
    const line = rows.children[i + step[0]]?.querySelectorAll("button");
    line?.[Math.min(line.length - 1, Math.max(0, j + step[1]))]?.focus();
    event.preventDefault();
    event.stopPropagation();
  }
  function token(cell, i, j, revealed) {
    const fate = revealed ? cell.fate : "hidden";
    const button = element("button", { class: fate, tabindex: j ? -1 : 0, "data-at": `${i},${j}` });
    button.textContent = `${revealed ? GLYPHS[cell.fate] : ""} ${shown(cell.text)}`;
    button.setAttribute("aria-label", detail(cell, revealed));
    button.onfocus = button.onmouseenter = () => open(i, j);
    button.onkeydown = (event) => move(event, i, j);
    button.onclick = () => { open(i, j); if (!revealed) guess(cell.position); };
    return button;
  }
  function verdict(row, chosen) {
    const truth = reject(row), was = truth ? `it was rejected at position ${truth}` : "all that was verified was accepted";
    if (chosen < 0) return `${was}.`;
    const said = chosen ? `you said position ${chosen}` : "you said that all would be accepted";
    return `${chosen === truth ? "Right" : "Not so"}: ${said}, ${was}.`;
  }
  function ask() {
    const done = guesses(), all = model.get("rows"), numbers = model.get("numbers"), asked = done.filter((g) => g >= 0);
    const right = done.filter((g, i) => g >= 0 && g === reject(all[i])).length;
    const last = done.length ? `Round ${numbers[done.length - 1]}: ${verdict(all[done.length - 1], done.at(-1))} ` : "";
    const score = asked.length ? `${right} of ${asked.length} guessed right. ` : "";
    const next = `Round ${numbers[done.length]}: choose the token that will be rejected, or “all accepted”.`;
    question.textContent = last + score + (done.length < all.length ? next : "All rounds are shown.");
  }
  function draw() {
    const focused = root.contains(document.activeElement) ? document.activeElement.dataset.at : null;
    const done = guesses().length, all = model.get("rows");
    rows.replaceChildren(...all.slice(0, done + 1).map((row, i) => {
      const seen = i < done, cells = seen ? row : row.filter((cell) => cell.position !== null);
      const name = element("span", { class: "number" }, String(model.get("numbers")[i]));
      return element("div", { class: "row" }, name, ...cells.map((cell, j) => token(cell, i, j, seen)));
    }));
    const whole = element("button", { class: "whole" }, "all accepted"), rest = element("button", { class: "rest" }, "show the rest");
    const again = element("button", { class: "again" }, "start over");
    whole.onclick = () => guess(0);
    rest.onclick = () => { model.set("guesses", [...guesses(), ...Array(all.length - done).fill(-1)]); model.save_changes(); };
    again.onclick = () => { model.set("guesses", []); model.save_changes(); };
    whole.disabled = rest.disabled = done >= all.length;
    again.disabled = !done;
    controls.replaceChildren(whole, rest, again);
    if (focused) rows.querySelector(`[data-at="${focused}"]`)?.focus();
    ask();
  }
  model.on("change:guesses change:rows", draw);
  draw();
  const [i, j] = model.get("opened");
  if (model.get("rows")[i]?.[j]) told.textContent = detail(model.get("rows")[i][j], i < guesses().length);
  return () => model.off("change:guesses change:rows", draw);
}
export default { render };
