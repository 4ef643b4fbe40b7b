// Elements and numbers. Texts become text nodes, so no markup in them acts.
const fill = (element, attributes, children) => {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
};

export const make = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);

export const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

// As the report has them: three figures or more, and a real minus.
export const number = (value) => {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const text = Number.isInteger(value) ? value.toLocaleString("en")
    : size < 0.0001 ? value.toExponential(2) : size < 0.1 ? value.toPrecision(3) : value.toFixed(size < 10 ? 2 : size < 100 ? 1 : 0);
  return text.replace("-", "−");
};

export const signed = (value) => (value > 0 ? `+${number(value)}` : number(value));

export const percent = (share) => `${Number((100 * share).toPrecision(3))}\u00a0%`;

export const shares = (objectives, weights) => objectives.map((each, i) => `${each.name} ${percent(weights[i])}`).join(" · ");

// Keeps only the last of many calls.
export const lately = (act, delay) => {
  let timer = 0;
  return (...given) => { clearTimeout(timer); timer = setTimeout(act, delay, ...given); };
};
