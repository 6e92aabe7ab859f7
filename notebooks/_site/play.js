"use strict";
// The two things to try on the page "Try it here". Without scripts, the pictures in their places stay.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes; `inside` is text or elements. */
function make(name, attributes = {}, ...inside) {
  const element = name.startsWith("svg:") ? document.createElementNS(SVG, name.slice(4)) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...inside);
  return element;
}

/** A range of numbers with its label and, beside it, its value. */
function slider(label, attributes, onInput) {
  const input = make("input", { type: "range", "aria-label": label, ...attributes });
  const value = make("output", {}, attributes.value);
  input.addEventListener("input", () => { value.textContent = input.value; onInput(); });
  return { row: make("label", { class: "slider" }, make("span", {}, label), input, value), input };
}

/** Advantages of a group, as TRL computes them: the standard deviation is the sample's. */
function advantagesOf(rewards, scale) {
  const mean = rewards.reduce((a, b) => a + b) / rewards.length;
  const centred = rewards.map((r) => r - mean);
  const spread = Math.sqrt(centred.reduce((a, c) => a + c * c, 0) / (rewards.length - 1));
  return centred.map((c) => (scale ? c / (spread + 1e-4) : c));
}

/** Probabilities after one step from equal ones. */
function stepped(advantages, rate) {
  const odds = advantages.map((a) => Math.exp((rate * a) / advantages.length));
  return odds.map((o) => o / odds.reduce((a, b) => a + b));
}

function playAdvantages(place) {
  const rewards = [2, 0, 0, 2].map((value, i) =>
    slider(`reward of completion ${i + 1}`, { min: -10, max: 10, step: 0.5, value }, update));
  const rate = slider("rate", { min: 0, max: 10, step: 0.5, value: 4 }, update);
  const scale = make("input", { type: "checkbox", checked: "" });
  scale.addEventListener("input", update);
  const rows = rewards.map((_, i) => [make("td", {}, String(i + 1)), make("td"), make("td", { class: "bar" }, make("span")), make("td")]);
  const head = ["completion", "advantage", "probability after the step", ""].map((text) => make("th", { scope: "col" }, text));
  const table = make("table", { "aria-live": "polite" }, make("thead", {}, make("tr", {}, ...head)),
    make("tbody", {}, ...rows.map((cells) => make("tr", {}, ...cells))));

  function update() {
    const advantages = advantagesOf(rewards.map((r) => Number(r.input.value)), scale.checked);
    const after = stepped(advantages, Number(rate.input.value));
    rows.forEach(([, advantage, bar, share], i) => {
      advantage.textContent = advantages[i].toFixed(2);
      bar.firstChild.style.width = `${100 * after[i]}%`;
      bar.firstChild.className = after[i] >= 0.25 ? "up" : "down";
      share.textContent = `25 % → ${(100 * after[i]).toFixed(0)} %`;
    });
  }
  const ticked = make("label", { class: "slider" }, make("span", {}, "divide by the spread"), scale);
  place.replaceChildren(...rewards.map((r) => r.row), rate.row, ticked, table);
  update();
}

/** The reward of every step as a line, with a mark that can be moved. */
function curve(rewards, best) {
  const [width, height, edge] = [600, 140, 24];
  const x = (step) => edge + ((width - 2 * edge) * (step - 1)) / (rewards.length - 1);
  const y = (reward) => height - edge - ((height - 2 * edge) * reward) / best;
  const points = rewards.map((reward, i) => `${x(i + 1)},${y(reward)}`).join(" ");
  const mark = make("svg:line", { y1: 8, y2: height - edge, class: "mark" });
  const words = [[edge, height - 6, "step 1"], [width - 90, height - 6, `step ${rewards.length}`], [4, 14, `reward, at most ${best}`]];
  const svg = make("svg:svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Mean reward of each step of the training" },
    make("svg:polyline", { points, class: "curve" }), mark,
    ...words.map(([left, top, text]) => make("svg:text", { x: left, y: top }, text)));
  const moveTo = (step) => ["x1", "x2"].forEach((end) => mark.setAttribute(end, x(Math.max(1, step))));
  return { svg, moveTo };
}

/** In words, as 06 reads an answer: strictly, or by its last number. */
function verdictOf(reply) {
  if (reply.strict) return "✓ right, in the layout";
  return reply.flexible ? "× right, but not in the layout" : `× wrong: it is ${reply.gold}`;
}

function playReplies(place, { rewards, best, replies }) {
  const steps = [...new Set(replies.map((r) => r.step))];
  const moment = slider("moment of the training", { min: 0, max: steps.length - 1, step: 1, value: 0 }, update);
  const line = curve(rewards, best);
  const list = make("div", { class: "replies", "aria-live": "polite" });

  function update() {
    const step = steps[Number(moment.input.value)];
    moment.row.lastChild.textContent = step ? `after step ${step}` : "untrained";
    line.moveTo(step);
    list.replaceChildren(...replies.filter((r) => r.step === step).map((r) =>
      make("section", { class: r.strict ? "right" : "wrong" }, make("p", {}, r.question),
        make("p", { class: "verdict" }, verdictOf(r)), make("pre", {}, r.completion))));
  }
  place.replaceChildren(moment.row, line.svg, list);
  update();
}

playAdvantages(document.getElementById("play-advantages"));
playReplies(document.getElementById("play-replies"), window.RECORDED);
