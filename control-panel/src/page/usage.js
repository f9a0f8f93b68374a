// What is in vgpu.db: what VMs used by hour and by day, and what happened.
"use strict";

/** How often each is read anew while it is looked at. */
const USAGE_AGAIN = 60_000;
const EVENTS_AGAIN = 5_000;
const EVENTS_SHOWN = 20;
/** Of so many it is looked once to which VMs they happened. */
const EVENTS_READ = 1000;

// ---- What VMs used ----

const SPANS = {
  hour: { ms: 3_600_000, count: 24, name: "the last 24 hours", unit: "an hour" },
  day: { ms: 86_400_000, count: 30, name: "the last 30 days", unit: "a day" },
};
const USAGE_COLUMNS = [
  { name: "VM" }, { name: "Pool", kind: "text" }, { name: "GPU time", kind: "chart" }, { name: "Turns", kind: "number" },
  { name: "Waited for them", kind: "number" }, { name: "Longest wait", kind: "number" }, { name: "Calls", kind: "number" },
  { name: "Call wait p50", kind: "number" }, { name: "Call wait p99", kind: "number" }, { name: "Longest call wait", kind: "number" },
  { name: "Violations", kind: "number" }, { name: "Refused allocations", kind: "number" }, { name: "Memory, GiB h", kind: "number" },
];

const GPU_USAGE_COLUMNS = [{ name: "GPU" }, { name: "In use", kind: "chart" }];

const usage = { table: new Table(USAGE_COLUMNS), gpus: new Table(GPU_USAGE_COLUMNS), asking: false };

/** All pages of it: of VMs, or of GPUs. */
async function readUsage(path, key, by) {
  const records = [];
  let next = "";
  do {
    const page = await ask(`/api/v1/${path}?by=${by}${next}`);
    records.push(...page[key]);
    next = page.next === null ? "" : `&next=${encodeURIComponent(page.next)}`;
  } while (next);
  return records;
}

/** Records by what they are of. */
function grouped(records, key) {
  const groups = new Map();
  for (const record of records) groups.set(record[key], [...(groups.get(record[key]) ?? []), record]);
  return [...groups];
}

/** Microseconds that were used, as `drawn` takes them: each period's part of one GPU's time. */
function stepsOf(records, key, { ms, count }, now) {
  const used = new Map();
  for (const { from_s: from, [key]: us } of records) used.set(from * 1000, (used.get(from * 1000) ?? 0) + us);
  const last = Math.floor(now / ms) * ms;
  const steps = [];
  for (let from = last - (count - 1) * ms; from <= last; from += ms) {
    steps.push({ from, to: from + ms, share: (used.get(from) ?? 0) / 1000 / ms });
  }
  return { window: ms * count, end: last + ms, steps, most: Math.max(...steps.map((step) => step.share)) };
}

function usageRow(vm, records, span, now) {
  const sum = (key) => records.reduce((all, record) => all + record[key], 0);
  const most = (key) => Math.max(...records.map((record) => record[key]));
  const over = stepsOf(records, "gpu_microseconds", span, now);
  const busiest = over.steps.find((step) => step.share === over.most);
  const all = `${sum("estimated_microseconds") ? "~" : ""}${time(sum("gpu_microseconds"))}`;
  const pools = [...new Set(records.map((record) => record.pool))].map((pool) => printable(pool) || "none any longer");
  return {
    key: `vm ${vm}`,
    of: [records],
    cells: () => [
      String(vm),
      pools.join(", "),
      over.most === 0 ? "nothing used" : {
        over,
        label: `GPU time of VM ${vm} over ${span.name}: ${all}; most, ${percent(over.most)} of ${span.unit}, from ${moment(busiest.from / 1000)} on`,
        text: all,
      },
      String(sum("turns")),
      time(sum("turn_wait_us")),
      latency(most("turn_wait_max_us")),
      String(sum("calls")),
      ...["call_wait_p50_us", "call_wait_p99_us", "call_wait_max_us"].map((key) => latency(most(key))),
      String(sum("violations")),
      String(sum("refused")),
      (sum("memory_byte_seconds") / 2 ** 30 / 3600).toFixed(1),
    ],
  };
}

function gpuUsageRow(uuid, records, span, now) {
  const over = stepsOf(records, "busy_us", span, now);
  const all = time(records.reduce((all, record) => all + record.busy_us, 0));
  const label = `How long GPU ${uuid} was in use over ${span.name}: ${all}`;
  return { key: uuid, of: [records], cells: () => [printable(uuid), over.most === 0 ? "nothing used" : { over, label, text: all }] };
}

const time = (us) => (us < 60e6 ? latency(us) : duration(us / 1e6));

async function refreshUsage() {
  const by = byId("usage-span").value;
  byId("usage-csv").setAttribute("href", `/api/v1/usage?by=${by}&format=csv`);
  byId("usage-gpus-csv").setAttribute("href", `/api/v1/usage/gpus?by=${by}&format=csv`);
  if (!byId("usage").open || usage.asking) return;
  usage.asking = true;
  try {
    const rows = grouped(await readUsage("usage", "usage", by), "vm").sort(([one], [other]) => one - other);
    const gpus = grouped(await readUsage("usage/gpus", "gpus", by), "uuid");
    const { name } = SPANS[by];
    usage.table.update(`GPU time of VMs, ${name}`, "", rows.map(([vm, all]) => usageRow(vm, all, SPANS[by], Date.now())));
    usage.table.node.hidden = rows.length === 0;
    usage.gpus.update(`In use by GPU, ${name}`, "", gpus.map(([uuid, all]) => gpuUsageRow(uuid, all, SPANS[by], Date.now())));
    usage.gpus.node.hidden = gpus.length === 0;
    setText(byId("usage-said"), rows.length ? "" : `Nothing was used in ${name}.`);
  } catch (failure) {
    setText(byId("usage-said"), reason(failure));
  } finally {
    usage.asking = false;
  }
  // It was changed meanwhile.
  if (byId("usage-span").value !== by) refreshUsage();
}

// ---- What happened ----

const CALL_COLUMNS = [
  { name: "Call" }, { name: "Before", kind: "number" }, { name: "Took", kind: "number" }, { name: "Thread", kind: "number" },
];

const happened = { asking: false, vms: new Set(), isRead: false };

/** VMs that are offered by their numbers; any other can be typed. */
const OFFERED_MAX = 2000;

/** The VMs of the pool map, those that are here without, and those to which something happened. */
function offerVms() {
  const { pools, in_no_pool: others } = shown.status;
  const vms = new Set([...happened.vms, ...others.map(({ vm }) => vm)]);
  for (const range of pools.flatMap((pool) => pool.ranges)) {
    const [first, last = first] = range.split("-").map(Number);
    for (let vm = first; vm <= last && vms.size < OFFERED_MAX; vm += 1) vms.add(vm);
  }
  const list = byId("events-vms");
  const numbers = [...vms].sort((one, other) => one - other).map(String);
  if ([...list.children].map((option) => option.value).join() === numbers.join()) return;
  list.replaceChildren(...numbers.map((vm) => element("option", { value: vm })));
}

/** Of which VM events are asked for: `null` for all, whosever they are; `undefined` until it is said. */
function wantedVm() {
  const of = byId("events-of").value;
  const vm = byId("events-vm");
  vm.hidden = of !== "vm";
  if (of !== "vm") return of || null;
  return vm.value && vm.checkValidity() ? vm.value : undefined;
}

/** The flight recorder's. */
function callTable(calls) {
  const table = new Table(CALL_COLUMNS);
  table.update("The session's last calls", "how long before it each came, and which thread's it was", calls.map((call, at) => ({
    key: at,
    of: [call],
    cells: () => [printable(call.name), latency(call.before_us), call.took_us === null ? "had not returned" : latency(call.took_us), String(call.ring)],
  })));
  return table.node;
}

function eventItem(event) {
  const place = [event.vm === null ? "" : `VM ${event.vm}`, event.session === null ? "" : `session ${event.session}`,
    event.gpu === null ? "" : printable(event.gpu).replaceAll(",", ", ")];
  const item = element("li", { id: `event-${event.number}` },
    element("p", {}, element("b", {}, printable(event.kind).replaceAll("_", " ")), ` ${moment(event.at_s)} `,
      element("span", { class: "under" }, place.filter(Boolean).join(", "))),
    element("p", {}, printable(event.message)));
  if (event.calls.length) {
    item.append(element("details", {}, element("summary", {}, `The last ${event.calls.length} calls`), callTable(event.calls)));
  }
  return item;
}

async function refreshEvents() {
  if (!byId("events").open || happened.asking || !shown.status) return;
  const vm = wantedVm();
  const list = byId("events-list");
  if (vm === undefined) {
    setText(byId("events-said"), "Which VM? Its number is expected.");
    list.replaceChildren();
    return;
  }
  happened.asking = true;
  try {
    const last = vm === null && !happened.isRead ? EVENTS_READ : EVENTS_SHOWN;
    const { events: read } = await ask(`/api/v1/events?last=${last}${vm === null ? "" : `&vm=${vm}`}`);
    happened.isRead ||= vm === null;
    for (const event of read) if (event.vm !== null) happened.vms.add(event.vm);
    offerVms();
    const events = read.slice(-EVENTS_SHOWN);
    setText(byId("events-said"), events.length ? "" : "Nothing happened.");
    // Those that are shown already stay the same elements, so that what is open in them is.
    const items = events.toReversed().map((event) => document.getElementById(`event-${event.number}`) ?? eventItem(event));
    if (list.children.length !== items.length || items.some((item, at) => list.children[at] !== item)) list.replaceChildren(...items);
  } catch (failure) {
    setText(byId("events-said"), reason(failure));
  } finally {
    happened.asking = false;
  }
  // It was changed meanwhile.
  if (wantedVm() !== vm) refreshEvents();
}

usage.table.node.hidden = true;
byId("usage-table").append(usage.table.node);
usage.gpus.node.hidden = true;
byId("usage-gpus").append(usage.gpus.node);
byId("usage").addEventListener("toggle", refreshUsage);
byId("usage-span").addEventListener("change", refreshUsage);
byId("events").addEventListener("toggle", refreshEvents);
byId("events-of").addEventListener("change", () => {
  refreshEvents();
  if (!byId("events-vm").hidden) byId("events-vm").focus();
});
byId("events-vm").addEventListener("input", refreshEvents);
refreshUsage();
setInterval(() => { if (!document.hidden && shown.state === "up") refreshUsage(); }, USAGE_AGAIN);
setInterval(() => { if (!document.hidden && shown.state === "up") refreshEvents(); }, EVENTS_AGAIN);
