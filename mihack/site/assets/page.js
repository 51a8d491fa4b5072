// What every page does: copy a command, and show a term's definition where the term stands.
"use strict";
(() => {
  const make = (tag, attributes) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };

  // Copying. The clipboard needs https or this computer; elsewhere the old way still works.
  const said = make("p", { role: "status", class: "away" });
  const copyOldWay = (text) => {
    const box = make("textarea", { class: "away", "aria-hidden": "true" });
    box.value = text;
    document.body.append(box);
    box.select();
    const done = document.execCommand("copy");
    box.remove();
    return done;
  };
  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      return copyOldWay(text);
    }
  };
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button.copy");
    if (!button) return;
    const done = await copy(button.dataset.copy);
    said.textContent = done ? "Copied." : "Copying failed: select the text instead.";
    button.classList.toggle("done", done);
    button.focus();
    setTimeout(() => { button.classList.remove("done"); said.textContent = ""; }, 2000);
  });

  // The skip link moves the focus and leaves the address alone: there the list keeps its state.
  document.addEventListener("click", (event) => {
    if (!event.target.closest("a.skip")) return;
    event.preventDefault();
    document.getElementById("main").focus();
  });

  // Definitions: one box, shown while a term or the box itself is pointed at or a term has the focus.
  const box = make("div", { class: "definition", role: "tooltip", hidden: "" });
  let shown = null;
  let leaving = 0;
  const place = (link) => {
    const at = link.getClientRects()[0] || link.getBoundingClientRect();
    const room = document.documentElement.clientWidth - box.offsetWidth - 8;
    box.style.left = `${Math.max(8, Math.min(at.left, room)) + scrollX}px`;
    const below = at.bottom + box.offsetHeight + 8 < innerHeight || at.top < box.offsetHeight + 8;
    box.style.top = `${(below ? at.bottom : at.top - box.offsetHeight) + scrollY}px`;
  };
  const show = (link) => {
    const source = document.getElementById(link.getAttribute("aria-describedby"));
    clearTimeout(leaving);
    if (!source) return;
    shown = link;
    box.textContent = source.textContent;
    box.hidden = false;
    place(link);
  };
  const hide = () => { box.hidden = true; shown = null; };
  const hideSoon = () => { clearTimeout(leaving); leaving = setTimeout(hide, 200); };
  const termOf = (event) => event.target.closest?.("a.term");
  document.addEventListener("pointerover", (event) => {
    if (termOf(event)) show(termOf(event));
    else if (box.contains(event.target)) clearTimeout(leaving);
    else if (shown && shown !== document.activeElement) hideSoon();
  });
  document.addEventListener("focusin", (event) => { if (termOf(event)) show(termOf(event)); else hide(); });
  document.addEventListener("focusout", hideSoon);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && shown) hide(); });

  document.addEventListener("DOMContentLoaded", () => document.body.append(said, box));
})();
