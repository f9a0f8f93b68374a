// Has vgpud change things for those who may. Nothing is changed that was not shown before: each change is tried first, and
// made with the version of the pool map that it was tried with. What it builds on is in panel.js, before it.
"use strict";

/** Records of the audit that are shown. */
const CHANGES_SHOWN = 30;

// ---- Fields ----

/** Where a field's value goes: names of objects within objects. */
function put(object, path, value) {
  const [name, ...rest] = path;
  if (rest.length === 0) object[name] = value;
  else put(object[name] ??= {}, rest, value);
}

let fieldsSoFar = 0;

/** A control with its label; `read` gives its value, `undefined` for none. */
function field({ path, label, about, control, read }) {
  fieldsSoFar += 1;
  const id = `field-${fieldsSoFar}`;
  control.id = id;
  const node = element("div", { class: "field" }, element("label", { for: id }, label), control);
  if (about) {
    control.setAttribute("aria-describedby", `${id}-about`);
    node.append(element("p", { class: "under", id: `${id}-about` }, about));
  }
  return { node, path, read: read ?? (() => control.value.trim() || undefined) };
}

function selectOf(options, chosen) {
  const select = element("select");
  for (const [value, text] of options) {
    const option = element("option", { value }, text);
    if (value === chosen) option.selected = true;
    select.append(option);
  }
  return select;
}

/** For a number, within what the panel's own description says. */
function numberInput({ minimum = 0, maximum }, placeholder) {
  const control = element("input", { type: "number", step: "1", min: String(minimum), placeholder, inputmode: "numeric" });
  if (maximum !== undefined) control.max = String(maximum);
  return control;
}

const AS_IT_IS = ["", "as it is"];

function vmsField(known) {
  const control = element("input", {
    type: "text", required: "", pattern: "[0-9]+(-[0-9]+)?", title: "A VM's number, or a range such as 1-7", placeholder: "1-7",
    value: known.vms ?? "", inputmode: "text", autocomplete: "off",
  });
  return field({ path: ["vms"], label: "VMs", about: "A number, or a range such as 1-7.", control });
}

function gpuField(known) {
  const gpus = shown.status.gpus.filter((gpu) => gpu.state !== "divided");
  const name = (gpu) => `${gpu.index === null ? "missing" : `GPU ${gpu.index}`}: ${printable(gpu.model || gpu.uuid)}${
    gpu.pools.length ? `, in ${gpu.pools.map(printable).join(", ")}` : ""}`;
  return field({ path: ["gpu"], label: "GPU", control: selectOf(gpus.map((gpu) => [gpu.uuid, name(gpu)]), known.gpu) });
}

function poolField(known) {
  const names = shown.status.pools.map((pool) => pool.name);
  return field({ path: ["pool"], label: "Pool", control: selectOf(names.map((name) => [name, printable(name)]), known.pool) });
}

/** A pool that there is, or a new one. */
function newPoolField(known) {
  const list = element("datalist", { id: "pool-names" }, ...shown.status.pools.map((pool) => element("option", { value: pool.name })));
  const control = element("input", { type: "text", required: "", maxlength: "64", list: "pool-names", value: known.pool ?? "", autocomplete: "off" });
  const made = field({ path: ["pool"], label: "Pool", about: "One that is not there is made.", control });
  made.node.append(list);
  return made;
}

/** Units, as keys have them. */
const UNITS = { ms: "ms", s: "s", mib: "MiB" };

/** A key's words: "Queue depth", "GPUs per VM", "Kernel max (ms)". */
function named(key) {
  const parts = key.split("_");
  const words = parts.filter((word) => !UNITS[word]).map((word) => word.replace(/^gpu(s?)$/, "GPU$1").replace(/^vm$/, "VM")).join(" ");
  const unit = parts.map((word) => UNITS[word]).find(Boolean);
  return `${words[0].toUpperCase()}${words.slice(1)}${unit ? ` (${unit})` : ""}`;
}

/** What the panel says of its objects. */
let described = null;

const schema = (name) => described.components.schemas[name];

/** A field for each of an object's settings, as the panel's own description has them; those that are objects last. */
function settingFields(name, path) {
  const fields = [];
  for (const [key, own] of Object.entries(schema(name).properties)) {
    const reference = [own, ...(own.anyOf ?? [])].map((one) => one.$ref?.split("/").pop()).find(Boolean);
    const choices = reference && (schema(reference).enum ?? schema(reference).oneOf?.map((one) => one.const));
    const words = { path: [...path, key], label: named(key), about: own.description };
    const kinds = [own.type].flat();
    if (choices) {
      fields.push(field({ ...words, control: selectOf([AS_IT_IS, ...choices.map((choice) => [choice, choice])]) }));
    } else if (reference) {
      fields.push({ group: key, about: own.description, fields: settingFields(reference, [...path, key]) });
    } else if (kinds.includes("boolean")) {
      const control = selectOf([AS_IT_IS, ["true", "yes"], ["false", "no"]]);
      fields.push(field({ ...words, control, read: () => (control.value ? control.value === "true" : undefined) }));
    } else if (kinds.includes("integer")) {
      const control = numberInput(own, "as it is");
      fields.push(field({ ...words, control, read: () => (control.value === "" ? undefined : Number(control.value)) }));
    } else if (kinds.includes("array")) {
      const items = schema(own.items.$ref.split("/").pop());
      const names = (items.enum ?? items.oneOf.map((one) => one.const)).join(", ");
      const control = element("input", { type: "text", placeholder: "as it is", autocomplete: "off", spellcheck: "false" });
      const read = () => {
        const text = control.value.trim();
        if (!text) return undefined;
        return text === "none" ? [] : text.split(",").map((one) => one.trim());
      };
      fields.push(field({ ...words, about: `${own.description} Some of ${names}, or none.`, control, read }));
    }
  }
  return [...fields.filter((one) => !one.group), ...fields.filter((one) => one.group)];
}

// ---- What can be done ----

const edit = (kind) => (values) => ({ verb: "edit", edits: [{ edit: kind, ...values }] });
const verb = (kind) => (values) => ({ verb: kind, ...values });

const moveField = (known) => {
  const control = element("input", { type: "checkbox" });
  control.checked = known.move ?? false;
  return field({
    path: ["move_from_other"], label: "Move those that are in another pool", control, read: () => control.checked || undefined,
  });
};

/** What the panel says of what a verb takes. */
const taken = (name) => schema("Change").oneOf.find((one) => one.properties.verb.const === name).properties;

const whyField = () => field({
  path: ["why"], label: "Reason", about: "For those who look at it.",
  control: element("input", { type: "text", required: "", maxlength: String(taken("quarantine").why.maxLength), autocomplete: "off" }),
});

function secondsField() {
  const control = numberInput(taken("quarantine").seconds, "until it is released");
  return field({ path: ["seconds"], label: "For so many seconds", control, read: () => (control.value === "" ? undefined : Number(control.value)) });
}

const ACTIONS = {
  assign: { title: "Assign a GPU to a pool", make: edit("assign_gpu"), fields: (known) => [gpuField(known), newPoolField(known)] },
  unassign: { title: "Take a GPU from a pool", make: edit("unassign_gpu"), fields: (known) => [gpuField(known), poolField(known)] },
  register: {
    title: "Put VMs into a pool", make: edit("register_vms"),
    fields: (known) => [vmsField(known), poolField(known), moveField(known), ...settingFields("VmSettings", ["settings"])],
  },
  set: {
    title: "Set how VMs are treated", make: edit("set_vms"),
    fields: (known) => [vmsField(known), ...settingFields("VmSettings", ["settings"])],
  },
  unregister: { title: "Take VMs out of their pools", make: edit("unregister_vms"), fields: (known) => [vmsField(known)] },
  pool: {
    title: "Set how a pool's GPUs are shared", make: edit("set_pool"),
    fields: (known) => [poolField(known), ...settingFields("PoolSettings", ["settings"])],
  },
  quarantine: {
    title: "Quarantine VMs", make: verb("quarantine"), fields: (known) => [vmsField(known), whyField(), secondsField()],
  },
  release: { title: "Release VMs from quarantine", make: verb("release"), fields: (known) => [vmsField(known)] },
  reload: { title: "Use what the pool map's file says now", make: verb("reload"), fields: () => [] },
  undo: { title: "Take the last change back", make: (_, known) => ({ verb: "undo", number: known.number }), fields: () => [] },
};

const TOOLS = [
  ["Assign a GPU …", ["assign", "unassign"]], ["Register VMs …", ["register", "unregister"]], ["Change VMs …", ["set"]],
  ["Change a pool …", ["pool"]], ["Quarantine …", ["quarantine", "release"]],
];

/** What is being done in the dialog: the action, what is known of it, its fields, and what was tried. It is another one whenever
    something else is typed or chosen, so that an answer is only taken for what was asked. */
let current = null;

function nodes(fields) {
  return fields.map((one) => (one.group
    ? element("details", { class: "group" }, element("summary", {}, named(one.group)),
      element("p", { class: "under" }, one.about ?? ""), ...nodes(one.fields))
    : one.node));
}

const flat = (fields) => fields.flatMap((one) => (one.group ? flat(one.fields) : [one]));

function say(kind, title, lines = []) {
  const said = byId("change-said");
  setClass(said, kind);
  said.replaceChildren(...(title ? [element("p", {}, title)] : []));
  if (lines.length) said.append(element("ul", {}, ...lines.map((line) => element("li", {}, printable(line)))));
  if (title) said.scrollIntoView({ block: "nearest" });
}

/** What was tried counts no longer. */
function forget() {
  current = { ...current, tried: null };
  byId("change-apply").disabled = true;
  say("", "");
}

function choose(name, known) {
  const action = ACTIONS[name];
  current = { ...current, name, known, fields: action.fields(known) };
  setText(byId("change-title"), action.title);
  const inputs = nodes(current.fields);
  if (current.choices.length > 1) {
    const control = selectOf(current.choices.map((choice) => [choice, ACTIONS[choice].title]), name);
    control.addEventListener("change", () => {
      choose(control.value, { ...known, ...values(current.fields) });
      byId("change-fields").querySelector("select").focus();
    });
    inputs.unshift(field({ label: "What to do", control, path: [] }).node);
  }
  byId("change-fields").replaceChildren(...inputs);
  forget();
}

function values(fields) {
  const read = {};
  for (const { path, read: value } of flat(fields)) {
    const now = value();
    if (now !== undefined) put(read, path, now);
  }
  return read;
}

/** Opens the dialog for one of these actions; what is known of it is filled in. */
async function begin(choices, known = {}) {
  if (!shown.status) {
    notice("bad", "Nothing is known of the host yet.");
    return;
  }
  try {
    described ??= await ask("/api/v1/openapi.json");
  } catch (failure) {
    notice("bad", reason(failure));
    return;
  }
  current = { choices };
  choose(choices[0], known);
  byId("change").showModal();
  if (known.try) byId("change-form").requestSubmit();
}

/** Whether it is a change of the pool map, which can be taken back. */
const isOfMap = ({ verb }) => ["edit", "undo", "reload"].includes(verb);

/** Asks for it: what it would change now, or to have that changed, which is refused once the pool map is another one. */
function order(dry) {
  const { name, known, fields, tried } = current;
  const change = ACTIONS[name].make(values(fields), known);
  return ask("/api/v1/changes", { change, dry_run: dry, seen: !dry && isOfMap(change) ? tried.map_version : null });
}

/** One at a time: what is on its way is waited for. */
async function busy(act) {
  const buttons = [byId("change-preview"), byId("change-apply")];
  const were = buttons.map((button) => button.disabled);
  buttons.forEach((button) => { button.disabled = true; });
  try {
    await act();
    byId("change-preview").disabled = false;
  } catch (failure) {
    buttons.forEach((button, at) => { button.disabled = were[at]; });
    forget();
    if (failure.status === 401) {
      byId("change").close();
      askWho();
      return;
    }
    const conflict = failure.status === 409 ? "Somebody else was faster. " : "";
    say("bad", `${conflict}${reason(failure)}`);
  }
}

function preview() {
  return busy(async () => {
    const asked = current;
    const tried = await order(true);
    if (current !== asked) return;
    current.tried = tried;
    const apply = byId("change-apply");
    if (tried.changes.length === 0) {
      say("", "Nothing would change: it is so already.");
      return;
    }
    say("preview", "This would change:", tried.changes);
    apply.disabled = false;
    apply.focus();
  });
}

function apply() {
  return busy(async () => {
    const asked = current;
    const done = await order(false);
    if (current === asked) byId("change").close();
    changed(done, asked);
  });
}

/** Says what was changed, and offers to take it back. */
function changed(done, { name, known }) {
  const lines = done.changes.map(printable);
  const undo = done.number !== null && isOfMap(ACTIONS[name].make({}, known));
  notice("good", lines.length ? "Changed:" : "Nothing has changed: it is so already.", lines, undo ? done.number : null);
  refreshAudit();
}

function notice(kind, title, lines = [], number = null) {
  const node = byId("notice");
  setClass(node, kind);
  node.replaceChildren(element("p", {}, title));
  if (lines.length) node.append(element("ul", {}, ...lines.map((line) => element("li", {}, line))));
  const close = button("Close", () => { node.replaceChildren(); setClass(node, ""); });
  node.append(element("p", { class: "buttons" }, ...(number === null ? [] : [undoButton(number)]), close));
}

/** Shows what taking that change back would change. */
const undoButton = (number) => button("Undo …", () => begin(["undo"], { number, try: true }));

/** The VMs that are being dragged, and from which pool. */
let dragged = null;

/** Has a pool's part of the page give VMs, and take those that are dropped on it. */
function takesVms(part, pool) {
  // Those in no pool are in a part whose pool has no name: it takes none.
  const fits = () => dragged && pool && dragged.from !== pool;
  const mark = (on) => part.classList.toggle("target", on);
  part.addEventListener("dragstart", (event) => {
    dragged = event.target.closest?.("tr")?.drag || null;
    if (dragged) event.dataTransfer.setData("text/plain", dragged.vms);
  });
  part.addEventListener("dragend", () => { dragged = null; });
  part.addEventListener("dragover", (event) => {
    if (!fits()) return;
    event.preventDefault();
    mark(true);
  });
  part.addEventListener("dragleave", (event) => {
    if (!part.contains(event.relatedTarget)) mark(false);
  });
  part.addEventListener("drop", (event) => {
    mark(false);
    if (!fits()) return;
    event.preventDefault();
    begin(["register"], { vms: dragged.vms, pool, move: true, try: true });
  });
}

async function scan() {
  notice("", "Looking for GPUs ...");
  try {
    const { gpus, appeared, vanished } = await ask("/api/v1/scan", {});
    const news = [...appeared.map((uuid) => `new: ${printable(uuid)}`), ...vanished.map((uuid) => `gone: ${printable(uuid)}`)];
    notice("good", `${gpus.length} GPUs, ${news.length ? "with news:" : "nothing new."}`, news);
  } catch (failure) {
    if (failure.status === 401) askWho();
    notice("bad", reason(failure));
  }
}

/** What those who may change things have on the page. */
function showTools() {
  const tools = byId("tools");
  tools.replaceChildren(...TOOLS.map(([text, choices]) => button(text, () => begin(choices))),
    button("Read the file …", () => begin(["reload"], { try: true })), button("Look for GPUs", scan));
  tools.hidden = false;
}

// ---- Who changed what ----

const audit = { records: [], next: 0, asking: false };

/** "edit set_vms vms=1-7": what is asked for, in a line. */
function asked(value) {
  const said = (name, one) => {
    if (one === null || one === false) return [];
    if (name === "verb" || name === "edit") return [one];
    if (Array.isArray(one) && one.some((item) => typeof item === "object")) return [one.map(asked).join("; ")];
    if (typeof one === "object" && !Array.isArray(one)) return [asked(one)].filter(Boolean);
    return [`${name}=${Array.isArray(one) ? one.join(",") : one}`];
  };
  return Object.entries(value).flatMap(([name, one]) => said(name, one)).join(" ");
}

function auditItem(record, undo) {
  const uid = record.uid === null ? "a signal" : `uid ${record.uid}`;
  const who = record.user === null ? uid : `${record.user} (${uid})`;
  // By its number vgpu-admin undo takes it back.
  const item = element("li", {}, element("p", {}, `${record.number} `, element("b", {}, printable(who)), ` ${moment(record.at_s)} `,
    element("span", { class: "under" }, printable(asked(record.change)))));
  const lines = record.changes.map((line) => element("li", {}, printable(line)));
  if (record.refused !== null) lines.push(element("li", { class: "bad" }, `refused: ${printable(record.refused)}`));
  item.append(element("ul", {}, ...lines));
  // The names of the two texts, and which lines of them these are, say nothing.
  const diff = record.diff.split("\n").slice(2).filter((line) => /^[+-]/.test(line));
  if (diff.length) {
    const text = element("pre", {}, ...diff.map((line) => element("span", { class: line[0] === "+" ? "good" : "bad" }, `${printable(line)}\n`)));
    item.append(element("details", {}, element("summary", {}, "Lines of the pool map"), text));
  }
  if (undo) item.append(undoButton(record.number));
  return item;
}

function renderAudit() {
  const last = audit.records.filter((record) => record.diff).at(-1);
  const may = shown.me?.role === "admin" && last?.map_version === shown.status?.map_version;
  setText(byId("audit-said"), audit.records.length ? "" : "Nothing was changed.");
  byId("changes").replaceChildren(...audit.records.toReversed().map((record) => auditItem(record, may && record === last)));
}

/** Reads what came since it was last read, if somebody looks. */
async function refreshAudit() {
  if (!byId("audit").open || audit.asking) return;
  audit.asking = true;
  try {
    for (;;) {
      const page = await ask(`/api/v1/changes?from=${audit.next}`);
      if (page.next <= audit.next) break;
      audit.next = page.next;
      audit.records = [...audit.records, ...page.changes].slice(-CHANGES_SHOWN);
      if (page.changes.length === 0) break;
    }
    renderAudit();
  } catch (failure) {
    setText(byId("audit-said"), reason(failure));
  } finally {
    audit.asking = false;
  }
}

byId("change-form").addEventListener("submit", (event) => {
  event.preventDefault();
  preview();
});
byId("change-fields").addEventListener("input", forget);
byId("change-apply").addEventListener("click", apply);
byId("change-cancel").addEventListener("click", () => byId("change").close());
byId("audit").addEventListener("toggle", refreshAudit);
