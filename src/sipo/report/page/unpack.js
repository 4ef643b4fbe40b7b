// Texts come packed (pack.py): base64 of deflated JSON. They reach the page as text nodes only, so no markup acts.
const unpack = (section) => {
  const bytes = Uint8Array.from(atob(section.querySelector("template[data-pack]").content.textContent), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).json();
};

const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
};

const folded = (text) => text.toLowerCase().replace(/\s+/g, " ");

// Keeps only the last of many calls, so that typing does not wait for lists.
const lately = (act, delay = 120) => {
  let timer = 0;
  return () => { clearTimeout(timer); timer = setTimeout(act, delay); };
};
