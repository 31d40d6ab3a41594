"use strict";
// The page reads without this. With it the page keeps itself up to date, asks before it changes anything, and shows a job in place.
const every = 2000, points = 60;

// ---- rates: what was done between two looks, by Redis' clock. They outlive a change of page in this tab.
const seen = JSON.parse(sessionStorage.getItem("rates") || "{}");
function draw() {
  for (const row of document.querySelectorAll("[data-queue]")) {
    const facts = { at: Number(row.dataset.at), done: Number(row.dataset.done) };
    const past = (seen[row.dataset.queue] ??= { last: facts, rates: [] });
    if (facts.at - past.last.at >= 500) {
      past.rates.push(Math.max(0, (facts.done - past.last.done) * 1000 / (facts.at - past.last.at)));
      past.rates = past.rates.slice(-points);
      past.last = facts;
    }
    if (!past.rates.length) continue;
    const rate = past.rates.at(-1), top = Math.max(...past.rates, 1), step = 120 / (points - 1), start = 120 - (past.rates.length - 1) * step;
    row.querySelector("[data-rate]").textContent = rate >= 100 ? Math.round(rate).toLocaleString("en") : rate.toFixed(1);
    const line = past.rates.map((r, i) => `${(start + i * step).toFixed(1)},${(27 - 25 * r / top).toFixed(1)}`).join("L");
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 120 28");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    for (const [kind, d] of [["under", `M${start.toFixed(1)},28L${line}L120,28Z`], ["line", "M" + line]]) {
      const path = document.createElementNS(svg.namespaceURI, "path");
      path.setAttribute("class", kind);
      path.setAttribute("d", d);
      svg.append(path);
    }
    row.querySelector("[data-spark]").replaceChildren(svg);
  }
  sessionStorage.setItem("rates", JSON.stringify(seen));
}

// ---- live: the server renders, this replaces. What somebody is at (focus, a hover over its buttons) stays until he leaves it.
const live = document.getElementById("live");
let failed = 0;
function replace(page) {
  for (const old of document.querySelectorAll("[data-live]")) {
    const name = old.dataset.live, now = page.querySelector(`[data-live="${name}"]`);
    if (!now || name === "notice" || old.innerHTML === now.innerHTML) continue;
    if (old.contains(document.activeElement) || old.querySelector("button:hover, a:hover")) continue;
    old.replaceChildren(...now.childNodes);
  }
  draw();
}
async function look() {
  if (!document.hidden && !document.querySelector("dialog[open]")) {
    try {
      const answer = await fetch(location.href, { redirect: "error", headers: { Accept: "text/html" } });
      if (answer.status === 401) return location.reload();
      if (!answer.ok) throw new Error(answer.status);
      replace(new DOMParser().parseFromString(await answer.text(), "text/html"));
      failed = 0;
    } catch {
      failed++;
    }
    live.classList.toggle("off", failed > 1);
    live.textContent = failed > 1 ? "no answer" : "live";
  }
  setTimeout(look, Math.min(every * 2 ** Math.min(failed, 4), 30000));
}

// ---- questions before changes
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.dataset.ask) return;
  event.preventDefault();
  document.getElementById("show")?.close();
  ask(form.dataset.ask, form.dataset.verb, () => {
    const field = document.createElement("input");
    Object.assign(field, { type: "hidden", name: "confirmed", value: "yes" });
    form.append(field);
    document.body.append(form); // it may have come from the dialog, or be replaced
    form.hidden = true;
    form.submit();
  });
});

// ---- a job in place
document.addEventListener("click", async (event) => {
  const link = event.target.closest("a[data-open]"), show = document.getElementById("show");
  if (!link || !show || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  try {
    const answer = await fetch(link.href, { headers: { Accept: "text/html" } });
    const detail = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("[data-detail]");
    if (!detail) throw new Error();
    document.getElementById("shown").replaceChildren(detail);
    show.showModal();
  } catch {
    location.href = link.href;
  }
});

if (live) {
  live.hidden = false;
  live.textContent = "live";
  draw();
  setTimeout(look, every);
}
