// SPDX-License-Identifier: Apache-2.0
// One plot: its figures, its lines by Plotly, and what it says where there are none.

import { make, show, write } from "./dom.js";
import { clock, measured } from "./format.js";

const DASHES = ["solid", "dash", "dot", "solid"];
const COLOURS = 4;
const STEPS_X = [60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200];
const MOST_TICKS_X = 5;
const TICKS_Y = 3;
const STALE_STEPS = 3; // after which a last value is not the present one
const CONFIG = { displayModeBar: false, responsive: true, doubleClick: false, showTips: false };

let loading = null;

/** Plotly, loaded when a first plot comes in sight: it is larger than all of the rest. */
function plotly() {
  loading ??= new Promise((resolve, reject) => {
    const { head } = document;
    const script = make("script", { src: new URL("plotly.min.js", import.meta.url).href });
    script.addEventListener("load", () => {
      delete head.appendChild;
      resolve(globalThis.Plotly);
    });
    script.addEventListener("error", () => {
      loading = null;
      script.remove();
      reject(new Error("Plotly could not be loaded."));
    });
    head.append(script);
    // It brings styles for maps along. No plot here is one, and the page's policy forbids them.
    head.appendChild = (node) => (node.localName === "style" ? node : Node.prototype.appendChild.call(head, node));
  });
  return loading;
}

/** Colours as the style sheet has them now. */
function palette(element) {
  const probe = make("span");
  element.append(probe);
  const read = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const colours = {
    lines: Array.from({ length: COLOURS }, (_, index) => read(`line-${index + 1}`)),
    rule: read("rule"),
    soft: read("soft"),
    edge: read("edge"),
  };
  colours.font = getComputedStyle(document.body).fontFamily;
  probe.remove();
  return colours;
}

const faint = (colour) => colour.replace(/^rgb\((.*)\)$/, "rgba($1, 0.09)");

/** A round step of which a few make up a range. */
function roundStep(most, base) {
  const rough = most / TICKS_Y;
  const power = base ** Math.floor(Math.log(rough) / Math.log(base));
  const factors = base === 2 ? [1, 2] : [1, 2, 2.5, 5, 10];
  return factors.map((factor) => factor * power).find((step) => step >= rough);
}

function axisY(series, colours) {
  const most = Math.max(0, ...series.lines.flatMap(({ values }) => values.map((value) => value ?? 0)));
  const isBinary = /^B|^bytes/.test(series.unit);
  const least = { "%": 100, Cel: 100, tokens: 100 }[series.unit] ?? (isBinary ? 4096 : 1);
  const step = series.unit === "%" && most <= 100 ? 50 : roundStep(Math.max(most, least), isBinary ? 2 : 10);
  const top = Math.max(step, Math.ceil(Math.max(most, least) / step) * step);
  const values = Array.from({ length: Math.round(top / step) + 1 }, (_, index) => index * step);
  return {
    range: [0, top * 1.04],
    tickvals: values,
    ticktext: values.map((value) => (value ? measured(value, series.unit) : "0")),
    fixedrange: true,
    gridcolor: colours.rule,
    zeroline: false,
    tickfont: { color: colours.soft, size: 11 },
  };
}

function axisX({ now, window: seconds }, colours) {
  const step = STEPS_X.find((candidate) => seconds / candidate <= MOST_TICKS_X) ?? 86_400;
  const offset = new Date(now * 1000).getTimezoneOffset() * 60;
  const first = Math.ceil((now - seconds - offset) / step) * step + offset;
  const values = [];
  for (let tick = first; tick <= now; tick += step) values.push(tick);
  return {
    range: [now - seconds, now],
    tickvals: values,
    ticktext: values.map((value) => clock(new Date(value * 1000), { seconds: false })),
    fixedrange: true,
    showgrid: false,
    zeroline: false,
    showline: true,
    linecolor: colours.edge,
    tickfont: { color: colours.soft, size: 11 },
    showspikes: true,
    spikemode: "across",
    spikesnap: "data",
    spikedash: "solid",
    spikethickness: 1,
    spikecolor: colours.edge,
  };
}

function traces(series, colours) {
  const isAlone = series.lines.length === 1;
  return series.lines.map(({ name, values }, index) => ({
    type: "scatter",
    mode: values.filter((value) => value !== null).length > 1 ? "lines" : "markers",
    marker: { size: 4, color: colours.lines[index % COLOURS] },
    name,
    x: series.times,
    y: values,
    connectgaps: false,
    hoverinfo: "none",
    line: {
      color: colours.lines[index % COLOURS],
      width: 1.75,
      dash: DASHES[index % DASHES.length],
      shape: "linear",
    },
    fill: isAlone ? "tozeroy" : "none",
    fillcolor: faint(colours.lines[index % COLOURS]),
  }));
}

function layout(answer, series, colours) {
  return {
    margin: { l: 62, r: 6, t: 6, b: 22 },
    xaxis: axisX(answer, colours),
    yaxis: axisY(series, colours),
    showlegend: false,
    hovermode: "x",
    hoverdistance: -1,
    dragmode: false,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: colours.font, size: 11 },
  };
}

/** A plot of one series; `link` is where it is to be had by itself. */
export class Plot {
  #answer = null;
  #series = null;
  #hovered = null;
  #isInSight = false;
  #isDrawn = false;
  #version = 0;

  constructor(title, link) {
    this.heading = make("h3", {}, title);
    this.moment = make("span", { class: "moment number" });
    const more = link && make("a", { href: link, target: "_blank", rel: "noopener", "aria-label": `Embed the plot ${title}`, title: "This plot by itself, to embed elsewhere" }, "embed");
    this.legend = make("ul", { class: "legend" });
    this.blank = make("p", { class: "blank" }, "Waiting for data…");
    this.lines = make("div", { class: "lines", role: "img", "aria-label": `${title}, no data yet` });
    this.chart = make("div", { class: "chart" }, this.lines, this.blank);
    this.element = make("article", { class: "plot" }, make("div", { class: "plot-head" }, this.heading, this.moment, more), this.legend, this.chart);
    document.addEventListener("themechange", () => this.#draw());
    new IntersectionObserver((entries) => {
      this.#isInSight = entries.at(-1).isIntersecting;
      this.#draw();
    }, { rootMargin: "100px" }).observe(this.element);
  }

  /** Show what the API answers of the series. */
  update(answer, series) {
    this.#answer = answer;
    this.#series = series;
    write(this.heading, series.title);
    const names = series.lines.map(({ name }) => name);
    if (this.legend.dataset.names !== JSON.stringify(names)) this.#makeLegend(names);
    this.#fillLegend();
    this.#draw();
  }

  /** Say why there is nothing to see. */
  tell(text) {
    write(this.blank, text);
    show(this.blank, true);
    this.lines.classList.add("empty-lines");
  }

  #makeLegend(names) {
    this.legend.dataset.names = JSON.stringify(names);
    this.legend.replaceChildren(
      ...names.map((name, index) =>
        make(
          "li",
          { "data-line": (index % COLOURS) + 1 },
          make("span", { class: "swatch", "data-dash": DASHES[index % DASHES.length], "aria-hidden": "true" }),
          make("span", { class: "name", title: name }, name),
          make("span", { class: "number" }),
        ),
      ),
    );
  }

  /** Figures of the moment that is pointed at, else of now. */
  #fillLegend() {
    const { times, lines, unit, title } = this.#series;
    const index = this.#hovered ?? times.length - 1;
    const isFresh = this.#hovered !== null || times.at(-1) > this.#answer.now - STALE_STEPS * this.#answer.step;
    lines.forEach(({ values }, line) => {
      const value = this.#hovered === null ? values.findLast((one, at) => one !== null && at >= index - 1) : values[index];
      write(this.legend.children[line].lastChild, measured(isFresh ? value : null, unit));
    });
    write(this.moment, this.#hovered === null ? "" : clock(new Date(times[index] * 1000)));
    const told = lines.map(({ name }, line) => `${name} ${this.legend.children[line].lastChild.textContent}`);
    if (this.#hovered === null) this.lines.setAttribute("aria-label", `${title}: ${told.join(", ") || "no data"}`);
  }

  async #draw() {
    if (!this.#isInSight || !this.#series) return;
    const { available, note, lines } = this.#series;
    this.element.toggleAttribute("data-unavailable", !available);
    const isEmpty = !lines.some(({ values }) => values.some((value) => value !== null));
    if (!available || isEmpty) {
      this.tell(available ? "Nothing was measured in this time." : note);
      return;
    }
    const version = ++this.#version;
    let drawer;
    try {
      drawer = await plotly();
    } catch (error) {
      this.tell(error.message);
      return;
    }
    if (version !== this.#version) return; // a later one is on its way
    const colours = palette(this.element);
    await drawer.react(this.lines, traces(this.#series, colours), layout(this.#answer, this.#series, colours), CONFIG);
    show(this.blank, false);
    this.lines.classList.remove("empty-lines");
    this.#listen();
  }

  #listen() {
    if (this.#isDrawn) return;
    this.#isDrawn = true;
    this.lines.on("plotly_hover", ({ points }) => {
      this.#hovered = points[0].pointIndex;
      this.#fillLegend();
    });
    this.lines.on("plotly_unhover", () => {
      this.#hovered = null;
      this.#fillLegend();
    });
  }
}
