// Talking to the server. The token comes in the link's fragment once, and is kept for this address alone.

const TOKEN = "diffedit-token";

export class Problem extends Error {
  constructor(status, error, hint) {
    super(error);
    this.status = status;
    this.hint = hint;
  }
}

export function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1));
  if (given.has("token")) localStorage.setItem(TOKEN, given.get("token"));
  const settings = given.get("settings");
  if (location.hash) history.replaceState(null, "", location.pathname);
  return settings;
}

async function ask(path, options = {}) {
  const headers = { ...options.headers, Authorization: `Bearer ${localStorage.getItem(TOKEN) ?? ""}` };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch {
    throw new Problem(0, "The server does not answer.", "Start diffedit serve again, and open its new link.");
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({ error: "The server answered something else.", hint: "Reload the page." }));
  throw new Problem(answer.status, said.error, said.hint);
}

const post = (path, body) => ask(path, { method: "POST", body: JSON.stringify(body) });

export const about = async (brief) => (await ask(`/api/about${brief ? "?brief" : ""}`)).json();
export const aboutPicture = async (id) => (await ask(`/api/pictures/${id}?about`)).json();
export const pictureBlob = async (id) => (await ask(`/api/pictures/${id}`)).blob();
export const sendPicture = async (file, name) =>
  (await ask("/api/pictures", { method: "POST", body: file, headers: { "X-Name": encodeURIComponent(name) } })).json();
export const sendArea = async (picture, blob) =>
  (await (await ask(`/api/pictures/${picture}/areas`, { method: "POST", body: blob })).json()).id;
export const addJob = async (body) => (await post("/api/jobs", body)).json();
export const jobsOf = async (tab) => (await ask(`/api/jobs?tab=${tab}`)).json();
export const stopJob = async (id) => (await ask(`/api/jobs/${id}`, { method: "DELETE" })).json();
export const preview = async (id) => (await ask(`/api/jobs/${id}/preview.jpg`)).blob();
export const resultFile = async (id, name) => (await ask(`/api/results/${id}/${name}`)).blob();

export async function mask(body) {
  const answer = await post("/api/mask", body);
  return { blob: await answer.blob(), facts: JSON.parse(answer.headers.get("X-Facts")) };
}

export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
