// The jobs of this tab: asking the server for their state, the progress shown, and the history.

import * as api from "./api.js";
import { words } from "./forms.js";

const $ = (id) => document.getElementById(id);
const STAGES = { mask: "Finding the area", place: "Recognising the place", invert: "Encoding the picture", decode: "Drawing the change", generate: "Drawing", frame: "Drawing frames", compare: "Drawing tiles" };
const EVERY = 200;
const isOver = (job) => ["done", "failed", "stopped"].includes(job.state);

export class Jobs {
  // on: {done(job), failed(problem), open(job), restore(job), lost(problem)}
  constructor(tab, on) {
    this.tab = tab;
    this.on = on;
    this.known = new Map();
    this.items = new Map(); // of the history: what the page keeps of each job
    this.seen = 0; // previews
    this.timer = null;
  }

  async add(body) {
    const job = await api.addJob({ ...body, tab: this.tab });
    this.known.set(job.id, job);
    this.show([...this.known.values()], []);
    this.watch();
    return job;
  }

  watch() {
    this.timer ??= setTimeout(() => this.ask(), EVERY);
  }

  get running() {
    return [...this.known.values()].filter((job) => !isOver(job));
  }

  async ask() {
    this.timer = null;
    try {
      const { jobs, queue } = await api.jobsOf(this.tab);
      const before = new Map(this.known);
      this.known = new Map(jobs.map((job) => [job.id, job]));
      this.show(jobs, queue);
      for (const job of jobs) if (isOver(job) && !isOver(before.get(job.id) ?? { state: "" })) this.end(job, before.has(job.id));
    } catch (problem) {
      this.on.lost(problem);
    }
    if (this.running.length) this.watch();
  }

  end(job, isNew) {
    if (job.state === "done") this.on.done(job, isNew);
    if (job.state === "failed" && isNew) this.on.failed(job);
    if (job.state === "stopped" && isNew) this.on.stopped(job);
  }

  async stop() {
    const job = this.running.find((one) => one.state === "running") ?? this.running.at(-1);
    if (!job) return;
    this.known.set(job.id, { ...job, isStopping: true });
    $("progress-text").textContent = "Stopping";
    await api.stopJob(job.id).catch((problem) => this.on.lost(problem));
    clearTimeout(this.timer);
    await this.ask();
  }

  show(jobs, queue) {
    const open = jobs.filter((job) => !isOver(job));
    const job = open.find((one) => one.state === "running") ?? open[0];
    $("progress").hidden = !job;
    if (job) this.showProgress(job, open.length, queue.indexOf(job.id));
    for (const one of jobs) if (one.kind !== "find") this.showItem(one);
    $("history-empty").hidden = $("history").children.length > 0;
  }

  showProgress(job, count, place) {
    const waiting = place > 0 ? `Waiting, ${place} before this` : "Starting";
    const step = `${STAGES[job.stage]}, ${job.done} of ${job.total}${job.seconds_left === null ? "" : `, ${left(job.seconds_left)} left`}`;
    const more = count > 1 ? ` · ${count - 1} more queued` : "";
    const isStopping = job.isStopping || this.known.get(job.id)?.isStopping;
    $("progress-text").textContent = (isStopping ? "Stopping" : job.stage ? step : waiting) + more;
    $("bar").value = job.fraction;
    if (!job.previews) $("preview").hidden = true;
    if (job.previews && `${job.id}${job.previews}` !== this.seen) {
      this.seen = `${job.id}${job.previews}`;
      api.preview(job.id).then((blob) => {
        URL.revokeObjectURL($("preview").src);
        $("preview").src = URL.createObjectURL(blob);
        $("preview").hidden = false;
      }).catch(() => {}); // the job has ended meanwhile
    }
  }

  showItem(job) {
    let item = this.items.get(job.id);
    if (!item) {
      item = { node: document.createElement("li"), job };
      this.items.set(job.id, item);
      $("history").prepend(item.node);
    }
    item.job = { ...item.job, ...job };
    const key = `${job.state}${job.done}${job.stage}`;
    if (item.shown === key) return;
    const hadFocus = item.node.contains(document.activeElement) ? document.activeElement.dataset.role : null;
    item.shown = key;
    this.fill(item);
    if (hadFocus) item.node.querySelector(`[data-role=${hadFocus}]`)?.focus();
  }

  fill({ node, job, url }) {
    const title = titleOf(job), isDone = job.state === "done";
    const thumb = button("thumb", "", () => this.on.open(job), `Show ${title}`, "thumb");
    thumb.setAttribute("aria-disabled", !isDone);
    if (url) thumb.append(Object.assign(new Image(), { src: url, alt: "" }));
    else thumb.textContent = isDone ? "…" : job.state === "running" ? `${Math.floor(100 * job.fraction)} %` : "–";
    const name = Object.assign(document.createElement("p"), { className: "title", textContent: title, title });
    const row = Object.assign(document.createElement("div"), { className: "row" });
    const meta = Object.assign(document.createElement("p"), { className: `meta${job.state === "failed" ? " bad" : ""}`, textContent: metaOf(job) });
    row.append(meta);
    if (isOver(job)) row.append(button("quiet", "Restore", () => this.on.restore(job), `Restore the settings of ${title}`, "act"));
    else row.append(button("quiet", "Stop", () => api.stopJob(job.id).then(() => this.ask()), `Stop ${title}`, "act"));
    node.replaceChildren(thumb, name, row);
  }

  setThumb(id, url) {
    const item = this.items.get(id);
    if (!item) return;
    item.url = url;
    this.fill(item);
  }

  setCurrent(id) {
    for (const [key, item] of this.items) item.node.classList.toggle("current", key === id);
  }
}

function button(className, text, act, label, role) {
  const node = Object.assign(document.createElement("button"), { type: "button", className, textContent: text });
  node.setAttribute("aria-label", label);
  node.dataset.role = role;
  node.addEventListener("click", act);
  return node;
}

export function titleOf({ kind, about }) {
  const s = about.settings;
  if (kind === "edit") return `${s.ref || "picture"} → ${s.query || "repaint"}`;
  if (kind === "remove") return `without ${s.ref || "what was painted"}`;
  if (kind === "generate") return s.prompt;
  if (kind === "compare") return `Compare ${about.vary?.replaceAll("_", " ") ?? ""}`;
  return s.prompts?.join(" → ") ?? kind;
}

function metaOf(job) {
  if (job.state === "done") {
    const seed = job.about.settings.seed;
    return `${seed === undefined || Array.isArray(seed) ? "" : `seed ${seed} · `}${job.seconds.toFixed(1)} s`;
  }
  if (job.state === "failed") return words(job.error);
  return { waiting: "Waiting", running: `${STAGES[job.stage] ?? "Starting"}`, stopped: "Stopped" }[job.state];
}

function left(seconds) {
  return seconds < 60 ? `${Math.ceil(seconds)} s` : `${Math.ceil(seconds / 60)} min`;
}
