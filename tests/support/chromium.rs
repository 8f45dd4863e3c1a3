//! Headless Chromium, driven by tests/peers/chromium/driver.js.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{PATIENCE, skip};

/// A browser with one page.
pub struct Chromium {
    child: Child,
    /// `None` once the driver has to end.
    stdin: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Chromium {
    /// Starts the driver; the browser starts with the first page. `None`, loudly, if a part is
    /// missing.
    pub fn start() -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let modules = root.join("target/peers/chromium/node_modules");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let find = |name: &str| std::env::split_paths(&path).map(|folder| folder.join(name)).find(|it| it.is_file());
        let (Some(chromium), Some(node)) = (find("chromium"), find("node")) else {
            skip("chromium or node is missing (apt-get install chromium npm)");
            return None;
        };
        if !modules.join("playwright-core").exists() {
            skip("playwright-core is missing (scripts/clients fetches it)");
            return None;
        }
        Some(Self::run(&node, &chromium, &modules, &root.join("tests/peers/chromium/driver.js")))
    }

    fn run(node: &Path, chromium: &Path, modules: &Path, driver: &Path) -> Self {
        let mut child = Command::new(node)
            .arg(driver)
            .env("CHROMIUM", chromium)
            .env("PLAYWRIGHT_MODULES", modules)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node is a program");
        let stdin = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, stdin, answers }
    }

    /// Does a command; returns its answer, or the error of the browser.
    pub fn try_do(&mut self, command: &Value) -> Result<Value, String> {
        writeln!(self.stdin.as_ref().expect("it runs"), "{command}").expect("the driver reads");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the driver answers");
        let mut answer: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{command}: {line:?}"));
        match answer.get("error").and_then(Value::as_str) {
            Some(error) => Err(error.to_owned()),
            None => Ok(answer["ok"].take()),
        }
    }

    #[track_caller]
    fn run_command(&mut self, command: &Value) -> Value {
        self.try_do(command).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Opens a page in a fresh window of this size.
    #[track_caller]
    pub fn open(&mut self, url: &str, (width, height): (u32, u32), dark: bool) {
        self.run_command(&json!({"do": "open", "url": url, "width": width, "height": height, "dark": dark}));
    }

    /// Returns the text of the elements that the selector finds.
    #[track_caller]
    pub fn text(&mut self, at: &str) -> String {
        self.run_command(&json!({"do": "text", "at": at})).as_str().unwrap_or_default().to_owned()
    }

    /// Returns the number of elements that the selector finds.
    #[track_caller]
    pub fn count(&mut self, at: &str) -> u64 {
        self.run_command(&json!({"do": "count", "at": at})).as_u64().unwrap_or_default()
    }

    #[track_caller]
    pub fn click(&mut self, at: &str) {
        self.run_command(&json!({"do": "click", "at": at}));
    }

    #[track_caller]
    pub fn fill(&mut self, at: &str, text: &str) {
        self.run_command(&json!({"do": "fill", "at": at, "text": text}));
    }

    #[track_caller]
    pub fn press(&mut self, key: &str) {
        self.run_command(&json!({"do": "press", "key": key}));
    }

    /// Runs a script in the page; returns its value.
    #[track_caller]
    pub fn eval(&mut self, script: &str) -> Value {
        self.run_command(&json!({"do": "eval", "script": script}))
    }

    /// Saves a picture of the window.
    #[track_caller]
    pub fn shot(&mut self, path: &Path) {
        self.run_command(&json!({"do": "shot", "path": path}));
    }

    /// Waits until the elements that the selector finds have this text among theirs.
    #[track_caller]
    pub fn wait_for(&mut self, at: &str, words: &str) {
        let (start, mut text) = (Instant::now(), String::new());
        while !text.contains(words) {
            text = self.text(at);
            assert!(start.elapsed() < PATIENCE, "waited in vain for {words:?} at {at:?}: {text:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Fails if a script asked something.
    #[track_caller]
    pub fn assert_no_dialogs(&mut self) {
        let seen = self.run_command(&json!({"do": "seen"}));
        assert_eq!(seen["dialogs"], json!([]), "{seen}");
    }

    /// Fails if a script failed, was refused or asked something, or a request went elsewhere.
    #[track_caller]
    pub fn assert_calm(&mut self, origin: &str) {
        let seen = self.run_command(&json!({"do": "seen"}));
        assert_eq!((&seen["errors"], &seen["dialogs"]), (&json!([]), &json!([])), "{seen}");
        let requests = seen["requests"].as_array().expect("a list");
        let is_own = |url: &&Value| url.as_str().is_some_and(|url| url.starts_with(origin) || url.starts_with("data:"));
        assert!(requests.iter().all(|url| is_own(&url)), "{requests:?}");
    }
}

/// The folder for pictures: that of the repository if `MQUEUE_SCREENSHOTS` is set.
pub fn pictures() -> Option<PathBuf> {
    std::env::var_os("MQUEUE_SCREENSHOTS").map(|_| Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/images"))
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // the driver closes the browser when its stdin ends
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}
