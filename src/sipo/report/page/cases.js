// Rows side by side: searched and sorted as data, drawn a page at a time.
if (document.querySelector("#cases")) {
  const section = document.querySelector("#cases");
  const [search, list, more, paper] = ["input", ".list", ".more", ".print"].map((each) => section.querySelector(each));
  const [only, sort] = ["[data-only]", "[data-sort]"].map((each) => section.querySelector(each));
  const PAGE = 10;

  const judged = (columns, rows, reasons) => {
    const cell = (tag, text, i) => make(tag, { class: i ? (["yes", "no"].includes(text) ? text : null) : "lead" }, text);
    const line = (tag) => (texts) => make("tr", {}, ...texts.map((text, i) => cell(tag, text, i)));
    const table = make("table", {}, make("thead", {}, line("th")(columns)), make("tbody", {}, ...rows.map(line("td"))));
    const against = reasons.length ? `, and ${reasons.length} reason${reasons.length > 1 ? "s" : ""} against it` : "";
    const details = make("details", {}, make("summary", {}, `Rewards by judge${against}`), make("div", { class: "scroll" }, table));
    if (reasons.length) details.append(make("ul", { class: "fate" }, ...reasons.map((reason) => make("li", {}, reason))));
    return details;
  };
  const drawn = (each) => {
    const parts = each.cards.filter((cards) => cards.length).map((cards) => make("div", { class: "cards" }, ...cards.map(card)));
    const truly = each.better === null ? "" : each.better ? "; truly better than both originals" : "; not truly better than both originals";
    const article = make("article", { id: `case-${each.id}` }, make("p", { class: "prompt text", dir: "auto" }, each.prompt), ...parts);
    article.append(make("p", { class: "fate" }, each.fate + truly));
    if (each.judges) article.append(judged(each.judges[0], each.judges.slice(1), each.reasons));
    return article;
  };

  const start = ({ records }) => {
    const lengths = records.map((each) => Math.max(...each.cards.flat().map((one) => one.text.length)));
    const texts = records.map((each) => folded([each.prompt, each.fate, ...each.reasons, ...each.cards.flat().map((one) => one.text)].join(" ")));
    const keeps = {
      "": () => true, chosen: (i) => records[i].chosen,
      better: (i) => records[i].better === true, worse: (i) => records[i].better === false,
    };
    const orders = {
      "": (a, b) => a - b, longest: (a, b) => lengths[b] - lengths[a],
      fewest: (a, b) => records[b].chosen - records[a].chosen || records[a].reasons.length - records[b].reasons.length,
      prompt: (a, b) => (records[a].prompt < records[b].prompt ? -1 : 1),
    };
    let found = [];
    const grow = () => {
      const shown = list.childElementCount;
      list.append(...found.slice(shown, shown + PAGE).map((i) => drawn(records[i])));
      more.hidden = list.childElementCount >= found.length;
      paper.textContent = more.hidden ? "" : `The first ${list.childElementCount} of ${found.length} are printed.`;
    };
    const find = () => {
      const words = folded(search.value).split(" ").filter(Boolean);
      found = records.map((_, i) => i).filter((i) => keeps[only.value](i) && words.every((word) => texts[i].includes(word)));
      found.sort(orders[sort.value]);
      section.querySelector("output").textContent = `${found.length} of ${records.length}`;
      list.replaceChildren();
      grow();
    };
    search.addEventListener("input", lately(find));
    only.addEventListener("change", find);
    sort.addEventListener("change", find);
    more.addEventListener("click", () => {
      const first = list.childElementCount;
      grow();
      list.children[first].tabIndex = -1; // keys go on where the new ones begin
      list.children[first].focus({ preventScroll: true });
    });
    section.querySelector(".controls").hidden = false;
    find();
  };
  unpacked(section, start);
}
