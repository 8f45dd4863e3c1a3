//! The full-screen view: keys, listings, results of actions and signals, one after the other.

use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ratatui::crossterm::event::Event;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};

use super::actions::{ActionPlan, perform, prepare};
use super::args::Args;
use super::clients::ClientList;
use super::draw::{Palette, draw};
use super::keys::meaning;
use super::messages::MessageList;
use super::state::{TopEffect, TopInput, TopScreen, TopState, TopStatus};
use super::terminal::{TopTerminal, events};
use super::view::ScreenSize;
use crate::commands::common::cluster_listing::{ClusterListing, ClusterWatch};
use crate::commands::common::exit::{Exit, Failure};
use mqueue::cluster::{ClusterApis, QueueTarget};
use mqueue::io_error::describe;

/// The part of the time that asking for clients or messages may take.
const LIST_SHARE: u32 = 10;

/// The view, until it ends.
struct TopSession {
    args: Arc<Args>,
    cluster: ClusterApis,
    watch: ClusterWatch,
    state: TopState,
    palette: Palette,
    tasks: JoinSet<TaskEnd>,
    /// The action that is asked about.
    plan: Option<ActionPlan>,
    preparing: Option<AbortHandle>,
    /// The task that asks for the clients or messages on the screen.
    listing: Option<AbortHandle>,
    /// True if the screen does not show the state.
    is_changed: bool,
}

/// The result of a task.
enum TaskEnd {
    Prepared(Result<ActionPlan, String>),
    Performed(TopStatus),
    /// The clients, and the time that asking took.
    Clients(ClientList, Duration),
    /// The messages, and the time that asking took.
    Messages(MessageList, Duration),
}

/// The signals that end the view, or continue it.
struct TopSignals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    carry_on: Signal,
}

/// Runs the view until a key or a signal ends it.
pub(super) async fn run(args: Args, cluster: ClusterApis, palette: Palette) -> anyhow::Result<Exit> {
    let watch = ClusterWatch::start(cluster.clone(), args.sockets.clone(), args.interval).await;
    let mut listings = watch.subscribe();
    let first = Arc::clone(&listings.borrow_and_update());
    first.check_that_one_answered()?;
    let mut signals = TopSignals::new()?;
    let state = TopState::new(first, args.filter.clone(), args.all, Instant::now());
    let mut session = TopSession {
        args: Arc::new(args),
        cluster,
        watch,
        state,
        palette,
        tasks: JoinSet::new(),
        plan: None,
        preparing: None,
        listing: None,
        is_changed: true,
    };
    let no_terminal = |error: io::Error| {
        Failure::new(Exit::Usage, format!("cannot use the terminal: {}: give --once or --json", describe(&error)))
    };
    let mut terminal = TopTerminal::take().map_err(no_terminal)?;
    let mut keys = events()?;
    let ended = session.turn(&mut terminal, &mut keys, &mut listings, &mut signals).await;
    terminal.end().await;
    match ended {
        // a terminal that is gone: the signal that says so is on its way, or was ignored
        Err(error) => {
            tracing::debug!("the terminal is gone: {}", describe(&error));
            Ok(Exit::Success)
        }
        Ok(ended) => ended,
    }
}

impl TopSignals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            carry_on: signal(SignalKind::from_raw(nix::libc::SIGCONT))?,
        })
    }
}

impl TopSession {
    /// Handles events until one ends the view. Fails if the terminal does.
    async fn turn(
        &mut self,
        terminal: &mut TopTerminal,
        keys: &mut mpsc::Receiver<Event>,
        listings: &mut watch::Receiver<Arc<ClusterListing>>,
        signals: &mut TopSignals,
    ) -> io::Result<anyhow::Result<Exit>> {
        loop {
            if self.is_changed && !terminal.is_writing {
                self.draw(terminal)?;
            }
            tokio::select! {
                _ = signals.hangup.recv() => return Ok(Ok(Exit::Success)),
                _ = signals.terminate.recv() => return Ok(Ok(Exit::Success)),
                _ = signals.interrupt.recv() => return Ok(Ok(Exit::Success)),
                _ = signals.carry_on.recv() => {
                    terminal.resume()?;
                    self.is_changed = true;
                }
                written = terminal.written(), if terminal.is_writing => written?,
                event = keys.recv() => match event {
                    Some(event) => if let Some(ended) = self.take(&event, terminal).await? {
                        return Ok(Ok(ended));
                    },
                    None => return Ok(Ok(Exit::Success)),
                },
                changed = listings.changed() => {
                    if changed.is_err() {
                        return Ok(Err(anyhow::anyhow!("the nsqds are not asked any more")));
                    }
                    let listing = Arc::clone(&listings.borrow_and_update());
                    self.state.update(listing, Instant::now());
                    self.is_changed = true;
                }
                Some(end) = self.tasks.join_next() => self.finish(end),
            }
        }
    }

    fn draw(&mut self, terminal: &mut TopTerminal) -> io::Result<()> {
        let (state, palette) = (&mut self.state, self.palette);
        terminal.draw(|area, buffer| {
            let (width, height) = (usize::from(area.width), usize::from(area.height));
            let size = ScreenSize { width, height, is_ascii: palette.is_ascii };
            draw(&state.view(size, Instant::now(), unix_time()), palette, area, buffer);
        })?;
        self.is_changed = false;
        Ok(())
    }

    /// Handles a key or a change of the terminal's size; returns the exit code of the last one.
    async fn take(&mut self, event: &Event, terminal: &mut TopTerminal) -> io::Result<Option<Exit>> {
        let key = match event {
            Event::Key(key) => meaning(*key, &self.state.input),
            _ => None,
        };
        self.is_changed |= key.is_some();
        if matches!(event, Event::Resize(..)) {
            // also where the size is the last frame's: the terminal had another one in between
            terminal.forget()?;
            self.is_changed = true;
        }
        let Some(key) = key else { return Ok(None) };
        match self.state.press(key) {
            None | Some(TopEffect::Decline) => {}
            Some(TopEffect::Quit) => return Ok(Some(Exit::Success)),
            Some(TopEffect::Suspend) => terminal.suspend().await?,
            Some(TopEffect::Redraw) => terminal.forget()?,
            Some(TopEffect::Refresh) => self.watch.refresh(),
            Some(TopEffect::Prepare(action, target)) => {
                self.preparing.take().inspect(AbortHandle::abort);
                let prepared = prepare(self.cluster.clone(), Arc::clone(&self.args), action, target);
                self.preparing = Some(self.tasks.spawn(async { TaskEnd::Prepared(prepared.await) }));
            }
            Some(TopEffect::Confirm) => {
                if let Some(plan) = self.plan.take() {
                    self.state.status = Some(TopStatus { text: "working …".to_owned(), is_error: false });
                    let performed = perform(self.cluster.clone(), Arc::clone(&self.args), plan);
                    self.tasks.spawn(async { TaskEnd::Performed(performed.await) });
                }
            }
            Some(TopEffect::OpenClients(target)) => self.ask_for_clients(target, Duration::ZERO),
            Some(TopEffect::OpenMessages(target)) => self.ask_for_messages(target, Duration::ZERO),
            Some(TopEffect::CloseList) => drop(self.listing.take().inspect(AbortHandle::abort)),
        }
        Ok(None)
    }

    /// Asks for the clients after a pause.
    fn ask_for_clients(&mut self, target: QueueTarget, pause: Duration) {
        let cluster = self.cluster.clone();
        let task = self.tasks.spawn(async move {
            tokio::time::sleep(pause).await;
            let begun = Instant::now();
            let clients = ClientList::ask(&cluster, target).await;
            TaskEnd::Clients(clients, begun.elapsed())
        });
        self.listing.replace(task).inspect(AbortHandle::abort);
    }

    /// Asks for the messages after a pause.
    fn ask_for_messages(&mut self, target: QueueTarget, pause: Duration) {
        let cluster = self.cluster.clone();
        let task = self.tasks.spawn(async move {
            tokio::time::sleep(pause).await;
            let begun = Instant::now();
            let messages = MessageList::ask(&cluster, target).await;
            TaskEnd::Messages(messages, begun.elapsed())
        });
        self.listing.replace(task).inspect(AbortHandle::abort);
    }

    /// Takes a task's result. A panic ends the program.
    fn finish(&mut self, end: Result<TaskEnd, JoinError>) {
        self.is_changed = true;
        match end {
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            // it was given up
            Err(_) => {}
            Ok(TaskEnd::Prepared(Ok(plan))) => {
                self.state.status = None;
                self.state.input = TopInput::Question(plan.question.clone());
                self.plan = Some(plan);
            }
            Ok(TaskEnd::Prepared(Err(text))) => self.state.status = Some(TopStatus { text, is_error: true }),
            Ok(TaskEnd::Performed(status)) => {
                self.state.status = Some(status);
                self.watch.refresh();
            }
            Ok(TaskEnd::Clients(clients, took)) => {
                let target = clients.target.clone();
                if let TopScreen::Clients(shown) = &mut self.state.screen
                    && shown.target == target
                {
                    shown.renew(clients);
                    let pause = self.args.interval.max(took * LIST_SHARE);
                    self.ask_for_clients(target, pause);
                }
            }
            Ok(TaskEnd::Messages(messages, took)) => {
                let target = messages.target.clone();
                if let TopScreen::Messages(shown) = &mut self.state.screen
                    && shown.target == target
                {
                    shown.renew(messages);
                    let pause = self.args.interval.max(took * LIST_SHARE);
                    self.ask_for_messages(target, pause);
                }
            }
        }
    }
}

/// Returns the seconds since 1970.
fn unix_time() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
