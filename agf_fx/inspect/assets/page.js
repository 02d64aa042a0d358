"use strict";
// The page of an explanation graph. Names come from models: they become text, never markup.
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const leaves = data.layers, streams = data.streams;
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg", MATH = "http://www.w3.org/1998/Math/MathML";
const ROW = matchMedia("(pointer: coarse)").matches ? 40 : 30;
const ENDS = {"(map)": "images, and the map that comes back", "(target)": "logits, and the target where streams start",
              "(weights)": "computed from weights alone"};
const state = {open: new Set(), chosen: null, words: "", rows: [], certificates: false};

// --- small things ---------------------------------------------------------------------------------------------------

function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") made.className = value; else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined).map((c) => c instanceof Node ? c : String(c)));
  return made;
}
function svg(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
function short(number, unit = "") {
  if (number === null || number === undefined) return "?";
  let size = Math.abs(number), power = 0;
  const prefixes = ["", "k", "M", "G", "T"];
  while (size >= 999.5 && power < 4) { size /= 1000; power++; }
  const digits = power === 0 && Number.isInteger(number) ? String(size) : size.toPrecision(3);
  return `${number < 0 ? "−" : ""}${digits} ${prefixes[power]}${unit}`.trim();
}
const percent = (part) => (part && part < 0.0005 ? "< 0.1 %" : `${(100 * part).toFixed(1)} %`);
const signed = (number) => (number === 0 ? "0" : Number(number).toPrecision(4).replace("-", "−").replace("e+", "e"));
const colour = (stream) => `var(--${stream === "forward" || stream === "relevance" || stream === "gradient" ? stream : "other"})`;
const dash = (number) => ["", "5 3", "2 3"][Math.min(number, 2)];

const SPACES = {wide: "1.2em", word: ".35em", thin: ".17em"};
function formula(tree) {
  const [tag, hint] = tree[0].split(":");
  const made = document.createElementNS(MATH, tag);
  if (tag === "math") made.setAttribute("display", "block");
  if (tag === "mspace") made.setAttribute("width", SPACES[hint]);
  if (hint === "normal") made.setAttribute("mathvariant", "normal");
  if (hint === "prefix") made.setAttribute("form", "prefix");
  if (hint === "fence") made.setAttribute("stretchy", "true");
  if (hint === "note" || hint === "bold") made.setAttribute("class", hint);
  for (const child of tree.slice(1)) made.append(typeof child === "string" ? child : formula(child));
  return made;
}
function equation(number, stream = "") {
  if (number < 0) return null;
  const {text, math} = data.equations[number];
  return el("div", {class: `formula ${stream}`, "data-text": text}, math ? formula(math) : el("code", {}, text));
}

// --- modules around layers ------------------------------------------------------------------------------------------

const members = new Map();  // module -> leaves in it; only of modules with several
leaves.forEach((leaf, index) => {
  const parts = leaf.path ? leaf.path.split(".") : [];
  parts.forEach((_, depth) => {
    const path = parts.slice(0, depth + 1).join(".");
    if (!members.has(path)) members.set(path, []);
    members.get(path).push(index);
  });
});
for (const [path, inside] of members) {  // a module that others interrupt, such as one ReLU for all, is no box
  if (inside.length < 2 || inside.at(-1) - inside[0] + 1 !== inside.length) members.delete(path);
}
const around = (leaf) => {
  const parts = leaf.path ? leaf.path.split(".") : [];
  return parts.map((_, depth) => parts.slice(0, depth + 1).join(".")).filter((path) => members.has(path));
};
const deepest = Math.max(0, ...[...members.keys()].map((path) => path.split(".").length));
const countAt = (depth) => {
  const seen = new Set();
  leaves.forEach((leaf, index) => {
    const closed = around(leaf).find((path) => path.split(".").length >= depth);
    seen.add(closed === undefined ? index : closed);
  });
  return seen.size;
};
function openTo(depth) {
  state.open = new Set([...members.keys()].filter((path) => path.split(".").length < depth));
}

function sum(inside, name) { return inside.reduce((total, index) => total + leaves[index][name], 0); }
function group(path) {
  const inside = members.get(path), last = leaves[inside[inside.length - 1]];
  const rules = streams.map((_, number) => {
    const found = inside.flatMap((index) => leaves[index].rules.filter((r) => r[0] === number).flatMap((r) => r.slice(1)));
    return [number, ...new Set(found)];
  }).filter((rule) => rule.length > 1);
  const forms = new Set(inside.map((index) => leaves[index].form).filter(Boolean));
  const flow = flowOf(inside);
  return {name: path, path, op: data.modules[path] || "", class: "", role: "", form: [...forms].join(" and "), rules, inside,
    shape: last.shape, source: "", weights: inside.flatMap((index) => leaves[index].weights), nodes: sum(inside, "nodes"),
    products: sum(inside, "products"), prepared: sum(inside, "prepared"), flops: sum(inside, "flops"),
    bytes: sum(inside, "bytes"), share: sum(inside, "share"), costs: ["", ""], map: last.map, other: last.other, total: last.total, cut: last.cut, flow};
}
function flowOf(inside) {
  const flows = inside.map((index) => leaves[index].flow).filter(Boolean);
  if (!flows.length) return null;
  return {change: flows.reduce((total, flow) => total + flow.change, 0), absolute: Math.max(...flows.map((f) => f.absolute)),
    received: flows[flows.length - 1].received, handed: flows[0].handed, promise: ""};
}

// --- rows that are seen ---------------------------------------------------------------------------------------------

function visibleRows() {
  const rows = [], rowOf = new Array(leaves.length), headed = new Set(), closed = new Map();
  leaves.forEach((leaf, index) => {
    let level = 0;
    for (const path of around(leaf)) {
      if (!state.open.has(path)) {
        if (!closed.has(path)) {
          closed.set(path, rows.length);
          rows.push({key: `m:${path}`, item: group(path), level, kind: "closed", path});
        }
        rowOf[index] = closed.get(path);
        return;
      }
      if (!headed.has(path)) {
        headed.add(path);
        rows.push({key: `m:${path}`, item: group(path), level, kind: "head", path});
      }
      level++;
    }
    rowOf[index] = rows.length;
    rows.push({key: `l:${index}`, item: {...leaf, inside: [index]}, level, kind: "leaf", path: around(leaf).at(-1)});
  });
  return [rows, rowOf];
}
function visibleEdges(rowOf) {
  const found = new Map();
  leaves.forEach((leaf, index) => leaf.reads.forEach(([origin, ...back]) => {
    const from = rowOf[origin], to = rowOf[index];
    if (from === to) return;
    const key = `${from}>${to}`;
    if (!found.has(key)) found.set(key, {from, to, back: new Set()});
    back.forEach((stream) => found.get(key).back.add(stream));
  }));
  return [...found.values()];
}
// Every value that is read further down has a lane from where it is made to where it is last read.
function lanes(rows, edges) {
  const order = rows.map((row, place) => (row.kind === "head" ? -1 : place)).filter((place) => place >= 0);
  const next = new Map(order.map((place, index) => [place, order[index + 1]]));
  const from = new Map();
  for (const edge of edges) {
    edge.straight = next.get(edge.from) === edge.to;
    if (edge.straight) continue;
    if (!from.has(edge.from)) from.set(edge.from, []);
    from.get(edge.from).push(edge);
  }
  const ends = [];
  for (const [, group] of [...from].sort((a, b) => a[0] - b[0])) {
    const low = Math.min(...group.map((edge) => Math.min(edge.from, edge.to)));
    const high = Math.max(...group.map((edge) => Math.max(edge.from, edge.to)));
    let lane = ends.findIndex((end) => end <= low);
    if (lane < 0) lane = ends.length;
    ends[lane] = high;
    group.forEach((edge) => { edge.lane = lane; });
  }
  return ends.length;
}

// --- drawing --------------------------------------------------------------------------------------------------------

const middle = (place) => place * ROW + ROW / 2;
const RADIUS = Math.min(9, ROW / 3);
function rail(edge, spine, x, forward) {
  const start = middle(edge.from), end = middle(edge.to);
  if (edge.straight) return `M${spine} ${start + 4}V${end - 4}`;
  const down = end > start ? 1 : -1, r = RADIUS;
  return `M${spine} ${start + 3}Q${x} ${start + 3} ${x} ${start + 3 + r * down}V${end - 3 - r * down}Q${x} ${end - 3} ${spine} ${end - 3}`;
}
function arrow(edge, spine, side, forward) {
  if (edge.straight) {
    const y = forward ? middle(edge.to) - 5 : middle(edge.from) + 5, s = forward ? -1 : 1;
    return `M${spine} ${y}l-3.5 ${5 * s}h7z`;
  }
  const y = forward ? middle(edge.to) - 3 : middle(edge.from) + 3, x = spine + side * 4;
  return `M${x} ${y}l${5 * side} -3.5v7z`;
}
const dot = (x, y) => `M${x - 3.5} ${y}a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0`;

function draw() {
  const started = document.activeElement && document.activeElement.closest(".row");
  const [rows, rowOf] = visibleRows();
  const edges = visibleEdges(rowOf), count = lanes(rows, edges);
  Object.assign(state, {rows, rowOf, edges});
  const graph = $("graph"), width = $("scroll").clientWidth || 800;
  const room = Math.max(24, width * 0.18), gap = count ? Math.min(9, Math.max(0.8, room / count)) : 0;
  const left = 22 + gap * count + 6, right = 16 + 9 * streams.length + gap * count + 6;
  const sideL = svg("svg", {width: left, height: rows.length * ROW, "aria-hidden": "true"});
  const sideR = svg("svg", {width: right, height: rows.length * ROW, "aria-hidden": "true"});
  sideL.style.left = "0"; sideR.style.right = "0";
  const thin = count ? Math.min(1.8, Math.max(0.5, gap * 0.4)) : 1.8;
  state.place = {forwardSpine: left - 10, forwardLane: (lane) => left - 22 - lane * gap,
    spine: (s) => 8 + s * 9, lane: (lane, s) => 16 + 9 * streams.length + lane * gap + s * Math.min(2.4, gap / 2)};
  paint(sideL, edges, "forward", 0, thin);
  streams.forEach((stream, number) => paint(sideR, edges.filter((edge) => edge.back.has(number)), stream, number, thin));
  rows.forEach((row, place) => {
    if (row.kind === "head") return;
    sideL.append(svg("path", {d: dot(state.place.forwardSpine, middle(place)), fill: colour("forward")}));
    row.item.rules.forEach(([number]) => sideR.append(svg("path", {d: dot(state.place.spine(number), middle(place)), fill: colour(streams[number])})));
  });
  state.marked = [svg("g", {}), svg("g", {})];
  sideL.append(state.marked[0]); sideR.append(state.marked[1]);
  const most = Math.max(1, ...rows.filter((row) => row.kind !== "head").map((row) => row.item[$("heat").value] || 0));
  graph.style.height = `${rows.length * ROW}px`;
  graph.replaceChildren(...rows.map((row, place) => rowElement(row, place, left, right, most)), sideL, sideR);
  if (!rows.some((row) => row.key === state.chosen)) state.chosen = rows[0].key;
  mark();
  applySearch();
  if (started) focusChosen();
}
function paint(side, edges, stream, number, width) {
  const forward = stream === "forward", {place} = {place: state.place};
  const spine = forward ? place.forwardSpine : place.spine(number);
  const x = (edge) => (forward ? place.forwardLane(edge.lane) : place.lane(edge.lane, number));
  const lines = edges.map((edge) => rail(edge, spine, x(edge), forward)).join("");
  const heads = edges.map((edge) => arrow(edge, spine, forward ? -1 : 1, forward)).join("");
  side.append(svg("path", {d: lines, fill: "none", stroke: colour(stream), "stroke-width": width, "stroke-dasharray": forward ? "" : dash(number), "data-stream": stream}));
  side.append(svg("path", {d: heads, fill: colour(stream)}));
}
function rowElement(row, place, left, right, most) {
  const item = row.item, head = row.kind === "head";
  const made = el("div", {class: `row ${row.kind}`, role: "treeitem", tabindex: "-1", "data-key": row.key, "aria-level": row.level + 1,
    "aria-expanded": row.path && row.kind !== "leaf" ? String(head) : null, "aria-selected": "false"});
  Object.assign(made.style, {top: `${place * ROW}px`, height: `${ROW}px`, paddingLeft: `${left + row.level * 12}px`, paddingRight: `${right + 4}px`});
  const name = shortName(row);
  made.append(el("span", {class: "twist", "aria-hidden": "true"}, row.kind === "leaf" ? "" : head ? "▾" : "▸"), el("span", {class: "name", title: item.name}, name));
  if (ENDS[item.name]) made.append(el("span", {class: "op"}, ENDS[item.name]));
  else if (item.op && item.op !== name) made.append(el("span", {class: "op"}, item.op));
  made.append(el("span", {class: "space"}));
  if (head) return made;
  const shown = item.rules.find(([number]) => streams[number] === "relevance") || item.rules[0];
  if (shown && row.kind === "leaf") {
    const rule = el("span", {class: "rule"}, data.rules[shown[1]].name);
    rule.style.color = colour(streams[shown[0]]);
    made.append(rule);
  }
  const differs = differenceMark(item);
  if (differs) made.append(differs);
  if (item.form) made.append(el("span", {class: "mark"}, item.form.replace(" and ", "+")));
  const heat = $("heat").value;
  if (heat) {
    const part = item[heat] / most, bar = el("i");
    Object.assign(bar.style, {width: `${Math.max(part > 0 ? 1 : 0, 54 * part)}px`, background: `color-mix(in srgb, var(--hot) ${Math.round(100 * part)}%, var(--bar))`});
    made.append(el("span", {class: "cost", title: `${short(item[heat])} ${heat === "flops" ? "operations" : "bytes"}`}, bar, el("b", {}, item[heat] ? short(item[heat]) : "")));
  }
  return made;
}
function shortName(row) {
  const outer = row.level ? row.path : "";
  const around_ = row.kind === "leaf" ? outer : (outer ? outer.split(".").slice(0, -1).join(".") : "");
  const name = row.item.name;
  return around_ && name.startsWith(`${around_}.`) ? name.slice(around_.length + 1) : name === around_ ? `${row.item.op}` : name;
}

// --- choosing -------------------------------------------------------------------------------------------------------

const placeOf = (key) => state.rows.findIndex((row) => row.key === key);
const elementOf = (key) => [...$("graph").children].find((child) => child.dataset && child.dataset.key === key);
function mark() {
  for (const child of $("graph").querySelectorAll(".row[aria-selected=true]")) { child.setAttribute("aria-selected", "false"); child.tabIndex = -1; }
  const chosen = elementOf(state.chosen), place = placeOf(state.chosen), at = state.place;
  if (chosen) { chosen.setAttribute("aria-selected", "true"); chosen.tabIndex = 0; }
  state.marked.forEach((side) => side.replaceChildren());
  const own = state.edges.filter((edge) => edge.from === place || edge.to === place);
  const bold = (side, stream, number, spine, x) => side.append(svg("path", {fill: "none", stroke: colour(stream), "stroke-width": 4,
    opacity: .75, d: own.filter((edge) => stream === "forward" || edge.back.has(number)).map((edge) => rail(edge, spine, x(edge))).join("")}));
  bold(state.marked[0], "forward", 0, at.forwardSpine, (edge) => at.forwardLane(edge.lane));
  streams.forEach((stream, number) => bold(state.marked[1], stream, number, at.spine(number), (edge) => at.lane(edge.lane, number)));
}
function focusChosen() { const found = elementOf(state.chosen); if (found) found.focus({preventScroll: true}); }
function choose(key, {focus = true, open = false, block = "nearest"} = {}) {
  state.chosen = key;
  mark();
  const found = elementOf(key);
  if (found) found.scrollIntoView({block});
  if (focus) focusChosen();
  showDetails();
  if (open) $("details").classList.add("open");
  follow();
}
function toggle(path, open) {
  if (open) state.open.add(path); else state.open.delete(path);
  state.chosen = `m:${path}`;
  $("depth").value = "";
  draw();
  focusChosen();
  showDetails();
}
function reveal(index) {
  const paths = around(leaves[index]).filter((path) => !state.open.has(path));
  if (paths.length) { paths.forEach((path) => state.open.add(path)); $("depth").value = ""; draw(); }
  return `l:${index}`;
}
$("graph").addEventListener("click", (event) => {
  const found = event.target.closest(".row");
  if (!found) return;
  const row = state.rows[placeOf(found.dataset.key)];
  if (row.kind !== "leaf" && (event.target.classList.contains("twist") || row.kind === "head")) toggle(row.path, row.kind !== "head");
  else choose(row.key, {open: true});
});
$("graph").addEventListener("dblclick", (event) => {
  const row = state.rows[placeOf(state.chosen)];
  if (row && row.kind === "closed" && event.target.closest(".row")) toggle(row.path, true);
});
$("graph").addEventListener("keydown", (event) => {
  const place = placeOf(state.chosen), row = state.rows[place];
  const to = {ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: state.rows.length - 1, PageDown: place + 15, PageUp: place - 15}[event.key];
  if (to !== undefined) choose(state.rows[Math.min(state.rows.length - 1, Math.max(0, to))].key);
  else if (event.key === "ArrowRight" && row.kind === "closed") toggle(row.path, true);
  else if (event.key === "ArrowRight" && row.kind === "head") choose(state.rows[place + 1].key);
  else if (event.key === "ArrowLeft" && row.kind === "head") toggle(row.path, false);
  else if (event.key === "ArrowLeft" && row.level) choose(`m:${row.kind === "leaf" ? row.path : row.path.split(".").slice(0, -1).join(".")}`);
  else if (event.key === "Enter" || event.key === " ") { $("details").classList.add("open"); $("details").focus(); }
  else return;
  event.preventDefault();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) { $("search").focus(); event.preventDefault(); }
  if (event.key === "Escape" && document.activeElement !== $("search")) { $("details").classList.remove("open"); focusChosen(); }
});

// --- against another graph ------------------------------------------------------------------------------------------

const SIGNS = {removed: "−", added: "+", changed: "~", moved: "→"};
const countOf = (found) => Object.entries(SIGNS).filter(([kind]) => found[kind]).map(([kind, sign]) => `${sign}${found[kind]}`).join(" ");
function differenceOf(item) {  // of a layer, or of all that are inside a module
  const found = item.inside.map((index) => leaves[index].difference).filter(Boolean);
  if (!found.length) return null;
  const counts = {};
  for (const one of found) for (const [kind, count] of Object.entries(one.counts)) counts[kind] = (counts[kind] || 0) + count;
  return {counts, differs: found.some((one) => one.differs), one: found.length === 1 ? found[0] : null, last: found.at(-1)};
}
function differenceMark(item) {
  const found = data.against && differenceOf(item);
  if (!found || !found.differs) return null;
  const words = countOf(found.counts), apart = found.last.apart;
  return el("span", {class: "mark differs", title: `differs from ${data.against.titles[0]}` + (apart === undefined ? "" : `; cosine of ${data.picture.quantity} ${signed(found.last.cosine)}`)}, words || "≠");
}
function differenceParts(item) {
  const found = data.against && differenceOf(item);
  if (!found) return [];
  const {one, last, counts} = found, parts = [el("h3", {}, `Against ${data.against.titles[0]}`)];
  const others = Object.entries(counts).filter(([kind]) => !SIGNS[kind]).map(([kind, count]) => `${count} ${kind}`).join(", ");
  parts.push(facts([["operations", countOf(counts) + (others ? ` (${others})` : "") || "the same"],
    ["rule there", one && one.rules[0] !== one.rules[1] ? one.rules[0] || "none" : ""], ["rule here", one && one.rules[0] !== one.rules[1] ? one.rules[1] || "none" : ""],
    ["apart", last.apart === undefined ? "" : signed(last.apart)], ["cosine", last.cosine === undefined ? "" : signed(last.cosine)]]));
  if (item.other) parts.push(el("img", {class: "map", src: item.other.src, alt: `the same at the output of ${item.name} by ${data.against.titles[0]}`}),
    el("p", {class: "faint"}, `by ${data.against.titles[0]}, scale ±${signed(item.other.limit)}`));
  if (one && one.changes.length) {
    const rows = one.changes.map(([kind, stream, before, after]) => el("tr", {}, el("td", {}, `${SIGNS[kind]} ${kind}`), el("td", {}, stream),
      el("td", {}, ...[before, after].filter(Boolean).map((call) => el("div", {}, el("code", {}, call))))));
    parts.push(el("details", rows.length > 12 ? {} : {open: ""}, el("summary", {}, `operations that differ: ${rows.length}`), el("div", {}, el("table", {}, el("tbody", {}, ...rows)))));
  }
  return parts;
}
function against() {
  if (!data.against) return;
  const {titles, said, absent} = data.against, count = leaves.filter((leaf) => leaf.difference && leaf.difference.differs).length;
  const lines = [`Against ${titles[0]}: ${count ? `${count} of ${leaves.length} layers differ` : "no layer differs"}` + (absent.length ? `; it also has ${absent.join(", ")}` : "") +
    ". Marks count operations: − removed, + added, ~ changed, → done at another time. Search “differs” to go from one to the next.", ...said];
  $("summary").after(el("p", {id: "against"}, ...lines.flatMap((line) => [line, el("br")]).slice(0, -1)));
}

// --- searching ------------------------------------------------------------------------------------------------------

const haystack = leaves.map((leaf) => [leaf.name, leaf.op, leaf.class, leaf.role, leaf.form, leaf.source,
  leaf.difference && leaf.difference.differs ? "differs" : "", ...leaf.rules.flatMap((rule) => rule.slice(1).map((number) => data.rules[number].name))].join("\n").toLowerCase());
function hits() { return state.words ? haystack.map((text, index) => (text.includes(state.words) ? index : -1)).filter((i) => i >= 0) : []; }
function applySearch() {
  const found = new Set(hits());
  for (const child of $("graph").querySelectorAll(".row")) {
    const row = state.rows[placeOf(child.dataset.key)];
    const hit = row.item.inside.some((index) => found.has(index));
    child.classList.toggle("dim", Boolean(state.words) && !hit);
    child.classList.toggle("hit", Boolean(state.words) && hit && row.kind !== "head");
  }
  $("found").textContent = state.words ? `${found.size} of ${leaves.length}` : "";
}
$("search").addEventListener("input", (event) => {
  state.words = event.target.value.trim().toLowerCase();
  applySearch();
  const first = state.rows.find((row) => row.kind !== "head" && row.item.inside.some((index) => hits().includes(index)));
  if (first && state.words) elementOf(first.key).scrollIntoView({block: "center"});
});
$("search").addEventListener("keydown", (event) => {
  if (event.key === "Escape") { event.target.value = ""; state.words = ""; applySearch(); focusChosen(); }
  if (event.key !== "Enter" && event.key !== "ArrowDown") return;
  const found = hits();
  if (!found.length) return;
  const row = state.rows[placeOf(state.chosen)], at = row.kind === "leaf" ? row.item.inside[0] : row.item.inside[0] - 1;
  const next = event.shiftKey ? found.filter((i) => i < at).at(-1) ?? found.at(-1) : found.find((i) => i > at) ?? found[0];
  choose(reveal(next), {focus: event.key === "ArrowDown", block: "center"});
  event.preventDefault();
});

// --- details --------------------------------------------------------------------------------------------------------

let operations = null;
async function allOperations() {
  if (operations === null) {
    const packed = Uint8Array.from(atob($("operations").textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    operations = JSON.parse(await new Response(stream).text());
  }
  return operations;
}
function facts(pairs) {
  const made = el("dl");
  for (const [name, value] of pairs) if (value !== "" && value !== null && value !== undefined) made.append(el("dt", {}, name), el("dd", {}, value));
  return made;
}
function showDetails() {
  const row = state.rows[placeOf(state.chosen)];
  if (!row) return;
  const item = row.item, panel = $("details");
  const close = el("button", {class: "close", type: "button"}, "Close");
  close.addEventListener("click", () => { panel.classList.remove("open"); focusChosen(); });
  panel.replaceChildren(close, el("h2", {}, item.name || data.model),
    el("p", {class: "faint"}, ENDS[item.name] || [item.op, item.class && item.class !== item.op ? item.class : "", row.kind === "leaf" ? "" : `${item.inside.length} calls`].filter(Boolean).join(" · ")),
    facts([["role", item.role], ["form", item.form], ["output", item.shape && el("code", {}, item.shape)], ["source", item.source && el("code", {}, item.source)]]));
  for (const [number, ...rules] of item.rules) panel.append(...ruleParts(streams[number], rules), el("div", {"data-parts": streams[number]}));
  for (const [stream, part, number] of item.parts || []) panel.append(...rulePart(stream, number, [stream, part].filter(Boolean).join(" "), false));
  panel.querySelectorAll(".how").forEach((said, place) => { said.hidden = place > 0; });
  if (item.flow || item.map || item.total !== undefined) panel.append(...conservation(item));
  panel.append(...differenceParts(item));
  panel.append(el("h3", {}, "Cost and weights"),
    facts([["operations", `${item.nodes} for the explanation, ${item.products} of them convolutions or matrix products` + (item.prepared ? `; ${item.prepared} done once` : "")],
      ["cost", `${short(item.flops, "FLOP")}, ${short(item.bytes, "B")} moved, at most ${short(item.live, "B")} alive, ${percent(item.share)} of the whole`],
      ["FLOP", item.costs[0] && el("code", {}, item.costs[0])], ["bytes", item.costs[1] && el("code", {}, item.costs[1])]]));
  if (item.weights.length) {
    const list = item.weights.map(([path, type]) => el("div", {}, el("code", {}, `${path}  ${type}`)));
    panel.append(el("details", list.length > 4 ? {} : {open: ""}, el("summary", {}, `weights: ${list.length}`), el("div", {}, ...list)));
  }
  if (row.kind === "leaf") showOperations(panel, item, row.key);
  else {
    const open = el("button", {type: "button"}, row.kind === "head" ? "Close this module" : "Open this module");
    open.addEventListener("click", () => toggle(row.path, row.kind !== "head"));
    panel.append(el("p", {}, open));
  }
  panel.scrollTop = 0;
}
const MOST_RULES = 8;  // of a closed module
function ruleParts(stream, rules) {
  const parts = rules.slice(0, MOST_RULES).flatMap((number) => rulePart(stream, number, stream, true));
  if (rules.length > MOST_RULES) parts.push(el("p", {class: "faint"}, `and ${rules.length - MOST_RULES} other rules: open the module`));
  return parts;
}
function rulePart(stream, number, words, isRule) {
  const rule = data.rules[number], title = el("h3", {}, `${words}: ${rule.name}`);
  if (stream) title.style.color = colour(stream);
  const said = [rule.promise && isRule && stream === "relevance" ? `the sum: ${rule.promise}` : "", rule.source].filter(Boolean).join(" · ");
  return [title, equation(rule.equation, stream), said ? el("p", {class: "faint"}, said) : null, certificate(rule)].filter(Boolean);
}
function certificate(rule) {  // what is claimed of a rule, and what was left of it when the page was written
  if (!rule.certificate) return null;
  const {claims, computed, unclaimed} = rule.certificate, failed = claims.filter(([, , , left]) => left).length;
  if (!claims.length) return el("p", {class: "faint certificate"}, "No certificate: nothing is proved of it.");
  const count = claims.length === 1 ? "1 claim" : `${claims.length} claims`, good = !failed && !unclaimed;
  const said = failed ? `Certificate: ${failed} of ${count} not proved` : good ? `Certificate: ${count}, proved` : `Certificate: ${count}, proved, but not its promise`;
  const list = el("ol", {}, ...claims.map(([says, layer, number, left]) => el("li", {}, says, left ? el("strong", {class: "failed"}, " — not proved") : null,
    number >= 0 ? equation(number) : null, layer ? el("p", {class: "faint"}, `on: ${layer}`) : null, left ? el("p", {}, "left: ", el("code", {}, left)) : null)));
  const box = el("details", {class: `certificate ${good ? "" : "open-to-doubt"}`, open: state.certificates || !good ? "" : null},
    el("summary", {}, el("span", {"aria-hidden": "true"}, good ? "✓ " : "✗ "), said),
    el("div", {}, el("p", {class: "faint how"}, "The rule’s own code ran on small layers of symbols when this page was written, and 0 was left of every claim that is proved. Divisions were exact, or had ε for a symbol; signs were those of a few points, which cover the cases that the rule tells apart."),
      list, unclaimed ? el("p", {}, `It promises of the sum: “${unclaimed}”, and no claim is about that.`) : null,
      computed >= 0 ? el("p", {}, "What the code computes for the first entry of such a layer:") : null, computed >= 0 ? equation(computed) : null));
  box.querySelector("summary").addEventListener("click", () => { state.certificates = !box.open; });
  return box;
}
function conservation(item) {
  const quantity = data.picture.quantity, parts = [el("h3", {}, `${quantity} of “${data.picture.target}”`)];
  const flow = item.flow;
  if (flow) {
    const part = flow.absolute ? flow.change / flow.absolute : 0, change = el("span", {}, `${flow.change > 0 ? "+" : ""}${signed(flow.change)} (${(100 * part).toPrecision(2).replace("-", "−")} % of its size)`);
    change.style.color = Math.abs(part) < 1e-4 ? "inherit" : `var(--${part > 0 ? "up" : "down"})`;
    parts.push(facts([["receives", signed(flow.received)], ["hands on", signed(flow.handed)], ["adds", change], ["promised", flow.promise],
      ["all branches", item.cut === undefined ? "" : signed(item.cut)]]));
  } else if (item.total !== undefined) parts.push(facts([["sum", signed(item.total)]]));
  if (item.map) parts.push(el("img", {class: "map", src: item.map.src, alt: `${quantity} at the output of ${item.name}, red for and blue against`}),
    el("p", {class: "faint"}, `${item.map.shape.join(" × ")}${item.map.said}, scale ±${signed(item.map.limit)}`));
  return parts;
}
async function showOperations(panel, item, key) {
  const index = item.inside[0], parts = (await allOperations())[index];
  if (state.chosen !== key) return;
  for (const box of panel.querySelectorAll("[data-parts]")) box.append(...partsOf(item, box.dataset.parts, parts));
  panel.append(el("h3", {}, "Operations"));
  if (!parts.length) panel.append(el("p", {class: "faint"}, "None: it is part of another layer, or passes on what it gets."));
  for (const {part, rows} of parts) {
    const said = part === "prepare" ? "prepared once from the weights" : part;
    const box = el("details", {}, el("summary", {}, `${said}: ${rows.length}`));
    box.addEventListener("toggle", () => { if (box.open && box.childElementCount === 1) box.append(operationTable(rows, part)); });
    panel.append(box);
  }
}
function partsOf(item, stream, parts) {  // what the rule's formula is made of, in the order in which it is computed
  const own = new Set(item.rules.flatMap((rule) => rule.slice(1)).map((number) => data.rules[number].equation));
  const rows = parts.filter(({part}) => part === stream).flatMap((found) => found.rows);
  return [...new Set(rows.map((row) => row[5]))].filter((number) => number >= 0 && !own.has(number)).map((number) => equation(number, stream));
}
function operationTable(rows, part) {
  const body = el("tbody");
  let last = -1;
  for (const [name, call, type, flops, bytes, number] of rows) {
    if (number >= 0 && number !== last) body.append(el("tr", {}, el("td", {colspan: "5"}, equation(number, part))));
    last = number;
    body.append(el("tr", {}, el("td", {}, el("code", {}, name)), el("td", {}, el("code", {}, call)), el("td", {}, el("code", {}, type)),
      el("td", {class: "number"}, flops ? short(flops) : flops === null ? "?" : ""), el("td", {class: "number"}, bytes ? short(bytes) : "")));
  }
  const head = el("tr", {}, el("th", {}, "name"), el("th", {}, "operation"), el("th", {}, "value"), el("th", {class: "number"}, "FLOP"), el("th", {class: "number"}, "bytes"));
  return el("div", {}, el("table", {}, el("thead", {}, head), body));
}

// --- from the logits back to the pixels -----------------------------------------------------------------------------

const stops = leaves.map((leaf, index) => (leaf.map || leaf.total !== undefined ? index : -1)).filter((index) => index >= 0).reverse();
let moving = false;
function goTo(stop, {select = true} = {}) {
  const index = stops[stop], leaf = leaves[index], quantity = data.picture.quantity;
  $("slider").value = stop;
  $("slider").setAttribute("aria-valuetext", leaf.name);
  const where = data.picture.why_none ? "the map" : leaf.name === "(map)" ? "the pixels: the map itself" : leaf.name;
  $("stop").replaceChildren(el("strong", {}, where), data.picture.why_none ? ` of “${data.picture.target}” (logit ${signed(data.picture.logit)})` : ` · ${quantity} of “${data.picture.target}” (logit ${signed(data.picture.logit)})` +
    (leaf.total !== undefined ? ` · sum ${signed(leaf.total)}` : "") +
    (leaf.cut !== undefined ? ` · all branches ${signed(leaf.cut)}` : ""));
  for (const [picture, shown, by] of [[$("now"), leaf.map, ""], [$("then"), leaf.other, data.against && ` by ${data.against.titles[0]}`]]) {
    if (!picture) continue;
    picture.style.visibility = shown ? "visible" : "hidden";
    if (shown) { picture.src = shown.src; picture.title = picture.alt = `${quantity} at ${leaf.name}${by}: red for, blue against`; }
  }
  const line = $("chart").querySelector(".now");
  if (line) { const x = 1000 * stop / Math.max(1, stops.length - 1); line.setAttribute("x1", x); line.setAttribute("x2", x); }
  if (!select) return;
  moving = true;
  choose(state.rows[state.rowOf[index]].key, {focus: false, block: "center"});
  moving = false;
}
function follow() {  // the slider goes where the choice is
  if (moving || !data.picture) return;
  const row = state.rows[placeOf(state.chosen)], inside = row.item.inside;
  const stop = stops.findIndex((index) => inside.includes(index));
  if (stop >= 0) return goTo(stop, {select: false});
  $("stop").replaceChildren(el("strong", {}, row.item.name || "the model"), " has no map of its own");
  for (const picture of [$("now"), $("then")]) if (picture) picture.style.visibility = "hidden";
}
function chart() {
  const sums = stops.map((index) => leaves[index].cut ?? leaves[index].total ?? NaN), finite = sums.filter(Number.isFinite);
  if (finite.length < 2) return;
  const low = Math.min(0, ...finite), high = Math.max(0, ...finite), span = high - low || 1;
  const x = (stop) => 1000 * stop / Math.max(1, sums.length - 1), y = (value) => 4 + 92 * (high - value) / span;
  const line = sums.map((value, stop) => (Number.isFinite(value) ? `${x(stop).toFixed(1)} ${y(value).toFixed(1)}` : null)).filter(Boolean).join("L");
  const style = {"vector-effect": "non-scaling-stroke", fill: "none"};
  const made = svg("svg", {viewBox: "0 0 1000 100", preserveAspectRatio: "none", role: "img", "aria-label": `Sum of ${data.picture.quantity} over all branches from the logits to the pixels, from ${signed(low)} to ${signed(high)}`},
    svg("line", {x1: 0, x2: 1000, y1: y(0), y2: y(0), stroke: "var(--line)", ...style}),
    svg("path", {d: `M${line}`, stroke: colour(data.picture.quantity), "stroke-width": 2, ...style}),
    svg("line", {class: "now", x1: 0, x2: 0, y1: 0, y2: 100, stroke: "var(--text)", "stroke-width": 1.5, ...style}));
  made.addEventListener("click", (event) => {
    const box = made.getBoundingClientRect();
    goTo(Math.round((event.clientX - box.left) / box.width * (stops.length - 1)));
  });
  $("chart").append(made);
}

// --- beginning ------------------------------------------------------------------------------------------------------

function legend() {
  const entry = (name, words, number, up) => {
    const y = up ? "M7 3l-4 6h8z" : "M7 13l-4 -6h8z";
    return el("span", {}, svg("svg", {width: 34, height: 16, "aria-hidden": "true"},
      svg("path", {d: y, fill: colour(name)}), svg("path", {d: "M14 8H34", stroke: colour(name), "stroke-width": 2.5, "stroke-dasharray": name === "forward" ? "" : dash(number)})), words);
  };
  $("legend").append(entry("forward", "forward, down", 0, false), ...streams.map((name, number) => entry(name, `${name}, up`, number, true)));
}
function probe() {  // without a font for mathematics, browsers leave subscripts on the line: then the style lowers them
  const test = el("div", {class: "formula"}, formula(["math", ["msub", ["mi", "x"], ["mi", "x"]]]));
  document.body.append(test);
  const [base, below] = [...test.querySelectorAll("mi")].map((node) => node.getBoundingClientRect().bottom);
  document.documentElement.classList.toggle("plain", below - base < 1.5);
  test.remove();
}
function begin() {
  $("summary").textContent = `images ${data.images} · ${leaves.filter((leaf) => leaf.calls.length).length} calls, ${data.operations} operations · ` +
    `${short(data.flops, "FLOP")}, ${short(data.bytes, "B")} moved ${data.of}`;
  const depth = $("depth");
  depth.append(el("option", {value: ""}, "by hand"));
  for (let level = 1; level <= deepest + 1; level++) depth.append(el("option", {value: level}, level > deepest ? `all ${leaves.length} layers` : `modules ${level} deep`));
  let first = 1;
  while (first <= deepest && countAt(first + 1) <= 48) first++;
  const asked = Number(new URLSearchParams(location.hash.slice(1)).get("depth")) || first;
  depth.value = Math.min(Math.max(1, asked), deepest + 1);
  openTo(Number(depth.value));
  depth.addEventListener("change", () => { if (depth.value) { openTo(Number(depth.value)); draw(); showDetails(); } });
  $("heat").addEventListener("change", draw);
  $("theme").addEventListener("change", (event) => {
    if (event.target.value) document.documentElement.dataset.theme = event.target.value; else delete document.documentElement.dataset.theme;
  });
  probe();
  against();
  legend();
  draw();
  if (data.picture) {
    $("dock").hidden = false;
    if (data.picture.photo) $("pictures").append(el("img", {src: data.picture.photo, alt: "the image as the network sees it"}));
    $("pictures").append(el("img", {id: "now", alt: ""}));
    if (leaves.some((leaf) => leaf.other)) $("pictures").append(el("img", {id: "then", alt: ""}));
    $("slider").max = stops.length - 1;
    $("slider").addEventListener("input", (event) => goTo(Number(event.target.value)));
    $("slider").parentElement.hidden = stops.length < 2;
    if (data.picture.why_none) $("chart").append(el("p", {class: "faint"}, `Layers have no maps: ${data.picture.why_none}.`));
    chart();
    if (stops.length) goTo(stops.length - 1); else showDetails();
  } else showDetails();
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; draw(); } });
  const title = document.querySelector("h1");  // where the tabulator key starts, and not where the last details were written
  title.tabIndex = -1; title.focus({preventScroll: true}); title.blur(); title.removeAttribute("tabindex");
  document.documentElement.dataset.ready = Math.round(performance.now());
}
begin();
})();
