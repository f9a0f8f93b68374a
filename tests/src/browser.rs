//! The control panel's page in a browser: what a person does with it, and sees. Playwright drives Debian's Chromium, without
//! a window; `cargo xtask test` brings both.
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use vgpu_vm::Artifacts;
use vgpu_vm::process::Process;

const BROWSER: &str = "/usr/bin/chromium-headless-shell";
/// After this long what was to be seen is not coming. What is to be done is given up after as long, in `driver.js`.
const LIMIT: Duration = Duration::from_secs(30);

/// How the page is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// In dark colours.
    pub dark: bool,
    /// Pixels of the window.
    pub width: u32,
}

impl Default for Look {
    fn default() -> Self {
        Self {
            dark: false,
            width: 1280,
        }
    }
}

/// A page in a browser of its own. Whatever cannot be done panics, with what a screen reader would tell of the page.
pub struct Page {
    lines: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    process: Process,
    /// What the browser keeps goes with it.
    _dir: TempDir,
}

impl Page {
    /// Opens the panel's page.
    #[track_caller]
    pub fn open(artifacts: &Artifacts, port: u16, look: Look) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let playwright = Artifacts::existing(artifacts.playwright_dir()).unwrap();
        let look = json!({
            "colorScheme": if look.dark { "dark" } else { "light" },
            "viewport": {"width": look.width, "height": 1000},
        });
        let mut command = Command::new(playwright.join("playwright/driver/node"));
        command
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("browser/driver.js"))
            .arg(playwright.join("playwright/driver/package"))
            .arg(playwright.join("axe_playwright_python/axe.min.js"))
            .args([BROWSER, &format!("http://localhost:{port}/"), &look.to_string()])
            .env("TMPDIR", dir.path())
            .env("HOME", dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = Process::spawn(command).unwrap();
        let input = process.child().stdin.take().unwrap();
        let output = BufReader::new(process.child().stdout.take().unwrap());
        let page = Self {
            lines: Mutex::new((input, output)),
            process,
            _dir: dir,
        };
        let opened = answer(&mut page.lines.lock().unwrap().1);
        assert!(opened.get("error").is_none(), "{opened}");
        page
    }

    /// What is found by that text.
    pub fn text(&self, text: &str) -> Place<'_> {
        self.at("text", text)
    }

    /// A field, by its label.
    pub fn field(&self, label: &str) -> Place<'_> {
        self.at("label", label)
    }

    pub fn button(&self, name: &str) -> Place<'_> {
        self.at("button", name)
    }

    /// A table, by the beginning of its name.
    pub fn table(&self, name: &str) -> Place<'_> {
        self.at("table", name)
    }

    /// What is found by its role and its name; by its role alone if that is empty.
    pub fn at(&self, role: &str, name: &str) -> Place<'_> {
        Place {
            page: self,
            path: json!([[role, name]]),
        }
    }

    /// Presses a key, such as "Tab" or "Shift+Tab".
    #[track_caller]
    pub fn press(&self, key: &str) {
        self.on_the_page("key", json!([key]));
    }

    #[track_caller]
    pub fn type_text(&self, text: &str) {
        self.on_the_page("type", json!([text]));
    }

    /// Moves the focus as a keyboard does until it is there.
    #[track_caller]
    pub fn tab_to(&self, place: &Place<'_>) {
        place.until_shown();
        for _ in 0..200 {
            if place.has_focus() {
                return;
            }
            self.press("Tab");
        }
        panic!("no way by keyboard to {}\n{}", place.path, self.told());
    }

    /// The page as a screen reader is told of it.
    #[track_caller]
    pub fn told(&self) -> String {
        string(&self.on_the_page("told", json!([])))
    }

    /// Makes a picture of all of it.
    #[track_caller]
    pub fn picture(&self, path: &Path) {
        self.on_the_page("look", json!([path]));
    }

    /// The value of an expression in the page.
    #[track_caller]
    pub fn evaluate(&self, expression: &str) -> Value {
        self.on_the_page("evaluate", json!([expression]))
    }

    /// Has a script run before the page's own when it is loaded again.
    #[track_caller]
    pub fn at_start(&self, script: &str) {
        self.on_the_page("at_start", json!([script]));
    }

    #[track_caller]
    pub fn reload(&self) {
        self.on_the_page("reload", json!([]));
    }

    /// What the browser has done for the page since that was first asked for, by the names that DevTools has for it, in seconds.
    #[track_caller]
    pub fn costs(&self) -> Value {
        self.on_the_page("costs", json!([]))
    }

    /// Nobody is kept from using the page as it is now, it has had no error and asked nobody else, and it is no wider than its
    /// window, nor a part of it than its place.
    #[track_caller]
    pub fn must_be_sound(&self) {
        for what in ["complaints", "barriers"] {
            assert_eq!(self.on_the_page(what, json!([])), json!([]), "{what}");
        }
        assert_eq!(self.on_the_page("too_wide", json!([])), 0, "{}", self.told());
    }

    #[track_caller]
    fn on_the_page(&self, act: &str, values: Value) -> Value {
        self.act(Value::Null, act, values)
    }

    #[track_caller]
    fn act(&self, place: Value, act: &str, values: Value) -> Value {
        let said = json!({"place": place, "act": act, "values": values}).to_string();
        let mut outcome = self.say(&said);
        if let Some(error) = outcome.get("error") {
            let told = self.say(&json!({"place": null, "act": "told", "values": []}).to_string());
            panic!(
                "{said}: {}\n{}",
                error.as_str().unwrap_or_default(),
                told["done"].as_str().unwrap_or_default()
            );
        }
        outcome["done"].take()
    }

    fn say(&self, line: &str) -> Value {
        // Whoever panicked meanwhile has had his answer.
        let (input, output) = &mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(input, "{line}").unwrap();
        answer(output)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // It ends the browser and takes away what that has written; killed if that takes too long.
        let lines = self.lines.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(lines.0, "{}", json!({"act": "end"}));
        let end = Instant::now() + LIMIT;
        while matches!(self.process.child().try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn answer(output: &mut BufReader<ChildStdout>) -> Value {
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("the browser's driver said {line:?}: {error}"))
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A part of the page, whether it is there or not.
#[derive(Clone)]
pub struct Place<'p> {
    page: &'p Page,
    path: Value,
}

impl Place<'_> {
    /// What is within it, by its role and its name; by its role alone if that is empty.
    #[must_use]
    pub fn at(&self, role: &str, name: &str) -> Self {
        let mut within = self.clone();
        if let Some(path) = within.path.as_array_mut() {
            path.push(json!([role, name]));
        }
        within
    }

    /// A row of a table, by what stands first in it.
    #[must_use]
    pub fn row(&self, head: &str) -> Self {
        self.at("row", head)
    }

    /// A cell of a row, by its column.
    #[must_use]
    pub fn cell(&self, column: &str) -> Self {
        self.at("cell", column)
    }

    #[must_use]
    pub fn button(&self, name: &str) -> Self {
        self.at("button", name)
    }

    #[track_caller]
    pub fn click(&self) {
        self.act("click", json!([]));
    }

    /// Puts a text in place of what a field has.
    #[track_caller]
    pub fn fill(&self, text: &str) {
        self.act("fill", json!([text]));
    }

    /// Chooses one of a field's options, by its text.
    #[track_caller]
    pub fn choose(&self, option: &str) {
        self.act("choose", json!([option]));
    }

    #[track_caller]
    pub fn check(&self) {
        self.act("check", json!([]));
    }

    /// Drags it somewhere else with the mouse.
    #[track_caller]
    pub fn drag_to(&self, other: &Place<'_>) {
        self.act("drag", json!([other.path]));
    }

    #[track_caller]
    pub fn shown_text(&self) -> String {
        string(&self.act("text", json!([])))
    }

    /// What a field has.
    #[track_caller]
    pub fn value(&self) -> String {
        string(&self.act("value", json!([])))
    }

    #[track_caller]
    pub fn is_enabled(&self) -> bool {
        self.act("is_enabled", json!([])) == true
    }

    #[track_caller]
    pub fn has_focus(&self) -> bool {
        self.act("has_focus", json!([])) == true
    }

    /// A property of it, or of one such as "validity.valid".
    #[track_caller]
    pub fn property(&self, name: &str) -> Value {
        self.act("property", json!([name]))
    }

    /// How many there are.
    #[track_caller]
    pub fn count(&self) -> u64 {
        self.act("count", json!([])).as_u64().unwrap()
    }

    #[track_caller]
    pub fn until_shown(&self) {
        self.act("until_shown", json!([]));
    }

    #[track_caller]
    pub fn until_gone(&self) {
        self.act("until_gone", json!([]));
    }

    /// Waits until its text is so.
    #[track_caller]
    pub fn until(&self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + LIMIT;
        loop {
            let text = self.shown_text();
            if is_so(&text) {
                return text;
            }
            assert!(
                Instant::now() < end,
                "{}: {text:?}, expected {what}\n{}",
                self.path,
                self.page.told()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until it says that and nothing else.
    #[track_caller]
    pub fn until_is(&self, expected: &str) {
        self.until(&format!("{expected:?}"), |text| text.trim() == expected);
    }

    /// Waits until it says that.
    #[track_caller]
    pub fn until_has(&self, expected: &str) {
        self.until(&format!("{expected:?}"), |text| text.contains(expected));
    }

    #[track_caller]
    fn act(&self, act: &str, values: Value) -> Value {
        self.page.act(self.path.clone(), act, values)
    }
}
