// One prompt across the weights: a slider for two objectives, one each for more, over the weights that were measured.
{
  const section = document.querySelector("#knob");
  const [live, still] = [section.querySelector(".live"), section.querySelector(".still")];
  const toggles = [...section.querySelectorAll(".legend button")];
  const search = section.querySelector("input[type=search]");
  const sliders = section.querySelector(".sliders");

  const start = ({ records, objectives, rewarded, places, first }) => {
    let [found, at, place] = [records, 0, first];
    const name = (weights) => objectives.map((each, i) => `${each} ${Number(weights[i].toPrecision(3))}`).join(" · ");

    const draw = () => {
      const record = found[at];
      section.querySelector("output").textContent = record ? `${at + 1} of ${found.length}` : "none found";
      live.querySelector(".prompt").textContent = record?.prompt ?? "";
      live.querySelector(".weights").textContent = places.length ? name(places[place]) : "";
      live.querySelector(".cards").replaceChildren(...toggles.flatMap((toggle) => {
        const answers = record?.answers[toggle.dataset.method];
        if (!answers || toggle.getAttribute("aria-pressed") !== "true") return [];
        const [text, rewards, tokens, cut] = answers[place] ?? answers[0];
        const title = [...toggle.childNodes].map((node) => node.cloneNode(true));
        return [card({ title, text, tokens, cut, rewards: Object.fromEntries(rewarded.map((each, i) => [each, rewards[i]])) })];
      }));
      for (const slider of sliders.querySelectorAll("input")) slider.turn();
    };

    const slide = (label, ends, shares, now, go) => {
      const input = make("input", { type: "range", min: 0, max: shares.length - 1, step: 1, "aria-label": label });
      input.turn = () => { input.value = now(); input.setAttribute("aria-valuetext", name(places[place])); };
      input.addEventListener("input", () => { go(Number(input.value)); draw(); });
      sliders.append(make("div", { class: "slider" }, make("span", {}, ends[0]), input, make("span", {}, ends[1])));
    };
    if (objectives.length === 2 && places.length > 1) {
      const order = places.map((_, i) => i).sort((a, b) => places[b][0] - places[a][0]);
      slide("weight", [`all ${objectives[0]}`, `all ${objectives[1]}`], order, () => order.indexOf(place), (i) => { place = order[i]; });
    } else if (places.length > 1) {
      objectives.forEach((each, i) => {
        const shares = [...new Set(places.map((weights) => weights[i]))].sort((a, b) => a - b);
        const apart = (weights) => Math.hypot(...weights.map((share, k) => share - places[place][k]));
        slide(`weight of ${each}`, [each, ""], shares, () => shares.indexOf(places[place][i]), (step) => {
          const fit = places.map((_, k) => k).filter((k) => places[k][i] === shares[step]);
          place = fit.reduce((best, k) => (apart(places[k]) < apart(places[best]) ? k : best));
        });
      });
    }

    const texts = records.map((record) => folded([record.prompt, ...Object.values(record.answers).flat().map(([text]) => text)].join(" ")));
    const find = () => {
      const words = folded(search.value).split(" ").filter(Boolean);
      found = records.filter((_, i) => words.every((word) => texts[i].includes(word)));
      at = 0;
      draw();
    };
    search.addEventListener("input", lately(find));
    for (const button of section.querySelectorAll("[data-step]")) {
      button.addEventListener("click", () => { at = (at + Number(button.dataset.step) + found.length) % (found.length || 1); draw(); });
    }
    const press = (toggle, on) => toggle.setAttribute("aria-pressed", String(on));
    for (const toggle of toggles) {
      toggle.addEventListener("click", () => { press(toggle, toggle.getAttribute("aria-pressed") !== "true"); draw(); });
    }
    document.addEventListener("answers", ({ detail }) => { // a point of the front was chosen
      toggles.filter((toggle) => toggle.dataset.method === detail.method).forEach((toggle) => press(toggle, true));
      place = Number(detail.place ?? place);
      draw();
      section.scrollIntoView({ behavior: "smooth" });
      sliders.querySelector("input")?.focus({ preventScroll: true });
    });
    still.classList.add("print");
    live.hidden = section.querySelector(".controls").hidden = false;
    find(); // a browser may have kept what was typed before a reload
  };
  unpacked(section, start);
}
