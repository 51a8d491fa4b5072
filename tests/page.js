// Runs the script of an interactive view on a document of its own making, so that tests need no browser:
//   node page.js view.html '[["click", "button", 3], ["change", "select", 0, "1"]]'
// Prints the status line, all elements below #view in order, and what was painted on canvases.
// It knows no markup, so text that a view inserts as HTML would raise: there is no innerHTML.
"use strict";
const fs = require("fs");
const html = fs.readFileSync(process.argv[2], "utf8");
const part = (pattern) => html.match(pattern)[1];

class Element {
  constructor(tag) { Object.assign(this, {tag, attributes: {}, children: [], listeners: {}, painted: []}); }
  setAttribute(name, value) {
    if (typeof value !== "string") throw new TypeError(`${name} of ${this.tag} is no text: ${value}`);
    this.attributes[name] = value;
  }
  addEventListener(name, act) { (this.listeners[name] ||= []).push(act); }
  append(...parts) {
    for (const part of parts) {
      if (typeof part !== "string" && !(part instanceof Element)) throw new TypeError(`appended ${part}`);
    }
    this.children.push(...parts);
  }
  replaceChildren(...parts) { this.children = []; this.append(...parts); }
  get textContent() { return this.children.map((c) => typeof c === "string" ? c : c.textContent).join(""); }
  set textContent(text) { this.children = [String(text)]; }
  get value() { return this.chosen ?? "0"; }
  focus() { this.fire("focus", {}); }
  fire(name, event) { for (const act of this.listeners[name] || []) act({preventDefault() {}, ...event}); }
  get clientWidth() { return Number(this.attributes.width); }
  get clientHeight() { return Number(this.attributes.height); }
  getContext() {
    const painted = this.painted;
    return {fillRect(x, y, width, height) { painted.push([x, y, width, height, this.globalAlpha]); }};
  }
  *all() {
    for (const child of this.children) {
      if (child instanceof Element) { yield child; yield* child.all(); }
    }
  }
}

const parts = {data: new Element("script"), view: new Element("main"), status: new Element("p")};
parts.data.textContent = part(/<script type="application\/json" id="data">([\s\S]*?)<\/script>/);
globalThis.document = {getElementById: (id) => parts[id], createElement: (tag) => new Element(tag)};
(0, eval)(part(/<script>([\s\S]*?)<\/script>/));

for (const [name, tag, index, detail] of JSON.parse(process.argv[3] || "[]")) {
  const wanted = [...parts.view.all()].filter((e) => e.tag === tag || e.attributes.class?.split(" ")[0] === tag);
  if (name === "change") wanted[index].chosen = detail;
  wanted[index].fire(name, typeof detail === "object" ? detail : {});
}
console.log(JSON.stringify({
  status: parts.status.textContent,
  elements: [...parts.view.all()].map((e) => ({
    tag: e.tag, ...e.attributes, text: e.textContent, painted: e.painted, acts: Object.keys(e.listeners),
  })),
}));
