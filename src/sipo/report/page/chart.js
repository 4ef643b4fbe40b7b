// Marks answer to pointers and keys; a legend hides methods or, where they would cover each other, picks one.
{
  const figure = document.querySelector("figure.front");
  const legend = [...figure.querySelectorAll(".legend button")];
  const picksOne = !figure.querySelector(".plane");
  const tip = make("div", { class: "tip", "aria-hidden": true, hidden: true });
  figure.append(tip);
  figure.querySelector(".keys").hidden = false;
  let picked = figure.dataset.focus;
  let steered = picked; // no weight steers some, which have no marks on triangles

  const point = (mark) => {
    for (const each of figure.querySelectorAll(".mark.pointed")) each.classList.remove("pointed");
    tip.hidden = !mark;
    if (!mark) return;
    const same = (each) => each.dataset.method === mark.dataset.method && each.dataset.place === mark.dataset.place;
    for (const each of mark.hasAttribute("data-place") ? figure.querySelectorAll(".mark") : [mark]) {
      if (same(each)) each.classList.add("pointed");
    }
    tip.textContent = mark.getAttribute("aria-label");
    const box = (mark.querySelector("circle") ?? mark).getBoundingClientRect();
    const left = Math.max(8, Math.min(box.left + box.width / 2 - tip.offsetWidth / 2, innerWidth - tip.offsetWidth - 8));
    const above = box.top - tip.offsetHeight - 8;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 8 ? above : Math.min(box.bottom + 8, innerHeight - tip.offsetHeight - 8)}px`;
  };

  const dress = () => {
    for (const button of legend) {
      const on = picksOne ? button.dataset.method === picked : button.getAttribute("aria-pressed") === "true";
      button.setAttribute("aria-pressed", String(on));
      for (const part of figure.querySelectorAll("svg [data-method]")) {
        if (part.dataset.method !== button.dataset.method) continue;
        const scales = part.closest(".scales");
        const here = part.closest(".triangle") ? part.dataset.method === steered : on;
        part.toggleAttribute("hidden", !here && !scales);
        if (scales) part.classList.toggle("dim", !on);
        if (on && scales) part.parentNode.querySelector(".edge").before(part); // over the dim ones
      }
    }
    for (const svg of figure.querySelectorAll("svg")) stop(svg, svg.querySelector(".mark.chosen:not([hidden])") ?? shown(svg)[0]);
  };

  const stop = (svg, mark) => { // the one stop of the tab key: where the keys are, so that the next tab leads on
    svg.querySelectorAll(".mark").forEach((each) => each.setAttribute("tabindex", "-1"));
    mark?.setAttribute("tabindex", "0");
  };

  const shown = (svg) => [...svg.querySelectorAll(".mark:not([hidden])")].sort((a, b) =>
    order(a) - order(b) || Number(a.dataset.place ?? 0) - Number(b.dataset.place ?? 0));
  const order = (mark) => legend.findIndex((button) => button.dataset.method === mark.dataset.method);

  const steps = { ArrowRight: 1, ArrowLeft: -1 };
  const jumps = { ArrowDown: 1, ArrowUp: -1 };
  const next = (mark, key) => {
    const marks = shown(mark.closest("svg"));
    const at = marks.indexOf(mark);
    if (key in steps) return marks[at + steps[key]];
    const others = marks.filter((each) => Math.sign(order(each) - order(mark)) === jumps[key]);
    const nearest = jumps[key] > 0 ? others[0] : others[others.length - 1];
    if (!nearest) return undefined;
    const mine = others.filter((each) => each.dataset.method === nearest.dataset.method);
    return mine.find((each) => each.dataset.place === mark.dataset.place) ?? mine[0];
  };

  const show = (mark) => document.dispatchEvent(new CustomEvent("answers", { detail: mark.dataset }));
  for (const mark of figure.querySelectorAll(".mark")) {
    mark.addEventListener("pointerenter", () => point(mark));
    mark.addEventListener("pointerleave", () => point(null));
    mark.addEventListener("focus", () => { stop(mark.closest("svg"), mark); point(mark); });
    mark.addEventListener("blur", () => point(null));
    mark.addEventListener("click", () => show(mark));
    mark.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") show(mark);
      else if (event.key === "Escape") point(null);
      else if (event.key in steps || event.key in jumps) next(mark, event.key)?.focus();
      else return;
      event.preventDefault();
    });
  }
  for (const button of legend) {
    button.addEventListener("click", () => {
      picked = button.dataset.method;
      if ([...figure.querySelectorAll(".triangle .mark")].some((mark) => mark.dataset.method === picked)) steered = picked;
      if (!picksOne) button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
      dress();
    });
  }
  dress();
}
