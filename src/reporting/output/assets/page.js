// Draws the charts of a report (src/reporting/plots/interactive.py says what they hold), and hides the architectures that are
// switched off, in charts, tables and samples alike. Text goes in by textContent alone.
"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const hidden = new Set();
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const drawn = []; // one redraw function a panel

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

  const transparent = (colour) => colour + "2e"; // an eighth of it or so

  const traces = (chart, panel, x, y) => {
    const lines = [];
    for (const trace of panel.traces) {
      if (hidden.has(trace.architecture)) continue;
      if ("level" in trace) continue;
      const values = trace.y[y], places = trace.x[y] && trace.x[y][chart.bars ? "" : x];
      if (!values || !places) continue;
      if (chart.bars) {
        lines.push({ type: "bar", x: places, y: values, name: trace.name, marker: { color: trace.colour },
          showlegend: false, hovertemplate: "%{x}: %{y:,.4~g}<extra></extra>" });
        continue;
      }
      const low = trace.low[y], high = trace.high[y];
      if (low && high) {
        lines.push({ type: "scatter", x: [...places, ...[...places].reverse()], y: [...high, ...[...low].reverse()],
          fill: "toself", fillcolor: transparent(trace.colour), line: { width: 0 }, hoverinfo: "skip", mode: "lines",
          showlegend: false, name: trace.name });
      }
      lines.push({ type: "scatter", x: places, y: values, name: trace.name,
        mode: chart.markers || values.length < 25 ? "lines+markers" : "lines",
        line: { color: trace.colour, width: 2, dash: trace.dash }, marker: { size: 5, color: trace.colour },
        hovertemplate: "%{x:,.4~g}: %{y:.4~g}<extra>%{fullData.name}</extra>" });
    }
    // Reference levels far from the curves would press these flat: they are left to the table.
    const x_of = lines.flatMap((line) => line.x).filter((at) => at > 0), y_of = lines.flatMap((line) => line.y);
    const low = Math.min(...y_of), high = Math.max(...y_of), reach = Math.max(high - low, 0.05 * Math.abs(high)) / 2;
    for (const trace of panel.traces) {
      if (!("level" in trace) || (trace.only && !trace.only.includes(y)) || !x_of.length) continue;
      if (trace.level < low - reach || trace.level > high + reach) continue;
      lines.push({ type: "scatter", x: [Math.min(...x_of), Math.max(...x_of)], y: [trace.level, trace.level],
        mode: "lines", name: trace.name, line: { color: trace.colour, width: 1.3, dash: "dash" },
        hovertemplate: "%{y:.4~g}<extra>%{fullData.name}</extra>" });
    }
    return lines;
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
    return { tickvals: found, ticktext: found.map(short) };
  };
  const UNITS = [["E", 1e18], ["P", 1e15], ["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3]];
  const short = (value) => {
    const [unit, size] = UNITS.find(([, least]) => value >= least) || ["", 1];
    return String(Number((value / size).toPrecision(3))) + unit;
  };

  const layout = (chart, x, y, lines) => {
    const ink = dark.matches ? "#e6e9ed" : "#1b1f24", line = dark.matches ? "#363d46" : "#e3e7eb";
    const logarithmic = (letter) => {
      const values = lines.flatMap((line) => line[letter]).filter((value) => value > 0);
      return chart.log.includes(letter) && values.length ? ticks(values) : {};
    };
    const axis = (label, letter) => ({
      title: { text: label, standoff: 8 }, gridcolor: line, linecolor: line, zeroline: false, automargin: true,
      type: chart.bars && letter === "x" ? "category" : chart.log.includes(letter) ? "log" : "linear",
      exponentformat: "SI", nticks: 8, ...logarithmic(letter),
    });
    return {
      margin: { l: 50, r: 10, t: 10, b: 40 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink, size: 12, family: "system-ui, -apple-system, 'Segoe UI', sans-serif" },
      xaxis: axis(chart.x[x], "x"), yaxis: axis(chart.y[y], "y"), hovermode: "closest",
      showlegend: !chart.bars, legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
    };
  };

  for (const chart of charts) {
    const section = document.getElementById("chart-" + chart.id);
    const choices = make("div", "choices", section);
    const redraw = () => drawn.filter((one) => one.chart === chart).forEach((one) => one.draw());
    const pick = (label, options) =>
      Object.keys(options).length > 1 ? choice(choices, label, options, redraw) : { value: Object.keys(options)[0] };
    const y = pick("show", chart.y), x = pick("against", chart.x);
    const panels = make("div", "panels", section);
    for (const panel of chart.panels) {
      const box = make("div", "panel", panels);
      make("h4", "", box).textContent = panel.title;
      const plot = make("div", "plot", box);
      drawn.push({ chart, draw: () => {
        const lines = traces(chart, panel, x.value, y.value);
        Plotly.react(plot, lines, layout(chart, x.value, y.value, lines), { responsive: true, displayModeBar: false });
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
  dark.addEventListener("change", redrawAll);
  redrawAll();
})();
