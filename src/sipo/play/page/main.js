// The page: it asks what is served, lays the columns out, and keeps the link up to date.
import { Column } from "./column.js";
import { lately, make, number } from "./dom.js";
import { about as asked, Problem, useKey } from "./endpoint.js";
import { Front } from "./front.js";
import { beginning, evenly, fromFragment, LETTERS, toFragment } from "./state.js";
import { KEYS } from "./triangle.js";
import { Turns } from "./turns.js";

const find = (selector) => document.querySelector(selector);
const AT_ONCE = 4;
const SETTLED = 450; // milliseconds without a move, after which a turned column is asked anew

const problem = (text) => {
  find(".problem").textContent = text;
  find(".problem").hidden = !text;
};

const lock = (locked) => {
  find(".key").hidden = !locked;
  if (locked) find(".key input").focus();
};

class Page {
  constructor(about) {
    this.about = about;
    this.columns = [];
    this.turns = new Turns(AT_ONCE);
    this.touched = null;
    this.asked = false;
    this.front = new Front(about, (method, weights) => (this.touched ?? this.columns[0]).put(method, weights));
    this.form = find("form.ask");
    this.keep = lately(() => history.replaceState(null, "", toFragment(this.state)), 150);
    find(".chart-of-front").replaceChildren(this.front.element);
    this.title();
    this.listen();
    find(".stage").hidden = false;
    this.restore(location.hash);
  }

  title() {
    const { run, objectives, decoding, tokens } = this.about;
    document.title = `${run} · sipo play`;
    find("h1").textContent = run;
    find(".goals").replaceChildren(...objectives.flatMap(({ name, better, direction }) => [
      make("dt", {}, name), make("dd", {}, direction === "minimize" ? `${better} (Lower rewards are better.)` : better)]));
    if (objectives.length === 3) find("#keys").append(` ${KEYS}`);
    this.form.temperature.placeholder = `${number(decoding.temperature)}, the run’s`;
    this.form.tokens.placeholder = `${tokens.usual}, the run’s`;
    this.form.tokens.max = tokens.most;
  }

  get state() {
    const { prompt, temperature, tokens, seed } = this.form;
    const columns = this.columns.map(({ method, weights }) => ({ method, weights }));
    return { prompt: prompt.value, temperature: temperature.value, tokens: tokens.value, seed: seed.value, columns, asked: this.asked };
  }

  get question() {
    const { prompt, temperature, tokens, seed } = this.state;
    const given = (name, text) => (text === "" ? {} : { [name]: Number(text) });
    return { prompt, ...given("temperature", temperature), ...given("max_tokens", tokens), ...given("seed", seed) };
  }

  restore(fragment) {
    const { state, missed } = fragment ? fromFragment(fragment, this.about) : { state: beginning(this.about), missed: [] };
    for (const name of ["prompt", "temperature", "tokens", "seed"]) this.form[name].value = state[name];
    this.columns.forEach((each) => { each.stop(); each.element.remove(); });
    this.columns = [];
    state.columns.forEach((at) => this.add(at));
    problem(missed.join(" "));
    this.asked = state.asked;
    if (this.asked) this.ask();
    this.changed();
  }

  add(at) {
    const letter = [...LETTERS].find((each) => !this.columns.some((column) => column.letter === each));
    const places = (method) => this.front.places(method);
    const column = new Column(letter, at, { about: this.about, turns: this.turns, places, heard: (...what) => this.heard(...what) });
    column.settled = lately(() => { if (this.asked && this.columns.includes(column)) this.askOne(column); }, SETTLED);
    this.columns.push(column);
    find(".columns").append(column.element);
    return column;
  }

  heard(column, what) {
    if (what === "touched" || what === "turned") this.touched = column;
    if (what === "turned") {
      column.element.classList.toggle("stale", this.asked); // its text is of where the knob was
      column.settled();
    }
    if (what === "locked") lock(true);
    if (what === "removed") {
      this.columns = this.columns.filter((each) => each !== column);
      this.touched = null;
      column.element.remove();
      find(".add").focus();
    }
    this.changed();
  }

  changed() {
    this.front.show(this.columns.map(({ letter, method, weights }) => ({ letter, method, weights })));
    this.keep();
    const [all, running] = [this.columns.length, this.columns.filter((each) => each.running).length];
    const failed = this.columns.filter((each) => each.state === "failed").length;
    const said = running ? `${all - running} of ${all} answers are there` : failed ? `${failed} of ${all} failed` : this.asked ? "all answers are there" : "";
    if (find(".status").textContent !== said) find(".status").textContent = said;
    find(".stop").disabled = running === 0;
    find(".add").disabled = all === LETTERS.length;
    for (const each of document.querySelectorAll(".remove")) each.disabled = all === 1;
  }

  ask() {
    if (!this.form.reportValidity()) return;
    this.asked = true;
    problem("");
    for (const column of this.columns) column.ask(this.question);
    this.changed();
  }

  askOne(column) {
    if (this.form.checkValidity()) column.ask(this.question);
  }

  stop() {
    for (const column of this.columns) column.stop();
  }

  listen() {
    this.form.addEventListener("submit", (event) => { event.preventDefault(); this.ask(); });
    this.form.addEventListener("input", () => this.changed());
    this.form.prompt.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.ask();
    });
    document.addEventListener("keydown", (event) => { if (event.key === "Escape") this.stop(); });
    find(".stop").addEventListener("click", () => this.stop());
    find(".add").addEventListener("click", () => {
      const method = this.columns.at(-1)?.method ?? this.about.usual;
      const column = this.add({ method, weights: evenly(this.about.objectives.length) });
      column.select.focus();
      if (this.asked) this.askOne(column);
      this.changed();
    });
    find(".link").addEventListener("click", () => this.copy());
    window.addEventListener("hashchange", () => { if (location.hash !== toFragment(this.state)) this.restore(location.hash); });
  }

  async copy() {
    history.replaceState(null, "", toFragment(this.state));
    try {
      await navigator.clipboard.writeText(location.href);
      find(".status").textContent = "the link is copied";
    } catch {
      find(".status").textContent = "the link is in the address bar"; // without encryption a browser keeps the clipboard
    }
  }
}

const begin = async () => {
  try {
    const about = await asked();
    lock(false);
    problem("");
    new Page(about);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (error.status === 401) lock(true);
    if (error.status !== 401 || sessionStorage.length) problem(error.message);
  }
};

find(".key").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(find(".key input").value.trim());
  problem("");
  if (find(".stage").hidden) begin();
  else lock(false);
});

begin();
