//! Building a handler from its [`HandlerSpec`], with the checks before the first message:
//! [`BuiltinHandler`].

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::client::{Address, ConnectConfig};
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
use crate::io_error::describe;

/// The settings of a handler beside its [`HandlerSpec`].
#[derive(Debug, Clone)]
pub struct HandlerOptions {
    /// The source stream (topic).
    pub stream: TopicName,
    /// The source group (channel).
    pub group: ChannelName,
    /// The output format of `print`.
    pub output: PrintOutput,
    /// The options of `file`.
    pub file: FileOptions,
    /// The time limit of one run of a command, or of one request.
    pub timeout: Duration,
    /// Cancelled by `print` when the reader of its pipe has gone: no further message can be
    /// handled. `pipe` starts no new run of its command after that.
    pub stop: CancellationToken,
    /// True if the result goes to a next hop: `exec`, `pipe` and `http` then keep it in
    /// [`Verdict::Done`] instead of passing a command's output through.
    pub capture_output: bool,
    /// The nsqds that `forward` publishes to: those known by address.
    pub nsqd: Vec<Address>,
    /// Settings of the connections to these nsqds.
    pub connect: ConnectConfig,
    /// Environment variables that commands do not inherit, besides those that may hold secrets of
    /// this program.
    pub withheld: Vec<String>,
}

/// The reason why a handler cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum HandlerError {
    /// The program does not exist.
    #[error("command {0:?} not found: give its path, or add its folder to PATH")]
    CommandNotFound(String),
    /// The file exists and is not executable.
    #[error("command {0:?} is not executable: make it so with chmod +x")]
    CommandNotExecutable(String),
    /// The file cannot be opened or created.
    #[error("cannot append to {path:?}: {}", describe(.source))]
    File {
        /// The path as given.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// `forward` without an nsqd known by address.
    #[error("no nsqd to forward to: name one with --nsqd-tcp-address")]
    NowhereToForward,
    /// `forward` to the source stream.
    #[error("stream {0} would feed itself: name another one to pass messages on to")]
    FeedsItself(TopicName),
    /// Standard output is closed.
    #[error("cannot use standard output: {}", describe(.0))]
    Stdout(#[source] io::Error),
    /// The system refuses a thread or a signal handler.
    #[error("cannot start a handler: {}", describe(.0))]
    System(#[source] io::Error),
    /// The HTTP client cannot be built: the system has no certificates for HTTPS.
    #[error("{}", crate::http::client::build_error(.0))]
    HttpClient(#[source] reqwest::Error),
}

/// One of the built-in handlers.
#[derive(Debug)]
pub enum BuiltinHandler {
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
    /// Builds the handler. Needs a tokio runtime. Fails on errors that are known before the first
    /// message: a missing command, a file that cannot be appended to (it is created), a closed
    /// standard output.
    pub fn build(&self, options: &HandlerOptions) -> Result<BuiltinHandler, HandlerError> {
        Ok(match self {
            Self::Print => BuiltinHandler::Print(PrintHandler::new(options)?),
            Self::Exec(command) => BuiltinHandler::Exec(ExecHandler::new(command, options)?),
            Self::Pipe(command) => BuiltinHandler::Pipe(PipeHandler::new(command, options)?),
            Self::Http(url) => BuiltinHandler::Http(HttpHandler::new(url, options)?),
            Self::File(path) => BuiltinHandler::File(FileHandler::new(path, options)?),
            Self::Unix(path) => BuiltinHandler::Unix(UnixHandler::new(path.clone(), options.timeout)),
            Self::Forward(stream) => BuiltinHandler::Forward(ForwardHandler::new(stream.clone(), options)?),
            Self::Sleep(range) => BuiltinHandler::Sleep(SleepHandler::new(*range)),
        })
    }
}

impl Handler for BuiltinHandler {
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
        assert!(matches!(built("print"), BuiltinHandler::Print(_)));
        assert!(matches!(built("exec:true"), BuiltinHandler::Exec(_)));
        assert!(matches!(built("pipe:true"), BuiltinHandler::Pipe(_)));
        assert!(matches!(built("http://localhost/"), BuiltinHandler::Http(_)));
        assert!(matches!(built(&file), BuiltinHandler::File(_)));
        assert!(matches!(built("unix:/run/peer"), BuiltinHandler::Unix(_)));
        assert!(matches!(built("forward:bar"), BuiltinHandler::Forward(_)));
        assert!(matches!(built("sleep:1ms"), BuiltinHandler::Sleep(_)));
        assert!(built("print").batch_size() > 1 && built(&file).batch_size() > 1);
        assert_eq!(built("exec:true").batch_size(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn handlers_without_batches_return_a_verdict_per_message() {
        let handler = "sleep:1ms".parse::<HandlerSpec>().unwrap().build(&options()).unwrap();
        let verdicts = handler.handle_batch(vec![message("a"), message("b")]).await;
        assert_eq!(verdicts, [Verdict::Done(None), Verdict::Done(None)]);
    }

    #[tokio::test]
    async fn known_errors_are_reported_before_the_first_message() {
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
