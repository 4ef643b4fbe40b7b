// The front of the run: every evaluated point, and where the columns stand. Two objectives are a plane, else a scale each.
import { axis } from "./axes.js";
import { make, number, shares, svg } from "./dom.js";
import { standing } from "./places.js";

const [WIDTH, HIGH, LEFT, RIGHT, TOP, BOTTOM, ROW] = [520, 400, 46, 14, 30, 44, 62];

const short = (name) => (name.length > 30 ? `${name.slice(0, 29)}…` : name);

// By method the points, with weights and rewards as arrays in the order of the objectives.
const listed = (about) => Object.fromEntries(Object.entries(about.front?.methods ?? {}).map(([method, points]) => [method,
  points.map((point) => ({
    weights: point.weights && about.objectives.map(({ name }) => point.weights[name]),
    rewards: about.objectives.map(({ name }) => point.rewards[name]),
    interval: point.interval && about.objectives.map(({ name }) => point.interval[name]),
  }))]));

export class Front {
  // `put(method, weights)` is told of a point that was chosen.
  constructor(about, put) {
    Object.assign(this, { about, put, points: listed(about) });
    this.looks = Object.fromEntries(about.methods.map((each) => [each.name, each]));
    this.picture = make("div");
    this.lines = make("ul", { class: "stands small" });
    this.element = make("figure", { class: "front", "aria-labelledby": "front" }, this.picture, this.lines, ...this.legend());
  }

  places(method) {
    return (this.points[method] ?? []).filter((each) => each.weights).map((each) => each.weights);
  }

  legend() {
    const { front, objectives } = this.about;
    if (!front) return [];
    const names = Object.keys(this.points).map((method) => make("li", {}, this.symbol(method), ` ${method}`));
    const prompts = front.prompts ? `, ${front.prompts} prompt${front.prompts === 1 ? "" : "s"}` : "";
    const caption = make("figcaption", {}, `${front.heading.charAt(0).toUpperCase()}${front.heading.slice(1)}${prompts}; bars are 95 % intervals, answers drawn as the run draws them. A letter is a column: `
      + `filled where its weight was measured, else ${objectives.length === 2 ? "on the line between the points beside it" : "at the nearest point"}.`);
    return [make("ul", { class: "lines", "aria-label": "Methods" }, ...names), caption, this.numbers()];
  }

  symbol(method) {
    const mark = make("span", { class: "swatch", "aria-hidden": true }, this.looks[method]?.symbol ?? "●");
    mark.style.color = this.looks[method]?.color ?? "gray";
    return mark;
  }

  numbers() {
    const { objectives } = this.about;
    const rows = Object.entries(this.points).flatMap(([method, points]) => points.map((point, i) => {
      const weights = point.weights ? shares(objectives, point.weights) : points.length > 1 ? `draw ${i + 1}` : "no weight steers it";
      const use = make("button", { type: "button", "aria-label": `Put the column touched last at ${method}, ${weights}` }, "use");
      use.addEventListener("click", () => this.put(method, point.weights));
      const known = this.looks[method] ? [use] : [];
      return make("tr", {}, make("th", { class: "lead", scope: "row" }, method), make("td", { class: "lead" }, weights),
        ...point.rewards.map((value, i) => make("td", {}, measured(value, point.interval?.[i]))), make("td", {}, ...known));
    }));
    const heads = ["method", "weights", ...objectives.map((each) => each.name), "column"];
    const head = make("tr", {}, ...heads.map((text, i) => make("th", { scope: "col", class: i < 2 ? "lead" : null }, text)));
    return make("details", {}, make("summary", {}, "The points as numbers"),
      make("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "The points as numbers" },
        make("table", { "aria-label": "The points as numbers" }, make("thead", {}, head), make("tbody", {}, ...rows))));
  }

  // `columns` have a letter, a method and weights.
  show(columns) {
    if (!this.about.front) {
      this.lines.replaceChildren(make("li", {}, "Nothing is measured of this run as it is configured now, so there is no front to stand on."));
      return;
    }
    const stands = columns.map((each) => ({ ...each, at: standing(this.points[each.method], each.weights) }));
    this.lines.replaceChildren(...stands.map((each) => make("li", {}, this.told(each))));
    this.picture.replaceChildren(this.about.objectives.length === 2 ? this.plane(stands) : this.scales(stands));
  }

  told({ letter, method, at }) {
    const { objectives } = this.about;
    if (!at) return `${letter}: ${method} was not measured.`;
    const worth = objectives.map(({ name }, i) => `${name} ${at.kind === "measured" ? measured(at.rewards[i], at.interval?.[i]) : number(at.rewards[i])}`).join(", ");
    if (at.kind === "drawn") return `${letter}: mean of ${at.draws} draws, ${worth}.`;
    if (at.kind === "measured") return `${letter}: measured, ${worth}.`;
    return at.kind === "between" ? `${letter}: between measured points, about ${worth}.` : `${letter}: nearest measured is ${shares(objectives, at.weights)}, ${worth}.`;
  }

  axis(at, start, end) {
    const values = Object.values(this.points).flat().flatMap((point) => [point.rewards[at], ...(point.interval?.[at] ?? [])]);
    return axis(values, this.about.front.directions[this.about.objectives[at].name] === "maximize", start, end);
  }

  mark(method, point, x, y, bars, used) {
    const look = this.looks[method];
    const group = svg("g", { class: used ? "mark" : "mark unused" }, svg("title", {}, `${method}${point.weights ? `, ${shares(this.about.objectives, point.weights)}` : ""}`),
      ...(bars ? [svg("path", { class: "bars", d: bars })] : []), svg("circle", { class: "halo", cx: x, cy: y, r: 9 }), svg("text", { class: "symbol", x, y }, look?.symbol ?? "●"));
    group.style.setProperty("--color", look?.color ?? "gray");
    if (look) group.addEventListener("click", () => this.put(method, point.weights));
    return group;
  }

  plane(stands) {
    const [x, y] = [this.axis(0, LEFT, WIDTH - RIGHT), this.axis(1, HIGH - BOTTOM, TOP)];
    const [across, up] = this.about.objectives;
    const picture = svg("svg", { class: "chart plane", viewBox: `0 0 ${WIDTH} ${HIGH}`, role: "img", "aria-label": `Front of ${across.name} and ${up.name}; where the columns stand is said below` });
    for (const [at, label] of x.ticks) picture.append(svg("line", { class: "grid", x1: at, x2: at, y1: TOP, y2: HIGH - BOTTOM }), svg("text", { x: at, y: HIGH - BOTTOM + 16, "text-anchor": "middle" }, label));
    for (const [at, label] of y.ticks) picture.append(svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: at, y2: at }), svg("text", { x: LEFT - 6, y: at + 4, "text-anchor": "end" }, label));
    picture.append(svg("text", { class: "name", x: WIDTH - RIGHT, y: HIGH - 6, "text-anchor": "end" }, `${short(across.name)} (${x.better}) →`), svg("text", { class: "name", x: 0, y: 14 }, `↑ ${short(up.name)} (${y.better})`));
    const place = ({ rewards }) => [x.place(rewards[0]), y.place(rewards[1])];
    const used = new Set(stands.map((each) => each.method));
    for (const [method, points] of this.ordered(used)) {
      if (points.length > 1 && points[0].weights) {
        const line = svg("path", { class: used.has(method) ? "line" : "line unused", d: `M${points.map((each) => place(each).join(",")).join("L")}` });
        line.style.setProperty("--color", this.looks[method]?.color ?? "gray");
        picture.append(line);
      }
      for (const point of points) {
        const [cx, cy] = place(point);
        picture.append(this.mark(method, point, cx, cy, used.has(method) && point.interval ? cross(point.interval, x, y, cx, cy) : "", used.has(method)));
      }
    }
    picture.append(...letters(stands.filter((each) => each.at).map((each) => [each, ...place(each.at)])));
    return picture;
  }

  scales(stands) {
    const { objectives } = this.about;
    const high = 12 + ROW * objectives.length;
    const picture = svg("svg", { class: "chart scale", viewBox: `0 0 ${WIDTH} ${high}`, role: "img", "aria-label": "The front, a scale for each objective; where the columns stand is said below" });
    const used = new Set(stands.map((each) => each.method));
    objectives.forEach((objective, i) => {
      const [scale, y] = [this.axis(i, 10, WIDTH - 10), 36 + ROW * i];
      picture.append(svg("text", { class: "name", x: 4, y: y - 18 }, `${short(objective.name)} (${scale.better}) →`), svg("line", { class: "edge", x1: 4, x2: WIDTH - 4, y1: y, y2: y }));
      for (const [at, label] of scale.ticks) picture.append(svg("line", { class: "edge", x1: at, x2: at, y1: y - 3, y2: y + 3 }), svg("text", { class: "tick", x: at, y: y + 18, "text-anchor": "middle" }, label));
      for (const [method, points] of this.ordered(used)) for (const point of points) picture.append(this.mark(method, point, scale.place(point.rewards[i]), y, "", used.has(method)));
      for (const { at } of stands) if (at?.interval) picture.append(svg("path", { class: "interval", d: `M${at.interval[i].map((value) => scale.place(value)).join(`,${y}L`)},${y}` }));
      picture.append(...letters(stands.filter((each) => each.at).map((each) => [each, scale.place(each.at.rewards[i]), y])));
    });
    return picture;
  }

  // Those in use lie over the others.
  ordered(used) {
    return Object.entries(this.points).sort(([a], [b]) => used.has(a) - used.has(b));
  }
}

const measured = (value, interval) => (interval ? `${number(value)} [${number(interval[0])}, ${number(interval[1])}]` : number(value));

// A point's two intervals.
const cross = ([across, along], x, y, cx, cy) => `M${x.place(across[0])},${cy}H${x.place(across[1])}M${cx},${y.place(along[0])}V${y.place(along[1])}`;

// Letters at one place stand side by side.
const letters = (stands) => stands.map(([{ letter, at }, x, y], i) => {
  const before = stands.slice(0, i).filter(([, otherX, otherY]) => Math.hypot(otherX - x, otherY - y) < 14).length;
  const across = Math.min(x, WIDTH - 12) + 19 * before * (x > WIDTH / 2 ? -1 : 1);
  return svg("g", { class: ["measured", "drawn"].includes(at.kind) ? "stand" : "stand open" }, svg("circle", { cx: across, cy: y, r: 10 }), svg("text", { x: across, y }, letter));
});
