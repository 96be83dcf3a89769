// The status page. It only reads: every request is a GET. Whatever the appliance says is put on the page as text, never
// as markup. The token is asked for once and kept in this tab (sessionStorage); it is sent to this origin only.
"use strict";

const POLL_MS = 2000;
const ANSWER_MS_MAX = 10000;
const BACKUPS_SHOWN = 10;
const RECOVERIES_SHOWN = 10;
const LAG_SECONDS_HIGH = 10;
const TENANT = new URLSearchParams(location.search).get("tenant") || "appliance";
const TOKEN_KEY = "coffer-token";

const byId = (id) => document.getElementById(id);

class Unauthorized extends Error {}

async function get(path) {
  const answer = await fetch(`/v1.0/${encodeURIComponent(TENANT)}${path}`, {
    headers: { "X-Auth-Token": sessionStorage.getItem(TOKEN_KEY) || "", Accept: "application/json" },
    cache: "no-store", credentials: "omit", redirect: "error", signal: AbortSignal.timeout(ANSWER_MS_MAX),
  });
  if (answer.status === 401) throw new Unauthorized();
  if (!answer.ok) throw new Error(await faultMessage(answer));
  return answer.json();
}

async function faultMessage(answer) {
  try {
    const fault = Object.values(await answer.json())[0];
    if (fault && fault.message) return fault.message;
  } catch {
    // Not of our shape; the number has to do.
  }
  return `The appliance answered with HTTP status ${answer.status}.`;
}

// An element with attributes and children; text stays text.
function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let size = Number(count) || 0, unit = 0;
  while (size >= 1023.5 && unit < units.length - 1) { size /= 1024; unit += 1; }
  return unit === 0 ? `${size} B` : `${size.toFixed(1)} ${units[unit]}`;
}

const number = (count) => String(Number(count) || 0).replace(/\B(?=(\d{3})+$)/g, "\u202f");

function milliseconds(span) {
  if (span < 1000) return `${Math.round(span)} ms`;
  if (span < 60000) return `${(span / 1000).toFixed(1)} s`;
  if (span < 3600000) return `${Math.floor(span / 60000)} min ${Math.floor(span % 60000 / 1000)} s`;
  return `${Math.floor(span / 3600000)} h ${Math.floor(span % 3600000 / 60000)} min`;
}

// Trove's own times are UTC and do not say so.
function moment(text) {
  if (!text) return null;
  const date = new Date(/(Z|[+-]\d\d:?\d\d)$/.test(text) ? text : `${text}Z`);
  return Number.isNaN(date.getTime()) ? null : date;
}

function time(text) {
  const date = moment(text);
  if (!date) return el("span", {}, "–");
  const plain = (instant) => instant.toISOString().slice(0, 19).replace("T", " ");
  const utc = plain(date), here = plain(new Date(date.getTime() - date.getTimezoneOffset() * 60000));
  const local = here === utc ? "" : ` (here ${here.slice(0, 10) === utc.slice(0, 10) ? here.slice(11) : here})`;
  return el("time", { datetime: date.toISOString() }, `${utc} UTC`, local ? el("span", { class: "local" }, local) : "");
}

function sentence(text) {
  const bare = String(text).trim().replace(/\.$/, "");
  return `${bare.charAt(0).toUpperCase()}${bare.slice(1)}.`;
}

// What is wrong with an instance and what to do, in one sentence each; null when all is well.
function trouble(instance, newestBackup) {
  if (instance.fault && instance.fault.message) {
    const remedy = instance.fault.details ? ` ${sentence(instance.fault.details)}` : "";
    return { weight: "trouble", text: sentence(instance.fault.message) + remedy };
  }
  if (instance.status === "ERROR") {
    return { weight: "trouble", text: "The server does not serve. Look into its error log, then recover it." };
  }
  // While something is under way, shipping may rest and a new instance has nothing to ship yet.
  const shipping = ["ACTIVE", "BACKUP"].includes(instance.status) ? instance.shipping || {} : {};
  if (shipping.message) return { weight: "trouble", text: sentence(shipping.message) };
  const verification = instance.verification || {};
  const bad = (verification.bad || [])[0];
  if (bad) {
    const others = verification.bad_objects > 1 ? ` (and ${number(verification.bad_objects - 1)} more)` : "";
    return { weight: "trouble", text: `${sentence(`the stored ${bad.kind} \`${bad.object}\` is bad${others}: ${bad.reason}`)} On it depends ${bad.depends}. ${bad.remedy}` };
  }
  const window = instance.recoverable;
  if (instance.status === "ACTIVE" && !(window && window.earliest)) {
    return { weight: "notice", text: `There is no backup, so nothing can be brought back. Make one: \`coffer backup create ${instance.name}\`` };
  }
  if ((shipping.lag_seconds || 0) > LAG_SECONDS_HIGH) {
    return { weight: "notice", text: `The newest transactions wait ${milliseconds(shipping.lag_seconds * 1000)} to be shipped; if the server's disk were lost now, they would be too. Look at the load of this host and at the repository.` };
  }
  if (newestBackup && newestBackup.status === "FAILED" && instance.status === "ACTIVE") {
    return { weight: "notice", text: `The newest backup failed, so a recovery starts from an older one. Make another: \`coffer backup create ${instance.name}\`` };
  }
  const gap = window && window.gaps && window.gaps.filter((hole) => hole.open).pop();
  if (gap) {
    const after = gap.after ? ` after ${gap.after}` : "";
    return { weight: "notice", text: `Binlog was never shipped${after} (${gap.reason}). Make a new backup, so that what follows can be reached: \`coffer backup create ${instance.name}\`` };
  }
  return null;
}

function fact(list, name, ...value) {
  list.append(el("dt", {}, name), el("dd", {}, ...value));
}

function shippedText(shipping) {
  const place = shipping.last_commit ? `up to ${shipping.shipped_to}` : "no transaction yet";
  const to = shipping.gtid ? `up to transaction ${shipping.gtid}` : place;
  const seconds = `${Number(shipping.lag_seconds || 0).toFixed(1)} s`, waiting = bytes(shipping.behind_bytes);
  if (shipping.state === "failing") return `${to}, failing since ${seconds} with ${waiting} waiting`;
  if (shipping.state === "held") return `${to}, held while a recovery exchanges the data`;
  if (shipping.behind_bytes > 0) return `${to}, ${seconds} behind, ${waiting} wait`;
  return shipping.message ? `${to}, there is no binlog to read on` : `${to}, nothing waits`;
}

// When what is stored was last read again, and how much of it.
function verifiedText(verification) {
  const objects = Number(verification.objects) || 0;
  if (!verification.last_verified) return [objects > 0 ? `in part, ${number(objects)} objects` : "never"];
  const bad = Number(verification.bad_objects) || 0;
  const found = bad > 0 ? el("span", { class: "bad" }, `${number(bad)} bad`) : "each is what was stored";
  return [time(verification.last_verified), `; ${number(objects)} objects read again since `, time(verification.oldest_verified), ", ", found];
}

const STATUS_TONES = { OK: "good", BAD: "bad", ACTIVE: "good", COMPLETED: "good", ERROR: "bad", FAILED: "bad", DELETE_FAILED: "bad", PAUSED: "warn" };
// Text in which `...` is what somebody types or looks up.
function prose(text) {
  return String(text).split("`").map((part, index) => (index % 2 ? el("code", {}, part) : part));
}

// GTIDs are compared by eye, so none is broken over two lines.
function unbroken(text) {
  return String(text).split(/([\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}(?::\w+)+|\d+-\d+-\d+)/).map((part, index) => (index % 2 ? el("span", { class: "whole" }, part) : part));
}

const badge = (status) => el("span", { class: `badge ${STATUS_TONES[status] || ""}` }, status || "UNKNOWN");

function progressLine(label, progress) {
  const { step, done = 0, total = 0, unit } = progress;
  const show = unit === "transactions" ? (count) => number(count) : bytes;
  const suffix = unit === "transactions" ? " transactions" : "";
  const figures = total > 0 ? `${show(done)} of ${show(total)}${suffix}` : done > 0 ? `${show(done)}${suffix}` : "";
  const line = el("div", { class: "task" }, `${label}: ${step || "queued"}`, figures ? `, ${figures}` : "");
  const bar = el("progress", { "aria-label": label });
  if (total > 0) { bar.max = total; bar.value = Math.min(done, total); }
  line.append(bar);
  return line;
}

function instanceCard(instance, wrong, isAwaiting) {
  const store = instance.datastore || {};
  const server = [store.type, store.version_number || store.version].filter(Boolean).join(" ");
  const card = el("article", { class: "instance" },
    el("div", { class: "head" }, el("h2", {}, instance.name), badge(instance.status), el("span", { class: "quiet" }, server)));
  if (wrong) card.append(el("p", { class: wrong.weight }, ...prose(wrong.text)));
  if (isAwaiting) card.append(el("p", { class: "notice" }, "A recovery waits for you to promote or abort it, see below; the server serves meanwhile."));
  const facts = el("dl");
  const window = instance.recoverable;
  if (window && window.earliest) {
    fact(facts, "Can be brought back to", "any transaction from ", time(window.earliest), " to ", time(window.latest), ", the last one shipped");
  } else {
    fact(facts, "Can be brought back to", "nothing yet");
  }
  const shipping = instance.shipping;
  if (shipping) {
    fact(facts, "Shipped", shippedText(shipping), shipping.shipped_to ? el("span", { class: "local" }, ` (${shipping.shipped_to})`) : "");
  }
  fact(facts, "Last verified", ...verifiedText(instance.verification || {}));
  if (instance.timeline) fact(facts, "Timeline", `number ${instance.timeline.number}`);
  card.append(facts);
  if (instance.task) card.append(progressLine(String(instance.task.kind || "task").replaceAll("_", " "), instance.task));
  return card;
}

function backupRow(backup, names) {
  const end = backup.end || {};
  const status = el("td", {}, badge(backup.status));
  if (backup.fault && backup.fault.message) status.append(el("div", { class: "bad" }, ...prose(sentence(backup.fault.message))));
  const verified = el("td", { class: "when" }, badge(backup.verification));
  if (backup.verified_at) verified.append(" ", time(backup.verified_at));
  return el("tr", {}, el("td", {}, backup.name || backup.id), el("td", {}, names.get(backup.instance_id) || "(deleted)"), status, verified,
    el("td", { class: "number" }, bytes(backup.raw_bytes)), el("td", { class: "number" }, bytes(backup.stored_bytes)),
    el("td", { class: "when" }, time(end.commit_time)));
}

function faultSentences(recovery) {
  const fault = recovery.fault || {};
  return [fault.message, fault.details].filter(Boolean).map(sentence);
}

const wasDead = (outcome) => ["files_survived", "files_gone"].includes(outcome.tail);

// Nobody is sent to an undo that would be refused.
function aboutUndo(recovery, id) {
  const outcome = recovery.outcome || {};
  const until = moment(outcome.undo_until) ? ` until ${moment(outcome.undo_until).toISOString().slice(0, 16).replace("T", " ")} UTC` : "";
  if (recovery.state === "RELEASED") return "Done; the data from before it is freed.";
  if (recovery.can_undo) return `Done. Take it back${until}: \`coffer recovery undo ${id}\``;
  if (wasDead(outcome) && outcome.old_data_kept) {
    return `Done. It cannot be undone, because the server was dead before it; what that left is kept to look at${until}.`;
  }
  if (wasDead(outcome)) return "Done. It cannot be undone, because the server had no data left before it.";
  return "Done. It cannot be undone now: a later recovery builds on it, or its old data is being freed.";
}

function recoveryState(recovery) {
  const id = String(recovery.recovery_id || recovery.id).slice(0, 8);
  const outcome = recovery.outcome || {};
  switch (recovery.status) {
    case "COMPLETED":
      return aboutUndo(recovery, id);
    case "PAUSED": {
      const look = outcome.inspect_socket ? `Look at the recovered data, read-only: \`${recovery.datastore === "mysql" ? "mysql" : "mariadb"} --socket=${outcome.inspect_socket}\`. ` : "";
      return `Waiting for you. ${look}Then switch it in: \`coffer recovery promote ${id}\` – or give it up: \`coffer recovery abort ${id}\``;
    }
    case "FAILED": return ["Nothing was changed.", ...faultSentences(recovery)].join(" ");
    case "ABORTED": return "Given up; nothing was changed.";
    case "UNDONE":
      return outcome.undo_timeline ? "Undone; the server holds the data from before it."
        : ["Taken back by itself; the data from before it is in place.", ...faultSentences(recovery)].join(" ");
    default: return `Under way (${recovery.state}).`;
  }
}

function downTime(outcome) {
  // A dead server was down long before anybody stopped it.
  if (outcome && wasDead(outcome)) return "dead before";
  const stopped = moment(outcome && outcome.stopped_at), answered = moment(outcome && outcome.answered_at);
  return stopped && answered ? milliseconds(answered - stopped) : "–";
}

function recoveryRow(recovery) {
  const stands = el("td", {}, badge(recovery.status), el("div", {}, ...prose(recoveryState(recovery))));
  if (recovery.status === "BUILDING" && recovery.progress) stands.append(progressLine(String(recovery.state || "").toLowerCase(), recovery.progress));
  return el("tr", {}, el("td", { class: "when" }, time(recovery.created)), el("td", {}, recovery.name || ""),
    el("td", {}, ...unbroken(recovery.target || "–")), stands, el("td", { class: "number" }, downTime(recovery.outcome)));
}

function fill(id, rows) {
  byId(id).hidden = rows.length === 0;
  byId(id).querySelector("tbody").replaceChildren(...rows);
}

function showVerdict(instances, troubles, waiting) {
  const verdict = byId("verdict");
  const wrong = instances.filter((instance) => troubles.get(instance.id) || waiting.has(instance.id));
  verdict.hidden = false;
  const isBad = wrong.some((instance) => (troubles.get(instance.id) || {}).weight === "trouble");
  verdict.className = isBad ? "bad" : wrong.length ? "warn" : "good";
  if (instances.length === 0) verdict.textContent = "No instance yet. Make one: coffer instance create NAME";
  else if (wrong.length) verdict.textContent = `${wrong.map((instance) => instance.name).join(", ")} ${wrong.length > 1 ? "need" : "needs"} you.`;
  else if (instances.some((instance) => instance.status !== "ACTIVE")) verdict.textContent = "Work is under way; nothing needs you.";
  else verdict.textContent = "All is well.";
}

async function refresh() {
  const [{ instances }, { backups, links }] = await Promise.all([get("/instances"), get(`/backups?limit=${BACKUPS_SHOWN}`)]);
  const lists = await Promise.all(instances.map((instance) => get(`/instances/${encodeURIComponent(instance.id)}/recoveries`)));
  const recoveries = lists.flatMap((list) => list.recoveries)
    .sort((a, b) => (moment(b.created) || 0) - (moment(a.created) || 0)).slice(0, RECOVERIES_SHOWN);
  const names = new Map(instances.map((instance) => [instance.id, instance.name]));
  const waiting = new Set(recoveries.filter((recovery) => recovery.status === "PAUSED").map((recovery) => recovery.instance_id));
  const troubles = new Map(instances.map((instance) =>
    [instance.id, trouble(instance, backups.find((backup) => backup.instance_id === instance.id))]));
  showVerdict(instances, troubles, waiting);
  byId("instances").replaceChildren(...instances.map((instance) => instanceCard(instance, troubles.get(instance.id), waiting.has(instance.id))));
  fill("backups", backups.slice(0, BACKUPS_SHOWN).map((backup) => backupRow(backup, names)));
  byId("backups-more").hidden = !(links && links.length) && backups.length <= BACKUPS_SHOWN;
  fill("recoveries", recoveries.map(recoveryRow));
}

function askForToken() {
  byId("token-wrong").hidden = sessionStorage.getItem(TOKEN_KEY) === null;
  sessionStorage.removeItem(TOKEN_KEY);
  byId("token-form").hidden = false;
  byId("freshness").textContent = "";
  for (const id of ["verdict", "backups", "recoveries"]) byId(id).hidden = true;
  byId("instances").replaceChildren();
  byId("token").focus();
}

let lastGood = null;

async function poll() {
  if (sessionStorage.getItem(TOKEN_KEY) === null) return askForToken();
  const freshness = byId("freshness");
  try {
    if (!document.hidden || lastGood === null) {
      await refresh();
      lastGood = new Date();
      freshness.className = "";
      freshness.textContent = `As of ${lastGood.toISOString().slice(11, 19)} UTC`;
    }
  } catch (err) {
    if (err instanceof Unauthorized) return askForToken();
    freshness.className = "bad";
    const since = lastGood ? ` What is shown is from ${lastGood.toISOString().slice(11, 19)} UTC.` : "";
    const isSilent = err instanceof TypeError || err.name === "TimeoutError" || err.name === "AbortError";
    freshness.textContent = (isSilent ? "The appliance does not answer. Look whether coffer serve runs." : sentence(err.message)) + since;
  }
  setTimeout(poll, POLL_MS);
}

byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN_KEY, byId("token").value.trim());
  byId("token").value = "";
  byId("token-form").hidden = true;
  byId("freshness").textContent = "Loading";
  poll();
});

poll();
