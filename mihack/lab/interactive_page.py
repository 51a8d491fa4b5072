"""The page behind ``interactive``: its style and its script, with nothing to fetch.

Values colour the background at most 60 percent, so that letters stay legible in light and dark; one hue
for values of one sign, blue and orange for two.  The script puts text in as text, never as markup.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

# The browser itself then refuses every request, whatever stands in the page.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'"


def document(kind: str, title: str, data: Mapping[str, Any]) -> str:
    """A whole HTML document that shows ``data`` as a view of this kind."""
    return PAGE % {
        "policy": POLICY,
        "title": markup(title),
        "style": STYLE,
        "data": script_json({"kind": kind, **data}),
        "script": SCRIPT,
    }


def markup(text: str) -> str:
    """Text as it may stand in markup or in an attribute, in ASCII."""
    return escape(text).encode("ascii", "xmlcharrefreplace").decode()


def script_json(data: Any) -> str:
    """JSON that may stand inside a script element: no text in it can end the element.

    Raises ValueError for NaN and infinities, which JSON has not: write None.
    """
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="%(policy)s">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>%(title)s</title>
<style>%(style)s</style>
</head>
<body>
<h1>%(title)s</h1>
<main id="view"></main>
<p id="status" role="status" aria-live="polite"></p>
<noscript>This view needs JavaScript. The data stands in the page as JSON.</noscript>
<script type="application/json" id="data">%(data)s</script>
<script>%(script)s</script>
</body>
</html>
"""

STYLE = """
:root { color-scheme: light dark; --ink: #16191d; --page: #fff; --faint: #5a6270; --line: #c9ced6; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #eef1f5; --page: #15181c; --faint: #a7b0bd; --line: #424a55; }
}
body { margin: 0.8em; color: var(--ink); background: var(--page); font: 14px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.1em; margin: 0 0 0.6em; }
h2 { font-size: 1em; margin: 0.8em 0 0.3em; }
label { margin-right: 1em; }
select { font: inherit; color: var(--ink); background: var(--page); }
button { font: inherit; color: inherit; background: none; border: 1px solid var(--line); padding: 0; }
:focus-visible { outline: 3px solid #d55e00; outline-offset: 1px; position: relative; z-index: 1; }
.faint { color: var(--faint); }
.grid { display: grid; gap: 2px; overflow-x: auto; justify-content: start; font-size: 0.85em; padding: 4px; }
.grid .axis { color: var(--faint); align-self: center; text-align: center; padding: 0 0.4em; }
.grid button { width: 3.4em; height: 2em; cursor: pointer; }
.grid button[aria-pressed=true] { box-shadow: 0 0 0 2px var(--ink); }
.text { font-family: ui-monospace, monospace; line-height: 1.9; overflow-wrap: anywhere; }
.token { white-space: pre-wrap; padding: 0.15em 0; border-bottom: 2px solid transparent;
  border-radius: 2px; margin-right: 2px; }
.token.here { border-bottom-color: var(--ink); font-weight: bold; }
canvas { border: 1px solid var(--line); max-width: 100%; }
.legend { display: inline-flex; gap: 0.5em; align-items: center; font-size: 0.85em; }
.legend .bar { width: 9em; height: 0.9em; border: 1px solid var(--line); }
.value { display: inline-block; min-width: 4.5em; text-align: right; margin-right: 0.8em;
  color: var(--faint); }
#status { position: sticky; bottom: 0; margin: 0.6em 0 0; padding: 0.3em; min-height: 1.5em;
  background: var(--page); border-top: 1px solid var(--line); }
"""

SCRIPT = r"""
"use strict";
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const root = document.getElementById("view");
const say = (text) => { document.getElementById("status").textContent = text; };
const MARKS = {"\n": "\u23ce", "\t": "\u2192", "\r": "\u21b5"};
const shown = (text) => text === "" ? "\u2205" : text.replace(/[\n\t\r]/g, (mark) => MARKS[mark]);
const number = (value) => value === null ? "no value" : String(Number(value.toPrecision(3)));
const BLUE = "0,114,178", ORANGE = "230,159,0";

function make(tag, settings, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(settings || {})) {
    if (typeof value === "function") made.addEventListener(name, value);
    else made.setAttribute(name, value);
  }
  made.append(...children);  // strings become text, never markup
  return made;
}

// hover and keyboard focus do the same
const pointed = (act) => ({mouseenter: act, focus: act, click: act});

function scaleOf(values) {
  const known = values.filter((value) => value !== null);
  const signed = known.some((value) => value < 0);
  const extreme = Math.max(0, ...known.map(Math.abs)) || 1;
  return {signed, extreme};
}
// values may be many: Math.max(...) has a limit, so scales are made row by row
const joined = (scales) => ({signed: scales.some((s) => s.signed),
  extreme: Math.max(...scales.map((s) => s.extreme), 0) || 1});

function colour(value, scale) {
  if (value === null) return "background-color:transparent";
  const hue = scale.signed && value > 0 ? ORANGE : BLUE;
  return `background-color:rgba(${hue},${(0.6 * Math.min(1, Math.abs(value) / scale.extreme)).toFixed(3)})`;
}

function legend(scale, what) {
  const blue = `rgba(${BLUE},.6)`, orange = `rgba(${ORANGE},.6)`;
  const colours = scale.signed ? `${blue}, transparent, ${orange}` : `transparent, ${blue}`;
  const bar = make("span", {class: "bar", style: `background:linear-gradient(to right, ${colours})`});
  // in spans of their own: texts that touch would be one, with no gap between
  const [name, low, high] = [what, scale.signed ? number(-scale.extreme) : "0", number(scale.extreme)]
    .map((text) => make("span", {}, text));
  return make("span", {class: "legend"}, name, low, bar, high);
}

function chooser(name, options, act) {
  const choices = options.map((text, index) => make("option", {value: String(index)}, text));
  const list = make("select", {}, ...choices);
  list.addEventListener("change", () => act(Number(list.value)));
  return make("label", {}, `${name} `, list);
}

function arrows(buttons, columns) {
  const step = {ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns};
  buttons.forEach((button, index) => {
    button.setAttribute("tabindex", index === 0 ? "0" : "-1");
    button.addEventListener("keydown", (event) => {
      const next = buttons[index + (step[event.key] || 0)];
      if (!(event.key in step) || !next) return;
      event.preventDefault();
      button.setAttribute("tabindex", "-1");
      next.setAttribute("tabindex", "0");
      next.focus();
    });
  });
}

function unpacked(packed) {
  const bytes = Uint8Array.from(atob(packed.data), (letter) => letter.charCodeAt(0));
  const numbers = new DataView(bytes.buffer), size = packed.size;
  return (layer, head, query, key) =>
    numbers.getUint16(2 * (((layer * packed.heads + head) * size + query) * size + key), true) / 65535;
}

function heads() {
  const names = Object.keys(data.scores), attention = data.patterns && unpacked(data.patterns);
  const grid = make("div", {class: "grid", role: "group", "aria-label": "heads"});
  const key = make("div"), panel = make("div");
  let pressed = null;
  function fill(chosen) {
    const rows = data.scores[names[chosen]], scale = joined(rows.map(scaleOf)), count = rows[0].length;
    grid.setAttribute("style", `grid-template-columns:auto repeat(${count},max-content)`);
    grid.replaceChildren(make("span", {class: "axis"}, "layer\u2193 head\u2192"),
      ...rows[0].map((_, head) => make("span", {class: "axis"}, String(head))));
    const buttons = rows.flatMap((row, layer) => {
      grid.append(make("span", {class: "axis"}, String(layer)));
      return row.map((value, head) => {
        const text = `layer ${layer} head ${head}: ${names[chosen]} ${number(value)}`;
        const tell = () => say(text);
        const button = make("button", {type: "button", style: colour(value, scale), "aria-label": text,
          "aria-pressed": "false", mouseenter: tell, focus: tell,
          click: () => { press(button); if (attention) pattern(panel, attention, layer, head); }},
          value === null ? "" : value.toFixed(2));
        grid.append(button);
        return button;
      });
    });
    arrows(buttons, count);
    key.replaceChildren(legend(scale, names[chosen]));
  }
  function press(button) {
    if (pressed) pressed.setAttribute("aria-pressed", "false");
    button.setAttribute("aria-pressed", "true");
    pressed = button;
  }
  if (names.length > 1) root.append(chooser("score", names, fill));
  root.append(grid, key, panel);
  fill(0);
  if (attention) pattern(panel, attention, 0, 0);
}

function pattern(panel, attention, layer, head) {
  const tokens = data.tokens, size = tokens.length;
  let from = true;  // from the query to its keys, or to the key from its queries
  const weight = (here, other) =>
    from ? attention(layer, head, here, other) : attention(layer, head, other, here);
  const name = (place) => `${place} "${shown(tokens[place])}"`;
  function point(here) {
    const weights = tokens.map((_, other) => weight(here, other)), scale = {signed: false, extreme: 1};
    spans.forEach((span, place) => {
      span.setAttribute("style", colour(weights[place], scale));
      span.setAttribute("class", place === here ? "token here" : "token");
    });
    const best = weights.map((_, place) => place).sort((a, b) => weights[b] - weights[a]).slice(0, 5);
    const listed = best.filter((place) => weights[place] > 0.005);
    say(`${name(here)} ${from ? "attends to" : "is attended to by"} ` +
      listed.map((place) => `${name(place)} ${weights[place].toFixed(2)}`).join(", "));
  }
  const spans = tokens.map((token, place) =>
    make("span", {class: "token", role: "button", ...pointed(() => point(place))}, shown(token)));
  const side = Math.max(2, Math.min(14, Math.floor(420 / size)));
  const canvas = make("canvas", {width: String(side * size), height: String(side * size), role: "img",
    "aria-label": `attention of layer ${layer} head ${head}, queries down, keys across`,
    mousemove: (event) => {
      const cell = (offset, length) => Math.max(0, Math.min(size - 1, Math.floor(offset / length * size)));
      const query = cell(event.offsetY, canvas.clientHeight), key = cell(event.offsetX, canvas.clientWidth);
      say(`query ${name(query)}, key ${name(key)}: ${attention(layer, head, query, key).toFixed(3)}`);
    }});
  const brush = canvas.getContext("2d");
  brush.fillStyle = `rgb(${BLUE})`;
  for (let query = 0; query < size; query++) {
    for (let key = 0; key < size; key++) {
      brush.globalAlpha = attention(layer, head, query, key);
      if (brush.globalAlpha > 0) brush.fillRect(key * side, query * side, side, side);
    }
  }
  arrows(spans, 1);
  const directions = ["what it attends to", "what attends to it"];
  panel.replaceChildren(make("h2", {}, `layer ${layer} head ${head}`),
    chooser("point at a token to see", directions, (chosen) => { from = chosen === 0; }),
    make("p", {class: "text"}, ...spans), make("p", {class: "faint"}, "queries down, keys across"), canvas);
}

function tokens() {
  const place = make("div"), key = make("div");
  function fill(chosen) {
    const scale = joined(data.rows.map((row) => scaleOf(row.values[chosen])));
    key.replaceChildren(legend(scale, data.unit));
    const texts = data.rows.map((row) => row.tokens.map((token, index) => {
      const value = row.values[chosen][index];
      const tell = () => say(`${index} "${shown(token)}": ${number(value)} ${data.unit}`);
      return make("span", {class: "token", role: "button", style: colour(value, scale),
        title: number(value), ...pointed(tell)}, shown(token));
    }));
    arrows(texts.flat(), 1);
    place.replaceChildren(...texts.map((spans) => make("p", {class: "text"}, ...spans)));
  }
  root.append(chooser("show", data.names, fill), key, place);
  fill(0);
}

function examples() {
  const place = make("div");
  function line(example, scale) {
    return make("div", {class: "text"}, make("span", {class: "value"}, number(example.value)),
      ...example.tokens.map((token, index) => make("span", index === example.at
        ? {class: "token here", tabindex: "0", style: colour(example.value, scale),
           ...pointed(() => say(`"${shown(token)}": ${number(example.value)}`))}
        : {class: "token"}, shown(token))));
  }
  function fill(chosen) {
    const unit = data.units[chosen];
    const scale = joined(unit.groups.map((group) => scaleOf(group.examples.map((example) => example.value))));
    place.replaceChildren(make("p", {class: "faint"}, unit.about), legend(scale, "activation"),
      ...unit.groups.flatMap((group) => [make("h2", {}, group.name),
        ...group.examples.map((example) => line(example, scale))]));
  }
  root.append(chooser("unit", data.units.map((unit) => unit.name), fill), place);
  fill(0);
}

({heads, tokens, examples})[data.kind]();
})();
"""
