// Draws the charts of a report (src/reporting/plots/chart.py describes them), and hides the architectures that are
// switched off, in charts, tables and samples alike. Text goes in by textContent alone.
"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const hidden = new Set();
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const drawn = []; // one redraw function a panel
  let onPaper = false;

  const make = (tag, name, parent) => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (parent) parent.append(element);
    return element;
  };

  const choice = (parent, label, options, change) => {
    const box = make("label", "", parent);
    box.append(label + " ");
    const select = make("select", "", box);
    for (const [value, text] of Object.entries(options)) {
      const option = make("option", "", select);
      option.value = value;
      option.textContent = text;
    }
    select.addEventListener("change", change);
    return select;
  };

  const dashes = (dash) => (/^\d/.test(dash) ? dash.split(",").map((length) => length + "px").join(",") : dash);
  const transparent = (color) => color + "2e"; // an eighth of it or so
  const SYMBOLS = { o: "circle", s: "square", "^": "triangle-up", D: "diamond", v: "triangle-down", P: "cross", X: "x",
    h: "hexagon", d: "diamond-tall", 8: "octagon", H: "hexagon2", p: "pentagon", "*": "star", "<": "triangle-left",
    ">": "triangle-right", "+": "hourglass", ring: "circle-open", "": "circle" };
  const inLines = (name) => name.match(/.{1,38}(?:[ ,]|$)|.{1,38}/g).join("<br>"); // as figure.in_lines does
  const hover = "%{x:,.4~g}: %{y:.4~g}<extra>%{fullData.name}</extra>";

  // Bars and intervals: one below the other, each with its words under its name.
  const rows = (chart, traces, x, y) => traces.flatMap((trace, row) => {
    const mean = trace.y[y], seeds = trace.seeds[y], style = { name: trace.name, showlegend: false };
    const hovertemplate = "%{x:,.4~g}<extra>%{fullData.name}</extra>";
    const points = (color) => ({ type: "scatter", mode: "markers", x: seeds, y: seeds.map(() => row + (mean ? 0.25 : 0)),
      marker: { size: 6, color: "rgba(0,0,0,0)", line: { color, width: 1.3 } }, hovertemplate, ...style });
    if (chart.kind === "bars") {
      return [{ type: "bar", orientation: "h", x: mean, y: [row], marker: { color: trace.color }, hovertemplate, ...style }];
    }
    const interval = { type: "scatter", mode: "markers", x: mean, y: [row], hovertemplate, ...style,
      marker: { size: 8, color: trace.color, symbol: SYMBOLS[trace.marker] },
      error_x: mean && { type: "data", array: [trace.high[y][0] - mean[0]], color: trace.color, thickness: 2 } };
    return [...(mean ? [interval] : []), points(trace.color)];
  });

  // Points: each mean with its interval and its name, the seeds of unstable architectures open, and the Pareto front.
  const points = (chart, traces, x, y) => {
    const shown = traces.filter((trace) => trace.x[y][x]);
    const places = shown.filter((trace) => trace.architecture).map(
      (trace) => ({ trace, at: trace.x[y][x][0], values: trace.y[y] || trace.seeds[y] }));
    return [...shown.filter((trace) => !trace.architecture).map((trace) => ({ type: "scatter", mode: "lines",
      x: trace.x[y][x], y: trace.y[y], name: trace.name, hoverinfo: "name",
      line: { color: "#767676", width: 1.6, dash: trace.dash, shape: "hv" } })),
    ...places.map((one) => {
      const { trace, at, values } = one, mean = trace.y[y];
      return { type: "scatter", mode: "markers+text", x: values.map(() => at), y: values, name: trace.name,
        text: values.map((_, index) => (index ? "" : " " + inLines(trace.name) + " ")), textposition: trace.corners[x],
        hovertemplate: hover, cliponaxis: false,
        marker: { size: 10, symbol: SYMBOLS[trace.marker], color: mean ? trace.color : "rgba(0,0,0,0)",
          line: { color: trace.color, width: 1.5 } },
        error_y: mean && trace.high[y] && { type: "data", array: [trace.high[y][0] - mean[0]], color: trace.color,
          thickness: 1.5 } };
    })];
  };

  const lines = (chart, traces, x, y) => {
    const found = [], named = new Set();
    const showlegend = (name) => !named.has(name) && Boolean(named.add(name));
    for (const trace of traces) {
      const values = trace.y[y], behind = trace.y[chart.behind[y]];
      if (!values) continue;
      const at = trace.x[y][x], low = trace.low[y], high = trace.high[y];
      if (low && high) {
        found.push({ type: "scatter", x: [...at, ...[...at].reverse()], y: [...high, ...[...low].reverse()],
          fill: "toself", fillcolor: transparent(trace.color), line: { width: 0 }, hoverinfo: "skip", mode: "lines",
          showlegend: false, name: trace.name });
      }
      if (behind) {
        found.push({ type: "scatter", x: trace.x[chart.behind[y]][x], y: behind, mode: "lines", opacity: 0.3,
          line: { color: trace.color, width: 1 }, hoverinfo: "skip", showlegend: false, name: trace.name });
      }
      const every = Math.max(1, Math.floor(values.length / 12));
      found.push({ type: "scatter", x: at, y: values, name: trace.name, showlegend: showlegend(trace.name),
        mode: trace.dash ? (trace.marker ? "lines+markers" : "lines") : "markers", hovertemplate: hover,
        line: { color: trace.color, width: 2, dash: dashes(trace.dash || "solid") },
        marker: { color: trace.color, symbol: SYMBOLS[trace.marker],
          size: values.map((_, index) => (trace.marker === "ring" ? 14 : index % every ? 0 : 7)) } });
    }
    // Reference levels far from the curves would flatten these: they are in the table.
    const x_of = found.flatMap((line) => line.x).filter((at) => at > 0), y_of = found.flatMap((line) => line.y);
    const low = Math.min(...y_of), high = Math.max(...y_of), reach = 2.5 * Math.max(high - low, 0.1 * high, 0.1);
    const straight = (name, xs, ys, color, dash) => found.push({ type: "scatter", x: xs, y: ys, mode: "lines", name,
      showlegend: showlegend(name), line: { color, width: 1.3, dash }, hovertemplate: hover });
    for (const trace of traces) {
      if (trace.level === null || (trace.only && !trace.only.includes(y)) || !x_of.length) continue;
      if (trace.level < low - reach || trace.level > high + reach) continue;
      straight(trace.name, [Math.min(...x_of), Math.max(...x_of)], [trace.level, trace.level], trace.color, trace.dash);
    }
    for (const [name, places] of Object.entries(chart.marks)) {
      for (const at of places) straight(name, [at, at], [low, high], "#767676", "dash");
    }
    return found;
  };

  // Plotly names only powers of ten where an axis has little room: 1, 2 and 5 of each are named here.
  const ticks = (values) => {
    const low = Math.min(...values), high = Math.max(...values), found = [];
    const factors = high > 400 * low ? [1] : [1, 2, 5];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
      for (const factor of factors) {
        const at = Number(`${factor}e${power}`);
        if (at >= low / 1.3 && at <= high * 1.3) found.push(at);
      }
    }
    return found.filter((at) => at >= low && at <= high).length < 3 ? {} : { tickvals: found, ticktext: found.map(short) };
  };
  const UNITS = [["E", 1e18], ["P", 1e15], ["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3]];
  const short = (value) => {
    const [unit, size] = UNITS.find(([, least]) => value >= least) || ["", 1];
    return String(Number((value / size).toPrecision(3))) + unit;
  };

  const layout = (chart, x, y, shown, drawn, isDark) => {
    const ink = isDark ? "#e6e9ed" : "#1b1f24", line = isDark ? "#363d46" : "#e3e7eb";
    const lies = ["bars", "intervals"].includes(chart.kind);
    const axis = (own, letter) => {
      const values = drawn.flatMap((line) => line[letter]).filter((value) => value > 0);
      const [from, to] = own.limits || [null, null], reached = Math.max(...values) * 1.05;
      return {
        title: { text: own.label, standoff: 8 }, gridcolor: line, linecolor: line, zeroline: false, automargin: true,
        type: own.is_log ? "log" : "linear", exponentformat: "SI", tickangle: 0, nticks: lies ? 5 : 8,
        ...(own.limits && values.length ? { range: [from, to === null ? reached : to] } : {}),
        ...(own.is_log && values.length ? ticks(values) : {}),
      };
    };
    const named = { tickvals: shown.map((_, row) => row), range: [shown.length - 0.5, -0.5], automargin: true,
      ticktext: shown.map((trace) => `<b>${inLines(trace.name)}</b><br>${trace.text[y]}`), showgrid: false, zeroline: false };
    // The names beside points need room.
    const room = (values) => {
      const low = Math.min(...values), high = Math.max(...values), more = 0.28 * (high - low || high || 1);
      return [low - more, high + more];
    };
    const across = chart.kind === "bars" ? chart.y[y] : chart.x[x];
    return {
      margin: { l: 50, r: 10, t: 10, b: 40 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink, size: 12, family: "system-ui, -apple-system, 'Segoe UI', sans-serif" },
      xaxis: { ...axis(lies ? across : chart.x[x], "x"),
        ...(chart.kind === "points" && drawn.length ? { range: room(drawn.flatMap((line) => line.x)) } : {}) },
      yaxis: lies ? named : axis(chart.y[y], "y"), hovermode: "closest",
      showlegend: chart.kind === "lines", legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
    };
  };

  // One object for all drawings: Plotly compares the settings of two drawings, which takes forever for new functions.
  const settings = { responsive: true, displayModeBar: false };
  const DRAW = { lines, points, bars: rows, intervals: rows };

  const button = (parent, format, name, figure) => {
    const element = make("button", "", parent);
    element.type = "button";
    element.textContent = format;
    element.setAttribute("aria-label", `download ${name} as ${format}`);
    element.addEventListener("click", () => Plotly.downloadImage(figure(), { format: format.toLowerCase(),
      filename: name.replace(/[^\w]+/g, "-").toLowerCase(), width: 900, height: 500 }));
  };

  for (const chart of charts) {
    const section = document.getElementById("chart-" + chart.id), place = section.querySelector(".plots");
    const choices = make("div", "choices", place);
    const redraw = () => drawn.filter((one) => one.chart === chart).forEach((one) => one.draw());
    const pick = (label, options) =>
      Object.keys(options).length > 1 ? choice(choices, label, options, redraw) : { value: Object.keys(options)[0] };
    const labels = (axes) => Object.fromEntries(Object.entries(axes).map(([key, axis]) => [key, axis.label]));
    const y = pick("show", labels(chart.y)), x = pick("against", labels(chart.x));
    const panels = make("div", "panels", place);
    for (const [index, panel] of chart.panels.entries()) {
      const box = make("div", "panel", panels), head = make("h4", "", box), plot = make("div", "plot", box);
      make("span", "", head).textContent = panel.title;
      plot.setAttribute("role", "img");
      plot.setAttribute("aria-label", `${chart.title}. ${chart.texts[index]}`);
      const names = panel.traces.filter((trace) => trace.architecture).map((trace) => inLines(trace.name).split("<br>"));
      const rowHeight = names.length * (1.15 + Math.max(1, ...names.map((name) => name.length)));
      if (chart.kind !== "lines") plot.style.height = `${chart.kind === "points" ? Math.max(15, 4 + rowHeight) : 4 + rowHeight}rem`;
      const traces = () => panel.traces.filter((trace) => !hidden.has(trace.architecture));
      const figure = (isDark) => {
        const shown = traces(), data = DRAW[chart.kind](chart, shown, x.value, y.value);
        return { data, layout: layout(chart, x.value, y.value, shown, data, isDark) };
      };
      // A file has a white ground, and its title in it, whatever the page shows.
      const file = () => {
        const found = figure(false), text = [chart.title, panel.title].filter(Boolean).join(": ");
        return { ...found, layout: { ...found.layout, paper_bgcolor: "#ffffff", title: { text, x: 0.01 },
          margin: { l: 60, r: 20, t: 90, b: 60 } } };
      };
      for (const format of ["SVG", "PNG"]) button(head, format, [chart.id, panel.title].filter(Boolean).join(" "), file);
      drawn.push({ chart, draw: () => {
        const found = figure(dark.matches && !onPaper);
        Plotly.react(plot, found.data, found.layout, settings);
      } });
    }
  }
  const redrawAll = () => drawn.forEach((one) => one.draw());
  for (const box of document.querySelectorAll("nav input")) {
    box.addEventListener("change", () => {
      if (box.checked) hidden.delete(box.value); else hidden.add(box.value);
      for (const element of document.querySelectorAll("[data-architecture]")) {
        element.classList.toggle("hidden", hidden.has(element.dataset.architecture));
      }
      redrawAll();
    });
  }
  // On paper, details are open and charts are dark on white.
  const opened = [];
  dark.addEventListener("change", redrawAll);
  addEventListener("beforeprint", () => {
    onPaper = true;
    redrawAll();
    opened.push(...document.querySelectorAll("details:not([open])"));
    opened.forEach((element) => { element.open = true; });
  });
  addEventListener("afterprint", () => {
    onPaper = false;
    redrawAll();
    opened.splice(0).forEach((element) => { element.open = false; });
  });
  // The page of a running sweep (src/sweep/live_page.py) brings new values: the panels stay, unless there are others.
  document.addEventListener("charts", (event) => {
    const shape = (all) => JSON.stringify(all.map((chart) => [chart.id, chart.panels.map((panel) => panel.title)]));
    if (shape(event.detail) !== shape(charts)) return location.reload();
    charts.forEach((chart, row) => {
      const { panels, ...values } = event.detail[row];
      Object.assign(chart, values);
      chart.panels.forEach((panel, column) => Object.assign(panel, panels[column]));
    });
    redrawAll();
  });
  redrawAll();
})();
