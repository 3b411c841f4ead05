"use strict";
// The server renders everything. This script asks for the page again while there is news, and puts
// in place the parts of it that have changed.

const POLL_MS = 400;
const byId = (id) => document.getElementById(id);
let etag = null;
let asked = 0;

async function refresh() {
  const turn = ++asked;
  const headers = etag ? { "If-None-Match": etag } : {};
  let response;
  try {
    response = await fetch(location.href, { headers, cache: "no-store" });
  } catch {
    tell("The server does not respond", "lost");
    return;
  }
  tell("Live");
  if (response.status !== 200) return;
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  if (turn !== asked) return; // a later one is on its way
  etag = response.headers.get("ETag");
  show(page);
}

function tell(text, state = "") {
  const live = byId("live");
  if (live.textContent !== text) live.textContent = text;
  live.className = state;
}

function show(page) {
  const focused = document.activeElement?.id;
  for (const part of document.querySelectorAll("[data-part]")) {
    const fresh = page.getElementById(part.id);
    if (!part.isEqualNode(fresh)) part.replaceChildren(...fresh.childNodes);
  }
  document.querySelector("main").className = page.querySelector("main").className;
  if (focused && document.activeElement?.id !== focused) byId(focused)?.focus();
}

async function go(url, focus) {
  history.pushState(null, "", url);
  etag = null;
  await refresh();
  byId(focus)?.focus();
}

function opened() {
  const query = new URLSearchParams(location.search);
  return query.has("request")
    ? `request-${query.get("request")}`
    : query.has("contact") && `contact-${query.get("contact")}`;
}

async function send(method, path, body) {
  const headers = { Authorization: `Bearer ${document.body.dataset.token}` };
  if (body) headers["Content-Type"] = "application/json";
  const response = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  await refresh();
  return response;
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a.row, #close");
  if (link && !(event.ctrlKey || event.metaKey || event.shiftKey)) {
    event.preventDefault();
    if (link.id === "close") go(link.href, opened());
    else go(link.href, "detail");
  }
  const copy = event.target.closest("[data-copy]");
  if (copy) copyText(copy);
  for (const menu of document.querySelectorAll("details[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});

async function copyText(button) {
  const text = byId(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(text.textContent);
    const label = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = label), 1200);
  } catch {
    getSelection().selectAllChildren(text); // ready for Ctrl-C, where the browser forbids more
  }
}

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const menu = document.querySelector("details[open]");
  if (menu) {
    menu.open = false;
    menu.querySelector("summary").focus();
  } else {
    byId("close")?.click();
  }
});

let typing;
byId("q").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    const url = new URL(location.href);
    url.searchParams.set("q", byId("q").value);
    history.replaceState(null, "", url);
    etag = null;
    refresh();
  }, 120);
});
byId("search").addEventListener("submit", (event) => event.preventDefault());

byId("workspace").addEventListener("change", () => byId("choose").submit());

byId("reset").addEventListener("click", () => {
  if (confirm("Put the sample contacts back, and empty the journal?")) send("POST", "/sandbox/reset");
});
byId("clear").addEventListener("click", () => send("DELETE", "/sandbox/requests"));
byId("remove").addEventListener("click", () => send("DELETE", "/sandbox/faults"));
byId("inject").addEventListener("submit", async (event) => {
  event.preventDefault();
  const fault = {};
  for (const [name, value] of new FormData(event.target)) {
    if (value) fault[name] = name === "path" ? value : Number(value);
  }
  const response = await send("PUT", "/sandbox/faults", fault);
  const errors = response.ok ? {} : (await response.json()).errors;
  byId("fault-error").textContent = Object.values(errors).flat()[0] ?? "";
});

addEventListener("popstate", () => {
  etag = null;
  refresh();
});

(async function poll() {
  await refresh();
  setTimeout(poll, POLL_MS);
})();
