// The list on the home page: filter, search, keys, and the state in the address after #.
// Text of a card is only ever set as text: no markup is made from it.
"use strict";
(() => {
  const data = window.mihackCatalog;
  const byId = (id) => document.getElementById(id);
  const form = byId("filters");
  const NAMES = ["q", "difficulty", "area", "status", "hours", "compute", "coding", "starter", "sort"];
  const STEP = 40; // rows shown at first, and more with each press of the button
  const FIELDS = ["id", "title", "difficulty", "area", "status", "low", "high", "compute", "coding",
    "starter", "near", "tags", "remains"];
  const problems = data.problems.map((row, place) => {
    const problem = { place };
    FIELDS.forEach((field, n) => { problem[field] = row[n]; });
    return problem;
  });

  // Filters: each gives a test for a value that somebody chose, as `mihack list` has it.
  const span = (difficulty) => [difficulty[0], difficulty.at(-1)];
  const tests = {
    difficulty: (letter) => (p) => span(p.difficulty)[0] <= letter && letter <= span(p.difficulty)[1],
    area: (slug) => { const n = data.areas.findIndex(([own]) => own === slug); return (p) => p.area === n; },
    status: (name) => { const n = data.status.indexOf(name); return (p) => p.status === n; },
    hours: (most) => (p) => p.high <= Number(most),
    compute: (most) => { const n = data.compute.indexOf(most); return (p) => p.compute <= n; },
    coding: (most) => { const n = data.coding.indexOf(most); return (p) => p.coding <= n; },
    starter: (name) => {
      if (name === "any") return (p) => p.starter >= 0;
      if (name === "exact") return (p) => p.starter >= 0 && !p.near;
      const n = data.starters.indexOf(name);
      return (p) => p.starter === n;
    },
  };
  const orders = {
    difficulty: (a, b) => (a.difficulty[0] < b.difficulty[0] ? -1 : a.difficulty[0] > b.difficulty[0] ? 1 : 0),
    hours: (a, b) => a.low - b.low || a.high - b.high,
    title: (a, b) => a.title.localeCompare(b.title),
  };

  // Searching: the texts and the library are read when somebody first searches.
  let index = null;
  let texts = null;
  const policy = window.trustedTypes?.createPolicy("mihack", {
    createScriptURL: (url) => {
      if (!/^assets\/[a-z]+\.js$/.test(url)) throw new TypeError(`not ours: ${url}`);
      return url;
    },
  });
  const load = (url) => new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = policy ? policy.createScriptURL(url) : url;
    script.onload = resolve;
    script.onerror = () => reject(new Error(`${url} is missing`));
    document.head.append(script);
  });
  const ready = () => {
    texts ||= Promise.all([load("assets/minisearch.js"), load("assets/texts.js")]).then(build, () => {
      byId("count").textContent = "The search could not be loaded.";
    });
    return texts;
  };
  const build = () => {
    const titles = problems.map((p) => p.title.toLowerCase());
    const made = new window.MiniSearch({
      idField: "place",
      fields: ["title", "tags", "area", "about", "text"],
      searchOptions: {
        boost: { title: 8, tags: 4, area: 3, about: 3, text: 1 },
        prefix: (word) => word.length > 1,
        fuzzy: (word) => (word.length > 4 ? 0.2 : false),
        boostDocument: (place, term) => (titles[place].includes(term) ? 3 : 1),
        combineWith: "AND",
      },
    });
    made.addAll(problems.map((p) => ({
      place: p.place,
      title: p.title,
      tags: p.tags,
      area: data.areas[p.area]?.[1] ?? "",
      about: window.mihackTexts[p.place][0],
      text: `${p.remains} ${window.mihackTexts[p.place][1]}`,
    })));
    index = made;
  };
  // All words; if no problem has them all, some.  A number finds the problems that begin with it.
  const matches = (words) => {
    const wanted = words.toLowerCase();
    const numbered = problems.filter((p) => p.id.toLowerCase().startsWith(wanted));
    if (numbered.length) return { found: numbered, some: false };
    const all = index.search(words);
    const hits = all.length ? all : index.search(words, { combineWith: "OR" });
    return { found: hits.map((hit) => problems[hit.id]), some: !all.length && hits.length > 0 };
  };

  // State: what the form says, and the same as text after # in the address.
  const state = () => Object.fromEntries(
    NAMES.map((name) => [name, byId(name).value.trim()]).filter(([, value]) => value !== ""));
  const written = () => new URLSearchParams(state()).toString();
  const read = () => {
    const hash = location.hash.slice(1);
    const wanted = new URLSearchParams(hash.includes("=") ? hash : "");
    for (const name of NAMES) {
      const input = byId(name);
      input.value = wanted.get(name) ?? "";
      if (input.tagName === "SELECT" && input.selectedIndex < 0) input.value = "";
    }
  };
  let typing = false; // one entry in the browser's history for a search, not one for each letter
  const remember = (searching) => {
    const hash = written();
    const url = hash ? `#${hash}` : location.pathname.split("/").pop() || "./";
    if (`#${hash}` === (location.hash || "#")) return;
    if (searching && typing) history.replaceState(null, "", url);
    else history.pushState(null, "", url);
    typing = searching;
  };

  // Showing.
  const element = (tag, className, ...parts) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    made.append(...parts);
    return made;
  };
  const row = (p) => {
    const link = element("a", "", element("span", "number", p.id), " ", element("bdi", "", p.title));
    link.href = `problems/${encodeURIComponent(p.id)}.html`;
    const letter = element("span", `letter letter-${p.difficulty.at(-1)}`,
      element("span", "quiet", "Difficulty"), ` ${p.difficulty}`);
    const hours = p.low === p.high ? `${p.low} h` : `${p.low} to ${p.high} h`;
    const facts = [data.status[p.status], hours, data.compute[p.compute], `programming: ${data.coding[p.coding]}`];
    if (p.starter >= 0) facts.push(`starter: ${data.starters[p.starter]}${p.near ? " (a warm-up)" : ""}`);
    const line = element("p", "facts", letter);
    for (const fact of facts) line.append(" ", element("span", "", fact));
    return element("li", "row", link, element("p", "remains", p.remains), line);
  };
  let found = problems;
  let shown = 0;
  const more = () => {
    const next = found.slice(shown, shown + STEP);
    byId("list").append(...next.map(row));
    shown += next.length;
    byId("more").hidden = shown >= found.length;
  };
  const say = (some) => {
    const count = found.length;
    const text = `${count} of ${problems.length} problem${problems.length === 1 ? "" : "s"}`;
    byId("count").textContent = some ? `${text}: none has all words, these have some` : text;
  };
  const update = () => {
    const chosen = state();
    let result = { found: problems, some: false };
    if (chosen.q && index) result = matches(chosen.q);
    else if (chosen.q) ready().then(() => { if (index) update(); });
    const all = Object.keys(tests).filter((name) => chosen[name]).map((name) => tests[name](chosen[name]));
    found = all.length ? result.found.filter((p) => all.every((test) => test(p))) : result.found;
    if (chosen.sort) found = [...found].sort(orders[chosen.sort]);
    byId("areas").hidden = Object.keys(chosen).length > 0;
    byId("clear").hidden = Object.keys(chosen).length === 0;
    byId("list").replaceChildren();
    shown = 0;
    more();
    if (!chosen.q || index) say(result.some && found.length > 0);
    document.title = chosen.q ? `${chosen.q} - mihack` : title;
  };
  const title = document.title;

  // Keys.
  const KEYS = "mihack-single-keys";
  const kept = (value) => {
    try {
      if (value !== undefined) localStorage.setItem(KEYS, value);
      return localStorage.getItem(KEYS);
    } catch {
      return null; // no storage here: the box works until the page is left
    }
  };
  const step = (by) => {
    const links = [...byId("list").querySelectorAll("li > a")];
    const now = links.indexOf(document.activeElement);
    if (now + by === links.length && !byId("more").hidden) { more(); return step(by); }
    if (now < 0 && by < 0) return;
    if (now === 0 && by < 0) byId("q").focus();
    else links[Math.min(now + by, links.length - 1)]?.focus();
  };
  const inForm = (target) => target.closest("input, select, textarea, summary, button");
  const press = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const single = byId("keys").checked;
    const search = event.target === byId("q");
    const inList = byId("list").contains(event.target);
    const arrows = inList || search;
    if (event.key === "Escape" && (search || inList)) { byId("q").value = ""; changed(false); byId("q").focus(); }
    else if (event.key === "/" && single && !inForm(event.target)) byId("q").focus();
    else if (event.key === "ArrowDown" && arrows) step(1);
    else if (event.key === "ArrowUp" && inList) step(-1);
    else if (event.key === "j" && single && !inForm(event.target)) step(1);
    else if (event.key === "k" && single && !inForm(event.target)) step(-1);
    else return;
    event.preventDefault();
  };

  const changed = (searching) => { remember(searching); update(); };
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => {
    if (NAMES.includes(event.target.name)) changed(event.target.name === "q");
    if (event.target.id === "keys") kept(event.target.checked ? "on" : "off");
  });
  byId("q").addEventListener("focus", ready, { once: true });
  byId("clear").addEventListener("click", () => {
    for (const name of NAMES) byId(name).value = "";
    changed(false);
    byId("q").focus();
  });
  byId("more").addEventListener("click", () => {
    const next = shown;
    more();
    byId("list").children[next]?.querySelector("a").focus();
  });
  document.addEventListener("keydown", press);
  const follow = () => { typing = false; read(); update(); };
  addEventListener("popstate", follow);
  addEventListener("hashchange", follow);

  byId("keys").checked = kept() !== "off";
  form.hidden = false;
  byId("results").hidden = false;
  follow();
})();
