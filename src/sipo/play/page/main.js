// The page: it asks what is served, lays the columns out, and keeps the link up to date.
import { Column } from "./column.js";
import { lately, make, number } from "./dom.js";
import { about as asked, Problem, useKey } from "./endpoint.js";
import { Front } from "./front.js";
import { beginning, evenly, fromFragment, LETTERS, runOf, toFragment } from "./state.js";
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
    this.keep = lately(() => history.replaceState(null, "", this.fragment), 150);
    find(".chart-of-front").replaceChildren(this.front.element);
    this.title();
    this.listen();
    find(".stage").hidden = false;
    this.restore(location.hash);
  }

  title() {
    const { run, runs, objectives, decoding, tokens, remarks } = this.about;
    document.title = `${run} · sipo play`;
    find("h1").replaceChildren(runs.length > 1 ? this.choice(runs, run) : run);
    find(".remarks").replaceChildren(...remarks.map((each) => make("p", { class: "notice" }, each)));
    find(".goals").replaceChildren(...objectives.flatMap(({ name, better, direction }) => [
      make("dt", {}, name), make("dd", {}, direction === "minimize" ? `${better} (Lower rewards are better.)` : better)]));
    find(".of-functions").hidden = objectives.every((each) => each.scored !== "function");
    if (objectives.length === 3) find("#keys").append(` ${KEYS}`);
    this.form.temperature.placeholder = `${number(decoding.temperature)}, the run’s`;
    this.form.tokens.placeholder = `${tokens.usual}, the run’s`;
    this.form.tokens.max = tokens.most;
  }

  // Another run has another page.
  choice(runs, run) {
    const select = make("select", { "aria-label": "Run" }, ...runs.map((name) => make("option", { selected: name === run }, name)));
    select.addEventListener("change", () => {
      history.pushState(null, "", `#${new URLSearchParams({ run: select.value, prompt: this.form.prompt.value })}`);
      location.reload();
    });
    return select;
  }

  get fragment() {
    return toFragment(this.state, this.about);
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
    this.asked = false;
    if (state.asked) this.ask();
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
    if (what === "turned") column.settled();
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
    const running = this.columns.some((each) => each.running);
    for (const each of this.columns) each.element.classList.toggle("stale", each.isStale(this.question));
    const said = this.said();
    if (find(".status").textContent !== said) find(".status").textContent = said;
    find(".stop").disabled = !running;
    find(".add").disabled = this.columns.length === LETTERS.length;
    for (const each of document.querySelectorAll(".remove")) each.disabled = this.columns.length === 1;
  }

  said() {
    const all = this.columns.length;
    const count = (is) => this.columns.filter(is).length;
    const running = count((each) => each.running);
    if (running) return `${all - running} of ${all} answers are there`;
    const parts = [
      [count((each) => each.state === "failed"), "failed"],
      [count((each) => each.state === "stopped"), "stopped"],
      [count((each) => each.isStale(this.question)), "of an earlier question"],
    ].filter(([n]) => n > 0).map(([n, what]) => `${n} of ${all} ${what}`);
    return parts.join(", ") || (count((each) => each.state === "whole") === all ? "all answers are there" : "");
  }

  // Is there something to ask, and can it be? A field that is shut away could not say why not.
  fits() {
    const { prompt } = this.form;
    prompt.setCustomValidity(prompt.value.trim() ? "" : "Write a prompt.");
    if (this.form.checkValidity()) return true;
    for (const each of this.form.querySelectorAll("details")) each.open ||= each.querySelector(":invalid") !== null;
    return false;
  }

  ask() {
    if (!this.fits()) {
      this.form.reportValidity();
      return;
    }
    this.asked = true;
    problem("");
    for (const column of this.columns) column.ask(this.question);
    this.changed();
  }

  askOne(column) {
    if (this.fits()) column.ask(this.question);
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
    window.addEventListener("hashchange", () => {
      if (location.hash === this.fragment) return;
      const run = runOf(location.hash);
      if (run !== null && run !== this.about.run) location.reload();
      else this.restore(location.hash);
    });
  }

  async copy() {
    history.replaceState(null, "", this.fragment);
    try {
      await navigator.clipboard.writeText(location.href);
      find(".status").textContent = "the link is copied";
    } catch {
      find(".status").textContent = "the link is in the address bar"; // without encryption a browser keeps the clipboard
    }
  }
}

// The run that a link names; where it is not served, the first.
const of = async (run) => {
  try {
    return await asked(run);
  } catch (error) {
    if (error.status === 404 && run) return asked();
    throw error;
  }
};

const begin = async () => {
  try {
    const found = await of(runOf(location.hash));
    lock(false);
    problem("");
    new Page(found);
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
