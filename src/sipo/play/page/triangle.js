// Three objectives: a handle in a triangle. A corner is one objective alone; the nearer, the more weight.
import { make, percent, shares, svg } from "./dom.js";

const SIDE = 200;
const HIGH = (SIDE * Math.sqrt(3)) / 2;
const CORNERS = [[0, HIGH], [SIDE, HIGH], [SIDE / 2, 0]];
const STEPS = { // from which corner to which; without one, from or to the other two alike
  ArrowRight: [0, 1], ArrowLeft: [1, 0], ArrowUp: [null, 2], ArrowDown: [2, null],
};

const place = (weights) => [0, 1].map((axis) => weights.reduce((sum, share, i) => sum + share * CORNERS[i][axis], 0));

// Shares of what lies beyond an edge are those of the nearest place on it, nearly; in whole percents, 100 in all.
const weightsAt = (x, y) => {
  const top = 1 - y / HIGH;
  const second = x / SIDE - top / 2;
  return whole([1 - top - second, second, top]);
};

const whole = (given) => {
  const inside = given.map((share) => Math.max(0, share));
  const total = inside.reduce((a, b) => a + b, 0);
  const exact = inside.map((share) => (100 * share) / total);
  const found = exact.map(Math.floor);
  const order = [0, 1, 2].sort((a, b) => exact[b] - found[b] - (exact[a] - found[a]));
  for (let left = 100 - found.reduce((a, b) => a + b, 0), i = 0; left > 0; left -= 1, i += 1) found[order[i]] += 1;
  return found.map((each) => each / 100);
};

const stepped = (weights, [from, to], size) => {
  const others = (at) => [0, 1, 2].filter((i) => i !== at);
  const next = [...weights];
  const taken = from === null ? Math.min(size, 1 - weights[to]) : Math.min(size, weights[from]);
  const rest = 1 - weights[to ?? from];
  if (from === null) for (const i of others(to)) next[i] -= rest > 0 ? (taken * weights[i]) / rest : 0;
  else next[from] -= taken;
  if (to === null) for (const i of others(from)) next[i] += rest > 0 ? (taken * weights[i]) / rest : taken / 2;
  else next[to] += taken;
  return whole(next);
};

const turned = (weights, event) => {
  if (event.key in STEPS) return stepped(weights, STEPS[event.key], event.shiftKey ? 0.01 : 0.05);
  if ("123".includes(event.key)) return CORNERS.map((_, i) => (i === Number(event.key) - 1 ? 1 : 0));
  return event.key === "0" ? [1 / 3, 1 / 3, 1 / 3] : null;
};

export const KEYS = "In a triangle arrows move the handle, with Shift a little; 1, 2, 3 are its corners, 0 its middle.";

export const triangle = (letter, objectives, turn) => {
  let now = [1, 0, 0];
  const short = (name) => (name.length > 14 ? `${name.slice(0, 13)}…` : name);
  const [labels, dots] = [svg("g", { "aria-hidden": true }), svg("g", { "aria-hidden": true })];
  const handle = svg("circle", {
    class: "handle", r: 10, tabindex: 0, role: "slider", "aria-label": `${letter}: weights`, "aria-roledescription": "triangle",
    "aria-valuemin": 0, "aria-valuemax": 100, "aria-describedby": "keys",
  });
  const picture = svg("svg", { class: "chart weights", viewBox: `-30 -30 ${SIDE + 60} ${HIGH + 76}` },
    svg("path", { class: "edge", d: `M${CORNERS.map((each) => each.join(",")).join("L")}Z` }), dots, labels, handle);
  const drag = (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(picture.getScreenCTM().inverse());
    turn(weightsAt(at.x, at.y));
  };
  picture.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    picture.setPointerCapture(event.pointerId);
    event.preventDefault();
    handle.focus();
    drag(event);
  });
  picture.addEventListener("pointermove", (event) => { if (picture.hasPointerCapture(event.pointerId)) drag(event); });
  handle.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const weights = turned(now, event);
    if (!weights) return;
    event.preventDefault();
    turn(weights);
  });

  const show = (weights, places) => {
    now = weights;
    const [x, y] = place(weights);
    handle.setAttribute("cx", x);
    handle.setAttribute("cy", y);
    handle.setAttribute("aria-valuenow", Math.round(100 * weights[0]));
    handle.setAttribute("aria-valuetext", shares(objectives, weights));
    dots.replaceChildren(...places.map((each) => svg("circle", { class: "dot", r: 3, cx: place(each)[0], cy: place(each)[1] })));
    labels.replaceChildren(...objectives.flatMap((each, i) => {
      const [cx, cy] = CORNERS[i];
      const [anchor, across] = [["start", -28], ["end", 28], ["middle", 0]][i];
      const text = (down, said) => svg("text", { x: cx + across, y: cy + down, "text-anchor": anchor }, said);
      const [name, share] = [short(each.name), percent(weights[i])];
      return i === 2 ? [text(-15, `${name} ${share}`)] : [text(25, name), text(41, share)];
    }));
  };
  return { element: make("div", { class: "knob three" }, picture), show };
};
