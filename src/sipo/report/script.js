"use strict";
// Each list of articles has its own controls; without scripts everything is shown.
for (const list of document.querySelectorAll("[data-list]")) {
  const search = list.querySelector("input[type=search]");
  const only = list.querySelector("input[type=checkbox]");
  const place = list.querySelector("select");
  const count = list.querySelector("output");
  const plain = (text) => text.toLowerCase().replace(/\s+/g, " ");
  const articles = [...list.querySelectorAll("article")].map((element) => ({
    element,
    text: plain([...element.querySelectorAll(".text, .fate")].map((part) => part.textContent).join(" ")),
  }));

  const show = () => {
    const words = plain(search.value).split(" ").filter(Boolean);
    let shown = 0;
    for (const { element, text } of articles) {
      const found = words.every((word) => text.includes(word));
      element.hidden = !found || Boolean(only && only.checked && !element.hasAttribute("data-chosen"));
      shown += element.hidden ? 0 : 1;
    }
    count.textContent = `${shown} of ${articles.length} shown`;
  };

  const turn = () => {
    for (const card of list.querySelectorAll("[data-place]")) {
      card.hidden = card.dataset.place !== place.value;
    }
  };

  search.addEventListener("input", show);
  if (only) only.addEventListener("change", show);
  if (place) place.addEventListener("change", turn);
  list.querySelector(".controls").hidden = false;
  show(); // a browser may have kept what was typed before a reload
  if (place) turn();
}
