"use strict";
// Draws the attempts of the data block as tokens (page_data in token_page.py describes the block).
// All text reaches the page through textContent, and styles are set as properties. Therefore the
// Content-Security-Policy of the page can forbid every other style and script.

const $ = (id) => document.getElementById(id);
const root = document.documentElement;
const data = JSON.parse($("data").textContent);

// A little-endian array in base64.
function unpacked(name, Kind) {
  const text = atob(data[name]);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new Kind(bytes.buffer);
}
const tokens = unpacked("tokens", Uint32Array); // indices into data.pieces, attempt by attempt
const ids = unpacked("ids", Uint32Array);
const rewards = unpacked("rewards", Float32Array);
const grm = unpacked("grm_logprobs", Float32Array);
const old = unpacked("old_logprobs", Float32Array);
const targets = unpacked("targets", Uint32Array); // the same, correction by correction
const special = new Set(data.special);

// The bounds of the colour scale.
let lowest = 0;
let highest = 0;
for (const r of rewards) {
  if (r < lowest) lowest = r;
  if (r > highest) highest = r;
}

// ---- facts of every attempt ------------------------------------------------------------------
// at, targetAt: where the tokens of the attempt and of its correction begin in the arrays.
// hunk, targetHunk: which edit operation changes a token, so that both sides can be linked.
// hits, kept, missed: tokens that are punished and removed, punished and kept, removed and not
// punished. They are counted for corrected attempts only.
let at = 0;
let targetAt = 0;
const cases = data.attempts.map((a, number) => {
  const c = { ...a, number, at, targetAt, problem: data.problems[a.problem] };
  at += a.n;
  targetAt += a.m;
  c.right = a.verdict === "right" && !a.clipped;
  c.removed = new Uint8Array(a.n);
  c.edited = new Uint8Array(a.m);
  c.hunk = new Int32Array(a.n).fill(-1);
  c.targetHunk = new Int32Array(a.m).fill(-1);

  for (let i = 0; i < a.ops.length; i += 5) {
    const [tag, s0, s1, t0, t1] = a.ops.slice(i, i + 5);
    if (tag === 0) continue; // kept
    for (let s = s0; s < s1; s++) { c.removed[s] = 1; c.hunk[s] = i; }
    for (let t = t0; t < t1; t++) { c.edited[t] = 1; c.targetHunk[t] = i; }
  }

  c.corrected = a.reason === "accepted";
  Object.assign(c, { punished: 0, rewarded: 0, penalty: 0, leastLikely: 0, hits: 0, kept: 0, missed: 0 });
  for (let i = 0; i < a.n; i++) {
    const r = rewards[c.at + i];
    if (r < 0) { c.punished++; c.penalty += r; }
    if (r > 0) c.rewarded++;
    if (grm[c.at + i] < c.leastLikely) c.leastLikely = grm[c.at + i];
    if (!c.corrected || c.right) continue;
    if (r < 0) c.removed[i] ? c.hits++ : c.kept++;
    else if (c.removed[i]) c.missed++;
  }
  return c;
});
const text = (from, count, table) => {
  let out = "";
  for (let i = from; i < from + count; i++) out += data.pieces[table[i]];
  return out;
};

// Whether an attempt contains the words. Its text is put together at the first search only.
function found(c, words) {
  c.all ??= [c.id, c.problem.question, text(c.at, c.n, tokens), text(c.targetAt, c.m, targets)].join("\n").toLowerCase();
  return c.all.includes(words);
}

// ---- controls --------------------------------------------------------------------------------
const CHOICES = {
  show: { all: ["right and wrong", () => true], wrong: ["wrong", (c) => !c.right], right: ["right", (c) => c.right] },
  fix: {
    all: ["any", () => true], yes: ["corrected", (c) => !c.right && c.corrected],
    no: ["wrong, not corrected", (c) => !c.right && !c.corrected],
  },
  credit: {
    all: ["any", () => true], penalties: ["has penalties", (c) => c.punished > 0],
    silent: ["wrong, no penalty", (c) => !c.right && !c.punished],
    kept: ["punished but kept", (c) => c.kept > 0],
    missed: ["removed but not punished", (c) => c.missed > 0],
    agrees: ["agrees with the edit", (c) => c.hits > 0 && !c.kept && !c.missed],
  },
  share: { all: ["all", () => true], taught: ["taught to the GRM", (c) => c.taught], unseen: ["not taught", (c) => !c.taught] },
  sort: {
    order: ["as recorded", (a, b) => a.number - b.number],
    penalty: ["largest penalties", (a, b) => a.penalty - b.penalty],
    against: ["disagreement with the edit", (a, b) => b.kept + b.missed - a.kept - a.missed],
    unlikely: ["least likely to the GRM", (a, b) => a.leastLikely - b.leastLikely],
    long: ["longest", (a, b) => b.n - a.n],
  },
  palette: { green: ["green and red"], blue: ["blue and orange"] },
  theme: { auto: ["as the system"], light: ["light"], dark: ["dark"] },
  size: { 20: ["20"], 10: ["10"], 50: ["50"], 100: ["100"] },
};
const START = { q: "", page: "1", ...Object.fromEntries(Object.entries(CHOICES).map(([k, v]) => [k, k === "size" ? "20" : Object.keys(v)[0]])) };
let state = { ...START };
let shown = cases;

for (const [name, options] of Object.entries(CHOICES)) {
  if (name === "share" && !cases.some((c) => c.taught)) $(name).parentElement.hidden = true;
  for (const [value, [label]] of Object.entries(options)) $(name).append(new Option(label, value));
  $(name).value = START[name];
  const turns = name === "theme" || name === "palette" ? {} : { page: "1" };
  $(name).addEventListener("change", () => go({ [name]: $(name).value, ...turns }));
}
let typing = 0;
$("q").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => go({ q: $("q").value, page: "1" }), 150);
});
$("tools").addEventListener("submit", (event) => event.preventDefault());
$("reset").addEventListener("click", () => go({ ...START, theme: state.theme, palette: state.palette }));
for (const button of document.querySelectorAll("[data-go]")) {
  button.addEventListener("click", () => {
    go({ page: String(Number(state.page) + Number(button.dataset.go)) });
    $("tools").scrollIntoView();
  });
}

// The state of the page is in the address after "#", so that a view can be kept as a link.
function go(changes) {
  state = { ...state, ...changes };
  const changed = Object.entries(state).filter(([k, v]) => v !== START[k]);
  const hash = new URLSearchParams(changed).toString();
  if (hash !== location.hash.slice(1)) location.replace(`#${hash}`);
  else draw();
}

function fromHash() {
  state = { ...START };
  for (const [k, v] of new URLSearchParams(location.hash.slice(1))) {
    if (k in START && (!(k in CHOICES) || Object.hasOwn(CHOICES[k], v))) state[k] = v;
  }
  for (const name of ["q", ...Object.keys(CHOICES)]) if ($(name).value !== state[name]) $(name).value = state[name];
  draw();
}

const dark = matchMedia("(prefers-color-scheme: dark)");
dark.addEventListener("change", look);

function look() {
  root.dataset.theme = state.theme === "auto" ? (dark.matches ? "dark" : "light") : state.theme;
  root.dataset.palette = state.palette;
}

// ---- drawing ---------------------------------------------------------------------------------
function draw() {
  look();
  hideTip();

  const words = state.q.toLowerCase();
  const tests = ["show", "fix", "credit", "share"].map((k) => CHOICES[k][state[k]][1]);
  shown = cases.filter((c) => tests.every((test) => test(c)) && (!words || found(c, words)));
  const sort = CHOICES.sort[state.sort][1];
  shown.sort((a, b) => sort(a, b) || a.number - b.number);

  const size = Number(state.size);
  const pages = Math.max(1, Math.ceil(shown.length / size));
  const page = Math.min(pages, Math.max(1, Math.trunc(Number(state.page)) || 1));
  state.page = String(page);
  const start = (page - 1) * size;
  const part = shown.slice(start, start + size);
  const where = part.length ? `${start + 1} to ${start + part.length} of ${count(shown.length)} attempts` : "no attempt";
  for (const output of document.querySelectorAll(".where")) output.textContent = where;
  for (const button of document.querySelectorAll("[data-go]")) {
    button.disabled = button.dataset.go === "1" ? page >= pages : page <= 1;
  }

  const empty = make("p", "none", "No attempt matches these filters.");
  $("list").replaceChildren(...(part.length ? part.map(card) : [empty]));
  tiles();
}
const count = (n) => n.toLocaleString("en");
const number = (r) => (r === 0 ? "0" : String(Number(r.toPrecision(4))).replace("-", "\u2212"));
const percent = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(1)} %` : "\u2013");

function make(tag, kind, words) {
  const element = document.createElement(tag);
  if (kind) element.className = kind;
  if (words !== undefined) element.textContent = words;
  return element;
}

function listed(target, entries) {
  target.replaceChildren(...entries.map(([name, value, note]) => {
    const row = make("div");
    const dd = make("dd", "", value);
    if (note) dd.append(make("small", "", note));
    row.append(make("dt", "", name), dd);
    return row;
  }));
}

function tiles() {
  const sum = (of) => shown.reduce((total, c) => total + of(c), 0);
  const right = sum((c) => (c.right ? 1 : 0)), fixed = sum((c) => (c.corrected && !c.right ? 1 : 0));
  const all = sum((c) => c.n), hits = sum((c) => c.hits), kept = sum((c) => c.kept), missed = sum((c) => c.missed);
  listed($("tiles"), [
    ["attempts", count(shown.length), `${count(right)} right, ${count(shown.length - right)} wrong`],
    ["corrected", count(fixed), right < shown.length ? `${percent(fixed, shown.length - right)} of the wrong attempts` : ""],
    ["tokens", count(all)],
    ["rewarded", percent(sum((c) => c.rewarded), all), "of the tokens"],
    ["punished", percent(sum((c) => c.punished), all), "of the tokens"],
    ["credit precision", percent(hits, hits + kept), "punished tokens that the correction removes"],
    ["credit recall", percent(hits, hits + missed), "removed tokens that are punished"],
  ]);
}

// Characters that cannot be seen, or that change how the text around them is shown, are spelt out.
const HIDDEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}\p{Co}\u00a0\u2000-\u200a\u202f\u205f\u3000]/gu;

function visible(words, newline) {
  if (/^\p{M}/u.test(words)) words = `\u25cc${words}`;
  return words.replace(HIDDEN, (c) => {
    const code = c.codePointAt(0);
    if (c === "\n") return newline;
    if (c === "\t") return "\u2192\t";
    if (code < 32) return String.fromCodePoint(0x2400 + code);
    return `\u27e8U+${code.toString(16).toUpperCase().padStart(4, "0")}\u27e9`;
  });
}

function tokenSpan(piece, kind) {
  const words = data.pieces[piece];
  const span = make("span", `t ${kind}`, words === "" ? "\u00b7" : visible(words, "\u21b5\n"));
  if (words === "") span.classList.add("part");
  if (special.has(piece)) span.classList.add("mark");
  return span;
}

function card(c) {
  const article = make("article");
  article.dataset.id = c.id;
  article.dataset.number = c.number;
  const head = make("header");
  head.append(make("span", `badge ${c.right ? "right" : "wrong"}`, c.right ? "\u2713 right" : `\u2717 ${c.clipped ? "cut off" : c.verdict.replace("_", " ")}`));
  head.append(make("h2", "", visible(c.id, " ")));
  for (const note of notes(c)) head.append(make("span", "", visible(note, " ")));
  const question = make("p", "question", visible(c.problem.question, "\n"));
  question.append(" ", make("b", "", `\u2192 ${visible(c.problem.answer, " ")}`));
  const sides = make("div", "sides");
  sides.append(attemptSide(c));
  if (c.m) sides.append(correctionSide(c));
  article.append(head, question, sides);
  return article;
}

function notes(c) {
  const out = [c.problem.kind, c.source === "policy" ? "" : `from ${c.source}`];
  if (!c.right) {
    const by = c.by ? ` by ${c.by}` : "", ratio = c.m ? `, edit ratio ${c.ratio.toFixed(2)}` : "";
    const reason = c.reason ? `: ${c.reason.replaceAll("_", " ")}${c.by ? ` (${c.by})` : ""}${ratio}` : "";
    out.push(c.corrected ? `corrected${by}${ratio}` : `not corrected${reason}`);
  }
  if (c.punished) out.push(`${c.punished} punished, ${number(c.penalty)} in total`);
  if (c.kept) out.push(`${c.kept} punished but kept`);
  if (c.missed) out.push(`${c.missed} removed but not punished`);
  if (c.taught) out.push("taught to the GRM");
  return out.filter(Boolean);
}

function side(title, kind) {
  const box = make("section", kind), row = make("div", "tokens");
  row.setAttribute("role", "group");
  row.setAttribute("aria-label", title);
  box.append(make("h3", "", title), row);
  return [box, row];
}

function attemptSide(c) {
  const [box, row] = side("Attempt", "attempt");
  for (let i = 0; i < c.n; i++) {
    const r = rewards[c.at + i];
    const span = tokenSpan(tokens[c.at + i], r < 0 ? "neg" : r > 0 ? "pos" : "");
    if (r) span.style.setProperty("--a", (r / (r < 0 ? lowest : highest)).toFixed(4));
    if (c.corrected && c.removed[i]) span.classList.add("x");
    Object.assign(span.dataset, { i, r });
    if (c.hunk[i] >= 0) span.dataset.h = c.hunk[i];
    span.tabIndex = i ? -1 : 0;
    row.append(span);
  }
  return box;
}

function correctionSide(c) {
  const [box, row] = side(c.corrected ? "Correction" : `Rejected correction (${c.reason.replaceAll("_", " ")})`, "correction");
  for (let i = 0; i < c.m; i++) {
    const span = tokenSpan(targets[c.targetAt + i], c.edited[i] ? "ins" : "kept");
    if (c.targetHunk[i] >= 0) span.dataset.h = c.targetHunk[i];
    row.append(span);
  }
  return box;
}

// ---- the numbers of one token ----------------------------------------------------------------
const tip = $("tip");
let held = null;

function hideTip() {
  tip.hidden = true;
  held?.removeAttribute("aria-describedby");
  held = null;
  for (const other of document.querySelectorAll(".same")) other.classList.remove("same");
}

function probability(logprob) {
  const p = Math.exp(Math.min(0, logprob));
  return p === 0 ? "0" : p < 0.0005 ? p.toExponential(1) : p.toFixed(3);
}

function showTip(span) {
  hideTip();
  held = span;
  const article = span.closest("article"), c = cases[Number(article.dataset.number)];
  const i = Number(span.dataset.i), where = c.at + i, words = data.pieces[tokens[where]];
  const code = make("code", "", words === "" ? "part of the next character" : visible(words, "\u21b5"));
  const list = make("dl");
  listed(list, [
    ["token", ""], ["reward", number(rewards[where])], ["GRM probability", probability(grm[where])],
    ["old policy probability", probability(old[where])],
    ["edit", !c.corrected || c.right ? "\u2013" : c.removed[i] ? "removed" : "kept"],
    ["position, id", `${i + 1} of ${c.n}, ${ids[where]}`],
  ]);
  list.querySelector("dd").append(code);
  for (const row of [...list.children]) row.replaceWith(...row.children);
  tip.replaceChildren(list);
  tip.hidden = false;
  span.setAttribute("aria-describedby", "tip");
  if (span.dataset.h !== undefined) {
    for (const other of article.querySelectorAll(`.correction [data-h="${span.dataset.h}"]`)) other.classList.add("same");
  }

  // Below the token if there is room, else above it.
  const box = span.getClientRects()[0] ?? span.getBoundingClientRect(), own = tip.getBoundingClientRect();
  const below = box.bottom + 8 + own.height < innerHeight;
  tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - own.width - 8))}px`;
  tip.style.top = `${below ? box.bottom + 8 : Math.max(8, box.top - own.height - 8)}px`;
}
const tokenOf = (event) => event.target.closest?.(".attempt .t");
$("list").addEventListener("pointerover", (event) => (tokenOf(event) ? showTip(tokenOf(event)) : hideTip()));
$("list").addEventListener("pointerleave", hideTip);
$("list").addEventListener("focusin", (event) => tokenOf(event) && showTip(tokenOf(event)));
$("list").addEventListener("focusout", hideTip);
addEventListener("scroll", () => held !== document.activeElement && hideTip(), { passive: true });
$("list").addEventListener("keydown", (event) => {
  const span = tokenOf(event);
  if (!span || event.ctrlKey || event.metaKey || event.altKey) return;
  const row = [...span.parentElement.children], here = row.indexOf(span);
  const moves = {
    ArrowRight: () => row[here + 1], ArrowLeft: () => row[here - 1], Home: () => row[0], End: () => row.at(-1),
    n: () => row.slice(here + 1).find((s) => s.classList.contains("neg")),
    p: () => row.slice(0, here).findLast((s) => s.classList.contains("neg")),
  };
  if (event.key === "Escape") return hideTip();
  const next = Object.hasOwn(moves, event.key) ? moves[event.key]() : null;
  if (!next) return;
  event.preventDefault();
  span.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
});

// ---- start -----------------------------------------------------------------------------------
$("task").textContent = data.title;
$("choice").textContent = data.choice;
$("low").textContent = number(lowest);
$("high").textContent = highest > 0 ? `+${number(highest)}` : "0";
listed($("facts"), data.facts);
addEventListener("hashchange", fromHash);
fromHash();
root.dataset.ready = String(Math.round(performance.now())); // ms from the start of loading
