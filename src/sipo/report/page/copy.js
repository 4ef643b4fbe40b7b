for (const button of document.querySelectorAll("[data-copy]")) {
  if (!navigator.clipboard) break; // a browser may keep it from pages that were opened as files
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.previousElementSibling.textContent);
    button.textContent = "copied";
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  });
}
