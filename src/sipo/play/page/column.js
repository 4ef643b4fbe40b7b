// One answer: its method and weights, the text as it comes, what it is worth.
import { make, number, shares, signed } from "./dom.js";
import { answer, Problem, worth } from "./endpoint.js";
import { choice, knob } from "./knob.js";
import { nearest } from "./places.js";
import { sleep } from "./turns.js";

const TRIES = 10; // of one that a full server turns away

export class Column {
  // `heard(column, what)` is told of "turned", "changed" and "removed"; `places(method)` are the weights that were measured.
  constructor(letter, at, { about, turns, heard, places }) {
    Object.assign(this, { letter, about, turns, heard, places, method: at.method, weights: at.weights, control: null, state: "idle" });
    this.answers = null; // the question, method and weights that its text answers
    const options = about.methods.map((each) => make("option", { value: each.name, title: each.says }, each.name));
    this.select = make("select", { "aria-label": `${letter}: method` }, ...options);
    this.select.addEventListener("change", () => this.put(this.select.value));
    const remove = make("button", { type: "button", class: "remove", "aria-label": `Remove ${letter}` }, "×");
    remove.addEventListener("click", () => { this.stop(); heard(this, "removed"); });
    this.knob = knob(letter, about.objectives, (weights) => this.turn(weights));
    this.choice = choice(letter, about.objectives, (weights) => this.turn(weights));
    this.still = make("p", { class: "small faint" }, "No weight steers it.");
    this.said = make("p", { class: "said small" });
    this.text = make("div", { class: "text", dir: "auto", tabindex: 0, role: "group", "aria-label": `${letter}: answer` });
    this.worth = make("div", { class: "worth" });
    const head = make("header", {}, make("strong", { class: "letter" }, letter), this.select, remove);
    this.element = make("article", { class: "card column", "aria-label": `Column ${letter}` },
      head, this.knob.element, this.choice.element, this.still, this.text, this.said, this.worth);
    this.element.addEventListener("focusin", () => heard(this, "touched"));
    this.drawn();
  }

  get known() {
    return this.about.methods.find((each) => each.name === this.method);
  }

  get running() {
    return this.control !== null;
  }

  turn(weights) {
    this.weights = weights;
    this.drawn();
    this.heard(this, "turned");
  }

  put(method, weights) {
    this.method = method;
    const wanted = weights ?? this.weights;
    this.turn(this.known.trained ? nearest(this.known.trained, wanted) : wanted);
  }

  drawn() {
    this.select.value = this.method;
    const { steered, trained } = this.known;
    this.knob.element.hidden = !steered || trained !== null;
    this.choice.element.hidden = trained === null;
    this.still.hidden = steered;
    if (trained) this.choice.show(this.weights, trained);
    else this.knob.show(this.weights, this.places(this.method));
  }

  // Does it answer something else than what would be asked now?
  isStale(question) {
    return this.answers !== null && this.answers !== this.key(question);
  }

  key(question) {
    return JSON.stringify([question, this.method, this.known.steered ? this.weights : null]);
  }

  stop() {
    this.control?.abort();
  }

  tell(text, state) {
    this.state = state;
    this.said.textContent = text;
    this.said.className = state === "failed" ? "said small notice" : "said small faint";
    this.element.setAttribute("aria-busy", String(state === "waits" || state === "writes"));
    this.heard(this, "changed");
  }

  // Whatever was under way for this column ends; `question` has the prompt and how the answer is drawn.
  async ask(question) {
    this.stop();
    const control = new AbortController();
    this.control = control;
    const { signal } = control;
    this.text.textContent = "";
    this.worth.replaceChildren();
    this.answers = this.key(question);
    this.tell("waits for its turn", "waits");
    try {
      const found = await this.turns.take(signal, () => this.hear(question, signal));
      await this.value(question.prompt, found, signal);
    } catch (error) {
      if (this.control !== control) return; // another question has taken its place
      if (error.name === "AbortError") this.tell("stopped", "stopped");
      else if (error instanceof Problem) this.tell(error.message, "failed");
      else throw error;
      if (error.status === 401) this.heard(this, "locked");
    } finally {
      if (this.control === control) {
        this.control = null;
        this.heard(this, "changed");
      }
    }
  }

  async hear({ prompt, ...drawn }, signal) {
    const weights = Object.fromEntries(this.about.objectives.map((each, i) => [each.name, this.weights[i]]));
    const body = {
      model: `${this.about.run}/${this.method}`, messages: [{ role: "user", content: prompt }],
      ...(this.known.steered ? { weights } : {}), ...drawn,
    };
    for (let turn = 1; ; turn += 1) {
      this.tell("is asked", "writes");
      try {
        return await answer(body, signal, (piece) => {
          if (!this.text.textContent) this.tell("writes", "writes");
          this.text.append(piece);
        });
      } catch (error) {
        if (error.status !== 429 || turn === TRIES) throw error;
        for (let left = error.retry; left > 0; left -= 1) {
          this.tell(`${error.message} Asks again in ${left} s.`, "waits");
          await sleep(1, signal);
        }
      }
    }
  }

  async value(prompt, found, signal) {
    const facts = [`${found.tokens ?? "?"} tokens`];
    if (found.finish === "length") facts.push("cut by the limit");
    if (!found.text) facts.unshift("empty");
    this.tell(facts.join(", "), "whole");
    try {
      const known = await worth({ run: this.about.run, prompt, response: found.text, ended: found.finish !== "length" }, signal);
      this.worth.replaceChildren(...worthOf(this.letter, this.about.objectives, known));
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      this.worth.replaceChildren(make("p", { class: "small faint" }, `What it is worth is not known: ${error.message}`));
    }
  }
}

const worthOf = (letter, objectives, { implicit, rewards }) => {
  const columns = [];
  if (objectives.some((each) => rewards[each.name] !== null)) columns.push(["true reward", (name) => number(rewards[name])]);
  if (implicit) columns.push(["implicit", (name) => signed(implicit[name])]);
  if (!columns.length) return [];
  const head = make("tr", {}, make("td"), ...columns.map(([title]) => make("th", { scope: "col" }, title)));
  const rows = objectives.map(({ name }) => make("tr", {}, make("th", { class: "lead", scope: "row" }, name),
    ...columns.map(([, cell]) => make("td", {}, cell(name)))));
  return [make("table", { "aria-label": `${letter}: worth` }, make("thead", {}, head), make("tbody", {}, ...rows))];
};
