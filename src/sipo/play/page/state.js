// What is asked, as a link keeps it: the prompt, each column's method and weights, how answers are drawn. Never a key.
import { shares } from "./dom.js";
import { apart, nearest } from "./places.js";

export const LETTERS = "ABCDEFGHIJKL";
const DRAWN = { // what each may be
  temperature: (value) => value >= 0 && value <= 1000,
  tokens: (value, about) => Number.isInteger(value) && value >= 1 && value <= about.tokens.most,
  seed: (value) => Number.isSafeInteger(value) && value >= 0,
};

const corner = (n, at) => Array.from({ length: n }, (_, i) => (i === at ? 1 : 0));

export const evenly = (n) => Array(n).fill(1 / n);

export const beginning = (about) => {
  const n = about.objectives.length;
  const usual = about.methods.find((each) => each.name === about.usual);
  const columns = [0, 1].map((at) => ({ method: usual.name, weights: trainedAt(usual, corner(n, at)) }));
  return { prompt: about.prompt, columns, temperature: "", tokens: "", seed: "0", asked: false };
};

export const toFragment = (state, about) => {
  const parts = new URLSearchParams({ run: about.run, of: names(about).join(","), prompt: state.prompt });
  for (const { method, weights } of state.columns) parts.append("at", `${method}@${weights.map(String).join(",")}`);
  for (const name of Object.keys(DRAWN)) if (state[name] !== "") parts.set(name, state[name]);
  if (state.asked) parts.set("asked", "1");
  return `#${parts}`;
};

export const runOf = (fragment) => read(fragment).get("run");

// What of a link fits this run, and what does not, in sentences. Links without a run and objectives are taken as they are.
export const fromFragment = (fragment, about) => {
  const state = beginning(about);
  const parts = read(fragment);
  const missed = [];
  if (![...parts].length) return { state, missed };
  state.prompt = parts.get("prompt") ?? state.prompt;
  if ((parts.get("run") ?? about.run) !== about.run) missed.push(`The link is of the run “${parts.get("run")}”, which is not served here; this is ${about.run}.`);
  for (const [name, fits] of Object.entries(DRAWN)) {
    const text = parts.get(name) ?? state[name];
    if (text === "" || fits(Number(text), about)) state[name] = text;
    else missed.push(`The link has the ${name} “${text}”, which cannot be; the usual one stands in its place.`);
  }
  const order = orderOf(parts.get("of"), about);
  if (!order) missed.push(`The link is of the objectives ${parts.get("of")}, and this run’s are ${names(about).join(", ")}; even weights stand in their place.`);
  const columns = parts.getAll("at").slice(0, LETTERS.length).map((text) => column(text, about, order, missed));
  if (columns.length) state.columns = columns;
  state.asked = parts.get("asked") === "1" && missed.length === 0;
  return { state, missed };
};

const read = (fragment) => new URLSearchParams(fragment.replace(/^#/, ""));

const names = (about) => about.objectives.map((each) => each.name);

// Where in a link stands the weight of each of this run's objectives; null where it is of others.
const orderOf = (given, about) => {
  const [here, there] = [names(about), given === null ? names(about) : given.split(",")];
  const order = here.map((name) => there.indexOf(name));
  return here.length === there.length && !order.includes(-1) ? order : null;
};

const column = (text, about, order, missed) => {
  const [name, numbers] = [text.slice(0, text.lastIndexOf("@")), text.slice(text.lastIndexOf("@") + 1)];
  const n = about.objectives.length;
  const method = about.methods.find((each) => each.name === name) ?? about.methods.find((each) => each.name === about.usual);
  if (method.name !== name) missed.push(`The link names the method “${name}”, which this run has not; ${about.usual} stands in its place.`);
  if (!order) return { method: method.name, weights: trainedAt(method, evenly(n)) };
  const given = numbers.split(",").map((each) => (each.trim() === "" ? NaN : Number(each)));
  const total = given.reduce((sum, each) => sum + each, 0);
  const fits = given.length === n && given.every((each) => each >= 0) && total > 0 && Number.isFinite(total);
  if (!fits) missed.push(`The link has weights “${numbers}”, which are none of ${n} objectives; even ones stand in their place.`);
  const scale = Math.abs(total - 1) < 1e-6 ? 1 : total;
  const wanted = fits ? order.map((at) => given[at] / scale) : evenly(n);
  const weights = trainedAt(method, wanted);
  if (fits && weights !== wanted && apart(weights, wanted) > 1e-6) {
    missed.push(`The link has ${name} at ${shares(about.objectives, wanted)}, where it is not trained; the nearest weight stands in its place.`);
  }
  return { method: method.name, weights };
};

const trainedAt = ({ trained }, weights) => (trained ? nearest(trained, weights) : weights);
