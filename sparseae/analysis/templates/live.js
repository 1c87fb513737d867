(() => {
  // What is open, chosen and typed outlasts a renewal; the browser keeps the place by itself.
  const all = selector => [...document.querySelectorAll(selector)];
  const kept = JSON.parse(sessionStorage.getItem("sparseae") || "{}");
  all("details[id]").forEach(d => { d.open = (kept.open || []).includes(d.id); });
  if (kept.filter) {
    const input = document.getElementById("filter");
    input.value = kept.filter;
    input.dispatchEvent(new Event("input"));
  }
  if (kept.chosen) document.querySelector(`.counts button[data-verdict="${kept.chosen}"]`)?.click();
  const keep = () => sessionStorage.setItem("sparseae", JSON.stringify({
    open: all("details[id]").filter(d => d.open).map(d => d.id),
    filter: document.getElementById("filter").value,
    chosen: document.querySelector('.counts button[aria-pressed="true"]')?.dataset.verdict || "",
  }));
  const mark = document.createElement("b");
  mark.id = "live";
  document.getElementById("state").append(" ", mark);
  const ask = async () => {
    try {
      const answer = await fetch("version", { cache: "no-store" });
      const version = await answer.text();
      mark.textContent = "live";
      if (mark.dataset.version && version !== mark.dataset.version) { keep(); location.reload(); }
      mark.dataset.version = version;
    } catch { mark.textContent = "no longer live: the command has ended"; }
    setTimeout(ask, 2000);
  };
  ask();
})();
