// Draws one heatmap on a canvas: x is time, y the buckets at equal heights, colour the events per second, and over it the quantiles.
import { Shades } from "./colour.js";
import { clock, number } from "./format.js";

export const quantileNames = ["p50", "p90", "p99"];

const look = {
  dark: { lines: ["#ffffff", "#63e6ff", "#8dff8a"], casing: "rgb(0 0 0 / .6)" },
  light: { lines: ["#10131c", "#0a58ca", "#0b7a3b"], casing: "rgb(255 255 255 / .85)" },
};
const dashes = [[], [7, 3], [3, 2]];
const margin = { top: 8, bottom: 24, right: 84 };
const textHeight = 12;
const gapFrom = 7; // cells at least so wide and high (px) are set apart by a pixel
const thinnest = 2.5; // px; rows that would be thinner are merged
const timeSteps = [5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200]; // s between two marks of the time axis

export class Heatmap {
  constructor(canvas, scale, tip, readout) {
    Object.assign(this, { canvas, scale, tip, readout, data: null, at: null });
    this.light = matchMedia("(prefers-color-scheme: light)");
    this.light.addEventListener("change", () => this.paint());
    new ResizeObserver(() => this.paint()).observe(canvas);
    canvas.addEventListener("pointermove", (e) => this.point(this.cellAt(e.offsetX, e.offsetY)));
    canvas.addEventListener("pointerleave", () => this.point(null));
    canvas.addEventListener("blur", () => this.point(null));
    canvas.addEventListener("keydown", (e) => this.key(e));
  }

  get scheme() {
    return this.light.matches ? "light" : "dark";
  }

  lineColour(i) {
    return look[this.scheme].lines[i];
  }

  // draw shows a heatmap as /api/heatmap answers it.
  draw(data, options) {
    this.data = data;
    this.options = options;
    this.paint();
    const now = data.columns.findLast((c) => c.cells);
    this.canvas.setAttribute("aria-label", `Heatmap of ${data.metric}, ${clock(data.start)} to ${clock(data.end)}, ` +
      quantileNames.map((n, i) => `${n} ${now.quantiles[i]}`).join(", ") + ". Arrow keys read single cells.");
  }

  // shownEdges are the first and last edge to show.
  shownEdges() {
    const { columns, edges } = this.data;
    const cells = columns.flatMap((c) => c.cells ?? []);
    const last = edges.length - 1;
    if (!this.options.fit || cells.length === 0) return [0, last];
    const low = cells.reduce((a, c) => Math.min(a, c[0]), last);
    const high = cells.reduce((a, c) => Math.max(a, c[1]), 0);
    const border = Math.max(1, Math.round((high - low) / 12));
    return [Math.max(0, low - border), Math.min(last, high + border)];
  }

  // arrange makes the rows that are drawn: those that are shown, as many of them merged as it takes to make a row visible. The overflow
  // bucket is never merged with another.
  arrange(height) {
    const { columns, edges } = this.data;
    const [low, high] = this.shownEdges();
    const merge = Math.ceil(thinnest * (high - low) / height);
    const finite = edges[high] === "+Inf" ? high - 1 : high;
    const starts = [];
    for (let edge = low; edge < finite; edge += merge) starts.push(edge);
    starts.push(finite);
    if (finite < high) starts.push(high);
    const rowOf = (edge) => edge >= finite ? starts.length - 1 - (high - Math.min(edge, high)) : (edge - low) / merge;
    this.merge = merge;
    this.edges = starts.map((edge) => edges[edge]);
    this.columns = columns.map((c) => ({
      ...c,
      rows: c.rows?.map((row) => (row < 0 ? -1 : rowOf(row))),
      cells: c.cells && mergeCells(c.cells.map(([from, to, rate]) => [Math.floor(rowOf(from)), Math.ceil(rowOf(to)), rate])),
    }));
    this.count = this.edges.length - 1;
  }

  paint() {
    if (!this.data || !this.canvas.clientWidth) return;
    const g = this.g = prepare(this.canvas);
    const style = getComputedStyle(this.canvas);
    this.ink = Object.fromEntries(["plot", "line", "text", "soft"].map((n) => [n, style.getPropertyValue("--" + n)]));
    g.font = `${textHeight - 1}px ${style.fontFamily}`;
    const h = this.canvas.clientHeight - margin.top - margin.bottom;
    this.arrange(h);
    this.shades = new Shades(this.columns.flatMap((c) => c.cells ?? []).map((c) => c[2]), this.options.log, this.scheme);
    const left = Math.ceil(this.edges.reduce((a, t) => Math.max(a, g.measureText(t).width), 0)) + 14;
    this.box = { x: left, y: margin.top, w: this.canvas.clientWidth - left - margin.right, h };
    this.paintCells();
    this.paintBuckets();
    this.paintTimes();
    if (this.options.lines) this.paintLines();
    this.paintPointer();
    this.paintScale();
  }

  // x and y turn a column's and an edge's number into pixels.
  x(column) {
    return this.box.x + this.box.w * column / this.columns.length;
  }

  y(edge) {
    return this.box.y + this.box.h * (this.count - edge) / this.count;
  }

  paintCells() {
    const { g, box, columns } = this;
    g.fillStyle = this.ink.plot;
    g.fillRect(box.x, box.y, box.w, box.h);
    const apart = box.w / columns.length >= gapFrom && box.h / this.count >= gapFrom ? 1 : 0;
    columns.forEach((column, i) => {
      const x = Math.round(this.x(i));
      const w = Math.round(this.x(i + 1)) - x - apart;
      if (!column.cells) return this.paintHole(x, w);
      for (const [low, high, rate] of column.cells) {
        const y = Math.round(this.y(high));
        g.fillStyle = this.shades.colour(rate);
        g.fillRect(x, y, w, Math.max(1, Math.round(this.y(low)) - y - apart));
      }
    });
    g.strokeStyle = this.ink.line;
    g.strokeRect(box.x - 0.5, box.y - 0.5, box.w + 1, box.h + 1);
  }

  // paintHole hatches a column without samples, so that it does not look like one without events.
  paintHole(x, w) {
    const { g, box } = this;
    g.save();
    g.beginPath();
    g.rect(x, box.y, w + 1, box.h);
    g.clip();
    g.beginPath();
    for (let d = Math.floor((x - box.h) / 8) * 8; d < x + w; d += 8) {
      g.moveTo(d, box.y + box.h);
      g.lineTo(d + box.h, box.y);
    }
    g.strokeStyle = this.ink.line;
    g.stroke();
    g.restore();
  }

  paintBuckets() {
    const { g, box } = this;
    const every = Math.max(1, Math.ceil((textHeight + 5) * this.count / box.h));
    g.fillStyle = this.ink.soft;
    g.strokeStyle = this.ink.line;
    g.textAlign = "right";
    g.textBaseline = "middle";
    g.beginPath();
    for (let edge = this.count; edge >= 0; edge -= every) {
      const y = Math.round(this.y(edge));
      g.fillText(this.edges[edge], box.x - 8, y);
      g.moveTo(box.x - 4, y - 0.5);
      g.lineTo(box.x, y - 0.5);
    }
    g.stroke();
  }

  paintTimes() {
    const { g, box, data } = this;
    const length = data.step * data.columns.length;
    const fits = box.w / (g.measureText(clock(data.end, true)).width + 24);
    const step = timeSteps.find((s) => length / s <= fits) ?? timeSteps.at(-1);
    const first = data.start - data.step; // a column shows the time before its timestamp
    const zone = new Date(data.start * 1000).getTimezoneOffset() * 60;
    g.textAlign = "center";
    g.textBaseline = "top";
    g.beginPath();
    for (let t = Math.ceil((first - zone) / step) * step + zone; t <= data.end; t += step) {
      const x = Math.round(box.x + box.w * (t - first) / length);
      g.fillText(clock(t, step < 60), Math.min(x, box.x + box.w - 14), box.y + box.h + 8);
      g.moveTo(x + 0.5, box.y + box.h);
      g.lineTo(x + 0.5, box.y + box.h + 5);
    }
    g.stroke();
  }

  paintLines() {
    const { g, box, columns } = this;
    const { casing, lines } = look[this.scheme];
    g.save();
    g.beginPath();
    g.rect(box.x, box.y, box.w, box.h);
    g.clip();
    g.lineJoin = "round";
    quantileNames.forEach((_, q) => {
      const path = this.linePath(q);
      g.setLineDash([]);
      g.strokeStyle = casing;
      g.lineWidth = 4;
      g.stroke(path);
      g.setLineDash(dashes[q]);
      g.strokeStyle = lines[q];
      g.lineWidth = 2;
      g.stroke(path);
    });
    g.restore();
    this.paintLineNames(columns.findLast((c) => c.rows));
  }

  linePath(q) {
    const path = new Path2D();
    let drawing = false;
    this.columns.forEach((c, i) => {
      const row = c.rows?.[q] ?? -1;
      if (row >= 0) {
        const x = this.x(i + 0.5);
        if (drawing) path.lineTo(x, this.y(row));
        else path.moveTo(x, this.y(row)); // a lone point between two holes stays without a line
      }
      drawing = row >= 0;
    });
    return path;
  }

  // paintLineNames writes each quantile's name and newest value beside the end of its line, kept apart from each other.
  paintLineNames(column) {
    if (!column) return;
    const { g, box } = this;
    g.textAlign = "left";
    g.textBaseline = "middle";
    let above = Infinity; // names are placed from the lowest line upwards
    quantileNames.forEach((name, q) => {
      if (column.rows[q] < 0) return;
      const y = Math.min(this.y(column.rows[q]), above - textHeight - 1);
      above = y;
      g.fillStyle = look[this.scheme].lines[q];
      g.fillText(`${name} ${column.quantiles[q]}`, box.x + box.w + 6, Math.max(box.y + 4, y));
    });
  }

  // cellAt finds the column and row under a pixel, null outside the plot.
  cellAt(px, py) {
    if (!this.box) return null;
    const column = Math.floor((px - this.box.x) / this.box.w * this.columns.length);
    const row = Math.floor(this.count * (1 - (py - this.box.y) / this.box.h));
    if (column < 0 || column >= this.columns.length || row < 0 || row >= this.count) return null;
    return { time: this.columns[column].t, row };
  }

  key(e) {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[e.key];
    if (e.key === "Escape") return this.point(null);
    if (!move || !this.data) return;
    e.preventDefault();
    const last = this.columns.length - 1;
    const from = this.at ? this.columnOf(this.at) : last;
    const row = this.at?.row ?? Math.floor(Math.max(0, this.columns[last].rows?.[0] ?? 0));
    const column = Math.min(last, Math.max(0, from + move[0]));
    this.point({ time: this.columns[column].t, row: Math.min(this.count - 1, Math.max(0, row + move[1])) });
    this.readout.textContent = this.tip.textContent;
  }

  // point marks a cell. It is kept by its time, so that it stays where it is while the picture moves on.
  point(at) {
    if (at?.time === this.at?.time && at?.row === this.at?.row) return;
    this.at = at;
    this.paint();
  }

  columnOf(at) {
    return this.columns.findIndex((c) => c.t === at.time);
  }

  paintPointer() {
    const i = this.at ? this.columnOf(this.at) : -1;
    this.tip.hidden = i < 0 || this.at.row >= this.count;
    if (this.tip.hidden) return;
    const { g, box } = this;
    const column = this.columns[i];
    const cell = column.cells?.find(([low, high]) => low <= this.at.row && this.at.row < high) ?? [this.at.row, this.at.row + 1, 0];
    const x = Math.round(this.x(i));
    const w = Math.round(this.x(i + 1)) - x;
    g.fillStyle = this.scheme === "light" ? "rgb(0 0 0 / .07)" : "rgb(255 255 255 / .09)";
    g.fillRect(x, box.y, w, box.h);
    g.strokeStyle = this.ink.text;
    g.lineWidth = 1.5;
    const top = Math.round(this.y(cell[1]));
    g.strokeRect(x - 0.5, top - 0.5, w, Math.max(2, Math.round(this.y(cell[0])) - top));
    this.showTip(column, cell, x + w, top);
  }

  showTip(column, [low, high, rate], right, top) {
    const { data, tip } = this;
    const bounds = document.createElement("b");
    bounds.textContent = `${this.edges[low]} – ${this.edges[high]}`;
    const share = column.rate > 0 ? ` (${number(100 * rate / column.rate)} %)` : "";
    const rest = column.cells
      ? [`${number(rate)} /s${share}`, "", `all buckets ${number(column.rate)} /s, mean ${column.mean}`,
        quantileNames.map((n, i) => `${n} ${column.quantiles[i]}`).join("  ")]
      : ["no samples"];
    tip.replaceChildren(bounds, "\n", `${clock(column.t - data.step, true)} – ${clock(column.t, true)}\n`, rest.join("\n"));
    const spare = this.canvas.clientWidth - right - tip.offsetWidth - 14;
    tip.style.left = `${spare > 0 ? right + 10 : right - tip.offsetWidth - 20}px`;
    tip.style.top = `${Math.min(Math.max(0, top - 20), Math.max(0, this.canvas.clientHeight - tip.offsetHeight))}px`;
  }

  paintScale() {
    const g = prepare(this.scale);
    const w = this.scale.clientWidth;
    const bar = { x: 4, y: 2, w: w - 8, h: 10 };
    g.font = this.g.font;
    this.shades.colours.forEach((colour, i, all) => {
      g.fillStyle = colour;
      g.fillRect(bar.x + bar.w * i / all.length, bar.y, bar.w / all.length + 1, bar.h);
    });
    g.fillStyle = this.ink.soft;
    g.textBaseline = "top";
    if (this.shades.most === 0) return;
    for (const place of [0, 0.25, 0.5, 0.75, 1]) {
      g.textAlign = place === 0 ? "left" : place === 1 ? "right" : "center";
      g.fillText(number(this.shades.rateAt(place)) + (place === 1 ? " /s" : ""), bar.x + bar.w * place, bar.y + bar.h + 5);
    }
  }
}

// mergeCells adds up the cells that lie in the same rows.
function mergeCells(cells) {
  const merged = new Map();
  for (const [low, high, rate] of cells) {
    const known = merged.get(low + " " + high);
    if (known) known[2] += rate;
    else merged.set(low + " " + high, [low, high, rate]);
  }
  return [...merged.values()];
}

// prepare sizes a canvas for the screen's pixels and returns its context, empty.
function prepare(canvas) {
  const ratio = devicePixelRatio || 1;
  canvas.width = Math.round(canvas.clientWidth * ratio);
  canvas.height = Math.round(canvas.clientHeight * ratio);
  const g = canvas.getContext("2d");
  g.scale(ratio, ratio);
  return g;
}
