"use strict";
// The server renders everything. This script asks for the page again while there is news, and puts
// in place the parts of it that have changed.

const POLL_MS = 400;
const byId = (id) => document.getElementById(id);
let etag = null;
let asked = 0;
let latest;

// The promise is kept once the page is shown as it was after this call.
function refresh() {
  latest = load(++asked);
  return latest;
}

async function load(turn) {
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
  if (turn !== asked) return latest;
  etag = response.headers.get("ETag");
  show(page);
}

function tell(text, state = "") {
  const live = byId("live");
  if (live.textContent !== text) live.textContent = text;
  live.className = state;
}

function show(page) {
  if (page.body.dataset.state !== document.body.dataset.state) {
    location.reload(); // the workspace was made or dropped: all of the page is another
    return;
  }
  const focused = document.activeElement?.id;
  for (const part of document.querySelectorAll("[data-part]")) {
    if (part.querySelector("dialog[open]")) continue; // somebody is typing there
    if (part.id === "workspace" && part === document.activeElement) continue; // or choosing
    const fresh = page.getElementById(part.id);
    if (part.isEqualNode(fresh)) continue;
    // Copied, since the choice of a select changes while its options are taken away.
    part.replaceChildren(...[...fresh.childNodes].map((node) => node.cloneNode(true)));
  }
  document.querySelector("main").className = page.querySelector("main").className;
  if (focused && document.activeElement?.id !== focused) byId(focused)?.focus();
}

// What is shown, which the address says

async function go(url, focus) {
  history.pushState(null, "", url);
  etag = null;
  await refresh();
  byId(focus)?.focus();
}

function look(filter) {
  const url = new URL(location.href);
  url.searchParams.set(filter.name, filter.value);
  history.replaceState(null, "", url);
  etag = null;
  refresh();
}

function opened() {
  const query = new URLSearchParams(location.search);
  return query.has("request")
    ? `request-${query.get("request")}`
    : query.has("contact") && `contact-${query.get("contact")}`;
}

let typing;
byId("q")?.addEventListener("input", ({ target }) => {
  clearTimeout(typing);
  typing = setTimeout(look, 120, target);
});
byId("path")?.addEventListener("change", ({ target }) => look(target));
byId("status")?.addEventListener("change", ({ target }) => look(target));
byId("workspace").addEventListener("change", () => byId("choose").submit());

addEventListener("popstate", () => {
  if (byId("q")) byId("q").value = new URLSearchParams(location.search).get("q") ?? "";
  etag = null;
  refresh();
});

// What is changed, through the sandbox's endpoints

// Returns the body of the response, or throws that of an error.
async function send(method, path, body) {
  const headers = { Authorization: `Bearer ${document.body.dataset.token}` };
  if (body) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, body });
  } catch {
    throw { error: "The server does not respond." };
  }
  if (!response.ok) throw await response.json();
  return response.status === 204 ? null : response.json();
}

async function attempt(change, form) {
  try {
    await change(form);
    if (form) showErrors(form, {});
  } catch (problem) {
    if (form) showErrors(form, problem);
    else alert(problem.error);
  }
  await refresh();
}

// Puts each error beside its field, and the others below them all.
function showErrors(form, { errors = {}, error = "" }) {
  const texts = new Map(Object.entries(errors).map(([name, of]) => [name.replace(/^\d+\./, ""), of]));
  for (const field of form.querySelectorAll("[name]")) {
    const text = texts.get(field.name)?.join(" ") ?? "";
    texts.delete(field.name);
    byId(`${field.id}-error`).textContent = text;
    if (text) field.setAttribute("aria-invalid", "true");
    else field.removeAttribute("aria-invalid");
  }
  const invalid = form.querySelector("[aria-invalid]");
  const others = [...texts.values()].flat().join(" ");
  form.querySelector("[role=alert]").textContent = others || (invalid ? "" : error);
  invalid?.focus();
}

async function save(form) {
  const isNew = form.id === "create";
  const fields = [...form.querySelectorAll(isNew ? "[name]" : "[data-changed]")];
  const members = fields.map((field) => `"${field.name}": ${asJSON(field)}`);
  await send("PUT", `/sandbox/contacts/${form.dataset.contact}`, `{${members.join()}}`);
  form.parentElement.close();
  if (isNew) {
    const url = new URL(location.href);
    url.searchParams.delete("request");
    url.searchParams.set("contact", form.dataset.contact);
    await go(url, "detail");
  }
}

// Metadata is sent as it was typed, since JavaScript would round large numbers.
function asJSON({ name, value, type }) {
  if (type === "number") return value || "0";
  if (name !== "metadata") return JSON.stringify(value);
  const text = value.trim() || "{}";
  try {
    JSON.parse(text);
  } catch (error) {
    throw { errors: { metadata: [`Must be JSON: ${error.message}`] } };
  }
  return text;
}

// crypto.randomUUID() is missing where the sandbox is reached by another name than loopback's.
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/(.{8})(.{4}).(.{3}).(.{3})(.{12})/, "$1-$2-4$3-a$4-$5");
}

async function inject(form) {
  const { status, path, ...numbers } = Object.fromEntries(new FormData(form));
  const fault = JSON.parse(status); // all that the choice says of the response
  for (const [name, value] of Object.entries(numbers)) if (value) fault[name] = Number(value);
  if (!Object.keys(JSON.parse(status)).length && !fault.delay_ms) {
    throw { errors: { status: ["Choose what to answer with, or how long to wait."] } };
  }
  if (path) fault.path = path;
  await putFaults([...(await faultsToCome()), fault]);
}

// Returns the faults that are not used up, but for one, as a PUT takes them.
async function faultsToCome(except) {
  const { faults } = await send("GET", "/sandbox/faults");
  return faults
    .filter(({ times, triggered }, index) => times !== triggered && index !== except)
    .map(({ triggered, ...f }) => (f.times ? { ...f, times: f.times - triggered } : f));
}

const putFaults = (faults) => send("PUT", "/sandbox/faults", JSON.stringify(faults));

async function removeFault({ id, dataset }) {
  await attempt(async () => putFaults(await faultsToCome(Number(dataset.fault))));
  (byId(id) ?? byId("remove-all")).focus();
}

async function deleteContact({ dataset }) {
  await send("DELETE", `/sandbox/contacts/${dataset.contact}`);
  await go(byId("close").href, "new");
}

const ACTIONS = {
  reset() {
    const { token } = document.body.dataset;
    if (confirm(`Put the first contacts of ${token} back, and remove its requests and faults?`)) {
      attempt(() => send("POST", "/sandbox/reset"));
    }
  },
  "create-workspace": () => attempt(() => send("GET", "/sandbox/requests?limit=1")),
  clear: () => attempt(() => send("DELETE", "/sandbox/requests")),
  "remove-all": () => attempt(() => send("DELETE", "/sandbox/faults")),
  delete(button) {
    if (confirm("Delete this contact?")) attempt(() => deleteContact(button));
  },
};

document.addEventListener("submit", (event) => {
  event.preventDefault();
  if (event.target.id === "inject") attempt(inject, event.target);
  else if (event.target.matches("dialog form")) attempt(save, event.target);
});

document.addEventListener("input", ({ target }) => {
  if (target.closest("dialog")) target.dataset.changed = "";
});

// Clicks and keys

document.addEventListener("click", (event) => {
  const link = event.target.closest("a.row, #close");
  if (link && !(event.ctrlKey || event.metaKey || event.shiftKey)) {
    event.preventDefault();
    if (link.id === "close") go(link.href, opened());
    else go(link.href, "detail");
  }
  for (const menu of document.querySelectorAll("details[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.copy) copyText(button);
  if (button.dataset.fault) removeFault(button);
  if (button.dataset.open) openForm(byId(button.dataset.open));
  if ("close" in button.dataset) button.closest("dialog").close();
  ACTIONS[button.id]?.(button);
});

function openForm(form) {
  form.dataset.contact ||= newId();
  form.parentElement.showModal();
}

// Once closed, a form is as the server renders it. This event does not bubble.
document.addEventListener("close", closeForm, true);

function closeForm({ target: dialog }) {
  const form = dialog.querySelector("form");
  form.reset();
  showErrors(form, {});
  for (const field of form.querySelectorAll("[data-changed]")) delete field.dataset.changed;
  if (form.id === "create") form.dataset.contact = "";
  etag = null; // there may have been news of what was edited
  if (document.activeElement !== document.body) return;
  document.querySelector(`[data-open=${form.id}]`)?.focus(); // as a new button may be there
}

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
  if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
  const menu = document.querySelector("details[open]");
  if (menu) {
    menu.open = false;
    menu.querySelector("summary").focus();
  } else {
    byId("close")?.click();
  }
});

(async function poll() {
  await refresh();
  setTimeout(poll, POLL_MS);
})();
