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
  { name: "Violations", kind: "number" }, { name: "Refused allocations", kind: "number" }, { name: "Memory, GiB h", kind: "number" },
];

const usage = { table: new Table(USAGE_COLUMNS), asking: false };

/** All pages of it. */
async function readUsage(by) {
  const records = [];
  let next = "";
  do {
    const page = await ask(`/api/v1/usage?by=${by}${next}`);
    records.push(...page.usage);
    next = page.next === null ? "" : `&next=${encodeURIComponent(page.next)}`;
  } while (next);
  return records;
}

/** What a VM used, as `drawn` takes it: each period's part of one GPU's time. */
function stepsOf(records, { ms, count }, now) {
  const used = new Map();
  for (const { from_s: from, gpu_microseconds: us } of records) used.set(from * 1000, (used.get(from * 1000) ?? 0) + us);
  const last = Math.floor(now / ms) * ms;
  const steps = [];
  for (let from = last - (count - 1) * ms; from <= last; from += ms) {
    steps.push({ from, to: from + ms, share: (used.get(from) ?? 0) / 1000 / ms });
  }
  return { window: ms * count, end: last + ms, steps, most: Math.max(...steps.map((step) => step.share)) };
}

function usageRow(vm, records, span, now) {
  const sum = (key) => records.reduce((all, record) => all + record[key], 0);
  const over = stepsOf(records, span, now);
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
      latency(Math.max(...records.map((record) => record.turn_wait_max_us))),
      String(sum("calls")),
      String(sum("violations")),
      String(sum("refused")),
      (sum("memory_byte_seconds") / 2 ** 30 / 3600).toFixed(1),
    ],
  };
}

const time = (us) => (us < 60e6 ? latency(us) : duration(us / 1e6));

async function refreshUsage() {
  const by = byId("usage-span").value;
  byId("usage-csv").setAttribute("href", `/api/v1/usage?by=${by}&format=csv`);
  if (!byId("usage").open || usage.asking) return;
  usage.asking = true;
  try {
    const records = await readUsage(by);
    const vms = new Map();
    for (const record of records) vms.set(record.vm, [...(vms.get(record.vm) ?? []), record]);
    const rows = [...vms].sort(([one], [other]) => one - other);
    const { name } = SPANS[by];
    usage.table.update(`GPU time of VMs, ${name}`, "", rows.map(([vm, all]) => usageRow(vm, all, SPANS[by], Date.now())));
    usage.table.node.hidden = rows.length === 0;
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
