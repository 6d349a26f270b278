// One attempt with its correction as a picture for a paper: SVG with plain shapes, that needs no
// style, font or script. Columns are counted, and `textLength` holds every text to them, so that the
// picture is the same whatever font a viewer has. Colours are those of the palette on white.

const SVG = { columns: 84, char: 7.8, line: 20, left: 16, size: 13 };
const WIDE = /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe4f\uff00-\uff60\uffe0-\uffe6]|\p{Emoji_Presentation}/u;
const columnsOf = (words) => [...words].reduce((n, c) => n + (/\p{M}/u.test(c) ? 0 : WIDE.test(c) ? 2 : 1), 0);

function lightColours() {
  const before = root.dataset.theme;
  root.dataset.theme = "light";
  const style = getComputedStyle(root);
  const names = ["ink", "quiet", "line", "pos", "neg", "heat", "pos-text", "neg-text", "edit", "least", "most"];
  const found = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  root.dataset.theme = before;
  return found;
}

// A colour over white; `share` from 0 to 1.
function onWhite(hex, share) {
  const part = (at) => Math.round(255 + share * (parseInt(hex.slice(at, at + 2), 16) - 255));
  return `#${[1, 3, 5].map((at) => part(at).toString(16).padStart(2, "0")).join("")}`;
}

function svgOf(c) {
  const colours = lightColours(), mono = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace";
  const make = (name, attributes, words) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (words !== undefined) element.textContent = words;
    return element;
  };
  const svg = make("svg", { "font-family": mono, "font-size": SVG.size, role: "img" });
  svg.append(make("title", {}, `${visible(c.id, " ")}: ${c.right ? "right" : "wrong"} attempt`), make("desc", {}, spoken(c)));
  const paper = make("rect", { fill: "#ffffff" });
  svg.append(paper);
  let y = SVG.line, column = 0;

  // A text at the pen, which moves on by its columns. Spaces at its ends would be dropped.
  function put(words, { fill = "", ink = colours.ink, under = "", over = "", through = "", frame = "", weight = "" } = {}) {
    const wide = columnsOf(words), x = SVG.left + column * SVG.char, width = wide * SVG.char;
    if (fill) svg.append(make("rect", { x, y: y - 13, width, height: 17, fill }));
    if (frame) svg.append(make("rect", { x: x + 0.5, y: y - 12.5, width: width - 1, height: 16, fill: "none", stroke: frame }));
    const text = { x, y, fill: ink, textLength: width, lengthAdjust: "spacingAndGlyphs" };
    if (words.trim()) svg.append(make("text", weight ? { ...text, "font-weight": weight } : text, words.replaceAll(" ", "\u00a0")));
    for (const [stroke, at, thick] of [[under, 3, 2], [over, -12.5, 1], [through, -4, 1.5]]) {
      if (stroke) svg.append(make("line", { x1: x, x2: x + width, y1: y + at, y2: y + at, stroke, "stroke-width": thick }));
    }
    column += wide;
  }
  function next(lines = 1) { y += lines * SVG.line; column = 0; }

  // A token, cut where it breaks the line, and taken to the next line where it does not fit.
  function token(words, marks) {
    words.split("\n").forEach((part, i) => {
      if (i) next();
      if (column && column + columnsOf(part) > SVG.columns) next();
      for (const piece of part.match(new RegExp(`.{1,${SVG.columns}}`, "gsu")) ?? []) {
        if (column && column + columnsOf(piece) > SVG.columns) next();
        put(piece, marks);
      }
    });
  }
  function paragraph(words, marks) {
    for (const word of visible(words, "\n").match(/\s*\S+|\s+$/gu) ?? []) token(word.includes("\n") || column ? word : word.trimStart(), marks);
    next();
  }
  function heading(words) { next(0.4); paragraph(words, { ink: colours.quiet, weight: 600 }); }

  paragraph(`${c.right ? "\u2713 right" : "\u2717 wrong"} ${c.id}`, { weight: 600 });
  paragraph(c.problem.question, {});
  paragraph(`\u2192 ${c.problem.answer}`, { weight: 600 });
  heading(`Attempt, coloured by ${CHOICES.colour[state.colour][0]}`);
  const least = parseFloat(colours.least) / 100, most = parseFloat(colours.most) / 100;
  for (let i = 0; i < c.n; i++) {
    const r = rewards[c.at + i], [name, strength] = fillOf(c, i);
    const share = name === "heat" ? strength * most : least + strength * (most - least);
    token(shownText(tokens[c.at + i]), {
      fill: name ? onWhite(colours[name], share) : "",
      under: r < 0 ? colours["neg-text"] : "", over: r > 0 ? colours["pos-text"] : "",
      through: c.corrected && c.removed[i] ? colours.edit : "",
    });
  }
  next();
  if (c.m) {
    heading(`${c.corrected ? "Correction" : "Rejected correction"}, edit ratio ${c.ratio.toFixed(2)}`);
    for (let i = 0; i < c.m; i++) {
      token(shownText(targets[c.targetAt + i]), c.edited[i] ? { ink: colours.edit, frame: colours.edit, weight: 700 } : { ink: colours.quiet });
    }
    next();
  }

  next(0.6);
  const swatch = (name) => (state.colour === "reward" ? onWhite(colours[name], most) : "");
  const legend = [["punished", { fill: swatch("neg"), under: colours["neg-text"] }], ["rewarded", { fill: swatch("pos"), over: colours["pos-text"] }], ["removed", { through: colours.edit }], ["added", { ink: colours.edit, frame: colours.edit, weight: 700 }]];
  for (const [words, marks] of legend) { put(words, marks); column += 2; }
  const width = SVG.columns * SVG.char + 2 * SVG.left, height = y + SVG.line;
  for (const [name, value] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}` })) svg.setAttribute(name, value);
  paper.setAttribute("width", width);
  paper.setAttribute("height", height);
  return new XMLSerializer().serializeToString(svg);
}

function save(c) {
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([svgOf(c)], { type: "image/svg+xml" }));
  link.download = `${c.id.replace(/[^\w.-]+/g, "_")}.svg`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
