"use strict";
// The page reads without this. With it the page is live, and asks before it changes anything. doc.go describes the messages.
const page = document.getElementById("page"), light = document.getElementById("live");
const points = 120, silence = 10000; // ms without a message: something is wrong

// ---- messages
const pieces = new Map(); // elements by key
function learn(root) {
  for (const piece of root.querySelectorAll("[data-piece]")) pieces.set(piece.dataset.piece, piece);
}
function made(html) {
  const box = document.createElement("template");
  box.innerHTML = html;
  const piece = box.content.firstElementChild;
  pieces.set(piece.dataset.piece, piece);
  learn(piece);
  return piece;
}
const controls = (root) => [...root.querySelectorAll("a, button, input, summary")];
function replace(old, now) { // who stands on a button of the old one stands on the same of the new one
  const at = controls(old).indexOf(document.activeElement);
  old.replaceWith(now);
  if (at >= 0) controls(now)[at]?.focus({ preventScroll: true });
}
function place({ name, keys, made: html = {} }) {
  const list = document.querySelector(`[data-list="${CSS.escape(name)}"]`);
  if (!list) return;
  for (const [key, text] of Object.entries(html)) {
    const old = pieces.get(key), now = made(text);
    if (old?.parentElement === list) replace(old, now);
  }
  if (!keys) return;
  const stay = new Set(keys);
  for (const piece of [...list.children]) { // first: what stays should not have to move
    if (stay.has(piece.dataset.piece) && pieces.get(piece.dataset.piece) === piece) continue;
    piece.remove();
    if (pieces.get(piece.dataset.piece) === piece) pieces.delete(piece.dataset.piece);
  }
  let at = list.firstElementChild;
  for (const key of keys) {
    const piece = pieces.get(key);
    if (!piece) continue;
    if (piece === at) at = at.nextElementSibling;
    else list.insertBefore(piece, at);
  }
}
const part = (piece, kind, name) => pieces.get(piece)?.querySelector(`[data-${kind}="${name}"]`);
const each = (tree, act) => {
  for (const [piece, parts] of Object.entries(tree ?? {})) for (const [name, value] of Object.entries(parts)) act(piece, name, value);
};
function apply(message) {
  for (const list of message.lists ?? []) place(list);
  each(message.cells, (piece, name, text) => { const cell = part(piece, "cell", name); if (cell) cell.textContent = text; });
  each(message.lines, (piece, name, line) => part(piece, "spark", name)?.firstElementChild.setAttribute("points", line));
  each(message.points, (piece, name, y) => {
    const line = part(piece, "spark", name)?.firstElementChild;
    if (!line) return;
    const ys = (line.getAttribute("points") ?? "").split(" ").slice(1, -2).map((point) => point.split(",")[1]);
    ys.push(y);
    if (ys.length > points) ys.shift();
    const first = points - ys.length;
    line.setAttribute("points", [`${first - 1},31`, ...ys.map((y, i) => `${first + i},${y}`), `121,${y}`, "121,31"].join(" "));
  });
  if (message.say) say(message.say.join(". "));
}
function say(text) { document.getElementById("say").textContent = text; }

// ---- the stream: only while somebody can see the page
let stream, timer, frame = page?.dataset.frame ?? "", pause = 500;
function show(state, text) {
  light.hidden = false;
  light.className = "live " + state;
  if (light.textContent !== text) light.textContent = text;
}
function watchdog() {
  clearTimeout(timer);
  timer = setTimeout(() => again("no answer"), silence);
}
function again(why) {
  rest();
  if (light.textContent === "live") say(why);
  show("off", why);
  timer = setTimeout(connect, pause);
  pause = Math.min(pause * 2, 10000);
}
function connect() {
  clearTimeout(timer);
  if (document.hidden) return;
  stream?.close();
  stream = new EventSource("live?frame=" + encodeURIComponent(frame));
  watchdog();
  const take = (event) => {
    apply(JSON.parse(event.data));
    frame = event.lastEventId;
    pause = 500;
    if (light.textContent === "no answer") say("live again");
    show("", "live");
    watchdog();
  };
  stream.onmessage = take;
  stream.addEventListener("whole", take);
  stream.addEventListener("elsewhere", () => { // until somebody comes back to this window
    rest();
    show("off", "live in other windows");
    addEventListener("focus", connect, { once: true });
  });
  stream.addEventListener("over", () => location.reload());
  stream.onerror = async () => {
    again("no answer");
    const answer = await fetch("live", { method: "HEAD" }).catch(() => undefined);
    if (answer?.status === 401 || answer?.status === 403) location.reload(); // the session has ended
  };
}
function rest() {
  clearTimeout(timer);
  stream?.close();
  stream = undefined;
}

// ---- buttons
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.dataset.ask) return;
  event.preventDefault();
  const body = new URLSearchParams(new FormData(form)), to = form.action;
  ask(form.dataset.ask, form.dataset.verb, async () => {
    body.set("csrf", page.dataset.csrf);
    try {
      const answer = await fetch(to, { method: "POST", body, redirect: "manual" });
      if (answer.status === 401) location.reload();
      else if (answer.type !== "opaqueredirect" && !answer.ok) refuse((await answer.text()).trim());
    } catch {
      refuse("the supervisor does not answer");
    }
  });
});
function refuse(why) {
  const note = document.createElement("p");
  note.className = "notice wrong";
  note.textContent = "Not done: " + why;
  document.querySelector(".notices").before(note);
  say(note.textContent);
  setTimeout(() => note.remove(), 20000);
}

if (page) {
  learn(document);
  connect();
  document.addEventListener("visibilitychange", () => (document.hidden ? rest() : connect()));
}
