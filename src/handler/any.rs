//! From a [`HandlerSpec`] to a handler that runs: [`AnyHandler`], and what is checked before the first message comes.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::client::Address;
use crate::proto::{ChannelName, Message, TopicName};

use super::exec::ExecHandler;
use super::file::{FileHandler, FileOptions};
use super::forward::ForwardHandler;
use super::http::HttpHandler;
use super::pipe::PipeHandler;
use super::print::{PrintHandler, PrintOutput};
use super::sleep::SleepHandler;
use super::unix::UnixHandler;
use super::{Handler, HandlerSpec, Verdict};
use crate::io_error::why;

/// What a handler is told beside its [`HandlerSpec`].
#[derive(Debug, Clone)]
pub struct HandlerOptions {
    /// The stream (topic) that the messages come from.
    pub stream: TopicName,
    /// The group (channel) that the messages come from.
    pub group: ChannelName,
    /// What `print` writes of a message.
    pub output: PrintOutput,
    /// How `file` writes.
    pub file: FileOptions,
    /// How long one run of a command, or one request, may take.
    pub timeout: Duration,
    /// Cancelled by `print` when the reader of its pipe has gone away: no message can be handled any more. Heeded by `pipe`, which then
    /// starts no command anew.
    pub stop: CancellationToken,
    /// True where the answer goes to a next hop: `exec`, `pipe` and `http` keep it in [`Verdict::Done`] instead of passing a
    /// command's output through.
    pub capture_output: bool,
    /// Where `forward` publishes: the nsqds that are known by address.
    pub nsqd: Vec<Address>,
    /// Environment variables that commands do not inherit, besides those that may hold secrets of this program.
    pub withheld: Vec<String>,
}

/// Why a handler cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum HandlerError {
    /// No such program.
    #[error("command {0:?} not found: give its path, or add its folder to PATH")]
    CommandNotFound(String),
    /// There is such a file, but not to be run.
    #[error("command {0:?} is not executable: make it so with chmod +x")]
    CommandNotExecutable(String),
    /// The file cannot be opened or made.
    #[error("cannot append to {path:?}: {}", why(.source))]
    File {
        /// The file as named.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `forward` without an nsqd known by address.
    #[error("no nsqd to forward to: name one with --nsqd-tcp-address")]
    NowhereToForward,
    /// `forward` to where the messages come from.
    #[error("stream {0} would feed itself: name another one to pass messages on to")]
    FeedsItself(TopicName),
    /// Standard output is closed.
    #[error("cannot use standard output: {}", why(.0))]
    Stdout(#[source] io::Error),
    /// The system gives no thread or signal.
    #[error("cannot start a handler: {}", why(.0))]
    System(#[source] io::Error),
    /// The HTTP client did not start: the system has no certificates for https.
    #[error("{}", crate::http::client::not_built(.0))]
    HttpClient(#[source] reqwest::Error),
}

/// One of the handlers that every command offers.
#[derive(Debug)]
pub enum AnyHandler {
    /// `print`
    Print(PrintHandler),
    /// `exec:COMMAND`
    Exec(ExecHandler),
    /// `pipe:COMMAND`
    Pipe(PipeHandler),
    /// `http://…`, `https://…`
    Http(HttpHandler),
    /// `file:PATH`
    File(FileHandler),
    /// `unix:PATH`
    Unix(UnixHandler),
    /// `forward:STREAM`
    Forward(ForwardHandler),
    /// `sleep:20ms..50ms`
    Sleep(SleepHandler),
}

impl HandlerSpec {
    /// Makes the handler ready to run, inside a tokio runtime. Fails on what can be known before the first message: a
    /// command that does not exist, a file that cannot be appended to (it is created), no standard output.
    pub fn build(&self, options: &HandlerOptions) -> Result<AnyHandler, HandlerError> {
        Ok(match self {
            Self::Print => AnyHandler::Print(PrintHandler::new(options)?),
            Self::Exec(command) => AnyHandler::Exec(ExecHandler::new(command, options)?),
            Self::Pipe(command) => AnyHandler::Pipe(PipeHandler::new(command, options)?),
            Self::Http(url) => AnyHandler::Http(HttpHandler::new(url, options)?),
            Self::File(path) => AnyHandler::File(FileHandler::new(path, options)?),
            Self::Unix(path) => AnyHandler::Unix(UnixHandler::new(path.clone(), options.timeout)),
            Self::Forward(stream) => AnyHandler::Forward(ForwardHandler::new(stream.clone(), options)?),
            Self::Sleep(range) => AnyHandler::Sleep(SleepHandler::new(*range)),
        })
    }
}

impl Handler for AnyHandler {
    async fn handle(&self, message: Message) -> Verdict {
        match self {
            Self::Print(handler) => handler.handle(message).await,
            Self::Exec(handler) => handler.handle(message).await,
            Self::Pipe(handler) => handler.handle(message).await,
            Self::Http(handler) => handler.handle(message).await,
            Self::File(handler) => handler.handle(message).await,
            Self::Unix(handler) => handler.handle(message).await,
            Self::Forward(handler) => handler.handle(message).await,
            Self::Sleep(handler) => handler.handle(message).await,
        }
    }

    fn batch_size(&self) -> usize {
        match self {
            Self::Print(handler) => handler.batch_size(),
            Self::Exec(handler) => handler.batch_size(),
            Self::Pipe(handler) => handler.batch_size(),
            Self::Http(handler) => handler.batch_size(),
            Self::File(handler) => handler.batch_size(),
            Self::Unix(handler) => handler.batch_size(),
            Self::Forward(handler) => handler.batch_size(),
            Self::Sleep(handler) => handler.batch_size(),
        }
    }

    async fn handle_batch(&self, messages: Vec<Message>) -> Vec<Verdict> {
        match self {
            Self::Print(handler) => handler.handle_batch(messages).await,
            Self::Exec(handler) => handler.handle_batch(messages).await,
            Self::Pipe(handler) => handler.handle_batch(messages).await,
            Self::Http(handler) => handler.handle_batch(messages).await,
            Self::File(handler) => handler.handle_batch(messages).await,
            Self::Unix(handler) => handler.handle_batch(messages).await,
            Self::Forward(handler) => handler.handle_batch(messages).await,
            Self::Sleep(handler) => handler.handle_batch(messages).await,
        }
    }

    async fn close(&self) {
        match self {
            Self::Pipe(handler) => handler.close().await,
            Self::Print(_) | Self::Exec(_) | Self::Http(_) | Self::File(_) => {}
            Self::Unix(_) | Self::Forward(_) | Self::Sleep(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handler::testing::{message, options};

    #[tokio::test]
    async fn each_spec_builds_its_handler() {
        let folder = tempfile::tempdir().unwrap();
        let file = format!("file:{}", folder.path().join("log").display());
        let built = |spec: &str| spec.parse::<HandlerSpec>().unwrap().build(&options()).unwrap();
        assert!(matches!(built("print"), AnyHandler::Print(_)));
        assert!(matches!(built("exec:true"), AnyHandler::Exec(_)));
        assert!(matches!(built("pipe:true"), AnyHandler::Pipe(_)));
        assert!(matches!(built("http://localhost/"), AnyHandler::Http(_)));
        assert!(matches!(built(&file), AnyHandler::File(_)));
        assert!(matches!(built("unix:/run/peer"), AnyHandler::Unix(_)));
        assert!(matches!(built("forward:bar"), AnyHandler::Forward(_)));
        assert!(matches!(built("sleep:1ms"), AnyHandler::Sleep(_)));
        assert!(built("print").batch_size() > 1 && built(&file).batch_size() > 1);
        assert_eq!(built("exec:true").batch_size(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_of_one_by_one_handlers_has_a_verdict_a_message() {
        let handler = "sleep:1ms".parse::<HandlerSpec>().unwrap().build(&options()).unwrap();
        let verdicts = handler.handle_batch(vec![message("a"), message("b")]).await;
        assert_eq!(verdicts, [Verdict::Done(None), Verdict::Done(None)]);
    }

    #[tokio::test]
    async fn what_cannot_work_is_said_before_the_first_message() {
        for (spec, error) in [
            ("exec:nosuch --flag", r#"command "nosuch" not found: give its path, or add its folder to PATH"#),
            ("pipe:nosuch", r#"command "nosuch" not found: give its path, or add its folder to PATH"#),
            ("exec:/etc/passwd", r#"command "/etc/passwd" is not executable: make it so with chmod +x"#),
            ("file:/nosuch/log", r#"cannot append to "/nosuch/log": no such file or directory"#),
            ("file:/etc", r#"cannot append to "/etc": is a directory"#),
        ] {
            let built = spec.parse::<HandlerSpec>().unwrap().build(&options());
            assert_eq!(built.unwrap_err().to_string(), error, "{spec}");
        }
    }
}
