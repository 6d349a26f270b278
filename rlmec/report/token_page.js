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
const instead = unpacked("instead", Uint32Array); // the same, data.per_place for each of an attempt's places
const insteadLogprobs = unpacked("instead_logprobs", Float32Array);
const solutions = unpacked("solutions", Uint32Array); // the same, of the attempts that the trained policy was asked about
const fresh = unpacked("new_logprobs", Float32Array); // its log-probs of these attempts' tokens
const special = new Set(data.special);

// The bounds of the colour scale.
let lowest = 0;
let highest = 0;
for (const r of rewards) {
  if (r < lowest) lowest = r;
  if (r > highest) highest = r;
}

// ---- facts of every attempt ------------------------------------------------------------------
// at, targetAt, insteadAt, solutionAt, freshAt: where the tokens of the attempt, of its correction,
// of its alternatives and of the trained policy's solution begin in the arrays, and its log-probs.
// hunk, targetHunk: which edit operation changes a token, so that both sides can be linked.
// hits, kept, missed: tokens that are punished and removed, punished and kept, removed and not
// punished. They are counted for corrected attempts only.
let at = 0;
let targetAt = 0;
let insteadAt = 0;
let solutionAt = 0;
let freshAt = 0;
const cases = data.attempts.map((a, number) => {
  const c = { ...a, number, at, targetAt, insteadAt, solutionAt, freshAt, problem: data.problems[a.problem] };
  at += a.n;
  targetAt += a.m;
  insteadAt += a.places.length * data.per_place;
  solutionAt += a.k;
  if (a.now) freshAt += a.n;
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
  show: { wrong: ["wrong", (c) => !c.right], right: ["right", (c) => c.right], all: ["right and wrong", () => true] },
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
  now: {
    all: ["any", () => true], right: ["right now", (c) => c.now === "right"],
    wrong: ["not right now", (c) => c.now && c.now !== "right"], none: ["not asked", (c) => !c.now],
  },
  share: { all: ["all", () => true], taught: ["taught to the GRM", (c) => c.taught], unseen: ["not taught", (c) => !c.taught] },
  sort: {
    telling: ["most telling", (a, b) => b.telling - a.telling],
    order: ["as recorded", (a, b) => a.number - b.number],
    penalty: ["largest penalties", (a, b) => a.penalty - b.penalty],
    against: ["disagreement with the edit", (a, b) => b.kept + b.missed - a.kept - a.missed],
    unlikely: ["least likely to the GRM", (a, b) => a.leastLikely - b.leastLikely],
    long: ["longest", (a, b) => b.n - a.n],
  },
  colour: { reward: ["reward"], grm: ["GRM probability"], old: ["old policy probability"], new: ["trained policy probability"] },
  palette: { blue: ["blue and orange"], green: ["green and red"] },
  theme: { auto: ["as the system"], light: ["light"], dark: ["dark"] },
  size: { 20: ["20"], 10: ["10"], 50: ["50"], 100: ["100"] },
};
const LOOKS = ["colour", "palette", "theme"]; // change how attempts look, not which ones are shown
const START = { q: "", page: "1", ...Object.fromEntries(Object.entries(CHOICES).map(([k, v]) => [k, k === "size" ? "20" : Object.keys(v)[0]])) };
if (!cases.some((c) => !c.right)) START.show = "all";
let state = { ...START };
let shown = cases;

for (const [name, options] of Object.entries(CHOICES)) {
  if (name === "share" && !cases.some((c) => c.taught)) $(name).parentElement.hidden = true;
  if (name === "now" && !cases.some((c) => c.now)) $(name).parentElement.hidden = true;
  for (const [value, [label]] of Object.entries(options)) {
    if (name !== "colour" || value !== "new" || fresh.length) $(name).append(new Option(label, value));
  }
  $(name).value = START[name];
  const turns = LOOKS.includes(name) ? {} : { page: "1" };
  $(name).addEventListener("change", () => go({ [name]: $(name).value, ...turns }));
}
let typing = 0;
$("q").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => go({ q: $("q").value, page: "1" }), 150);
});
$("tools").addEventListener("submit", (event) => event.preventDefault());
$("reset").addEventListener("click", () => go({ ...START, ...Object.fromEntries(LOOKS.map((name) => [name, state[name]])) }));
for (const button of document.querySelectorAll("[data-go]")) {
  button.addEventListener("click", () => {
    go({ page: String(Number(state.page) + Number(button.dataset.go)) });
    $("fold").scrollIntoView();
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

// On a phone the filters are folded until they are asked for.
const narrow = matchMedia("(max-width: 44rem)");
const fold = () => { $("fold").open = !narrow.matches; };
narrow.addEventListener("change", fold);

function look() {
  root.dataset.theme = state.theme === "auto" ? (dark.matches ? "dark" : "light") : state.theme;
  root.dataset.palette = state.palette;
  root.dataset.colour = state.colour;
  $("measure").textContent = CHOICES.colour[state.colour][0];
}

// ---- drawing ---------------------------------------------------------------------------------
function draw() {
  look();
  hideTip();
  const chosen = ["q", "show", "fix", "credit", "now", "share", "sort"].filter((k) => state[k] !== START[k]).length;
  $("fold").firstElementChild.textContent = chosen ? `Filters (${chosen} set)` : "Filters";

  const words = state.q.toLowerCase();
  const tests = ["show", "fix", "credit", "now", "share"].map((k) => CHOICES[k][state[k]][1]);
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
  const all = sum((c) => c.n), punished = sum((c) => c.punished), rewarded = sum((c) => c.rewarded);
  listed($("tiles"), [
    ["attempts", count(shown.length), `${count(right)} right, ${count(shown.length - right)} wrong`],
    ["corrected", count(fixed), right < shown.length ? `${percent(fixed, shown.length - right)} of the wrong attempts` : ""],
    ["tokens", count(all)],
    ["rewarded", count(rewarded), `tokens, ${percent(rewarded, all)}`],
    ["punished", count(punished), `tokens, ${percent(punished, all)}`],
  ]);
}

// Characters that cannot be seen, or that change how the text around them is shown, are spelt out.
const HIDDEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}\p{Co}\u00a0\u2000-\u200a\u202f\u205f\u3000\ufffe\uffff]/gu;

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

// A token's text as it is shown. Of several tokens that make one character, only the last has it.
const shownText = (piece) => (data.pieces[piece] === "" ? "\u00b7" : visible(data.pieces[piece], "\u21b5\n"));

function tokenSpan(piece, kind, tag = "span") {
  const span = make(tag, `t ${kind}`, shownText(piece));
  if (special.has(piece)) span.classList.add("mark");
  return span;
}

// What a reward or a probability looks like: the name of a fill, and its strength from 0 to 1.
function fillOf(c, i) {
  if (state.colour === "new" && !c.now) return ["", 0];
  if (state.colour !== "reward") {
    const logprob = state.colour === "new" ? fresh[c.freshAt + i] : (state.colour === "grm" ? grm : old)[c.at + i];
    return ["heat", 1 - Math.exp(Math.min(0, logprob))];
  }
  const r = rewards[c.at + i];
  return r < 0 ? ["neg", r / lowest] : r > 0 ? ["pos", r / highest] : ["", 0];
}

function card(c) {
  const article = make("article");
  article.dataset.id = c.id;
  article.dataset.number = c.number;
  const head = make("header");
  head.append(make("span", `badge ${c.right ? "right" : "wrong"}`, c.right ? "\u2713 right" : `\u2717 ${c.clipped ? "cut off" : c.verdict.replace("_", " ")}`));
  head.append(make("h2", "", visible(c.id, " ")));
  for (const note of notes(c)) head.append(make("span", "", visible(note, " ")));
  const save = make("button", "save", "Save as SVG");
  save.type = "button";
  save.setAttribute("aria-label", `Save as SVG: attempt ${visible(c.id, " ")}`);
  head.append(save);
  const question = make("p", "question", visible(c.problem.question, "\n"));
  question.append(" ", make("b", "", `\u2192 ${visible(c.problem.answer, " ")}`));
  const sides = make("div", "sides");
  sides.append(attemptSide(c));
  if (c.m) sides.append(correctionSide(c));
  if (c.now) sides.append(solutionSide(c));
  article.append(head, question);
  if (c.problem.solution) article.append(folded("Reference solution", visible(c.problem.solution, "\n")));
  article.append(sides);
  return article;
}

function folded(title, words) {
  const box = make("details", "solution");
  box.append(make("summary", "", title), make("p", "", words));
  return box;
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

// The rewards of an attempt in words, for those who cannot see them.
const SPOKEN = 30; // penalties that are listed

function spoken(c) {
  const parts = [];
  for (let i = 0; i < c.n && parts.length < SPOKEN; i++) {
    if (rewards[c.at + i] >= 0) continue;
    const fate = !c.corrected || c.right ? "" : c.removed[i] ? ", removed by the correction" : ", kept by the correction";
    parts.push(`\u201c${quoted(tokens[c.at + i])}\u201d, token ${i + 1}, ${number(rewards[c.at + i])}${fate}`);
  }
  const more = c.punished > parts.length ? `; and ${c.punished - parts.length} more` : "";
  const punished = parts.length ? `Punished tokens: ${parts.join("; ")}${more}.` : "No token is punished.";
  return `${punished} ${c.rewarded} of ${c.n} tokens are rewarded.`;
}
const quoted = (piece) => shownText(piece).replace("\u21b5\n", "line break").trim() || "space";

function attemptSide(c) {
  const [box, row] = side("Attempt", "attempt");
  row.before(make("p", "sr", spoken(c)));
  row.append(...attemptTokens(c, 0, c.n));
  if (c.n) row.firstElementChild.tabIndex = 0;
  return box;
}

// The tokens from `from` to before `to`, which the page's keys can reach.
function attemptTokens(c, from, to) {
  const spans = [];
  for (let i = from; i < to; i++) {
    const r = rewards[c.at + i], [fill, strength] = fillOf(c, i), gone = c.corrected && c.removed[i];
    const span = tokenSpan(tokens[c.at + i], r < 0 ? "neg" : r > 0 ? "pos" : "", gone ? "del" : "span");
    if (fill) span.style.setProperty("--a", strength.toFixed(4));
    if (fill === "heat") span.classList.add("heat");
    if (gone) span.classList.add("x");
    Object.assign(span.dataset, { i, r });
    if (c.hunk[i] >= 0) span.dataset.h = c.hunk[i];
    span.tabIndex = -1;
    spans.push(span);
  }
  return spans;
}

function correctionSide(c) {
  const [box, row] = side(c.corrected ? "Correction" : `Rejected correction (${c.reason.replaceAll("_", " ")})`, "correction");
  for (let i = 0; i < c.m; i++) {
    const added = c.edited[i];
    const span = tokenSpan(targets[c.targetAt + i], added ? "ins" : "kept", added ? "ins" : "span");
    if (c.targetHunk[i] >= 0) span.dataset.h = c.targetHunk[i];
    row.append(span);
  }
  return box;
}

// What the trained policy writes at the same problem.
function solutionSide(c) {
  const [box, row] = side(`After training, the policy writes (${c.now})`, "solved");
  for (let i = 0; i < c.k; i++) row.append(tokenSpan(solutions[c.solutionAt + i], ""));
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

// What the GRM would have written in the place of a token, as a row of the tooltip.
function alternativesOf(c, i) {
  const place = c.places.indexOf(i);
  if (place < 0) return [];
  const first = c.insteadAt + place * data.per_place;
  const told = Array.from(instead.subarray(first, first + data.per_place), (piece, k) => {
    const words = visible(data.pieces[piece], "\u21b5");
    return `\u201c${words}\u201d ${probability(insteadLogprobs[first + k])}`;
  });
  return [["the GRM instead", told.join(", ")]];
}

// What the correction does to a token. Added tokens stand in the place of all that are removed there.
function editOf(c, i) {
  if (!c.corrected || c.right) return "\u2013";
  if (!c.removed[i]) return "kept";
  const [, s0, s1, t0, t1] = c.ops.slice(c.hunk[i], c.hunk[i] + 5);
  if (t1 === t0) return "removed";
  return `${s1 - s0 > 1 ? "removed with its neighbours" : "removed"}, instead: ${visible(text(c.targetAt + t0, t1 - t0, targets), "\u21b5")}`;
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
    ...(c.now ? [["trained policy probability", probability(fresh[c.freshAt + i])]] : []),
    ...alternativesOf(c, i),
    ["edit", editOf(c, i)],
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

$("list").addEventListener("click", (event) => {
  const button = event.target.closest?.(".save");
  if (button) save(cases[Number(button.closest("article").dataset.number)]);
});

// ---- a worked example ------------------------------------------------------------------------
// The most telling attempt in words: its most punished removed token, and what replaces it.
function example() {
  const c = cases.reduce((best, other) => (other.telling > (best?.telling ?? 0) ? other : best), null);
  if (!c) return $("example").remove();
  let worst = -1;
  for (let i = 0; i < c.n; i++) {
    if (c.removed[i] && (worst < 0 || rewards[c.at + i] < rewards[c.at + worst])) worst = i;
  }
  const [, s0, s1, t0, t1] = c.ops.slice(c.hunk[worst], c.hunk[worst] + 5);
  const where = c.at + worst;
  const code = (words) => make("code", "", visible(words, "\u21b5"));
  const line = (...parts) => {
    const item = make("li");
    item.append(...parts);
    $("example").lastElementChild.append(item);
  };

  $("example").firstElementChild.textContent = `A worked example: attempt ${visible(c.id, " ")}`;
  const [first, last] = lineAround(c, worst);
  const part = make("span", "tokens");
  part.append(...attemptTokens(c, first, last));
  for (const span of part.children) span.removeAttribute("tabindex");
  line("The attempt is wrong: the right answer is ", code(c.problem.answer), ". In this line of it the penalty is largest: ", part);
  line("The GRM gives the token ", code(data.pieces[tokens[where]]), ` a probability of ${probability(grm[where])}; the policy itself gave it ${probability(old[where])}${c.now ? ` before training and ${probability(fresh[c.freshAt + worst])} after it` : ""}.`);
  line(`From the GRM's probability the reward rule makes ${number(rewards[where])}, a penalty; the scale ends at ${number(lowest)}.`);
  const change = t1 > t0 ? ["puts ", code(text(c.targetAt + t0, t1 - t0, targets)), " in the place of "] : ["removes "];
  line("The correction", c.by ? ` (by ${c.by}) ` : " ", ...change, code(text(c.at + s0, s1 - s0, tokens)), `. It was accepted: its answer is right, and its edit ratio is ${c.ratio.toFixed(2)}.`);
  const taught = c.taught ? "The GRM was trained on this problem." : "The GRM was not trained on this problem.";
  line(`Tokens of this attempt that are punished and removed: ${c.hits}; punished but kept: ${c.kept}; removed but not punished: ${c.missed}. ${taught}`);
}

// The tokens of the line in which a token begins, as [from, to).
function lineAround(c, i) {
  const ends = (k) => data.pieces[tokens[c.at + k]].includes("\n");
  let from = i, to = i + 1;
  while (from > 0 && !ends(from - 1)) from--;
  while (to < c.n && !ends(to - 1)) to++;
  return [from, to];
}

// ---- start -----------------------------------------------------------------------------------
$("task").textContent = data.title;
$("choice").textContent = data.choice;
$("low").textContent = number(lowest);
$("high").textContent = highest > 0 ? `+${number(highest)}` : "0";
$("credit-words").textContent = data.credit;
if (data.index) {
  $("back").href = data.index;
  $("back").parentElement.hidden = false;
}
$("run").hidden = !data.facts.length;
$("run").firstElementChild.textContent = `About this run: ${data.facts.slice(0, 3).map((fact) => fact.join(" ")).join(", ")}`;
listed($("facts"), data.facts);
$("again").hidden = !fresh.length;
fold();
addEventListener("hashchange", fromHash);
fromHash();
example();
root.dataset.ready = String(Math.round(performance.now())); // ms from the start of loading
