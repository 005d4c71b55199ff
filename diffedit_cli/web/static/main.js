// The page: what each control does. Everything about pictures is done by the server.

import * as api from "./api.js";
import * as forms from "./forms.js";
import { Jobs, titleOf } from "./jobs.js";
import { readLink, share, theme } from "./link.js";
import { Pictures, areasOf, loadMask, paintingOf, sendAreas, thumbOf } from "./pictures.js";
import { attempt, complain, percent, say, saveButton, showNotices, stem } from "./messages.js";
import * as results from "./results.js";
import { Stage } from "./stage.js";

const $ = (id) => document.getElementById(id);
const all = (selector) => [...document.querySelectorAll(selector)];
const KEPT = "diffedit";
const BUTTONS = { edit: "Edit", generate: "Generate", compare: "Compare", interpolate: "Make the film" };
const BLANK = { generate: "Say what the picture shows, then press Generate.", interpolate: "Write at least two texts, one per line, then press Make the film." };
const VARIANTS = {
  search: "Each seed searches for the area anew, so the areas differ a little.",
  noise: "The area that you see, redrawn from plain noise: with DDIM inversion all seeds would give one picture.",
};

const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "{}");
const modeOf = ({ kind }) => (kind === "remove" ? "edit" : kind);
const tab = (kept.tab ??= crypto.randomUUID());
let mode = "edit", alone = null, isReady = false;
let opening = Promise.resolve(); // the pictures that are on their way
const waitingFiles = [];

const stage = new Stage({ stroke: onStroke });
const pictures = new Pictures({ change: showPicture });
const jobs = new Jobs(tab, {
  done: onDone,
  failed: (job) => { complain({ message: job.error, hint: job.hint }); say("It failed; the picture and your settings are unchanged."); },
  stopped: () => say("Stopped. Nothing was changed."),
  open: (job) => openJob(job),
  restore: restoreJob,
  lost: complain,
});

// pictures

async function openFiles(files) {
  if (!isReady) {
    waitingFiles.push(...files);
    say("Your picture opens as soon as the model is loaded.");
    return;
  }
  if (mode !== "compare") setMode("edit");
  opening = openEach(files);
  await opening;
}

async function openEach(files) {
  for (const file of files) {
    say(`Opening ${file.name}`);
    const one = await pictures.open(file, file.name);
    if (one.notices.length) showNotices(one.notices);
  }
  keep();
}

function showPicture() {
  const one = pictures.current;
  $("pictures").replaceChildren(...pictures.list.map((each) => {
    const button = Object.assign(document.createElement("button"), { type: "button", title: each.name });
    button.setAttribute("aria-label", each.name);
    button.setAttribute("aria-pressed", each === one);
    button.append(Object.assign(new Image(), { src: each.url, alt: "" }));
    button.addEventListener("click", () => {
      if (mode === "compare") alone = null;
      pictures.select(each);
    });
    const item = document.createElement("li");
    item.append(button);
    return item;
  }));
  $("all").hidden = mode !== "edit" || pictures.list.length < 2;
  $("all").textContent = `Edit all ${pictures.list.length}`;
  $("choose").textContent = one ? "Add pictures" : "Choose pictures";
  showNotices([]);
  if (!["edit", "compare"].includes(mode)) return showAlone();
  $("film").dataset.has = "no";
  if (!one) {
    stage.empty();
    $("drop").hidden = false;
    $("blank").hidden = true;
    say("");
    return setView("picture");
  }
  stage.setPicture(one.url, one.width, one.height, paintingOf(one), one.name);
  stage.setBrush(stage.brush);
  for (const button of all("[data-own]")) button.setAttribute("aria-pressed", (button.dataset.own === "yes") === one.isOwn);
  $("finding").hidden = one.isOwn;
  $("own").hidden = !one.isOwn;
  stage.setMask(one.mask?.bitmap ?? null);
  $("heat").src = one.found?.url ?? "";
  if (mode === "compare" && alone?.job.kind === "compare") return showAlone();
  if (one.result && mode === "edit") showResult(one.result);
  else setView(one.mask ? "mask" : "picture");
}

// Views that there is nothing for cannot be chosen.
function setView(view) {
  const one = pictures.current;
  $("zoom").hidden = $("stage").hidden;
  const has = { picture: true, heat: Boolean(one?.found && !one.isOwn), mask: Boolean(one), result: Boolean(one?.result) || Boolean(alone) };
  for (const button of all("[data-view]")) {
    button.setAttribute("aria-pressed", button.dataset.view === view);
    button.setAttribute("aria-disabled", !has[button.dataset.view]);
  }
  stage.setView(view);
  showState(view);
}

function showState(view) {
  const one = pictures.current;
  $("saves").replaceChildren();
  if (!one || !["edit", "compare"].includes(mode)) return;
  if (view === "result") return one.result && showFacts(one.result);
  if (one.mask) {
    say(`The area covers ${percent(one.mask.facts.coverage)} of the picture. Paint to correct it, or press Edit.`);
    showNotices(one.mask.facts.notices);
    saveButton("Save mask", () => api.save(one.mask.blob, `${stem(one.name)}-mask.png`));
    if (!one.isOwn) saveButton("Save mask without room", attempt(saveFound));
  } else say(one.isOwn ? "Paint what should change, then press Edit." : "Say what is there and what it becomes, then press Find or Edit.");
}

// the area

function settingsFor(one) {
  const settings = forms.collect("edit");
  if (settings.seed === undefined && one.found) settings.seed = one.found.seed;
  return settings;
}

const requestFor = (one) => ({ picture: one.id, settings: settingsFor(one), masks: areasOf(one) });

async function needPicture() {
  await opening.catch(() => {}); // what went wrong was said then
  if (!pictures.current) throw new api.Problem(400, "There is no picture.", "Drop one on the page, paste one, or choose a file.");
  return pictures.current;
}

const find = attempt(async () => {
  const one = await needPicture();
  await sendAreas(one);
  await jobs.add({ kind: "find", ...requestFor(one) });
});

let isAsking = false, isAskedAgain = false, isPainted = false;

// The mask under the present settings and painting; of many wishes at once only the last one counts.
async function refreshMask() {
  if (isAsking) {
    isAskedAgain = true;
    return;
  }
  isAsking = true;
  try {
    do {
      isAskedAgain = false;
      const one = pictures.current;
      if (isPainted && one) {
        isPainted = false;
        await sendAreas(one);
      }
      await askMask(one);
    } while (isAskedAgain);
  } catch (problem) {
    if (problem.status !== 409) complain(problem);
    else await find(); // a zoom looks at another part, or a setting asks for another search
  } finally {
    isAsking = false;
  }
}

async function askMask(one) {
  if (!one || (one.isOwn ? !areasOf(one).use : !one.found)) {
    if (one) one.mask = null;
  } else await takeMask(one, await api.mask(requestFor(one)));
  if (one === pictures.current) {
    stage.setMask(one?.mask?.bitmap ?? null);
    showState(stage.view);
  }
}

async function takeMask(one, { blob, facts }) {
  const old = one.mask;
  one.mask = { blob, facts, bitmap: await createImageBitmap(blob) };
  if (one === pictures.current) stage.setMask(one.mask.bitmap);
  old?.bitmap.close(); // which the stage no longer draws
}

async function onStroke() {
  if (stage.view !== "mask") setView("mask");
  isPainted = true;
  await refreshMask();
  stage.isStroking = stage.pointer !== null;
  stage.draw();
}

const undo = (act) => () => {
  const one = pictures.current;
  if (!one) return;
  paintingOf(one)[act]();
  onStroke();
};

async function saveFound() {
  const one = pictures.current;
  const { blob } = await api.mask({ ...requestFor(one), save: true });
  api.save(blob, `${stem(one.name)}-found.png`);
}

// jobs

const go = attempt(async () => {
  if (mode === "edit") return edit(await needPicture());
  const format = $("format").value || ".mp4";
  if (mode === "generate") await jobs.add({ kind: "generate", settings: forms.collect("generate") });
  if (mode === "interpolate") await jobs.add({ kind: "interpolate", settings: forms.collect("interpolate"), format });
  if (mode === "compare") {
    const one = pictures.current, place = one ? { picture: one.id, masks: areasOf(one) } : {};
    await jobs.add({ kind: "compare", settings: forms.collectLists(), vary: $("vary").value, ...place });
  }
});

async function edit(one) {
  await sendAreas(one);
  const format = $("format").value, film = forms.collectFilm();
  const request = { kind: "edit", ...requestFor(one), ...(format && { format, film }) };
  if ($("variants").value === "one") return jobs.add(request);
  if ($("variants").value === "noise" || one.isOwn) {
    if (!one.mask) throw new api.Problem(400, "There is no area yet.", "Find it or paint it first.");
    request.masks = { use: await api.sendArea(one.id, one.mask.blob) };
    request.settings.inversion = "noise";
  }
  const first = request.settings.seed ?? Math.floor(Math.random() * 2 ** 31);
  for (let i = 0; i < 4; i++) await jobs.add({ ...request, settings: { ...request.settings, seed: first + i } });
}

const remove = attempt(async () => {
  const one = await needPicture();
  await sendAreas(one);
  await jobs.add({ kind: "remove", picture: one.id, settings: forms.collectRemoval(), masks: areasOf(one) });
});

const editAll = attempt(async () => {
  for (const one of pictures.list) await jobs.add({ kind: "edit", picture: one.id, settings: settingsFor(one), masks: {} });
});

async function onDone(job, isNew) {
  try {
    if (job.kind === "find") return isNew && (await onFound(job));
    const blob = await api.resultFile(job.id, "picture.png");
    jobs.setThumb(job.id, await thumbOf(blob));
    const belongs = modeOf(job) === mode && (mode !== "edit" || job.about.picture === pictures.current?.id);
    if (isNew && belongs) await openJob(job);
  } catch (problem) {
    if (problem.status !== 404) complain(problem); // it is too old, and the server has let it go
  }
}

async function onFound(job) {
  const one = pictures.byId(job.about.picture);
  if (!one || one.isOwn) return;
  URL.revokeObjectURL(one.found?.url ?? "");
  one.found = { seed: job.facts.seed, url: URL.createObjectURL(await api.resultFile(job.id, "heat.png")) };
  await takeMask(one, { blob: await api.resultFile(job.id, "mask.png"), facts: job.facts });
  if (one !== pictures.current || mode !== "edit") return;
  $("heat").src = one.found.url;
  setView("mask");
  refreshMask(); // a slider may have moved meanwhile
}

const openJob = attempt(async (job) => {
  if (job.state !== "done") return;
  const picture = await api.resultFile(job.id, "picture.png");
  const view = job.facts.files.includes("view.png") ? await api.resultFile(job.id, "view.png") : picture;
  const result = { job, picture, url: URL.createObjectURL(view) };
  jobs.setCurrent(job.id);
  const one = modeOf(job) === "edit" ? pictures.byId(job.about.picture) : null;
  if (one) {
    URL.revokeObjectURL(one.result?.url ?? "");
    one.result = result;
    if (mode !== "edit") setMode("edit");
    pictures.select(one);
  } else {
    URL.revokeObjectURL(alone?.url ?? "");
    alone = result;
    showAlone();
  }
});

// A result with no picture before it.
async function showAlone() {
  stage.empty();
  $("zoom").hidden = true;
  $("drop").hidden = true;
  $("blank").hidden = false;
  $("blank").textContent = BLANK[mode] ?? "";
  $("saves").replaceChildren();
  say("");
  if (!alone || (alone.job.kind !== mode && mode !== "edit")) return;
  const bitmap = await createImageBitmap(alone.picture);
  stage.setPicture(alone.url, bitmap.width, bitmap.height, null, titleOf(alone.job));
  $("after").src = alone.url;
  $("after").className = "whole";
  $("film").dataset.has = "no";
  setView("result");
  showFacts(alone);
  if (alone.job.kind === "interpolate") await playFilm(alone);
}

function showResult(result) {
  $("after").src = result.url;
  $("after").alt = titleOf(result.job);
  $("after").className = "";
  stage.setLine(50);
  setView("result");
}

const showFacts = (result) =>
  results.showFacts(result, {
    one: modeOf(result.job) === "edit" ? pictures.byId(result.job.about.picture) : null,
    play: attempt(() => playFilm(result)),
    further: attempt((file) => openFiles([file])),
  });

async function playFilm(result) {
  await results.playFilm(result);
  stage.setView("result");
}

function restoreJob(job) {
  setMode(modeOf(job));
  if (job.kind === "compare") Object.assign($("values"), { value: job.about.settings[job.about.vary] ?? "" });
  else forms.restore(modeOf(job), job.about.settings);
  if (job.kind === "compare") $("vary").value = job.about.vary;
  showSliders();
  const one = pictures.byId(job.about.picture);
  if (one) pictures.select(one);
  if (job.state === "done") openJob(job);
  keep();
}

// modes, settings, keys

function setMode(next) {
  if (next !== mode) forms.showPanels(next);
  mode = next;
  for (const button of all("[data-mode]")) button.setAttribute("aria-pressed", button.dataset.mode === mode);
  for (const part of all("[data-for]")) part.hidden = !part.dataset.for.split(" ").includes(mode);
  $("go").firstChild.textContent = BUTTONS[mode];
  $("toolbar").hidden = mode !== "edit";
  showFormat();
  showPicture();
}

function showSliders() {
  for (const id of ["threshold", "room"]) $(`${id}-value`).textContent = $(id).valueAsNumber.toFixed(2);
}

function showFormat() {
  $("film-frames").hidden = mode !== "edit" || !$("format").value;
  $("format").options[0].hidden = mode === "interpolate";
  if (mode === "interpolate" && !$("format").value) $("format").value = ".mp4";
  const which = $("variants").value, isOwn = pictures.current?.isOwn;
  $("variants-note").hidden = mode !== "edit" || which === "one";
  $("variants-note").textContent = VARIANTS[isOwn ? "noise" : which] ?? "";
}

function keep() {
  const { mode: which, ...form } = { ...forms.changes(mode) };
  sessionStorage.setItem(KEPT, JSON.stringify({ tab, mode: which, form, pictures: pictures.list.map((one) => one.id) }));
}

function applyChanges({ mode: which = "edit", values = {}, fast, vary, list, format }) {
  setMode(which in BUTTONS ? which : "edit");
  forms.restore(mode, values);
  $("fast").checked = Boolean(fast);
  if (vary) $("vary").value = vary;
  $("values").value = list ?? "";
  $("format").value = format ?? "";
  showSliders();
  showFormat();
}

const isText = (node) => node.matches("input:not([type=range], [type=checkbox]), textarea, select");

document.addEventListener("keydown", (event) => {
  const isCommand = event.ctrlKey || event.metaKey;
  if (event.key === "Escape") return jobs.stop();
  if (event.key === "Enter" && isCommand) {
    event.preventDefault();
    return go();
  }
  if (isText(event.target) || event.altKey || mode !== "edit") return;
  const key = event.key.toLowerCase();
  const commands = { z: undo(event.shiftKey ? "redo" : "undo"), y: undo("redo") };
  const plain = { a: () => stage.setTool("add"), s: () => stage.setTool("subtract"), f: find, "[": () => stage.setBrush(stage.brush / 1.25), "]": () => stage.setBrush(stage.brush * 1.25) };
  const act = (isCommand ? commands : plain)[key];
  if (!act) return;
  event.preventDefault();
  act();
});

function listen() {
  const click = { choose: () => $("file").click(), drop: () => $("file").click(), find, remove, all: editAll, undo: undo("undo"), redo: undo("redo"), clear: undo("clear"), stop: () => jobs.stop(), share: () => share(forms.changes(mode)) };
  for (const [id, act] of Object.entries(click)) $(id).addEventListener("click", () => act());
  $("mask-file").addEventListener("click", () => $("mask-input").click());
  $("alert-close").addEventListener("click", () => { $("alert").hidden = true; });
  $("zoom-in").addEventListener("click", () => stage.setZoom(stage.zoom * 1.5));
  $("zoom-out").addEventListener("click", () => stage.setZoom(stage.zoom / 1.5));
  $("zoom-fit").addEventListener("click", () => stage.setZoom(1));
  $("theme").addEventListener("click", () => theme({ Auto: "light", Light: "dark", Dark: "" }[$("theme").textContent]));
  $("settings").addEventListener("submit", (event) => { event.preventDefault(); go(); });
  $("settings").addEventListener("change", () => { showFormat(); keep(); });
  for (const id of ["threshold", "room"]) $(id).addEventListener("input", () => { showSliders(); refreshMask(); });
  $("panels").addEventListener("change", (event) => { if (mode === "edit" && /^set-mask_(grow|feather|fill|invert)/.test(event.target.id)) refreshMask(); });
  $("brush").addEventListener("input", () => stage.setBrush($("brush").valueAsNumber));
  for (const button of all("[data-mode]")) button.addEventListener("click", () => { setMode(button.dataset.mode); keep(); });
  for (const button of all("[data-tool]")) button.addEventListener("click", () => stage.setTool(button.dataset.tool));
  for (const button of all("[data-view]")) button.addEventListener("click", () => { if (button.getAttribute("aria-disabled") !== "true") setView(button.dataset.view); });
  for (const button of all("[data-own]")) button.addEventListener("click", attempt(async () => {
    const one = await needPicture();
    one.isOwn = button.dataset.own === "yes";
    one.mask = null;
    one.result = null;
    pictures.select(one);
    await refreshMask();
    if (one.isOwn || one.mask) setView("mask");
    showFormat();
  }));
  const chosen = (input, act) => input.addEventListener("change", attempt(async () => {
    const files = [...input.files];
    input.value = "";
    await act(files);
  }));
  chosen($("file"), openFiles);
  chosen($("mask-input"), async ([file]) => { await loadMask(pictures.current, file); await onStroke(); });
  document.addEventListener("paste", (event) => { if (event.clipboardData.files.length) openGiven([...event.clipboardData.files]); });
  document.addEventListener("dragover", (event) => { event.preventDefault(); $("viewport").classList.add("over"); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("viewport").classList.remove("over"); });
  document.addEventListener("drop", (event) => { event.preventDefault(); $("viewport").classList.remove("over"); openGiven([...event.dataTransfer.files]); });
}

const openGiven = attempt((files) => openFiles(files));

// start

async function untilReady() {
  const begin = performance.now();
  for (;;) {
    const { model, name } = await api.about(true);
    if (model) return model;
    $("model").textContent = `Loading ${name}, ${Math.round((performance.now() - begin) / 1000)} s`;
    await new Promise((resolve) => setTimeout(resolve, 400));
  }
}

const start = attempt(async () => {
  theme(localStorage.getItem("diffedit-theme") ?? "");
  const linked = api.takeToken();
  const { fields, fast } = await api.about(false);
  forms.start(fields, fast);
  forms.showPanels("edit");
  listen();
  applyChanges(linked ? readLink(linked) : { mode: kept.mode, ...kept.form });
  stage.setBrush(stage.brush);
  document.body.dataset.state = "open";
  const model = await untilReady();
  if (model.keeps_steps) forms.spareOwnSteps();
  $("model").className = "ready";
  $("model").textContent = `${model.name} on ${model.device}`;
  const words = Object.values(model.words).flat();
  $("words").append(...words.map((word) => new Option(word, word)));
  isReady = true;
  await pictures.reopen(kept.pictures ?? []);
  await jobs.ask();
  if (waitingFiles.length) await openFiles(waitingFiles.splice(0));
  document.body.dataset.state = "ready";
});

start();
