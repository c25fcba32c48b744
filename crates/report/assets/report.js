"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const make = (tag, props = {}, children = []) => {
    const element = Object.assign(document.createElement(tag), props);
    element.append(...children);
    return element;
  };
  const shown = (value) => {
    if (value == null) return "–";
    const size = Math.abs(value);
    if (size === 0) return "0";
    if (Number.isInteger(value) && size < 1e7) return String(value);
    return size >= 1e-3 && size < 1e5 ? String(Number(value.toPrecision(4))) : value.toExponential(2);
  };

  // ---- Tables that can be sorted

  const keyOf = (row, column) => {
    const cell = row.cells[column];
    if (!cell) return "";
    return cell.dataset.v !== undefined ? Number(cell.dataset.v) : cell.textContent.trim();
  };
  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a === "number") return -1;
    if (typeof b === "number") return 1;
    return a.localeCompare(b);
  };
  const sortBy = (table, header, column) => {
    const direction = header.getAttribute("aria-sort") === "descending" ? "ascending" : "descending";
    for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", direction);
    const body = table.tBodies[0];
    const sign = direction === "ascending" ? 1 : -1;
    const rows = [...body.rows].map((row) => [keyOf(row, column), row]);
    // What has no number stays at the end, whichever way.
    const isNumber = (key) => typeof key === "number";
    rows.sort(([a], [b]) => (isNumber(a) === isNumber(b) ? sign * compare(a, b) : compare(a, b)));
    body.append(...rows.map(([, row]) => row));
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((header, column) => {
      const button = make("button", { type: "button" }, [...header.childNodes]);
      button.addEventListener("click", () => sortBy(table, header, column));
      header.append(button);
    });
  }

  // ---- What scrolls sideways can be reached by keyboard

  const watchScroll = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const scrolls = target.scrollWidth > target.clientWidth;
      const caption = target.querySelector("caption");
      if (scrolls) {
        target.tabIndex = 0;
        target.setAttribute("role", "region");
        target.setAttribute("aria-label", `${caption ? caption.textContent : "text"}, scrolls sideways`);
      } else {
        for (const name of ["tabindex", "role", "aria-label"]) target.removeAttribute(name);
      }
    }
  });
  for (const element of document.querySelectorAll(".scroll, pre")) watchScroll.observe(element);

  // ---- Charts

  const plots = new Map();
  const theme = matchMedia("(prefers-color-scheme: dark)");

  /** All curves over the union of their x, each with its smallest and largest values behind it where there are any. */
  const joined = (chart) => {
    const tables = chart.series.map((s) => [s.x, s.y, ...(s.low ? [s.low, s.high] : [])]);
    return tables.length === 1 ? tables[0] : uPlot.join(tables);
  };

  const drawReferences = (chart, log) => (u) => {
    const { ctx, bbox } = u;
    ctx.save();
    ctx.font = `${12 * devicePixelRatio}px system-ui, sans-serif`;
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
    const inside = (value, scale) => value >= u.scales[scale].min && value <= u.scales[scale].max;
    for (const { x, label } of chart.stages || []) {
      if (!inside(x, "x")) continue;
      const at = u.valToPos(x, "x", true);
      ctx.strokeStyle = ctx.fillStyle = colour("--quiet");
      ctx.beginPath();
      ctx.moveTo(at, bbox.top);
      ctx.lineTo(at, bbox.top + bbox.height);
      ctx.stroke();
      ctx.textAlign = at > bbox.left + bbox.width * 0.7 ? "right" : "left";
      ctx.fillText(label, at + (ctx.textAlign === "left" ? 4 : -4) * devicePixelRatio, bbox.top + 12 * devicePixelRatio);
    }
    (chart.references || []).forEach(({ y, label }, idx) => {
      if (!inside(y, "y") || (log && y <= 0)) return;
      const at = u.valToPos(y, "y", true);
      ctx.strokeStyle = ctx.fillStyle = colour(`--c${7 - (idx % 4)}`);
      ctx.beginPath();
      ctx.moveTo(bbox.left, at);
      ctx.lineTo(bbox.left + bbox.width, at);
      ctx.stroke();
      ctx.textAlign = "right";
      ctx.fillText(label, bbox.left + bbox.width - 4 * devicePixelRatio, at - 5 * devicePixelRatio);
    });
    ctx.restore();
  };

  const axis = (label, extra) => ({
    label, stroke: colour("--quiet"), grid: { stroke: colour("--rule"), width: 1 }, ticks: { stroke: colour("--rule"), width: 1 },
    labelSize: 22, labelGap: 2, font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif", ...extra,
  });

  /** Wide enough for the longest number on the vertical axis. */
  const axisSize = (u, values) => (values ? 16 + 7 * Math.max(...values.map((value) => String(value || "").length)) : 50);
  const ticks = (u, splits) => splits.map((value) => (value == null ? "" : shown(value)));

  const options = (chart, width, height, log, onCursor) => {
    const series = [{ label: chart.x }];
    const bands = [];
    chart.series.forEach((s, idx) => {
      const stroke = colour(`--c${idx % 8}`);
      const few = s.x.length < 40;
      series.push({ label: s.label, stroke, width: 1.75, spanGaps: true, points: { show: few, size: 5, fill: stroke }, ...(s.bars ? s.bars(stroke) : {}) });
      if (s.low) {
        const hidden = { label: "", stroke: "transparent", points: { show: false }, spanGaps: true, band: true };
        series.push({ ...hidden }, { ...hidden });
        bands.push({ series: [series.length - 1, series.length - 2], fill: stroke + "30" });
      }
    });
    const refs = (chart.references || []).map(({ y }) => y);
    const range = (u, low, high) => {
      if (low == null) return [0, 1];
      if (log) return uPlot.rangeLog(low, high, 10, false);
      return uPlot.rangeNum(Math.min(low, ...refs), Math.max(high, ...refs), 0.1, true);
    };
    return {
      width, height, series, bands,
      legend: { show: false },
      scales: { x: { time: false, ...(chart.xRange ? { range: chart.xRange } : {}) }, y: { distr: log ? 3 : 1, range: chart.yRange || range } },
      axes: [axis(chart.x, { values: ticks, space: 60 }), axis(chart.y, { values: ticks, size: axisSize, space: 36 })],
      cursor: { drag: { x: true, y: false }, points: { size: 7 }, ...(chart.sync ? { sync: { key: chart.sync, scales: ["x", null] } } : {}) },
      hooks: { draw: [drawReferences(chart, log), ...(chart.draw ? [chart.draw] : [])], setCursor: [onCursor] },
    };
  };

  const mount = (holder, chart) => {
    const height = holder.classList.contains("small") ? 170 : 270;
    const table = joined(chart);
    const canLog = chart.canLog !== false && chart.series.every((s) => s.y.every((value) => value == null || value > 0));
    let log = Boolean(chart.log && canLog);
    const hidden = new Set();
    const column = [];
    chart.series.reduce((at, s) => (column.push(at), at + (s.low ? 3 : 1)), 1);

    const bar = make("div", { className: "bar" });
    const stage = make("div", { className: "canvas", tabIndex: 0 });
    stage.setAttribute("role", "group");
    stage.setAttribute("aria-label", `Chart: ${chart.title}. Arrow keys read its values.`);
    const readout = make("p", { className: "readout" });
    const spoken = make("p", { className: "skip" });
    spoken.setAttribute("aria-live", "polite");
    holder.append(bar, stage, readout, spoken);

    const nothing = "\u00a0";
    const words = (u) => {
      const idx = u.cursor.idx;
      if (idx == null) return nothing;
      const parts = chart.series.map((s, at) => (hidden.has(at) || table[column[at]][idx] == null ? "" : `${s.label} ${shown(table[column[at]][idx])}`));
      return [`${chart.x} ${shown(table[0][idx])}`, ...parts.filter(Boolean)].join(" · ");
    };
    const onCursor = (u) => { readout.textContent = words(u); };
    readout.textContent = nothing;

    chart.series.forEach((s, at) => {
      const swatch = make("span", { className: "swatch" });
      swatch.dataset.c = at % 8;
      const button = make("button", { type: "button" }, [swatch, s.label]);
      button.setAttribute("aria-pressed", "true");
      button.addEventListener("click", () => {
        hidden.has(at) ? hidden.delete(at) : hidden.add(at);
        button.setAttribute("aria-pressed", String(!hidden.has(at)));
        for (let i = 0; i < (s.low ? 3 : 1); i++) plots.get(holder).plot.setSeries(column[at] + i, { show: !hidden.has(at) });
      });
      bar.append(button);
    });
    (chart.references || []).forEach(({ label, y }, idx) => {
      const swatch = make("span", { className: "swatch line" });
      swatch.dataset.c = 7 - (idx % 4);
      bar.append(make("span", {}, [swatch, `${label} ${y.toPrecision(4)}`]));
    });
    if (canLog) {
      const button = make("button", { type: "button", className: "log", textContent: "logarithmic axis" });
      button.setAttribute("aria-pressed", String(log));
      button.addEventListener("click", () => { log = !log; button.setAttribute("aria-pressed", String(log)); draw(); });
      bar.append(button);
    }

    stage.addEventListener("keydown", (event) => {
      const { plot } = plots.get(holder);
      const last = table[0].length - 1;
      const now = plot.cursor.idx ?? -1;
      const to = { ArrowRight: Math.min(now + 1, last), ArrowLeft: Math.max(now - 1, 0), Home: 0, End: last }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      plot.setCursor({ left: plot.valToPos(table[0][to], "x"), top: plot.over.clientHeight / 2 });
      spoken.textContent = words(plot);
    });

    const draw = () => {
      const before = plots.get(holder);
      if (before && before.plot) before.plot.destroy();
      for (const swatch of bar.querySelectorAll(".swatch")) {
        const value = colour(`--c${swatch.dataset.c}`);
        swatch.classList.contains("line") ? (swatch.style.borderColor = value) : (swatch.style.background = value);
      }
      const plot = new uPlot(options(chart, Math.max(stage.clientWidth, 200), height, log, onCursor), table, stage);
      hidden.forEach((at) => plot.setSeries(column[at], { show: false }));
      plots.set(holder, { plot, draw });
    };
    draw();
    new ResizeObserver(() => {
      const { plot } = plots.get(holder);
      const width = stage.clientWidth;
      if (width > 0 && width !== plot.width) plot.setSize({ width, height });
    }).observe(stage);
  };

  for (const holder of document.querySelectorAll("[data-chart]")) mount(holder, data.charts[holder.dataset.chart]);
  theme.addEventListener("change", () => plots.forEach(({ draw }) => draw()));

  // ---- Histograms of layers, drawn when they are opened

  const bars = (stroke) => ({ paths: uPlot.paths.bars({ size: [1, 100] }), fill: stroke + "99", width: 0, points: { show: false } });
  const positive = (counts) => counts.map((count) => (count > 0 ? count : null));
  const ends = (lines) => (u) => {
    const { ctx, bbox } = u;
    ctx.save();
    ctx.lineWidth = 1.5 * devicePixelRatio;
    for (const { at, was } of lines) {
      if (at < u.scales.x.min || at > u.scales.x.max) continue;
      ctx.strokeStyle = colour(was ? "--c7" : "--bad");
      ctx.setLineDash(was ? [4 * devicePixelRatio, 4 * devicePixelRatio] : []);
      const x = u.valToPos(at, "x", true);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  };
  const centres = ({ range, counts }) => counts.map((_, idx) => -range + ((idx + 0.5) * 2 * range) / counts.length);
  /** The lowest bar is to be seen too, and an empty axis is none. */
  const countRange = (u, low, high) => (u.scales.y.distr === 3 ? [10 ** Math.floor(Math.log10((low || 1) / 1.5)), (high || 1) * 1.5] : [0, (high || 1) * 1.05]);
  const valuesChart = (layer) => {
    const series = [];
    const add = (label, values) => {
      // What has no sign has no lower half.
      const kept = centres(values).map((x, idx) => [x, values.counts[idx]]).filter(([x]) => layer.signed || x > 0);
      series.push({ label, x: kept.map(([x]) => x), y: positive(kept.map(([, count]) => count)), bars });
    };
    if (layer.before && layer.before.values) add("before training on the grid", layer.before.values);
    if (layer.values) add(layer.before ? "after" : "values", layer.values);
    const far = 1.03 * Math.max(...[layer, layer.before].filter(Boolean).flatMap(({ threshold, values }) => [threshold, values ? values.range : 0]));
    const xs = series.flatMap((s) => s.x);
    const isAll = (low, high) => low <= Math.min(...xs) && high >= Math.max(...xs);
    const xRange = (u, low, high) => (isAll(low, high) ? [layer.signed ? -far : 0, far] : [low, high]);
    const lines = (threshold, signed, was) => [{ at: threshold, was }, ...(signed ? [{ at: -threshold, was }] : [])];
    const all = [...(layer.before ? lines(layer.before.threshold, layer.signed, true) : []), ...lines(layer.threshold, layer.signed, false)];
    return { title: `${layer.name}: float values over the calibration images`, x: "value (lines: ends of the grid)", y: "count", log: true, canLog: true, series, draw: ends(all), xRange, yRange: countRange };
  };
  const weightsChart = (layer) => {
    const x = layer.weights.map((_, idx) => idx - layer.weights.length / 2);
    return { title: `${layer.name}: integers of the weights`, x: "integer", y: "count", series: [{ label: "weights", x, y: positive(layer.weights), bars }], canLog: false, yRange: countRange };
  };
  for (const details of document.querySelectorAll("details[data-layer]")) {
    details.addEventListener("toggle", () => {
      if (!details.open || details.dataset.drawn) return;
      details.dataset.drawn = "yes";
      const layer = data.layers[details.dataset.layer];
      const pair = make("div", { className: "pair" });
      details.append(pair);
      const add = (chart) => {
        const holder = make("div", { className: "plot small" });
        pair.append(make("figure", {}, [make("figcaption", { textContent: chart.title }), holder]));
        mount(holder, chart);
      };
      if (layer.values) add(valuesChart(layer));
      if (layer.weights) add(weightsChart(layer));
    });
  }

  // ---- Pictures without their masks

  for (const box of document.querySelectorAll("input[data-bare]")) {
    box.addEventListener("change", () => document.getElementById(box.dataset.bare).classList.toggle("bare", !box.checked));
  }
})();
