// Texts come packed (pack.py): base64 of deflated JSON. They reach the page as text nodes only, so no markup acts.
const unpack = async (section) => {
  const bytes = Uint8Array.from(atob(section.querySelector("template[data-pack]").content.textContent), (c) => c.charCodeAt(0));
  const { readable, writable } = new DecompressionStream("deflate");
  const writer = writable.getWriter();
  writer.write(bytes);
  writer.close();
  return new Response(readable).json();
};

const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
};

const unpacked = (section, start) => unpack(section).then(start).catch((error) => {
  section.append(make("p", { class: "notice" }, `This browser does not show these texts: ${error.message}`));
});

const folded = (text) => text.toLowerCase().replace(/\s+/g, " ");

// Keeps only the last of many calls, so that typing does not wait for lists.
const lately = (act, delay = 120) => {
  let timer = 0;
  return () => { clearTimeout(timer); timer = setTimeout(act, delay); };
};
