// Follows /api/v1/live and shows it; change.js has what changes things. Every text is put into the page as text, never as HTML.
"use strict";

const MINUTE = 60_000;
const DAY = 86_400_000;
/** Between two looks at the time. */
const TICK = 1000;
/** Between two points of the last day. */
const STEP = 300_000;
/** Without a word from the panel for so long it is taken to be gone; it says something every 15 seconds. */
const SILENCE_MAX = 40_000;
/** A connection that is back so soon was never gone. */
const GRACE = 4_000;
/** Shares are drawn over at least so long: when exactly a counter was read is not known to the millisecond. */
const SMOOTH = 2_500;
const SESSIONS_MAX = 3;
const PROGRAM_MAX = 40;
const SVG = "http://www.w3.org/2000/svg";
const CHART = { width: 120, height: 24 };

const byId = (id) => document.getElementById(id);

/** What is shown, and how old that is. */
const shown = { me: null, status: null, stats: null, knownAt: null, heardAt: performance.now(), state: "connecting", failure: null };

// ---- Texts ----

/** A text of a guest's or an operator's, in which nothing is hidden and nothing turns the line around. */
function printable(text) {
  const escape = (char) => `\\u{${char.codePointAt(0).toString(16)}}`;
  return String(text).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, escape);
}

function shortened(text, most) {
  const chars = [...text];
  return chars.length > most ? `${chars.slice(0, most - 1).join("")}…` : text;
}

function bytes(number) {
  if (number === 0) return "0";
  if (number < 2 ** 20) return `${Math.ceil(number / 1024)} KiB`;
  if (number < 2 ** 30) return `${Math.floor(number / 2 ** 20)} MiB`;
  return `${(number / 2 ** 30).toFixed(1)} GiB`;
}

function latency(us) {
  if (us < 1000) return `${us} µs`;
  if (us < 99_950) return `${(us / 1e3).toFixed(1)} ms`;
  if (us < 999_500) return `${Math.round(us / 1e3)} ms`;
  if (us < 99_950_000) return `${(us / 1e6).toFixed(1)} s`;
  return `${Math.round(us / 1e6)} s`;
}

function duration(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const two = (number) => String(number).padStart(2, "0");
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  if (whole < 86_400) return `${Math.floor(whole / 3600)} h ${two(Math.floor(whole / 60) % 60)} min`;
  return `${Math.floor(whole / 86_400)} d ${two(Math.floor(whole / 3600) % 24)} h`;
}

function moment(seconds) {
  const date = new Date(seconds * 1000);
  return Number.isNaN(date.getTime()) ? "-" : date.toISOString().replace(".000Z", "Z");
}

const percent = (share) => `${Math.round(share * 100)} %`;

// ---- Shares over the last minute ----

/** A counter of microseconds as it was seen to rise. */
class History {
  samples = [];

  add(at, us) {
    const last = this.samples.at(-1);
    if (last && at < last.at) this.samples = [];
    // What did not change was not told: up to a second ago it was as before.
    else if (last && at - last.at > 2000) this.samples.push({ at: at - 1000, us: last.us });
    if (last && at === last.at) this.samples.pop();
    this.samples.push({ at, us });
    while (this.samples.length > 2 && this.samples[1].at < at - MINUTE) this.samples.shift();
  }

  /** What was missed is not known. */
  interrupt() {
    this.samples = [];
  }

  /** The share in each step up to now, how much of a minute was seen, and the average. */
  over(now) {
    const all = this.samples.slice();
    const last = all.at(-1);
    if (!last) return null;
    if (now - last.at > 1500) all.push({ at: now - 1000 > last.at ? now - 1000 : now, us: last.us }, { at: now, us: last.us });
    const end = all.at(-1).at;
    // A turn that turns out to have been idle is charged less than was seen at first.
    const share = (from, to) => Math.max(0, (to.us - from.us) / 1000 / (to.at - from.at));
    const steps = [];
    let [seen, used, back] = [0, 0, 0];
    for (let i = 1; i < all.length; i += 1) {
      const [before, to] = [all[i - 1], all[i]];
      if (to.at <= before.at || to.at <= end - MINUTE) continue;
      while (back + 1 < i && to.at - all[back + 1].at >= SMOOTH) back += 1;
      const from = Math.max(before.at, end - MINUTE);
      steps.push({ from, to: to.at, share: share(all[back], to) });
      seen += to.at - from;
      used += share(before, to) * (to.at - from);
    }
    if (seen < SMOOTH) return null;
    return { window: MINUTE, steps, end, seen, average: used / seen, most: Math.max(...steps.map((step) => step.share)), now: steps.at(-1).share };
  }
}

/** By "vm 7" or "gpu UUID". */
const histories = new Map();
/** The host's time, as the last event told it, and when that was. */
const clock = { at: null, heard: 0 };

const hostNow = () => clock.at + (shown.state === "up" ? performance.now() - clock.heard : 0);

function sample(kind, at, counters) {
  for (const [name, us] of counters) {
    const key = `${kind} ${name}`;
    if (!histories.has(key)) histories.set(key, new History());
    histories.get(key).add(at, us);
  }
  const known = new Set(counters.map(([name]) => `${kind} ${name}`));
  for (const key of histories.keys()) {
    if (key.startsWith(`${kind} `) && !known.has(key)) histories.delete(key);
  }
  // What did not change comes with the time when it was first so.
  if (clock.at === null || at > clock.at) {
    clock.at = at;
    clock.heard = performance.now();
  }
}

/** By the same keys, if the last day is looked at. */
let lastDay = null;

/** What the panel has seen of the last day, as `History.over` has the last minute. */
function dayOf(at, shares) {
  const steps = [];
  shares.forEach((share, index) => {
    if (share === null) return;
    // What was not read in between is not known.
    steps.push({ from: Math.max(at[index - 1] ?? 0, at[index] - STEP * 1.5), to: at[index], share: share / 1000 });
  });
  if (steps.length === 0) return null;
  const seen = steps.reduce((sum, { from, to }) => sum + to - from, 0);
  const used = steps.reduce((sum, { from, to, share }) => sum + share * (to - from), 0);
  return {
    window: DAY, steps, end: at.at(-1), seen, average: used / seen, most: Math.max(...steps.map((step) => step.share)), now: steps.at(-1).share,
  };
}

async function readDay() {
  if (byId("span").value !== "day") {
    lastDay = null;
  } else {
    try {
      const { at_ms: at, gpus, vms } = await ask("/api/v1/history");
      lastDay = new Map([...gpus.map(({ uuid, shares }) => [`gpu ${uuid}`, dayOf(at, shares)]),
        ...vms.map(({ vm, shares }) => [`vm ${vm}`, dayOf(at, shares)])]);
    } catch {
      // The state says what is wrong, and it is asked again.
    }
  }
  drawTime();
}

function drawn(svg, over) {
  const most = Math.max(1, over.most);
  const x = (at) => (((at - over.end + over.window) / over.window) * CHART.width).toFixed(1);
  const y = (share) => (CHART.height - 1 - (share / most) * (CHART.height - 2)).toFixed(1);
  // A line for each time of which all is known.
  const runs = [];
  over.steps.forEach((step, index) => {
    if (index === 0 || step.from > over.steps[index - 1].to) runs.push([]);
    runs.at(-1).push(step);
  });
  const lines = runs.map((steps) => steps.flatMap(({ from, to, share }) => [`${x(from)},${y(share)}`, `${x(to)},${y(share)}`]).join(" L"));
  const areas = runs.map((steps, at) => `M${x(steps[0].from)},${CHART.height} L${lines[at]} L${x(steps.at(-1).to)},${CHART.height} Z`);
  svg.querySelector(".drawn").setAttribute("d", lines.map((line) => `M${line}`).join(" "));
  svg.querySelector(".area").setAttribute("d", areas.join(" "));
}

// ---- Parts of the page ----

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function button(text, act) {
  const made = element("button", { type: "button" }, text);
  made.addEventListener("click", act);
  return made;
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function setClass(node, name) {
  if (node.className !== name) node.className = name;
}

let tablesSoFar = 0;

/** A table and what it is of, whose rows stay the same elements as long as what they are of is there. */
class Table {
  rows = new Map();

  constructor(columns) {
    this.columns = columns;
    tablesSoFar += 1;
    this.title = element("h2", { id: `table-${tablesSoFar}` });
    this.about = element("p", { class: "under" });
    const head = element("tr", { role: "row" });
    for (const column of columns) {
      head.append(element("th", { scope: "col", role: "columnheader", class: column.kind ?? "" }, column.name));
    }
    this.body = element("tbody", { role: "rowgroup" });
    // The roles are said since a narrow screen shows rows as cards, which makes browsers forget them.
    const table = element("table", { role: "table", "aria-labelledby": this.title.id },
      element("thead", { role: "rowgroup" }, head), this.body);
    this.node = element("div", { class: "part" }, this.title, this.about, table);
    // Of a thousand VMs most are out of sight, and the browser lays them out when they come into it.
    this.outOfSight = false;
    this.node.addEventListener("contentvisibilityautostatechange", (event) => {
      this.outOfSight = event.skipped;
      if (event.skipped) return;
      this.fillRows();
      this.drawCharts();
    });
  }

  /**
   * Rows are `{ key, of, cells, drag }`: `of` lists what a row is of, and `cells` gives its cells, as `fill` takes them, if one of
   * that is another object than before. What can be dragged somewhere else is so by its head.
   */
  update(title, about, rows) {
    setText(this.title, title);
    setText(this.about, about);
    this.about.hidden = about === "";
    this.wanted = rows;
    // What is in sight comes first.
    if (this.outOfSight) this.later ??= setTimeout(() => this.fillRows(), TICK);
    else this.fillRows();
  }

  fillRows() {
    clearTimeout(this.later);
    this.later = undefined;
    const gone = new Set(this.rows.keys());
    let before = null;
    for (const { key, of, cells, drag } of this.wanted ?? []) {
      gone.delete(key);
      let row = this.rows.get(key);
      const isNew = !row;
      if (isNew) {
        row = this.row();
        this.rows.set(key, row);
      }
      if (isNew || of.some((one, at) => one !== row.of[at])) {
        row.of = of;
        row.charts = [];
        cells().forEach((cell, at) => {
          if (cell?.history === undefined) this.fill(row.children[at], this.columns[at], cell);
          else row.charts.push({ inside: row.children[at].firstChild, cell });
        });
        row.drag = drag;
        if (row.firstChild.draggable !== Boolean(drag)) row.firstChild.draggable = Boolean(drag);
      }
      if (isNew) row.charts.forEach(fillChart);
      const place = before ? before.nextSibling : this.body.firstChild;
      if (place !== row) this.body.insertBefore(row, place);
      before = row;
    }
    for (const key of gone) {
      this.rows.get(key).remove();
      this.rows.delete(key);
    }
  }

  /** In these time passes, whatever their rows are of. */
  drawCharts() {
    if (!this.outOfSight) for (const row of this.rows.values()) row.charts.forEach(fillChart);
  }

  row() {
    const row = element("tr", { role: "row" });
    this.columns.forEach((column, at) => {
      const label = { "data-label": column.name, class: column.kind ?? "" };
      row.append(at === 0
        ? element("th", { scope: "row", role: "rowheader", ...label }, element("div"))
        : element("td", { role: "cell", ...label }, element("div")));
    });
    return row;
  }

  /**
   * A cell is a text, or lines of texts or `{ text, kind }`, or `{ brief, more, alarms }` of which `more` is to be opened, or
   * `{ history }` or `{ over }`, or `{ act }` that a button does.
   */
  fill(node, column, cell) {
    const inside = node.firstChild;
    if (cell?.over !== undefined) {
      drawChart(inside, cell.over, cell.label, cell.text);
      return;
    }
    if (cell?.act !== undefined) {
      fillButton(inside, cell);
      return;
    }
    // Nothing of the page is looked at for what says the same.
    const said = typeof cell === "string" ? cell : JSON.stringify(cell);
    if (node.said === said) return;
    node.said = said;
    const lines = [cell].flat();
    setClass(node, `${column.kind ?? ""}${lines.length === 0 || lines[0] === "-" ? " nothing" : ""}`.trim());
    if (cell.brief !== undefined) fillBrief(inside, cell);
    else fillLines(inside, lines);
  }
}

function fillLines(inside, lines) {
  while (inside.children.length > lines.length) inside.lastChild.remove();
  lines.forEach((line, at) => {
    const { text, kind } = typeof line === "string" ? { text: line } : line;
    if (inside.children[at]?.tagName !== "DIV") inside.children[at]?.remove();
    if (at === inside.children.length) inside.append(element("div"));
    setText(inside.children[at], text);
    setClass(inside.children[at], kind ?? "");
  });
}

/** What can be opened, which stays the same element, and what is not to be missed. */
function fillBrief(inside, { brief, more, alarms }) {
  if (!inside.querySelector("details")) {
    inside.replaceChildren(element("details", {}, element("summary"), element("div", { class: "under" })), element("div"));
  }
  const [details, below] = inside.children;
  setText(details.firstChild, brief);
  fillLines(details.lastChild, more);
  fillLines(below, alarms);
}

/** A button that is the same element as long as its row is there, so that it keeps the focus. */
function fillButton(inside, { act, name }) {
  if (!inside.querySelector("button")) inside.replaceChildren(button("Change …", () => inside.act()));
  inside.act = act;
  if (inside.named === name) return;
  inside.named = name;
  inside.querySelector("button").setAttribute("aria-label", `Change ${name} …`);
}

function fillChart({ inside, cell: { history, what, mark } }) {
  const over = lastDay ? lastDay.get(history) : histories.get(history)?.over(hostNow());
  if (!over) {
    setText(inside, "-");
    return;
  }
  const whole = over.window === DAY ? "the last day" : "the last minute";
  const seen = over.seen > over.window * 0.98 ? whole : `${duration(over.seen / 1000)} of ${whole}`;
  drawChart(inside, over,
    `${what} over ${seen}: now ${percent(over.now)}, on average ${percent(over.average)}, at most ${percent(over.most)}`,
    `${mark ?? ""}${percent(over.average)}`);
}

/** The same element as long as its row is there. */
function drawChart(inside, over, label, text) {
  let svg = inside.querySelector("svg");
  if (!svg) {
    svg = document.createElementNS(SVG, "svg");
    const attributes = { class: "line", role: "img", viewBox: `0 0 ${CHART.width} ${CHART.height}`, preserveAspectRatio: "none" };
    for (const [name, value] of Object.entries(attributes)) svg.setAttribute(name, value);
    for (const [tag, name] of [["line", "base"], ["path", "area"], ["path", "drawn"]]) {
      const part = document.createElementNS(SVG, tag);
      part.setAttribute("class", name);
      svg.append(part);
    }
    const base = svg.querySelector("line");
    for (const [name, value] of [["x1", 0], ["x2", CHART.width], ["y1", CHART.height - 0.5], ["y2", CHART.height - 0.5]]) {
      base.setAttribute(name, value);
    }
    inside.replaceChildren(svg, element("span"));
  }
  drawn(svg, over);
  svg.setAttribute("aria-label", label);
  setText(inside.querySelector("span"), text);
}

// ---- What is shown ----

const GPU_COLUMNS = [
  { name: "GPU" }, { name: "Model, UUID", kind: "text" }, { name: "Memory", kind: "number" }, { name: "PCI address" }, { name: "Driver" },
  { name: "State" }, { name: "Pools", kind: "text" }, { name: "Sessions", kind: "number" }, { name: "Waiting", kind: "number" },
  { name: "Busy", kind: "chart" }, { name: "Measured", kind: "text" },
];
const VM_COLUMNS = [
  { name: "VM" }, { name: "Priority" }, { name: "Doing", kind: "text" }, { name: "Queue", kind: "number" },
  { name: "Share", kind: "chart" }, { name: "Wait p50", kind: "number" }, { name: "Wait p99", kind: "number" },
  { name: "Violations", kind: "number" }, { name: "Quarantine", kind: "text" },
];
/** Only those who may change things have it. */
const CHANGE_COLUMN = { name: "Change", kind: "change" };
const mayChange = () => shown.me?.role === "admin";
const columns = (all) => (mayChange() ? [...all, CHANGE_COLUMN] : all);
/** The cells of a row, with the button of those who may change what it is of. */
const changeable = (cells, name, act) => (mayChange() ? [...cells, { name, act }] : cells);
const GPU_STATES = {
  ready: ["ready", "good"], unassigned: ["unassigned", ""], missing: ["MISSING", "bad"], divided: ["divided (MIG)", ""],
};
const SESSION_STATES = { out: "not on the GPU", asked: "giving back" };

let gpuTable = null;
const poolTables = new Map();

/** What a GPU measures and the last error that it had: in short, and all of it. What is not known is named: it is not 0. */
function measured({ state, measured: now, xids }) {
  const unknown = [];
  // A line of what is known of these: each its value, its text and its name.
  const line = (kind, ...parts) => {
    const known = parts.filter(([value]) => value !== null);
    unknown.push(...parts.filter(([value]) => value === null).map(([, , name]) => name));
    return known.length ? [{ text: known.map(([value, text]) => text(value)).join(", "), kind }] : [];
  };
  const watts = (mw) => `${Math.round(mw / 1000)} W`;
  const on = (name) => (is) => `${name} ${is ? "on" : "off"}`;
  const limit = now.power_limit_mw === null ? "" : ` of ${watts(now.power_limit_mw)}`;
  const [brief] = line("", [now.temperature, (celsius) => `${celsius} °C`, "temperature"], [now.power_mw, watts, "power"],
    [now.utilisation, (part) => `${part} % used`, "use"]);
  const errors = line(now.ecc_volatile ? "bad" : "", [now.ecc_volatile, (count) => `memory errors since its driver was loaded: ${count}`, "memory errors"],
    [now.ecc_aggregate, (count) => `ever: ${count}`, "memory errors ever"]);
  const more = [
    ...line("", [now.power_mw, (mw) => `power ${watts(mw)}${limit}`, "power"]),
    ...line("", [now.memory_utilisation, (part) => `memory's use ${part} %`, "memory's use"],
      [now.memory_used, (used) => `memory in use ${bytes(used)}`, "memory in use"]),
    ...line("", [now.sm_clock_mhz, (mhz) => `SM ${mhz} MHz`, "SM clock"], [now.memory_clock_mhz, (mhz) => `memory ${mhz} MHz`, "memory clock"]),
    ...line("", [now.ecc, on("ECC"), "ECC"], [now.mig, on("MIG"), "MIG"]),
  ];
  const alarms = [];
  (now.ecc_volatile ? alarms : more).push(...errors);
  if (unknown.length) more.push(`unknown: ${[...new Set(unknown)].join(", ")}`);
  if (xids.length) {
    const [{ number, meaning, by_program: byProgram, at_s: at }] = xids;
    alarms.push({ text: `Xid ${number}${meaning ? ` (${printable(meaning)})` : ""}`, kind: byProgram ? "warn" : "bad" });
    more.push(`Xid ${number}: ${moment(at)}`);
  }
  return state === "missing" ? ["-", ...alarms] : { brief: brief?.text ?? "unknown", more, alarms };
}

function gpuRow(gpu, stats) {
  const [state, kind] = GPU_STATES[gpu.state] ?? [printable(gpu.state), ""];
  const own = stats.get(gpu.uuid);
  return {
    key: gpu.uuid,
    of: [gpu, own],
    cells: () => changeable([
      gpu.index === null ? "none" : String(gpu.index),
      [printable(gpu.model || "unknown"), { text: printable(gpu.uuid), kind: "under" }],
      gpu.memory ? bytes(gpu.memory) : "-",
      // Its domain in four digits, as most tools write it.
      printable(gpu.pci.replace(/^0000(?=[0-9A-Fa-f]{4}:)/, "") || "-"),
      printable(gpu.driver || "-"),
      [{ text: state, kind }],
      gpu.pools.length ? gpu.pools.map(printable).join(", ") : "-",
      String(gpu.sessions),
      own ? String(own.waiting) : "-",
      { history: `gpu ${gpu.uuid}`, what: "Busy" },
      measured(gpu),
    ], `GPU ${gpu.index ?? gpu.uuid}`, () => begin(["assign", "unassign"], { gpu: gpu.uuid, pool: gpu.pools[0] })),
  };
}

function doing(vm) {
  const lines = [];
  if (vm.sessions.length === 0) lines.push(vm.connected ? "nothing" : "no backend");
  for (const session of vm.sessions.slice(0, SESSIONS_MAX)) {
    const program = shortened(printable(session.program.split("/").pop()), PROGRAM_MAX);
    lines.push(`${program}: ${SESSION_STATES[session.state] ?? printable(session.state)}`);
  }
  if (vm.sessions.length > SESSIONS_MAX) lines.push(`and ${vm.sessions.length - SESSIONS_MAX} more`);
  const memory = vm.sessions.reduce((sum, session) => sum + session.memory, 0);
  if (memory) lines.push({ text: `${bytes(memory)} of memory`, kind: "under" });
  return lines;
}

function quarantine(vm) {
  if (!vm.quarantine) return "-";
  const until = vm.quarantine.until_s === null ? "until it is released" : `until ${moment(vm.quarantine.until_s)}`;
  return [{ text: `QUARANTINED ${until}`, kind: "bad" }, printable(vm.quarantine.why)];
}

function vmRow(vm, stats, pool) {
  const wait = stats.get(vm.vm)?.wait;
  const waited = (us) => (wait?.count ? latency(us) : "-");
  return {
    key: `vm ${vm.vm}`,
    of: [vm, wait],
    drag: mayChange() && { vms: String(vm.vm), from: pool.name },
    cells: () => changeable([
      String(vm.vm),
      vm.weight === 1 ? vm.priority : `${vm.priority}, weight ${vm.weight}`,
      doing(vm),
      vm.queue_depth === null ? String(vm.queued) : `${vm.queued}/${vm.queue_depth}`,
      { history: `vm ${vm.vm}`, what: `GPU share of VM ${vm.vm}`, mark: vm.estimated ? "~" : "" },
      waited(wait?.p50),
      waited(wait?.p99),
      [{ text: String(vm.violations), kind: vm.violations ? "warn" : "" }],
      quarantine(vm),
    ], `VM ${vm.vm}`, () => begin(
      [vm.quarantine ? "release" : "set", ...VM_ACTIONS.filter((action) => action !== (vm.quarantine ? "release" : "set"))],
      { vms: String(vm.vm), pool: pool.name, move: true },
    )),
  };
}

/** What can be done with a VM that is in a pool. */
const VM_ACTIONS = ["set", "register", "quarantine", "release", "unregister"];

/** The VMs of a pool that have no row of their own: "2, 4-7". */
function others(pool) {
  let ranges = pool.ranges.map((range) => range.split("-").map(Number)).map(([first, last]) => [first, last ?? first]);
  for (const { vm } of pool.vms) {
    ranges = ranges.flatMap(([first, last]) => (vm < first || vm > last
      ? [[first, last]]
      : [[first, vm - 1], [vm + 1, last]].filter(([from, to]) => from <= to)));
  }
  return ranges.map(([first, last]) => (first === last ? String(first) : `${first}-${last}`)).join(", ");
}

function poolTitle(pool, gpus) {
  const there = pool.gpus.map((uuid) => gpus.get(uuid)?.index ?? null).filter((index) => index !== null);
  const missing = pool.gpus.length - there.length;
  const named = ["no GPU", `GPU ${there[0]}`][there.length] ?? `GPUs ${there.join(", ")}`;
  const ranges = pool.ranges.length ? `VMs ${pool.ranges.map(printable).join(", ")}` : "no VMs";
  return `Pool ${printable(pool.name)}: ${named}${missing ? `, ${missing} missing` : ""}; ${ranges}`;
}

function poolAbout(pool) {
  const words = [`policy ${pool.policy}`];
  if (pool.exclusive) words.push("exclusive");
  if (pool.sharing !== "turns") words.push(`sharing ${pool.sharing}`);
  if (pool.weight !== 1) words.push(`weight ${pool.weight}`);
  if (pool.gpus_per_vm) words.push(`${pool.gpus_per_vm} GPUs per VM`);
  if (!pool.complete) words.push("DEGRADED: not all of its GPUs are there");
  return words.join(", ");
}

let toBeDrawn = false;

/** Has what is shown drawn, once however much is new. */
function render() {
  if (toBeDrawn) return;
  toBeDrawn = true;
  requestAnimationFrame(() => {
    toBeDrawn = false;
    draw();
  });
}

/** What is so for another second. */
function drawTime() {
  if (!shown.status || !gpuTable) return;
  drawHost();
  for (const table of [gpuTable, ...poolTables.values()]) table.drawCharts();
}

function drawHost() {
  const { status, state, statusAt } = shown;
  const uptime = status.uptime_s + (state === "up" ? (performance.now() - statusAt) / 1000 : 0);
  setText(byId("host"), `vgpud ${status.version}, up ${duration(uptime)}, pool map ${printable(status.config)}`);
}

function draw() {
  const { status, stats } = shown;
  if (!status || !gpuTable) return;
  drawHost();
  const [gpuStats, vmStats] = [
    new Map((stats?.gpus ?? []).map((gpu) => [gpu.uuid, gpu])),
    new Map((stats?.vms ?? []).map((vm) => [vm.vm, vm])),
  ];
  const degraded = status.degraded.map((line) => `DEGRADED: ${printable(line)}`);
  if (status.map_differs !== null) degraded.push(`NOTE: ${printable(status.map_differs)}`);
  const list = byId("degraded");
  if ([...list.children].map((item) => item.textContent).join("\n") !== degraded.join("\n")) {
    list.replaceChildren(...degraded.map((line) => element("li", {}, line)));
  }
  const about = status.gpus.length ? "" : "There is no GPU.";
  gpuTable.update("GPUs", about, status.gpus.map((gpu) => gpuRow(gpu, gpuStats)));
  renderPools(status, vmStats);
}

function renderPools(status, vmStats) {
  const gpus = new Map(status.gpus.map((gpu) => [gpu.uuid, gpu]));
  const section = byId("pools");
  const gone = new Set(poolTables.keys());
  const wanted = [];
  const show = (name, title, about, rows) => {
    gone.delete(name);
    if (!poolTables.has(name)) {
      const made = new Table(columns(VM_COLUMNS));
      poolTables.set(name, made);
      if (mayChange()) takesVms(made.node, name);
    }
    poolTables.get(name).update(title, about, rows);
    wanted.push(poolTables.get(name).node);
  };
  for (const pool of status.pools) {
    const rows = pool.vms.map((vm) => vmRow(vm, vmStats, pool));
    const rest = others(pool);
    if (rest) {
      // One that has settings of its own has a row of its own.
      const cells = [rest, "medium", "never started", "-", "-", "-", "-", "-", "-"];
      const known = { vms: rest.split(", ")[0], pool: pool.name, move: true };
      const drag = mayChange() && { vms: known.vms, from: pool.name };
      rows.push({ key: "others", of: [rest], drag, cells: () => changeable(cells, `VMs ${rest}`, () => begin(VM_ACTIONS, known)) });
    }
    show(pool.name, poolTitle(pool, gpus), poolAbout(pool), rows);
  }
  // No pool has an empty name.
  if (status.in_no_pool.length) {
    show("", "In no pool", "", status.in_no_pool.map((vm) => vmRow(vm, vmStats, { name: "" })));
  }
  for (const name of gone) {
    poolTables.get(name).node.remove();
    poolTables.delete(name);
  }
  if (wanted.length === 0) {
    setText(section, mayChange()
      ? "There is no pool yet: assigning a GPU to one makes it."
      : "There is no pool yet: vgpu-admin assign-gpu --gpu-id 0 --pool NAME makes one.");
  } else if (section.children.length !== wanted.length || wanted.some((node, at) => section.children[at] !== node)) {
    section.replaceChildren(...wanted);
  }
}

/** Says how it is, to those who listen as well; only the age changes every second, and is not read out. */
function renderState() {
  const { state, failure } = shown;
  const hint = failure?.hint ? ` (${printable(failure.hint)})` : "";
  const last = shown.status ? " What is shown is the last known state." : "";
  const texts = {
    connecting: "Connecting ...",
    asked: "",
    up: "Live.",
    down: `${printable(failure?.message ?? "vgpud does not answer")}${hint}.${last}`,
    lost: `This panel does not answer.${last}`,
  };
  setText(byId("state"), texts[state]);
  const known = shown.knownAt !== null && (state === "down" || state === "lost");
  setText(byId("age"), known ? `It is ${duration((performance.now() - shown.knownAt) / 1000)} old.` : "");
  setClass(document.body, state === "down" || state === "lost" ? "stale" : "");
}

/** The charts begin anew. */
function interrupt() {
  for (const history of histories.values()) history.interrupt();
}

function become(state, failure = null) {
  if (shown.state === "up" && state !== "up") {
    clock.at = hostNow();
    interrupt();
  }
  shown.state = state;
  shown.failure = failure;
  renderState();
}

// ---- Asking ----

/** What a request was answered, or a failure with `kind`, `message`, `hint` and `status`. */
async function ask(path, object) {
  const request = object === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(object),
  };
  let response;
  try {
    response = await fetch(path, { ...request, cache: "no-store" });
  } catch {
    throw { status: 0, kind: "unreachable", message: "This panel does not answer", hint: null };
  }
  const answer = await response.json().catch(() => null);
  if (response.ok && answer) return answer;
  throw { status: response.status, ...(answer?.error ?? { kind: "failed", message: `status ${response.status}`, hint: null }) };
}

function reason(failure) {
  const hint = failure.hint ? ` (${printable(failure.hint)})` : "";
  return `${printable(failure.message ?? String(failure))}${hint}`;
}

// ---- Following ----

function heard() {
  shown.heardAt = performance.now();
}

/** What a patch (RFC 6902) makes of a value, without changing that: what stays is the same object, and what changes is another one. */
function patched(value, patch) {
  const copies = new Set();
  const copy = (of) => {
    if (copies.has(of)) return of;
    const made = Array.isArray(of) ? [...of] : { ...of };
    copies.add(made);
    return made;
  };
  const whole = { "": value };
  for (const { op, path, value: put } of patch) {
    const names = path.split("/").map((name) => name.replaceAll("~1", "/").replaceAll("~0", "~"));
    const last = names.pop();
    let place = whole;
    for (const name of names) place = place[name] = copy(place[name]);
    if (op === "remove" && Array.isArray(place)) place.splice(last, 1);
    else if (op === "remove") delete place[last];
    else if (op === "add" && Array.isArray(place)) place.splice(last, 0, put);
    else place[last] = put;
  }
  return whole[""];
}

function follow() {
  const source = new EventSource("/api/v1/live");
  const on = (name, act) => source.addEventListener(name, (event) => {
    heard();
    act(JSON.parse(event.data), Number(event.lastEventId));
  });
  const onStatus = (status, at) => {
    const before = shown.status?.map_version;
    // It was started anew since.
    if (shown.status && status.uptime_s < shown.status.uptime_s) interrupt();
    shown.status = status;
    shown.statusAt = shown.knownAt = performance.now();
    const vms = [...status.pools.flatMap((pool) => pool.vms), ...status.in_no_pool];
    sample("vm", at, vms.map((vm) => [vm.vm, vm.gpu_microseconds]));
    render();
    if (before !== status.map_version) refreshAudit();
  };
  const onStats = (stats, at) => {
    shown.stats = stats;
    sample("gpu", at, stats.gpus.map((gpu) => [gpu.uuid, gpu.busy_us]));
    render();
  };
  on("status", onStatus);
  on("status_patch", (patch, at) => onStatus(patched(shown.status, patch), at));
  on("stats", onStats);
  on("stats_patch", (patch, at) => onStats(patched(shown.stats, patch), at));
  on("up", () => become("up"));
  on("alive", () => {});
  on("down", ({ error, last_known_age_s: age }) => {
    // A panel that has just begun knows nothing; this page may.
    if (age !== null) shown.knownAt = performance.now() - age * 1000;
    become("down", error);
  });
  source.addEventListener("error", () => {
    // A browser tries again by itself, unless it was refused.
    if (source.readyState === EventSource.CLOSED) setTimeout(askWho, 5000);
    setTimeout(() => {
      if (performance.now() - shown.heardAt >= GRACE && source.readyState !== EventSource.OPEN) become("lost");
    }, GRACE);
  });
}

// ---- Who looks ----

/** What is only for those who may look. */
const PARTS = ["#seen", "footer"];

/** Asks who looks, and then follows; without a word of who it is, the page asks for one. */
async function askWho() {
  try {
    shown.me = await ask("/api/v1/me");
  } catch (failure) {
    if (failure.status === 401) {
      showLogIn();
      return;
    }
    become(failure.status === 0 ? "lost" : "down", failure);
    setTimeout(askWho, 5000);
    return;
  }
  const { user, role, asks } = shown.me;
  byId("who").hidden = !asks;
  setText(byId("user"), asks ? `${printable(user)}, ${role === "admin" ? "who may change things" : "who may look"}` : "");
  setText(byId("may"), mayChange() ? "What is changed here, vgpu-admin changes as well." : "This page only shows; vgpu-admin changes things.");
  byId("log-in").hidden = true;
  for (const part of PARTS) document.querySelector(part).hidden = false;
  if (!gpuTable) {
    gpuTable = new Table(columns(GPU_COLUMNS));
    byId("gpus").append(gpuTable.node);
  }
  if (mayChange()) showTools();
  follow();
}

function showLogIn() {
  for (const part of PARTS) document.querySelector(part).hidden = true;
  byId("who").hidden = true;
  byId("log-in").hidden = false;
  become("asked");
  byId("token").focus();
}

byId("span").addEventListener("change", readDay);
setInterval(() => { if (lastDay) readDay(); }, STEP);
byId("log-in").addEventListener("submit", async (event) => {
  event.preventDefault();
  setText(byId("log-in-said"), "");
  try {
    await ask("/api/v1/login", { token: byId("token").value });
  } catch (failure) {
    setText(byId("log-in-said"), reason(failure));
    return;
  }
  // Nothing of who was here before is left.
  location.reload();
});
byId("log-out").addEventListener("click", async () => {
  try {
    await ask("/api/v1/logout", {});
  } catch (failure) {
    notice("bad", reason(failure));
    return;
  }
  location.reload();
});
// Once change.js is there, too.
document.addEventListener("DOMContentLoaded", askWho);
setInterval(() => {
  if (shown.state === "up") {
    shown.knownAt = performance.now();
    if (performance.now() - shown.heardAt > SILENCE_MAX) become("lost");
    else drawTime();
  }
  renderState();
}, TICK);
