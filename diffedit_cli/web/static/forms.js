// Settings: fields made from the server's schema, and reading and restoring their values.

const FIRST = { edit: ["ref", "query", "seed", "mask_threshold", "room"], generate: ["prompt", "seed"], interpolate: ["prompts"] };
const PANELS = { Text: "More text", Sampling: "Sampling", Guidance: "Guidance", Mask: "Mask", Files: "Film" };
const $ = (id) => document.getElementById(id);

const typed = {}; // the fields of each form, as they were left

let schema, formShown;

export function start(fields, fast) {
  schema = { fields, fast };
  $("vary").append(...fields.edit.map((field) => new Option(field.key.replaceAll("_", " "), field.key)));
  $("vary").value = "room";
  $("frames").value = field("film", "frames").default;
}

// The steps of "fast" are more than those of a few-step model.
export const spareOwnSteps = () => { delete schema.fast.steps; };

const field = (form, key) => schema.fields[form].find((one) => one.key === key);

// The fields of a form; those of another one keep what was typed.
export function showPanels(mode) {
  const form = mode === "compare" ? "edit" : mode;
  if (form === formShown) return;
  const inputs = () => [...$("panels").querySelectorAll("input, select")];
  typed[formShown] = Object.fromEntries(inputs().map((input) => [input.id, input.value]));
  formShown = form;
  const film = form === "edit" ? schema.fields.film.filter((one) => one.key !== "frames") : [];
  const rest = [...schema.fields[form].filter((one) => !FIRST[form].includes(one.key)), ...film];
  const groups = Map.groupBy ? Map.groupBy(rest, (one) => one.panel) : groupBy(rest);
  $("panels").replaceChildren(...[...groups].map(([name, fields]) => panel(name, fields, form)));
  for (const input of inputs()) input.value = typed[form]?.[input.id] ?? input.value;
  recount();
}

const recount = () => [...$("panels").children].forEach((details) => details.dispatchEvent(new Event("input")));

function groupBy(fields) {
  const groups = new Map();
  for (const one of fields) groups.set(one.panel, [...(groups.get(one.panel) ?? []), one]);
  return groups;
}

function panel(name, fields, form) {
  const details = document.createElement("details");
  const summary = document.createElement("summary");
  const count = Object.assign(document.createElement("span"), { className: "count" });
  summary.append(PANELS[name] ?? name, count);
  const body = Object.assign(document.createElement("div"), { className: "fields" });
  body.append(...fields.map((one) => control(one, form)));
  details.append(summary, body);
  const showCount = () => {
    const changed = fields.filter((one) => isChanged(one, $(`set-${one.key}`)));
    for (const one of fields) $(`set-${one.key}`).parentElement.classList.toggle("changed", changed.includes(one));
    count.textContent = changed.length ? `${changed.length} changed` : "";
  };
  details.addEventListener("input", showCount);
  details.addEventListener("change", showCount);
  return details;
}

function control(one, form) {
  const box = Object.assign(document.createElement("div"), { className: "field" });
  const id = `set-${one.key}`;
  const label = Object.assign(document.createElement("label"), { htmlFor: id, textContent: labelOf(one.key), title: one.flag });
  const input = document.createElement(one.type === "choice" || one.type === "switch" ? "select" : "input");
  Object.assign(input, { id, autocomplete: "off" });
  if (one.type === "choice") input.append(...one.choices.map((name) => new Option(name, name)));
  if (one.type === "switch") {
    if (one.may_be_empty) input.append(new Option("automatic", ""));
    input.append(new Option("on", "true"), new Option("off", "false"));
  }
  if (["integer", "number"].includes(one.type) && !one.is_list) {
    Object.assign(input, { type: "number", step: one.type === "integer" ? "1" : "any" });
    if (one.low !== null) Object.assign(input, { min: one.low, max: one.high });
    if (one.may_be_empty) input.placeholder = "default";
  }
  input.value = shown(one.default);
  const help = Object.assign(document.createElement("small"), { id: `${id}-help`, textContent: words(one.help) });
  input.setAttribute("aria-describedby", help.id);
  input.dataset.form = form;
  box.append(label, input, help);
  return box;
}

export const labelOf = (key) => {
  const known = { ref: "What is there", query: "What it becomes", room: "Room around it", mask_threshold: "Threshold", fps: "Frames per second" };
  const text = key.replaceAll("_", " ");
  return known[key] ?? text[0].toUpperCase() + text.slice(1);
};

// A sentence that speaks of flags, in the words of the page.
export const words = (text) =>
  text.replace(/--(no-)?([a-z][a-z-]*)/g, (flag, no, name) => {
    const key = name.replaceAll("-", "_");
    const known = Object.values(schema?.fields ?? {}).some((fields) => fields.some((one) => one.key === key));
    return known ? `“${labelOf(key)}${no ? ": off" : ""}”` : flag;
  });

const shown = (value) => (Array.isArray(value) ? value.join(", ") : value === null ? "" : String(value));
const isChanged = (one, input) => input.value !== shown(one.default);

function read(one, text) {
  if (one.is_list) return text.split(",").map((part) => part.trim()).filter(Boolean).map((part) => scalar(one, part));
  return text.trim() === "" && one.type !== "text" ? null : scalar(one, text);
}

function scalar(one, text) {
  if (one.type === "switch") return text === "true";
  return ["integer", "number"].includes(one.type) ? Number(text) : text.trim();
}

// All values of a form; what stands in no field of its own comes from the first ones.
export function collect(mode) {
  const form = mode === "compare" ? "edit" : mode;
  const values = {};
  const useFast = form === "edit" && mode !== "compare" && $("fast").checked;
  for (const one of schema.fields[form]) {
    const input = $(`set-${one.key}`);
    const isKept = input && isChanged(one, input);
    const value = useFast && !isKept && one.key in schema.fast ? schema.fast[one.key] : input ? read(one, input.value) : null;
    if (value !== null) values[one.key] = value;
  }
  if (form === "edit") {
    Object.assign(values, { ref: $("ref").value.trim(), query: $("query").value.trim() });
    Object.assign(values, { mask_threshold: $("threshold").valueAsNumber, room: $("room").valueAsNumber });
  }
  if (form === "generate") values.prompt = $("prompt").value.trim();
  if (form === "interpolate") values.prompts = $("prompts").value.split("\n").map((line) => line.trim()).filter(Boolean);
  if (form !== "interpolate" && $("seed").value !== "") values.seed = Number($("seed").value);
  return values;
}

// Of the film of an edit.
export const collectFilm = () => ({
  frames: $("frames").valueAsNumber,
  ...Object.fromEntries(["fps", "loop"].map((key) => [key, read(field("film", key), $(`set-${key}`).value)])),
});

// Of a removal: what differs from the defaults of an edit, where a removal has that setting too.
export function collectRemoval() {
  const keys = schema.fields.remove.map((one) => one.key);
  return Object.fromEntries(Object.entries(changes("edit").values).filter(([key]) => keys.includes(key)));
}

// Of a comparison: comma lists, as on the command line.
export function collectLists() {
  const values = collect("compare");
  const lists = {};
  for (const one of schema.fields.edit) {
    if (!(one.key in values) || same(values[one.key], one.default)) continue;
    lists[one.key] = asList(values[one.key]);
  }
  lists[$("vary").value] = $("values").value.trim();
  return lists;
}

const same = (a, b) => shown(a) === shown(b);
const asList = (value) =>
  Array.isArray(value) ? value.join("+") : typeof value === "boolean" ? (value ? "on" : "off") : String(value).replaceAll(",", "\\,");

// What differs from the defaults: for the link, and to survive a reload.
export function changes(mode) {
  const form = mode === "compare" ? "edit" : mode;
  const values = collect(mode);
  for (const one of schema.fields[form]) if (same(values[one.key] ?? null, one.default)) delete values[one.key];
  return { mode, values, fast: $("fast").checked, vary: $("vary").value, list: $("values").value, format: $("format").value };
}

export function restore(mode, values) {
  const form = mode === "compare" ? "edit" : mode;
  const put = (id, value) => { if (value !== undefined) $(id).value = shown(value); };
  for (const one of schema.fields[form]) {
    const input = $(`set-${one.key}`);
    if (input) input.value = shown(values[one.key] ?? one.default);
  }
  if (form === "edit") {
    for (const key of ["ref", "query"]) put(key, values[key] ?? "");
    put("threshold", values.mask_threshold ?? field("edit", "mask_threshold").default);
    put("room", values.room ?? field("edit", "room").default);
  }
  if (form === "generate") put("prompt", values.prompt ?? "");
  if (form === "interpolate") $("prompts").value = (values.prompts ?? []).join("\n");
  if (form !== "interpolate") put("seed", values.seed ?? "");
  recount();
}
