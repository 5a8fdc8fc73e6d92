"use strict";

// Give the charts the page's colours.
function paintCharts() {
  const style = getComputedStyle(document.documentElement);
  const text = style.getPropertyValue("--text"), line = style.getPropertyValue("--line");
  for (const chart of document.querySelectorAll(".js-plotly-plot")) {
    const changes = {"font.color": text};
    for (const key of Object.keys(chart.layout)) {
      if (/^[xy]axis/.test(key)) {
        changes[key + ".gridcolor"] = line;
        changes[key + ".zerolinecolor"] = line;
      }
    }
    Plotly.relayout(chart, changes);
  }
}

// Sort the table by a column when its head is clicked, in ascending or descending order.
function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const text = row => row.cells[column].textContent;
    const order = (a, b) => column ? Number(text(a)) - Number(text(b)) : text(a).localeCompare(text(b));
    body.append(...[...body.rows].sort((a, b) => down ? order(b, a) : order(a, b)));
  }));
}

// Show only the classes of the search in the table. The matrix also keeps the classes that they are predicted as.
function makeSearchable(table, matrix) {
  const input = document.getElementById("search"), found = document.getElementById("found");
  const names = matrix ? [...matrix.data[0].y] : [];
  const layers = matrix ? matrix.data.map(layer => layer.z.map(row => [...row])) : [];
  const predicts = (row, column) => layers.some(layer => layer[row][column] > 0);
  document.getElementById("search-form").addEventListener("submit", event => event.preventDefault());
  input.addEventListener("input", () => {
    const wanted = input.value.trim().toLowerCase(), matches = name => name.toLowerCase().includes(wanted);
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      row.hidden = !matches(row.cells[0].textContent);
      shown += !row.hidden;
    }
    found.textContent = shown + (shown === 1 ? " class" : " classes");
    if (!matrix) return;
    const places = names.map((_, at) => at), rows = places.filter(at => matches(names[at]));
    const columns = places.filter(at => matches(names[at]) || rows.some(row => predicts(row, at)));
    if (!rows.length) return;
    Plotly.update(matrix, {
      x: layers.map(() => columns.map(at => names[at])), y: layers.map(() => rows.map(at => names[at])),
      z: layers.map(layer => rows.map(row => columns.map(column => layer[row][column]))),
    }, {"xaxis.autorange": true, "yaxis.autorange": "reversed"});
  });
}

const classTable = document.getElementById("class-table");
if (classTable) {
  makeSortable(classTable);
  makeSearchable(classTable, document.getElementById("confusion"));
}
if (window.Plotly) {
  paintCharts();
  // The first charts were drawn before the page had its final layout.
  document.querySelectorAll(".js-plotly-plot").forEach(chart => Plotly.Plots.resize(chart));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paintCharts);
}
