// What turns a column's weights: a slider for two objectives, a triangle for three, bars that keep the sum for more.
import { make, percent, shares } from "./dom.js";
import { nearest } from "./places.js";
import { triangle } from "./triangle.js";

const clean = (share) => Number(share.toPrecision(12));

const range = (label, turn) => {
  const input = make("input", { type: "range", min: 0, max: 100, step: 1, "aria-label": label });
  input.addEventListener("input", () => turn(Number(input.value) / 100));
  return input;
};

const slider = (letter, objectives, turn) => {
  const [first, second] = objectives;
  const ends = [make("span"), make("span")];
  const input = range(`${letter}: weight`, (share) => turn([clean(1 - share), share]));
  const show = (weights) => {
    input.value = Math.round(100 * weights[1]);
    input.setAttribute("aria-valuetext", shares(objectives, weights));
    ends[0].textContent = `${first.name} ${percent(weights[0])}`;
    ends[1].textContent = `${percent(weights[1])} ${second.name}`;
  };
  return { element: make("div", { class: "knob two" }, make("div", { class: "ends" }, ...ends), input), show };
};

// The others keep their proportions to each other.
export const moved = (weights, at, share) => {
  const rest = weights.reduce((sum, each, i) => (i === at ? sum : sum + each), 0);
  const others = weights.length - 1;
  return weights.map((each, i) => clean(i === at ? share : rest > 0 ? (each / rest) * (1 - share) : (1 - share) / others));
};

const bars = (letter, objectives, turn) => {
  let now = [];
  const rows = objectives.map((each, i) => {
    const value = make("output");
    const input = range(`${letter}: weight of ${each.name}`, (share) => turn(moved(now, i, share)));
    return { input, value, element: make("label", { class: "bar" }, make("span", {}, each.name), input, value) };
  });
  const show = (weights) => {
    now = weights;
    rows.forEach(({ input, value }, i) => {
      input.value = Math.round(100 * weights[i]);
      input.setAttribute("aria-valuetext", percent(weights[i]));
      value.textContent = percent(weights[i]);
    });
  };
  return { element: make("div", { class: "knob many", role: "group", "aria-label": `${letter}: weights` }, ...rows.map((row) => row.element)), show };
};

// Of a method that has models for some weights alone: those, to choose from.
export const choice = (letter, objectives, turn) => {
  let known = [];
  const input = make("select", { "aria-label": `${letter}: weights that it is trained at` });
  input.addEventListener("change", () => turn(known[input.selectedIndex]));
  const show = (weights, trained) => {
    if (known !== trained) input.replaceChildren(...trained.map((each) => make("option", {}, shares(objectives, each))));
    known = trained;
    input.selectedIndex = known.indexOf(nearest(known, weights));
  };
  return { element: make("div", { class: "knob" }, input), show };
};

// `turn(weights)` is told of every move; `show(weights, places)` draws them, and the weights that were measured.
export const knob = (letter, objectives, turn) => {
  const kinds = { 2: slider, 3: triangle };
  return (kinds[objectives.length] ?? bars)(letter, objectives, turn);
};
