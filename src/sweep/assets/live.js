// Follows a sweep: asks the server (src/sweep/live_page.py) for the progress of its jobs and for new values of the
// charts, which page.js draws. Text goes in by textContent alone.
"use strict";
(() => {
  const PROGRESS_MS = 1500, CHARTS_MS = 10000;
  const find = (id) => document.getElementById(id);

  const element = (tag, text, name) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (name) made.className = name;
    return made;
  };
  const bar = (share) => {
    const made = element("progress");
    made.value = share;
    return made;
  };

  const show = (progress) => {
    document.title = `${Math.floor(100 * progress.share)}% ${progress.title}`;
    find("totals").textContent = progress.totals;
    find("share").value = progress.share;
    const head = element("tr");
    head.append(...progress.columns.map((name) => element("th", name)), element("th", ""));
    const rows = progress.jobs.map((job) => {
      const row = element("tr");
      row.append(...job.cells.map((cell, index) => element("td", cell, index === 1 ? job.status : "")));
      row.append(element("td"));
      row.lastChild.append(bar(job.share));
      return row;
    });
    find("jobs").replaceChildren(head, ...rows);
    find("errors").replaceChildren(...progress.errors.map((line) => element("li", line)));
    if (progress.is_final) location.reload(); // the server sends the report from now on
  };

  // Asks again after each answer, so that requests cannot pile up.
  const poll = async (path, take, pause) => {
    try {
      const response = await fetch(path, { cache: "no-store" });
      if (!response.ok) throw new Error(response.statusText);
      take(await response.json());
      find("lost").textContent = "";
    } catch (error) {
      find("lost").textContent = `No answer (${error.message}). The command of this page may have ended.`;
    }
    setTimeout(() => poll(path, take, pause), pause);
  };

  poll("progress.json", show, PROGRESS_MS);
  poll("charts.json", (charts) => document.dispatchEvent(new CustomEvent("charts", { detail: charts })), CHARTS_MS);
})();
