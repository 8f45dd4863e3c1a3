//! The terminal: taken at the start, given back at the end, however the program ends.
//!
//! Frames are written by a thread, so that a terminal that does not read (a stalled ssh) stops
//! neither signals nor actions.

use std::cell::RefCell;
use std::io::{self, IsTerminal, Write};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::unistd::{dup, dup2_stderr};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event};
use ratatui::crossterm::queue;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::layout::{Position, Rect};
use tokio::sync::mpsc;

/// True while the terminal is in raw mode and shows the other screen.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);
/// stderr, while log lines would disturb the screen.
static STDERR: Mutex<Option<OwnedFd>> = Mutex::new(None);
/// Keys that wait for the program.
const MAX_KEYS: usize = 64;
/// The time for the last frame at the end.
const LAST_FRAME: Duration = Duration::from_millis(300);

/// The bytes of the next frame.
#[derive(Debug, Clone, Default)]
struct FrameBytes(Rc<RefCell<Vec<u8>>>);

impl Write for FrameBytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The terminal. It is given back when this is dropped.
pub(super) struct TopTerminal {
    terminal: Terminal<CrosstermBackend<FrameBytes>>,
    bytes: FrameBytes,
    frames: std::sync::mpsc::Sender<Vec<u8>>,
    written: mpsc::UnboundedReceiver<io::Result<()>>,
    /// True until the last frame is written.
    pub(super) is_writing: bool,
}

impl TopTerminal {
    /// Takes the terminal.
    ///
    /// # Errors
    /// Fails if there is none.
    pub(super) fn take() -> io::Result<Self> {
        let mut bytes = FrameBytes::default();
        let terminal = Terminal::new(CrosstermBackend::new(bytes.clone()))?;
        let (frames, queue) = std::sync::mpsc::channel::<Vec<u8>>();
        let (done, written) = mpsc::unbounded_channel();
        let write = move || {
            for frame in queue {
                let mut out = io::stdout().lock();
                if done.send(out.write_all(&frame).and_then(|()| out.flush())).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("frames".to_owned()).spawn(write)?;
        restore_at_panics();
        enter(&mut bytes).inspect_err(|_| restore())?;
        Ok(Self { terminal, bytes, frames, written, is_writing: false })
    }

    /// Draws a frame: what has changed since the last one.
    pub(super) fn draw(&mut self, draw: impl FnOnce(Rect, &mut Buffer)) -> io::Result<()> {
        self.terminal.draw(|frame| draw(frame.area(), frame.buffer_mut()))?;
        let frame = self.bytes.0.take();
        self.is_writing = !frame.is_empty() && self.frames.send(frame).is_ok();
        Ok(())
    }

    /// Has the next frame draw everything. `Terminal::clear` would ask the terminal for its cursor,
    /// and the answer would go to the thread that reads keys.
    pub(super) fn forget(&mut self) -> io::Result<()> {
        let size = self.terminal.size()?;
        self.terminal.resize(Rect::from((Position::ORIGIN, size)))
    }

    /// Waits until the last frame is written. Cancel-safe.
    pub(super) async fn written(&mut self) -> io::Result<()> {
        let written = self.written.recv().await.unwrap_or(Ok(()));
        self.is_writing = false;
        written
    }

    /// Stops the process as Ctrl-Z does, and takes the terminal again when it goes on.
    pub(super) async fn suspend(&mut self) -> io::Result<()> {
        if self.is_writing {
            self.written().await?;
        }
        restore();
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGTSTP)?;
        self.resume()
    }

    /// Takes the terminal again, which another program may have used.
    pub(super) fn resume(&mut self) -> io::Result<()> {
        enter(&mut self.bytes)?;
        self.forget()
    }

    /// Gives the terminal back. One that does not read gets no more than its mode.
    pub(super) async fn end(mut self) {
        if self.is_writing && tokio::time::timeout(LAST_FRAME, self.written()).await.is_err() {
            IS_TAKEN.store(false, Ordering::Relaxed);
            let _ = disable_raw_mode();
            show_stderr();
        }
    }
}

impl Drop for TopTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Sets the terminal's mode; the next frame begins with the other screen.
fn enter(bytes: &mut FrameBytes) -> io::Result<()> {
    enable_raw_mode()?;
    IS_TAKEN.store(true, Ordering::Relaxed);
    hide_stderr();
    queue!(bytes, EnterAlternateScreen)
}

/// Gives the terminal back; does nothing if that is done.
fn restore() {
    if !IS_TAKEN.swap(false, Ordering::Relaxed) {
        return;
    }
    let mut out = io::stdout();
    // a terminal that is gone needs nothing
    let _ = queue!(out, LeaveAlternateScreen, Show).and_then(|()| out.flush());
    let _ = disable_raw_mode();
    show_stderr();
}

/// Gives the terminal back before a panic is reported.
fn restore_at_panics() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        restore();
        report(panic);
    }));
}

/// Drops log lines while they would disturb the screen.
fn hide_stderr() {
    let Ok(mut kept) = STDERR.lock() else { return };
    if kept.is_some() || !io::stderr().is_terminal() {
        return;
    }
    let (Ok(stderr), Ok(nothing)) = (dup(io::stderr()), std::fs::File::options().write(true).open("/dev/null")) else {
        return;
    };
    if dup2_stderr(&nothing).is_ok() {
        *kept = Some(stderr);
    }
}

fn show_stderr() {
    if let Ok(mut kept) = STDERR.lock()
        && let Some(stderr) = kept.take()
    {
        let _ = dup2_stderr(&stderr);
    }
}

/// Reads keys and changes of size in a thread, which ends with the process.
///
/// # Errors
/// Fails if the thread cannot be started.
pub(super) fn events() -> io::Result<mpsc::Receiver<Event>> {
    let (sender, events) = mpsc::channel(MAX_KEYS);
    let read = move || {
        while let Ok(event) = event::read() {
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("keys".to_owned()).spawn(read)?;
    Ok(events)
}
