// A text with what is known of it. Numbers look as the page's own do (parts.py).
const number = (value) => {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const text = Number.isInteger(value) ? value.toLocaleString("en") : size < 0.0001 ? value.toExponential(2)
    : size < 0.01 ? value.toPrecision(3) : value.toFixed(size < 10 ? 3 : size < 100 ? 2 : size < 1000 ? 1 : 0);
  return text.replace("-", "−");
};

const card = ({ title, text, rewards = {}, tokens = null, cut = false, notes = [], chosen = false }) => {
  const header = make("header", {}, make("strong", {}, ...(typeof title === "string" ? [title] : title)));
  if (chosen) header.append(make("span", { class: "badge chosen" }, "chosen"));
  for (const note of notes) header.append(make("span", { class: "faint" }, note));
  const facts = Object.entries(rewards).map(([name, value]) => `${name} ${number(value)}`);
  if (tokens !== null) facts.push(`${tokens} token${tokens === 1 ? "" : "s"}`);
  const footer = make("footer", {}, facts.join(" · "));
  if (cut) footer.append(" ", make("span", { class: "cut" }, "cut by the length limit"));
  const body = make("div", { class: text.trim() ? "text" : "text faint", dir: "auto" }, text.trim() ? text : "(empty)");
  return make("div", { class: chosen ? "card chosen" : "card" }, header, body, footer);
};
