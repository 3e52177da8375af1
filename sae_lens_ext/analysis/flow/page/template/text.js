// Text on the page: every string of the graph goes through textContent, so that none is read as HTML.

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const byId = (id) => document.getElementById(id);

// Parts of a token: [text, is it a sign for something unseen].
function visibleParts(token, inRunningText) {
  if (token === "") return [["∅", true]];
  const blank = /^\s*$/u.test(token);
  const parts = [];
  [...token].forEach((character, i) => {
    if (character === "\n") parts.push([inRunningText ? "↵\n" : "↵", true]);
    else if (character === "\r") parts.push(["␍", true]);
    else if (character === "\t") parts.push(["⇥", true]);
    else if (character === " " && (blank || (i === 0 && !inRunningText))) parts.push(["·", true]);
    else if (/[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Zl}\p{Zp}]/u.test(character) || (blank && character !== " ")) {
      parts.push([`⟨${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`, true]);
    } else parts.push([character, false]);
  });
  return parts;
}

// A token as elements, signs for spaces and the like fainter than the rest.
function visibleToken(token, inRunningText = false) {
  const shown = document.createDocumentFragment();
  let run = "";
  for (const [text, isSign] of visibleParts(token, inRunningText)) {
    if (!isSign) { run += text; continue; }
    shown.append(run, make("i", {}, text));
    run = "";
  }
  shown.append(run);
  return shown;
}

// A token as one short string, for labels.
function shortToken(token, length) {
  const characters = [...visibleParts(token, false).map(([text]) => text).join("")];
  return characters.length <= length ? characters.join("") : characters.slice(0, Math.max(1, length - 1)).join("") + "…";
}

const number = (value, digits = 2) => (value === null ? "–" : value.toFixed(digits).replace("-", "−"));
const quantileText = (q) => (q === null ? "–" : q === 1 ? "1" : q > 0.9 ? String(Math.floor(q * 1e5) / 1e5) : q.toFixed(2));
const activationText = (value) => (value === null ? "–" : String(Number(value.toPrecision(3))).replace("-", "−"));
const count = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;
