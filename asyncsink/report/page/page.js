"use strict";
// Texts are set as text only: no name of a file ever becomes markup.
(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const rows = data.files.rows, body = document.querySelector("#files tbody");
  const find = document.getElementById("find"), found = document.getElementById("found"), more = document.getElementById("more");
  const PAGE = 100;
  let shown = [], end = 0;

  function size(bytes) {
    if (bytes === null) return "";
    const units = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let value = bytes, unit = 0;
    while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
    if (unit === 0) return value === 1 ? "1 byte" : value + " bytes";
    return value.toFixed(value >= 100 ? 0 : 1) + " " + units[unit];
  }
  function duration(seconds) {
    if (seconds === null) return "";
    if (seconds < 1) return Number((seconds * 1000).toPrecision(3)) + " ms";
    return seconds < 60 ? seconds.toFixed(seconds < 10 ? 2 : 1) + " s" : Math.floor(seconds / 60) + " min " + Math.round(seconds % 60) + " s";
  }
  function add(parent, name, kind, text) {
    const element = document.createElement(name);
    if (kind) element.className = kind;
    if (text !== undefined) element.textContent = text;
    parent.appendChild(element);
    return element;
  }
  function draw(row) {
    const [state, key, bytes, seconds, attempts, checksum, , note] = row;
    const line = add(body, "tr");
    add(add(line, "td"), "span", "state " + state.split(" ")[0], state);
    const name = add(line, "td", "key mono");
    add(name, "bdi", "", key);
    if (note) add(name, "div", "note soft", note);
    add(line, "td", "n", size(bytes));
    add(line, "td", "n", duration(seconds) + (attempts > 1 ? " (" + attempts + " attempts)" : ""));
    add(line, "td", "proof mono", checksum);
  }
  function extend() {
    const next = Math.min(end + PAGE, shown.length);
    for (; end < next; end += 1) draw(shown[end]);
    more.hidden = end >= shown.length;
    found.textContent = shown.length.toLocaleString("en") + (shown.length === 1 ? " file" : " files");
  }
  function search() {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    shown = words.length === 0 ? rows : rows.filter(function (row) {
      const text = (row[0] + "\n" + row[1] + "\n" + row[5] + "\n" + row[7]).toLowerCase();
      return words.every(function (word) { return text.includes(word); });
    });
    body.textContent = "";
    end = 0;
    extend();
  }
  document.documentElement.classList.add("scripted");
  let waiting = 0;
  find.addEventListener("input", function () { clearTimeout(waiting); waiting = setTimeout(search, 60); });
  more.addEventListener("click", extend);
  search();

  const chart = document.querySelector(".chart"), reading = document.querySelector(".reading");
  if (chart && data.chart.length) {
    const total = data.chart[data.chart.length - 1][0];
    reading.hidden = false;
    reading.textContent = "Point at a moment to read its figures.";
    chart.addEventListener("pointermove", function (event) {
      const place = chart.getBoundingClientRect();
      const at = total * Math.min(1, Math.max(0, (event.clientX - place.left) / place.width));
      const moment = data.chart.find(function (each) { return each[0] >= at; }) || data.chart[data.chart.length - 1];
      chart.classList.add("on");
      chart.style.setProperty("--cursor", (100 * at / total) + "%");
      reading.textContent = [duration(at)].concat(moment.slice(1)).filter(Boolean).join(" · ");
    });
    chart.addEventListener("pointerleave", function () { chart.classList.remove("on"); });
  }
})();
