// What is asked, as a link keeps it: the prompt, each column's method and weights, how answers are drawn. Never a key.
export const LETTERS = "ABCDEFGHIJKL";
const DRAWN = ["temperature", "tokens", "seed"];

const corner = (n, at) => Array.from({ length: n }, (_, i) => (i === at ? 1 : 0));

export const evenly = (n) => Array(n).fill(1 / n);

export const beginning = (about) => {
  const n = about.objectives.length;
  const columns = [0, 1].map((at) => ({ method: about.usual, weights: corner(n, at) }));
  return { prompt: about.prompt, columns, temperature: "", tokens: "", seed: "0", asked: false };
};

export const toFragment = (state) => {
  const parts = new URLSearchParams();
  parts.set("prompt", state.prompt);
  for (const { method, weights } of state.columns) parts.append("at", `${method}@${weights.map(String).join(",")}`);
  for (const name of DRAWN) if (state[name] !== "") parts.set(name, state[name]);
  if (state.asked) parts.set("asked", "1");
  return `#${parts}`;
};

// What of a link fits this run, and what does not, in sentences.
export const fromFragment = (fragment, about) => {
  const state = beginning(about);
  const parts = new URLSearchParams(fragment.replace(/^#/, ""));
  const missed = [];
  if (![...parts].length) return { state, missed };
  state.prompt = parts.get("prompt") ?? state.prompt;
  for (const name of DRAWN) {
    const text = parts.get(name) ?? state[name];
    if (text === "" || (Number.isFinite(Number(text)) && Number(text) >= 0)) state[name] = text;
  }
  const columns = parts.getAll("at").slice(0, LETTERS.length).map((text) => column(text, about, missed));
  if (columns.length) state.columns = columns;
  state.asked = parts.get("asked") === "1" && missed.length === 0;
  return { state, missed };
};

const column = (text, about, missed) => {
  const [method, numbers] = [text.slice(0, text.lastIndexOf("@")), text.slice(text.lastIndexOf("@") + 1)];
  const n = about.objectives.length;
  const weights = numbers.split(",").map(Number);
  const total = weights.reduce((sum, each) => sum + each, 0);
  const known = about.methods.some((each) => each.name === method);
  const fits = weights.length === n && weights.every((each) => Number.isFinite(each) && each >= 0) && total > 0;
  if (!known) missed.push(`The link names the method “${method}”, which this run has not; ${about.usual} stands in its place.`);
  if (!fits) missed.push(`The link has weights “${numbers}”, which are none of ${n} objectives; even ones stand in their place.`);
  const scale = Math.abs(total - 1) < 1e-6 ? 1 : total;
  return { method: known ? method : about.usual, weights: fits ? weights.map((each) => each / scale) : evenly(n) };
};
