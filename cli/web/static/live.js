// The live page: every request is JSON to this server, and what comes back is shown as text, never as markup.
"use strict";
const by = (id) => document.getElementById(id);
const ask = by("ask");
let busy = false;
let stopped = false;
let running = null;
let before = null;

function said(text) { by("status").textContent = text; }

async function call(address, content) {
  const options = content && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content) };
  const got = await fetch(address, options || {});
  const answer = await got.json();
  if (!got.ok) throw new Error(answer.detail);
  return answer;
}

async function done(address, content) {
  let action = await call(address, content);
  running = action.action;
  try {
    while (action.state === "waiting" || action.state === "running") {
      if (stopped) await call(`/live/actions/${running}/cancel`, {});
      said(action.state === "waiting" ? `waiting: ${action.ahead} before it` : `${action.about}: pass ${action.passes}, ${action.seconds} s`);
      await new Promise((resolve) => setTimeout(resolve, 150));
      action = await call(`/live/actions/${action.action}`);
    }
  } finally {
    running = null;
  }
  if (action.state !== "done") throw new Error(action.problem || action.state);
  return action.result;
}

function base64(file) {
  if (!file) return undefined;
  if (file.size > Number(by("answers").dataset.bytes)) throw new Error(`${file.name} is too large`);
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Error(`${file.name} cannot be read`));
    reader.readAsDataURL(file);
  });
}

async function asked() {
  const { prompt, picture, recording } = ask.elements;
  return { prompt: prompt.value, picture: await base64(picture.files[0]), recording: await base64(recording.files[0]) };
}

function changes() {
  return [...by("changes").children].map((row) => (row.edit ? { edit: row.edit }
    : { neurons: row.neurons, factor: Number(row.querySelector("input[type=number]").value) }));
}

function change(text, edit) {
  const row = by("change").content.firstElementChild.cloneNode(true);
  const [slider, number] = row.querySelectorAll("input");
  row.querySelector("code").textContent = text;
  row.querySelector("button").addEventListener("click", () => row.remove());
  if (edit) {
    row.edit = text;
    row.querySelectorAll("label").forEach((label) => label.remove());
  } else {
    row.neurons = text;
    number.setAttribute("aria-label", `factor of ${text}`);
    slider.setAttribute("aria-label", `factor of ${text}, as a slider`);
    slider.addEventListener("input", () => { number.value = slider.value; });
    slider.addEventListener("change", () => { if (before) guarded(again); });
    number.addEventListener("input", () => { slider.value = number.value; });
  }
  by("changes").append(row);
}

function show(place, result, content, made) {
  place.replaceChildren();
  for (const word of result.words) {
    if (!word.tokens.length) { place.append(word.text, " "); continue; }
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = word.text;
    button.title = "Which neurons contributed to it?";
    button.addEventListener("click", () => guarded(async () => {
      const found = await done("/live/contributions", { ...content, changes: made, ids: result.ids, tokens: word.tokens });
      neurons(found);
    }));
    place.append(button, " ");
  }
  if (!result.words.length) place.textContent = "(nothing)";
  if (result.cut) place.append("... (the most tokens that were asked for)");
}

function cell(row, content, kind) {
  const made = row.insertCell();
  made.append(content);
  if (kind) made.className = kind;
}

function neurons(found) {
  by("found").hidden = false;
  by("found-title").textContent = `Neurons that contributed most to '${found.word}', of ${found.neurons.toLocaleString("en")}`;
  const body = by("found").querySelector("tbody");
  body.replaceChildren();
  for (const one of found.rows) {
    const row = body.insertRow();
    const link = document.createElement("a");
    link.href = one.link;
    link.textContent = one.neuron;
    cell(row, link);
    cell(row, one.score.toPrecision(3), "number");
    cell(row, one.value.toPrecision(3), "number");
    const tokens = one.tokens.map((text) => Object.assign(document.createElement("span"), { className: "token", textContent: text }));
    const words = document.createElement("span");
    words.append(...tokens);
    cell(row, words);
    const off = Object.assign(document.createElement("button"), { type: "button", textContent: "Switch off" });
    off.addEventListener("click", () => { change(one.neuron); if (before) guarded(again); });
    cell(row, off);
  }
}

async function again() {
  const made = changes();
  by("after").replaceChildren();
  by("random").replaceChildren();
  if (!made.length) return;
  const content = before;
  show(by("after"), await done("/live/answer", { ...content, changes: made }), content, made);
  if (!by("beside").checked) return;
  const random = await done("/live/answer", { ...content, changes: made, random: 1 });
  by("random").textContent = [random.answer || "(nothing)", ...random.notes].join(" - ");
}

function mark(isBusy) {
  busy = isBusy;
  stopped = false;
  by("cancel").disabled = !isBusy;
  by("answers").setAttribute("aria-busy", String(isBusy));
}

async function guarded(work) {
  if (busy) { said("one action at a time: cancel this one, or wait"); return; }
  mark(true);
  try { await work(); said(""); } catch (error) { said(error.message); }
  mark(false);
}

ask.addEventListener("submit", (event) => {
  event.preventDefault();
  guarded(async () => {
    const content = { ...await asked(), tokens: Number(ask.elements.tokens.value) };
    show(by("before"), await done("/live/answer", content), content, []);
    before = content;
    await again();
  });
});
by("cancel").addEventListener("click", () => {
  stopped = true;
  if (running) call(`/live/actions/${running}/cancel`, {}).catch((error) => said(error.message));
});
by("add").addEventListener("click", () => {
  const text = by("neurons").value.trim();
  if (text) { change(text); by("neurons").value = ""; if (before) guarded(again); }
});
if (by("add-edit")) by("add-edit").addEventListener("click", () => {
  if (by("edit").value) { change(by("edit").value, true); if (before) guarded(again); }
});
if (by("save")) by("save").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { kind, name, note } = by("save").elements;
  try {
    const got = await call("/live/save", { kind: kind.value, name: name.value, note: note.value, changes: changes() });
    by("saved").textContent = `saved: ${got.saved}`;
  } catch (error) { by("saved").textContent = error.message; }
});
(async function ready() {
  try {
    const status = await call("/live/status");
    if (status.state === "loading") { said(`${status.model} is being loaded ...`); setTimeout(ready, 500); }
    else said(status.waiting ? `${status.waiting} actions before yours` : "");
  } catch (error) { said(error.message); }
})();
