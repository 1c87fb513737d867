(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // The table of curves: filter and sort.
  const table = document.getElementById("curve-table"), body = table.tBodies[0];
  const rows = [...body.rows], input = document.getElementById("filter");
  const show = () => {
    const words = input.value.toLowerCase().split(/[\s,]+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
      count += !row.hidden;
    }
    document.getElementById("shown").textContent = `${count} of ${rows.length} curves`;
  };
  input.addEventListener("input", show);
  show();
  all("th", table).forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    all("th", table).forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => row.cells[column].textContent.trim();
    const compare = (a, b) => {
      const x = parseFloat(key(a)), y = parseFloat(key(b));
      const order = isNaN(x) || isNaN(y) ? isNaN(x) - isNaN(y) || key(a).localeCompare(key(b)) : x - y;
      return up ? order : -order;
    };
    body.append(...rows.sort(compare));
  }));

  // One kind of verdict alone; a second press shows all again.
  const buttons = all(".counts button");
  const choose = wanted => {
    buttons.forEach(b => b.setAttribute("aria-pressed", String(b.dataset.verdict === wanted)));
    all(".finding").forEach(f => { f.hidden = wanted !== "" && f.dataset.verdict !== wanted; });
    for (const part of [".statement", ".prediction"])
      all(part).forEach(p => { p.hidden = !all(".finding", p).some(f => !f.hidden); });
  };
  buttons.forEach(button => button.addEventListener("click", () =>
    choose(button.getAttribute("aria-pressed") === "true" ? "" : button.dataset.verdict)));

  // A printed page shows what is folded.
  addEventListener("beforeprint", () => all("details").forEach(d => { d.open = true; }));
})();
