//! The control panel's page in a browser, on a whole host: what an operator does with it, what it shows meanwhile, and that
//! nobody is kept from using it.
use std::fs;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use vgpu_sched_api::messages::Status;
use vgpu_tests::browser::{Look, Page, Place};
use vgpu_tests::crowd::Crowd;
use vgpu_tests::{Gpu, Host, Machine, Stack};
use vgpu_vm::Artifacts;
use vgpu_vm::process::Process;

/// The folder, named by the environment, in which pictures of the page are kept for whoever wants to look at it.
const PICTURES: &str = "VGPU_TEST_PICTURES";

/// A host with two software GPUs, and its panel with the tokens of an administrator and of somebody who may look.
struct Office {
    stack: Stack,
    panel: Process,
    port: u16,
    anna: String,
    bob: String,
}

impl Office {
    fn with(pool_map: &str) -> Self {
        let stack = Stack::start_host(&Artifacts::from_env(), Gpu::Software, 2, pool_map).unwrap();
        let [anna, bob] = [("admin", "anna"), ("read-only", "bob")]
            .map(|(role, name)| stack.panel_token(role, name).unwrap());
        let (panel, port) = stack.panel().unwrap();
        Self {
            stack,
            panel,
            port,
            anna,
            bob,
        }
    }

    /// The same with VMs 1-7 on the first GPU, in pool A, and 8-20 on the second one, in pool B.
    fn with_pools() -> Self {
        let office = Self::with("# Ours.\n");
        for command in ASSIGNED {
            office.admin(command);
        }
        office
    }

    fn open(&self, look: Look) -> Page {
        Page::open(&Artifacts::from_env(), self.port, look)
    }

    /// The page as anna has it, who may change things.
    fn anna(&self) -> Page {
        let page = self.open(Look::default());
        self.log_in(&page, &self.anna);
        page
    }

    /// Logs in, and waits until the page shows the pool map in use: for a second it may show what the panel had seen last.
    #[track_caller]
    fn log_in(&self, page: &Page, token: &str) {
        page.field("Token").fill(token);
        page.button("Log in").click();
        page.text("Live.").until_shown();
        let shown = |stack: &Stack| {
            let in_use = stack.status().map(|status| status.map_version);
            in_use.is_ok_and(|version| page.evaluate("shown.status.map_version") == version)
        };
        self.stack
            .until("the page shows the pool map in use", shown)
            .unwrap();
    }

    /// What the operator's tool prints.
    #[track_caller]
    fn admin(&self, command: &str) -> String {
        admin(&self.stack, command)
    }

    fn map(&self) -> String {
        fs::read_to_string(self.stack.pool_map()).unwrap()
    }
}

/// The pools of the example, at the command line.
const ASSIGNED: [&str; 4] = [
    "assign-gpu --gpu-id 0 --pool A",
    "assign-gpu --gpu-id 1 --pool B",
    "register-vm --vm-id 1-7 --pool A",
    "register-vm --vm-id 8-20 --pool B",
];

#[track_caller]
fn admin(stack: &Stack, command: &str) -> String {
    let output = stack.admin().args(command.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{command}: {output:?}\n{}", stack.logs());
    String::from_utf8(output.stdout).unwrap()
}

fn admin_json(stack: &Stack, command: &str) -> Value {
    serde_json::from_str(&admin(stack, &format!("--json {command}"))).unwrap()
}

/// Opens a form with one of the buttons above the GPUs.
#[track_caller]
fn form<'p>(page: &'p Page, button: &str, title: &str) -> Place<'p> {
    page.button(button).click();
    let form = page.at("dialog", title);
    form.until_shown();
    form
}

/// Has a form say what would change, in these words, and does it.
#[track_caller]
fn preview_and_apply(form: &Place<'_>, words: &[&str]) {
    assert!(!form.button("Apply").is_enabled(), "before it was previewed");
    form.button("Preview").click();
    for line in words {
        form.at("status", "").until_has(line);
    }
    form.button("Apply").click();
    form.until_gone();
}

/// Keeps a picture, if somebody wants to look at it.
fn picture(page: &Page, name: &str) {
    if let Some(folder) = std::env::var_os(PICTURES) {
        page.picture(&PathBuf::from(folder).join(format!("{name}.png")));
    }
}

/// Has programs work in VMs 1, 2 and 8, and ends them once something was looked at.
fn work_in_three_vms(stack: &mut Stack, look: impl FnOnce(&Stack)) {
    const VMS: [u32; 3] = [1, 2, 8];
    for vm in VMS {
        stack.start_backend(vm).unwrap();
    }
    let mut vms = VMS.map(|vm| Host::new(stack, vm));
    let mut crowd = Crowd::ready(&mut vms, &["busy 2000".to_owned()], 1).unwrap();
    crowd.begin().unwrap();
    let until = |what, done: &dyn Fn(&Status) -> bool| {
        let is_so = |stack: &Stack| stack.status().is_ok_and(|status| done(&status));
        stack.until(what, is_so).unwrap();
    };
    until("all have worked", &|status| {
        let vms = status.pools.iter().flat_map(|pool| &pool.vms);
        vms.filter(|vm| vm.turns > 0).count() == VMS.len()
    });
    look(stack);
    for said in crowd.end().unwrap() {
        assert!(said.contains("kernels right"), "{said}");
    }
    until("their programs have ended", &|status| {
        status.gpus.iter().all(|gpu| gpu.sessions == 0)
    });
}

/// From an empty pool map to VMs that work, at the command line and in the browser: both end with the same map, to the letter,
/// and with the same status.
#[test]
fn the_example_session_from_empty_to_status() {
    let by_command = Office::with("");
    let scanned = by_command.admin("scan-gpus");
    assert!(scanned.contains("unassigned"), "{scanned}");
    for command in ASSIGNED {
        by_command.admin(command);
    }
    by_command.admin("set-priority --vm-id 1 --priority high");
    by_command.admin("set-priority --vm-id 2 --priority low");

    let by_browser = Office::with("");
    let page = by_browser.anna();
    page.text("There is no pool yet").until_shown();
    page.button("Look for GPUs").click();
    page.text("2 GPUs, nothing new.").until_shown();
    for (gpu, pool) in [("0", "A"), ("1", "B")] {
        page.table("GPUs").row(gpu).cell("State").until_is("unassigned");
        let form = form(&page, "Assign a GPU …", "Assign a GPU to a pool");
        form.at("label", "GPU")
            .choose(&format!("GPU {gpu}: vgpu software GPU"));
        form.at("label", "Pool").fill(pool);
        preview_and_apply(&form, &[&format!("pool {pool}: new, with GPU")]);
        page.table("GPUs").row(gpu).cell("Pools").until_is(pool);
    }
    for (vms, pool) in [("1-7", "A"), ("8-20", "B")] {
        let form = form(&page, "Register VMs …", "Put VMs into a pool");
        form.at("label", "VMs").fill(vms);
        form.at("label", "Pool").choose(pool);
        preview_and_apply(&form, &[&format!("VMs {vms}: in pool {pool}")]);
        page.table(&format!("Pool {pool}:")).row(vms).until_shown();
    }
    for (vm, priority) in [("1", "high"), ("2", "low")] {
        let form = form(&page, "Change VMs …", "Set how VMs are treated");
        form.at("label", "VMs").fill(vm);
        form.at("label", "Priority").choose(priority);
        preview_and_apply(&form, &[&format!("VM {vm}: priority {priority}, was medium")]);
        page.table("Pool A:").row(vm).cell("Priority").until_is(priority);
    }
    assert_eq!(by_browser.map(), by_command.map());

    // All three VMs work, and are seen to.
    let mut offices = [by_command, by_browser];
    for (office, in_browser) in offices.iter_mut().zip([false, true]) {
        work_in_three_vms(&mut office.stack, |stack| {
            let status = admin(stack, "status");
            for part in [
                "Pool A: GPU 0, VMs 1-7",
                "Pool B: GPU 1, VMs 8-20",
                "busy: ",
                "3-7",
                "9-20",
            ] {
                assert!(status.contains(part), "{status}");
            }
            if in_browser {
                for (pool, vm) in [
                    ("Pool A: GPU 0; VMs 1-7", "1"),
                    ("Pool A: GPU 0; VMs 1-7", "2"),
                    ("Pool B: GPU 1; VMs 8-20", "8"),
                ] {
                    page.table(pool).row(vm).cell("Doing").until_has("busy: ");
                }
            }
        });
    }
    // What the page then shows is what the command line tells.
    let [by_command, by_browser] = offices;
    let status = admin_json(&by_browser.stack, "status");
    for (pool, vm) in [(0, 0), (0, 1), (1, 0)] {
        let told = &status["pools"][pool]["vms"][vm];
        let row = page
            .table(&format!(
                "Pool {}:",
                status["pools"][pool]["name"].as_str().unwrap()
            ))
            .row(&told["vm"].to_string());
        row.cell("Doing").until_is("nothing");
        row.cell("Queue").until_is("0");
        row.cell("Priority").until_is(told["priority"].as_str().unwrap());
        row.cell("Wait p50").until("a time", |text| text.ends_with('s'));
    }
    let same = |stack: &Stack| {
        let pools = admin_json(stack, "status")["pools"].clone();
        let of_vm = |vm: &Value| json!([vm["vm"], vm["priority"], vm["weight"], vm["sessions"]]);
        let vms = |pool: &Value| {
            pool["vms"]
                .as_array()
                .unwrap()
                .iter()
                .map(of_vm)
                .collect::<Value>()
        };
        let pools = pools.as_array().unwrap();
        pools
            .iter()
            .map(|pool| json!([pool["name"], pool["gpus"], pool["ranges"], vms(pool)]))
            .collect::<Value>()
    };
    assert_eq!(same(&by_browser.stack), same(&by_command.stack));
    picture(&page, "example");
    page.must_be_sound();
}

#[test]
fn who_has_a_token_is_let_in_and_out() {
    let office = Office::with_pools();
    let page = office.open(Look::default());
    let token = page.field("Token");
    token.until_shown();
    assert!(token.has_focus(), "who opens the page types the token at once");
    page.table("GPUs").until_gone();
    page.must_be_sound();
    picture(&page, "log-in");

    token.fill("vgpu_0000");
    page.press("Enter");
    page.at("alert", "")
        .until_has("this token is not known: expected one that `vgpu-panel token` made");
    page.must_be_sound();
    page.table("GPUs").until_gone();
    office.log_in(&page, &office.anna);
    page.text("anna, who may change things").until_shown();
    page.table("GPUs").row("0").until_shown();
    page.button("Log out").click();
    token.until_shown();
    page.table("GPUs").until_gone();
    // It was ended, not only forgotten.
    assert_eq!(
        page.evaluate("fetch('/api/v1/status').then((answer) => answer.status)"),
        401
    );
    page.must_be_sound();
}

/// Whose role is to look sees all of it, and no button that changes anything.
#[test]
fn who_may_only_look_has_no_buttons() {
    let office = Office::with_pools();
    office.admin("set-weight --vm-id 1 --weight 4");
    let page = office.open(Look::default());
    office.log_in(&page, &office.bob);
    page.text("bob, who may look").until_shown();
    let vm = page.table("Pool A:").row("1");
    vm.cell("Priority").until_is("medium, weight 4");
    assert_eq!(vm.at("rowheader", "1").property("draggable"), false);
    page.text("Who changed what").click();
    page.text("VM 1: weight 4, was 1").until_shown();
    let told = page.told();
    let buttons: Vec<&str> = told
        .lines()
        .filter(|line| line.trim().starts_with("- button"))
        .collect();
    assert_eq!(buttons.len(), 1, "{told}");
    assert!(buttons[0].contains("Log out"), "{told}");
    page.must_be_sound();
    picture(&page, "read-only");
}

/// What would change is said before it is, what was changed can be taken back, and what is wrong is refused where it was typed.
#[test]
fn nothing_is_changed_unseen() {
    let office = Office::with_pools();
    let page = office.anna();
    let before = office.map();
    let form = form(&page, "Change VMs …", "Set how VMs are treated");
    form.at("label", "VMs").fill("1-3");
    form.at("label", "Weight").fill("4");
    form.button("Preview").click();
    let said = form.at("status", "");
    said.until_has("VMs 1-3: weight 4, was 1");
    assert_eq!(office.map(), before, "a preview changes nothing");
    page.must_be_sound();
    picture(&page, "preview");
    // What is typed while the answer is on its way is not what the answer is about.
    let typed_meanwhile = page.evaluate(
        "new Promise((done) => {
           const [preview, apply] = ['change-preview', 'change-apply'].map((id) => document.getElementById(id));
           preview.click();
           const weight = [...document.querySelectorAll('#change input')].find((input) => input.value === '4');
           weight.value = '6';
           weight.dispatchEvent(new Event('input', { bubbles: true }));
           const waiting = setInterval(() => {
             if (preview.disabled) return;
             clearInterval(waiting);
             done(apply.disabled);
           }, 20);
         })",
    );
    assert_eq!(typed_meanwhile, true, "it can be applied unseen");
    form.at("label", "Weight").fill("4");
    form.button("Preview").click();
    said.until_has("VMs 1-3: weight 4, was 1");
    // What is typed after it was previewed is to be previewed again.
    form.at("label", "Weight").fill("5");
    assert!(!form.button("Apply").is_enabled());
    preview_and_apply(&form, &["VMs 1-3: weight 5, was 1"]);
    page.table("Pool A:")
        .row("3")
        .cell("Priority")
        .until_is("medium, weight 5");
    page.must_be_sound();

    page.button("Undo …").click();
    let undo = page.at("dialog", "Take the last change back");
    undo.at("status", "").until_has("VMs 1-3: weight 1, was 5");
    undo.button("Apply").click();
    page.table("Pool A:").row("1-7").until_shown();
    assert_eq!(office.map(), before);
    // It is among what was changed, and by whom.
    page.text("Who changed what").click();
    let audit = page.at("list", "");
    audit.at("text", "anna (uid ").until_shown();
    audit.at("text", "VMs 1-3: weight 1, was 5").until_shown();

    // The browser knows what a number is, vgpud what a range is and what there is.
    let form = self::form(&page, "Register VMs …", "Put VMs into a pool");
    let vms = form.at("label", "VMs");
    vms.fill("some");
    form.button("Preview").click();
    assert!(vms.has_focus());
    assert_eq!(vms.property("validity.patternMismatch"), true);
    assert_eq!(vms.property("title"), "A VM's number, or a range such as 1-7");
    for (wrong, expected) in [("7-1", "expected"), ("8-9", "pool B")] {
        vms.fill(wrong);
        form.at("label", "Pool").choose("A");
        form.button("Preview").click();
        form.at("status", "").until_has(expected);
        assert!(!form.button("Apply").is_enabled(), "{wrong}");
        page.must_be_sound();
    }
    picture(&page, "refused");
    form.button("Cancel").click();
    form.until_gone();
    assert_eq!(office.map(), before);
}

/// Somebody else changes the pool map while one looks at what would change: with the operator's tool, and in the file.
#[test]
fn what_was_changed_meanwhile_is_a_conflict() {
    let office = Office::with_pools();
    let page = office.anna();
    let by_tool = || drop(office.admin("set-weight --vm-id 9 --weight 2"));
    let by_hand = || {
        let map = office.map() + "[vm.3] # By hand.\nweight = 9\n";
        fs::write(office.stack.pool_map(), map).unwrap();
    };
    let other_hands: [&dyn Fn(); 2] = [&by_tool, &by_hand];
    for other in other_hands {
        // What it would change now: also where the page does not show yet what was changed a moment ago.
        let form = form(&page, "Change VMs …", "Set how VMs are treated");
        form.at("label", "VMs").fill("1");
        form.at("label", "Priority").choose("high");
        form.button("Preview").click();
        form.at("status", "").until_has("VM 1: priority high, was medium");
        other();
        let before = office.map();
        form.button("Apply").click();
        form.at("status", "").until_has("Somebody else was faster.");
        assert_eq!(office.map(), before);
        assert!(!form.button("Apply").is_enabled());
        page.must_be_sound();
        form.button("Cancel").click();
        form.until_gone();
    }
    // Everybody sees that the file says something else, until it does not.
    let differs = page.text("NOTE: the pool map in ");
    differs.until_has("differs from the one in use: vgpu-admin reload");
    // Once what was written by hand is in use, it is changed like anything else.
    office.admin("reload");
    differs.until_gone();
    page.table("Pool A:")
        .row("3")
        .cell("Priority")
        .until_is("medium, weight 9");
    let form = form(&page, "Change VMs …", "Set how VMs are treated");
    form.at("label", "VMs").fill("1");
    form.at("label", "Priority").choose("high");
    form.button("Preview").click();
    form.at("status", "").until_has("VM 1: priority high, was medium");
    form.button("Apply").click();
    page.table("Pool A:").row("1").cell("Priority").until_is("high");
    assert!(office.map().contains("[vm.3] # By hand.\n"));
}

/// A VM goes to another pool when it is dragged there, and by keyboard alone.
#[test]
fn vms_are_moved_by_mouse_and_by_keyboard() {
    let office = Office::with_pools();
    office.admin("set-priority --vm-id 1-2 --priority low");
    let page = office.anna();
    let (a, b) = (page.table("Pool A:"), page.table("Pool B:"));
    a.row("1").at("rowheader", "1").drag_to(&b);
    let form = page.at("dialog", "Put VMs into a pool");
    form.at("status", "").until_has("VM 1: from pool A to pool B");
    form.button("Apply").click();
    b.row("1").cell("Priority").until_is("low");
    a.row("1").until_gone();
    // A pool takes nothing that is its own.
    b.row("1").at("rowheader", "1").drag_to(&page.table("Pool B:"));
    page.table("Pool B:").row("8-20").until_shown();
    form.until_gone();

    // From the top of the page, with nothing but keys.
    page.evaluate("document.activeElement.blur()");
    page.tab_to(&a.row("2").button("Change VM 2 …"));
    page.press("Enter");
    let what = page.field("What to do");
    what.until_shown();
    page.tab_to(&what);
    page.type_text("Put");
    form.until_shown();
    page.tab_to(&form.at("label", "Pool"));
    page.type_text("B");
    page.tab_to(&form.button("Preview"));
    page.press("Enter");
    form.at("status", "").until_has("VM 2: from pool A to pool B");
    page.must_be_sound();
    assert!(
        form.button("Apply").has_focus(),
        "what is to be pressed next has the focus"
    );
    page.press("Enter");
    b.row("2").cell("Priority").until_is("low");
    form.until_gone();
    // And a form that is not wanted goes.
    page.tab_to(&b.row("2").button("Change VM 2 …"));
    page.press("Enter");
    let form = page.at("dialog", "Set how VMs are treated");
    form.until_shown();
    page.press("Escape");
    form.until_gone();
    assert!(
        b.row("2").button("Change VM 2 …").has_focus(),
        "where one was before"
    );
}

#[test]
fn a_vm_is_quarantined_and_released() {
    let mut office = Office::with_pools();
    office.stack.start_backend(1).unwrap();
    let page = office.anna();
    let form = form(&page, "Quarantine …", "Quarantine VMs");
    form.at("label", "VMs").fill("1");
    form.at("label", "Reason").fill("it ran <b>wild</b>");
    preview_and_apply(&form, &["VM 1: "]);
    let vm = page.table("Pool A:").row("1");
    vm.cell("Quarantine")
        .until_has("QUARANTINED until it is released");
    vm.cell("Quarantine").until_has("it ran <b>wild</b>");
    page.must_be_sound();
    picture(&page, "quarantine");
    assert!(office.admin("status").contains("VM 1: QUARANTINED"));
    let refused = Host::new(&office.stack, 1).run("vadd").unwrap();
    assert!(!refused.success(), "{}", refused.text);

    vm.button("Change VM 1 …").click();
    let form = page.at("dialog", "Release VMs from quarantine");
    preview_and_apply(&form, &["VM 1: released"]);
    vm.cell("Quarantine").until_is("-");
    Host::new(&office.stack, 1).must("vadd").unwrap();
}

/// Nobody reloads anything: it changes before one's eyes.
#[test]
fn what_programs_do_is_seen_as_it_happens() {
    let mut office = Office::with_pools();
    office.stack.start_backend(1).unwrap();
    let page = office.open(Look::default());
    office.log_in(&page, &office.bob);
    let (vm, gpu) = (page.table("Pool A:").row("1"), page.table("GPUs").row("0"));
    vm.cell("Doing").until_is("nothing");
    vm.cell("Queue").until_is("0");
    vm.cell("Wait p50").until_is("-");
    gpu.cell("Sessions").until_is("0");

    let mut vms = [Host::new(&office.stack, 1)];
    let mut crowd = Crowd::ready(&mut vms, &["busy 2000".to_owned()], 2).unwrap();
    gpu.cell("Sessions").until_is("2");
    crowd.begin().unwrap();
    let percent = |text: &str| {
        text.trim()
            .trim_start_matches('~')
            .trim_end_matches(" %")
            .parse::<u32>()
    };
    let used = |text: &str| percent(text).is_ok_and(|share| share > 0);
    vm.cell("Share").until("a share", used);
    gpu.cell("Busy").until("a share", used);
    vm.cell("Queue")
        .until("work that waits", |queue| queue.trim() != "0");
    vm.cell("Wait p50").until("a time", |text| text.ends_with('s'));
    vm.cell("Doing").until_has("busy: running");
    vm.cell("Doing").until_has("of memory");
    let chart = page.at("img", "");
    assert!(chart.count() >= 2, "{}", page.told());
    page.must_be_sound();
    picture(&page, "work");
    crowd.end().unwrap();
    vm.cell("Doing").until_is("nothing");
    vm.cell("Queue").until_is("0");
    gpu.cell("Sessions").until_is("0");
    // And what it has come to.
    page.evaluate("document.getElementById('usage').open = true");
    let used = page.table("GPU time of VMs").row("1");
    for column in ["GPU time", "Call wait p50", "Call wait p99", "Longest call wait"] {
        used.cell(column).until("a time", |text| text.ends_with('s'));
    }
    let uuid = office.stack.status().unwrap().gpus[0].uuid.clone();
    let in_use = page.table("In use by GPU").row(&uuid);
    in_use.cell("In use").until("a time", |text| text.ends_with('s'));
    page.must_be_sound();
    assert_eq!(
        page.evaluate("performance.getEntriesByType('navigation').length"),
        1
    );
}

/// What stands between a browser and the panel, and can cut them off from each other.
struct Line {
    port: u16,
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

impl Line {
    fn to(panel: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&connections);
        std::thread::spawn(move || {
            for browser in listener.incoming().map_while(Result::ok) {
                // The panel may be gone.
                let Ok(panel) = TcpStream::connect(("127.0.0.1", panel)) else {
                    continue;
                };
                for (mut from, mut to) in [
                    (browser.try_clone().unwrap(), panel.try_clone().unwrap()),
                    (panel, browser),
                ] {
                    kept.lock().unwrap().push(from.try_clone().unwrap());
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Write);
                    });
                }
            }
        });
        Self { port, connections }
    }

    /// Whatever is on its way is lost.
    fn cut(&self) {
        for connection in self.connections.lock().unwrap().drain(..) {
            // It may have ended by itself.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

/// What the page is told of are changes: in the end it has what a page has that is opened then, whatever they were, and however often
/// it was cut off meanwhile.
#[test]
fn a_page_that_was_cut_off_shows_what_is_so() {
    let office = Office::with_pools();
    let line = Line::to(office.port);
    let page = Page::open(&Artifacts::from_env(), line.port, Look::default());
    office.log_in(&page, &office.bob);
    let seen = |round: u32| {
        let known = json!(format!("medium, weight {round}"));
        page.table("Pool C:")
            .row("20")
            .cell("Priority")
            .until_is(known.as_str().unwrap());
        let same = page.evaluate(
            "fetch('/api/v1/status').then((answer) => answer.json()).then((status) => {
               const text = (one) => JSON.stringify({ ...one, uptime_s: 0 }, (_, value) => (
                 value?.constructor === Object ? Object.fromEntries(Object.entries(value).sort()) : value));
               return text(status) === text(shown.status) || [status, shown.status];
             })",
        );
        assert_eq!(same, true);
        let tables = |page: &Page| {
            page.evaluate(
                "[...document.querySelectorAll('#pools h2, #pools :is(th, td):not(.chart)')].map((one) => one.textContent)",
            )
        };
        let fresh = office.open(Look::default());
        office.log_in(&fresh, &office.bob);
        fresh.table("Pool C:").row("20").until_shown();
        assert_eq!(tables(&page), tables(&fresh));
    };
    let change = |commands: &[&str]| {
        for command in commands {
            office.admin(command);
        }
    };
    change(&[
        "assign-gpu --gpu-id 1 --pool C",
        "register-vm --vm-id 20 --pool C --move",
        "set-weight --vm-id 3-5 --weight 7",
    ]);
    change(&["set-weight --vm-id 20 --weight 2"]);
    seen(2);
    line.cut();
    // Rows go, come, and change their places, behind its back.
    change(&[
        "unregister-vm --vm-id 4",
        "register-vm --vm-id 1-3 --pool B --move",
        "register-vm --vm-id 5-7 --pool B --move",
        "set-weight --vm-id 1 --weight 9",
    ]);
    change(&[
        "unassign-gpu --gpu-id 0 --pool A",
        "set-weight --vm-id 20 --weight 3",
    ]);
    seen(3);
    for weight in 4..8 {
        line.cut();
        office.admin(&format!("set-weight --vm-id 20 --weight {weight}"));
    }
    seen(7);
    assert_eq!(
        page.evaluate("performance.getEntriesByType('navigation').length"),
        1
    );
    page.must_be_sound();
}

/// What happened is found by VM, whether it has run anything or not, and what happened to none is as well; a change has the number that
/// takes it back.
#[test]
fn what_happened_is_found() {
    let mut office = Office::with_pools();
    office.admin("quarantine --vm-id 7 --reason loud");
    office.admin("unregister-vm --vm-id 7");
    office.admin("release --vm-id 7");
    let page = office.anna();
    page.text("What happened").click();
    page.text("quarantined").until_shown();
    let offered =
        "[...document.querySelectorAll('#events-vms option')].map((option) => Number(option.value))";
    assert_eq!(
        page.evaluate(offered),
        json!((1..=20).collect::<Vec<u32>>()),
        "also 7, which is in no pool"
    );
    page.field("To").choose("no VM: GPUs and vgpud");
    page.text("Nothing happened.").until_shown();
    page.field("To").choose("the VM");
    page.text("Which VM?").until_shown();
    page.field("VM").fill("8");
    page.text("Nothing happened.").until_shown();
    page.field("VM").fill("7");
    page.text("quarantined").until_shown();
    page.text("Nothing happened.").until_gone();
    page.must_be_sound();

    page.text("Who changed what").click();
    page.text("VM 7: released").until_shown();
    let number = page.evaluate("document.querySelector('#changes li').textContent");
    let last = admin_json(&office.stack, "audit")["changes"]
        .as_array()
        .unwrap()
        .last()
        .unwrap()["number"]
        .clone();
    assert!(
        number.as_str().unwrap().starts_with(&format!("{last} ")),
        "{number}"
    );
    page.must_be_sound();
    picture(&page, "happened");
    // A VM that never started has the priority that it will have.
    page.table("Pool A:")
        .row("1-6")
        .cell("Priority")
        .until_is("medium");

    // What was not used has no chart.
    work_in_three_vms(&mut office.stack, |_| {});
    page.evaluate("document.querySelector('#usage > summary').click()");
    let used = page.table("GPU time of VMs").row("1").cell("GPU time");
    used.at("img", "").until_shown();
    page.must_be_sound();
    picture(&page, "used");
}

/// Without vgpud the page says so, and what was known last and how old it is; it goes on by itself when it is back.
#[test]
fn without_vgpud_the_last_known_state_is_shown() {
    let mut office = Office::with_pools();
    let page = office.anna();
    page.table("Pool A:").row("1-7").until_shown();
    office.stack.kill_vgpud();
    page.text("What is shown is the last known state.").until_shown();
    page.text("vgpud cannot be reached at").until_shown();
    page.text(" old.").until("an age", |text| text.contains("It is "));
    page.table("Pool A:").row("1-7").until_shown();
    page.must_be_sound();
    picture(&page, "down");
    // What cannot be done is said where it was to be.
    let form = form(&page, "Change VMs …", "Set how VMs are treated");
    form.at("label", "VMs").fill("1");
    form.at("label", "Weight").fill("4");
    form.button("Preview").click();
    form.at("status", "").until_has("vgpud cannot be reached");
    form.button("Cancel").click();

    office.stack.start_vgpud().unwrap();
    page.text("Live.").until_shown();
    page.text("last known state").until_gone();
    office.admin("set-weight --vm-id 3 --weight 9");
    page.table("Pool A:")
        .row("3")
        .cell("Priority")
        .until_is("medium, weight 9");

    // The panel itself goes.
    office.panel.kill();
    page.text("This panel does not answer.").until_shown();
    page.table("Pool A:").row("3").until_shown();
    page.must_be_sound();
}

/// What a guest calls its program is neither obeyed nor hidden.
#[test]
fn a_hostile_name_is_text() {
    const NAME: &str = "<b>x\u{202e}\u{200b}&amp;";
    let mut office = Office::with_pools();
    office.stack.start_backend(1).unwrap();
    let program = office.stack.dir().join(NAME);
    fs::copy(office.stack.artifacts().program("busy"), &program).unwrap();
    let page = office.open(Look {
        width: 360,
        ..Look::default()
    });
    office.log_in(&page, &office.bob);
    let mut vms = [Host::new(&office.stack, 1).with("HOSTILE", &program)];
    let crowd = Crowd::ready(&mut vms, &["\"$HOSTILE\"".to_owned()], 1).unwrap();
    let doing = page.table("Pool A:").row("1").cell("Doing");
    doing.until_has(r"<b>x\u{202e}\u{200b}&amp;: ");
    assert_eq!(page.evaluate("document.querySelectorAll('table b').length"), 0);
    page.must_be_sound();
    picture(&page, "hostile");
    crowd.kill().unwrap();
}

/// In light and in dark colours, in a wide window and in a telephone's.
#[test]
fn nobody_is_kept_from_using_it() {
    let office = Office::with_pools();
    office.admin("set-limits --vm-id 1-3 --gpu-memory-mib 1024");
    for (name, look) in [
        ("light", Look::default()),
        (
            "dark",
            Look {
                dark: true,
                ..Look::default()
            },
        ),
        (
            "phone",
            Look {
                width: 360,
                ..Look::default()
            },
        ),
        (
            "phone-dark",
            Look {
                dark: true,
                width: 360,
            },
        ),
    ] {
        let page = office.open(look);
        page.field("Token").until_shown();
        page.must_be_sound();
        office.log_in(&page, &office.anna);
        page.table("Pool A:").row("1").until_shown();
        // As with GPUs that measure, and that had an error.
        page.evaluate(
            "const measured = { temperature: 41, power_mw: 312500, power_limit_mw: 700000, utilisation: 87, memory_utilisation: 34,
               memory_used: 65712160768, memory_total: 85520809984, sm_clock_mhz: 1980, memory_clock_mhz: 2619, ecc: true,
               ecc_volatile: 0, ecc_aggregate: 43, mig: null };
             const xids = [{ number: 79, meaning: 'the GPU has fallen off the bus', by_program: false, at_s: 1700000000 }];
             const gpus = shown.status.gpus.map((gpu) => ({ ...gpu, model: 'NVIDIA H100 80GB HBM3', driver: '580.159.04', measured, xids }));
             shown.status = { ...shown.status, gpus };
             draw();
             document.querySelector('#gpus details').open = true;",
        );
        let measured = page.table("GPUs").row("0").cell("Measured");
        measured.until_has("41 °C, 313 W, 87 % used");
        measured.until_has("unknown: MIG");
        page.text("Who changed what").click();
        page.text("VMs 8-20: in pool B").until_shown();
        page.must_be_sound();
        picture(&page, name);
        for (button, title) in [
            ("Assign a GPU …", "Assign a GPU to a pool"),
            ("Register VMs …", "Put VMs into a pool"),
            ("Change a pool …", "Set how a pool's GPUs are shared"),
            ("Quarantine …", "Quarantine VMs"),
        ] {
            let form = form(&page, button, title);
            page.must_be_sound();
            picture(&page, &format!("{name}-{title}"));
            form.button("Cancel").click();
            form.until_gone();
        }
        let back = page.evaluate("getComputedStyle(document.body).backgroundColor");
        let light = back.as_str().unwrap().contains("251");
        assert_eq!(light, !look.dark, "{back}");
    }
}
