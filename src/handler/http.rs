//! `http://…`, `https://…`: one POST per message. The status is the verdict.
//!
//! ```text
//!  2xx                    Done
//!  429, 503               Unavailable, after Retry-After (in seconds): the server takes nothing now
//!  no connection          Unavailable
//!  502, 504, no answer    Unanswered, after Retry-After
//!  408, other 5xx         Retry, after Retry-After
//!  3xx                    Retry: the address may be corrected
//!  401, 403, 404, 405     Unavailable, if all answers do so: wrong URL or access; else Drop
//!  other 4xx              Drop; Unavailable, if all answers since the start are this one, from
//!                         the fourth on
//! ```
//!
//! Redirects are not followed: most of them would turn a POST into a GET. A date in Retry-After is
//! ignored in favour of the worker's own delay, as a server's clock may differ. HTTP_PROXY and its
//! like apply to all hosts but this machine, as in NSQ's own nsq_to_http.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, LOCATION, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};

use crate::proto::{ChannelName, Message, TopicName};

use super::spec::shown;
use super::{CAPTURE_LIMIT, Handler, HandlerError, HandlerOptions, HttpUrl, LONGEST_DELAY, Verdict};
use crate::http::client::{BodyError, body, cause};
use crate::proto::excerpt;

/// The number of consecutive 401, 403, 404 and 405 that may be the messages' own fault once others
/// were taken.
const MAX_CHANCE_REFUSALS: u32 = 3;
/// The limit for reading an unused response, in bytes, so that its connection can be reused.
const DRAIN_LIMIT: usize = 256 * 1024;

/// The time limit for connecting, over all addresses of a name.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// Posts bodies to a URL over pooled connections.
#[derive(Debug)]
pub struct HttpHandler {
    client: Client,
    url: Url,
    /// The URL without secrets, for logs.
    shown: String,
    stream: TopicName,
    group: ChannelName,
    capture_output: bool,
    history: Mutex<AnswerHistory>,
}

/// The last responses, as evidence whether the URL and the access are right.
#[derive(Debug, Default)]
struct AnswerHistory {
    /// True if the server took or judged a message since the start.
    has_worked: bool,
    /// Consecutive 401, 403, 404 and 405.
    refusals: u32,
    /// Any other refusal that was every answer since the start, and how often it came.
    only: Option<(StatusCode, u32)>,
}

impl AnswerHistory {
    /// Records a status. Returns true if the URL or the access is wrong, and not the message: every
    /// response since the start, or the last few, refused.
    fn is_misconfigured(&mut self, status: StatusCode) -> bool {
        match status {
            StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED => {
                self.refusals = self.refusals.saturating_add(1);
                !self.has_worked || self.refusals > MAX_CHANCE_REFUSALS
            }
            // a failing or moved server is no evidence
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => false,
            // a judgement of each message, unless the first ones are all judged alike
            _ if status.is_client_error() && !self.has_worked && self.only.is_none_or(|(only, _)| only == status) => {
                let times = self.only.map_or(0, |(_, times)| times).saturating_add(1);
                self.only = Some((status, times));
                times > MAX_CHANCE_REFUSALS
            }
            _ if status.is_success() || status.is_client_error() => {
                (self.has_worked, self.refusals) = (true, 0);
                false
            }
            _ => false,
        }
    }
}

impl HttpHandler {
    /// Creates a handler for this URL; its user and password are sent as basic authentication. Does
    /// not connect yet. Fails if the client cannot be built.
    pub fn new(url: &HttpUrl, options: &HandlerOptions) -> Result<Self, HandlerError> {
        let client = crate::http::client::client_for(url.url()).redirect(Policy::none()).timeout(options.timeout);
        let client = client.connect_timeout(CONNECT_TIME.min(options.timeout));
        Ok(Self {
            client: client.build().map_err(HandlerError::HttpClient)?,
            url: url.url().clone(),
            shown: url.shown(),
            stream: options.stream.clone(),
            group: options.group.clone(),
            capture_output: options.capture_output,
            history: Mutex::default(),
        })
    }

    async fn verdict(&self, response: Response) -> Verdict {
        let status = response.status();
        let is_misconfigured = self.history.lock().unwrap_or_else(PoisonError::into_inner).is_misconfigured(status);
        if is_misconfigured {
            drain(response).await;
            let shown = &self.shown;
            return Verdict::Unavailable {
                after: None,
                why: format!(
                    "HTTP {status} from {shown} to every message: check the URL and its access; no message becomes a dead letter for this"
                ),
            };
        }
        if !status.is_success() {
            let verdict = self.refused(status, response.headers());
            drain(response).await;
            return verdict;
        }
        if self.capture_output {
            return self.captured(response).await;
        }
        drain(response).await;
        Verdict::Done(None)
    }

    /// Sends the message and waits for the response's head.
    async fn post(&self, message: Message) -> reqwest::Result<Response> {
        self.client
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/octet-stream")
            .header("x-mqueue-stream", self.stream.as_str())
            .header("x-mqueue-group", self.group.as_str())
            .header("x-mqueue-id", message.id.to_string())
            .header("x-mqueue-attempts", message.attempts)
            .header("x-mqueue-timestamp", message.timestamp)
            .body(message.body)
            .send()
            .await
    }

    /// Returns the verdict for a status other than 2xx.
    fn refused(&self, status: StatusCode, headers: &HeaderMap) -> Verdict {
        let why = format!("HTTP {status} from {}", self.shown);
        match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                Verdict::Unavailable { after: delay(headers), why }
            }
            StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => Verdict::Unanswered { after: delay(headers), why },
            StatusCode::REQUEST_TIMEOUT => Verdict::Retry { after: delay(headers), why },
            _ if status.is_server_error() => Verdict::Retry { after: delay(headers), why },
            _ if status.is_client_error() => Verdict::drop(why),
            _ => match self.location(headers) {
                Some(location) => Verdict::retry(format!("{why}: moved to {location}: use that URL instead")),
                None => Verdict::retry(why),
            },
        }
    }

    /// Returns the target of a redirect, for logs.
    fn location(&self, headers: &HeaderMap) -> Option<String> {
        let location = headers.get(LOCATION)?.to_str().ok()?;
        self.url.join(location).ok().map(|url| excerpt(shown(&url).as_bytes()))
    }

    /// Reads the response body that goes to the next hop.
    async fn captured(&self, response: Response) -> Verdict {
        match body(response, CAPTURE_LIMIT).await {
            Ok(body) => Verdict::Done(Some(Bytes::from(body))),
            Err(BodyError::TooLong(limit)) => {
                Verdict::drop(format!("answer of more than {limit} bytes from {}", self.shown))
            }
            Err(BodyError::Broken(error)) => {
                Verdict::retry(format!("answer cut off by {}: {}", self.shown, cause(&error)))
            }
        }
    }
}

impl Handler for HttpHandler {
    async fn handle(&self, message: Message) -> Verdict {
        match self.post(message).await {
            Ok(response) => self.verdict(response).await,
            Err(error) => {
                let why = format!("no answer from {}: {}", self.shown, cause(&error));
                if error.is_connect() { Verdict::unavailable(why) } else { Verdict::unanswered(why) }
            }
        }
    }
}

/// Reads an unused body up to a limit, past which a new connection is cheaper. The verdict is known
/// already, so errors do not matter.
async fn drain(mut response: Response) {
    let mut read = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        read += chunk.len();
        if read > DRAIN_LIMIT {
            return;
        }
    }
}

/// Returns the seconds of Retry-After, at most an hour.
fn delay(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_DELAY))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread::{self, JoinHandle};

    use super::*;
    use crate::handler::testing::{message, options};

    /// Accepts one connection, sends one of these responses per request, and returns the requests.
    fn serve(answers: Vec<String>) -> (String, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serving = thread::spawn(move || {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            let answered = answers.iter().map(|answer| {
                let request = read_request(&mut stream);
                stream.get_mut().write_all(answer.as_bytes()).unwrap();
                request
            });
            answered.collect()
        });
        (address, serving)
    }

    fn read_request(stream: &mut BufReader<TcpStream>) -> String {
        let mut request = String::new();
        while !request.ends_with("\r\n\r\n") {
            assert!(stream.read_line(&mut request).unwrap() > 0, "connection closed after {request:?}");
        }
        let length = request.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.unwrap().parse().unwrap()];
        stream.read_exact(&mut body).unwrap();
        request + &String::from_utf8(body).unwrap()
    }

    fn answer(status: &str, headers: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
    }

    fn handler(url: &str, options: &HandlerOptions) -> HttpHandler {
        HttpHandler::new(&url.parse().unwrap(), options).unwrap()
    }

    /// Returns the verdict for this response.
    async fn verdict(answer: String, options: HandlerOptions) -> (String, Verdict) {
        let (address, serving) = serve(vec![answer]);
        let verdict = handler(&format!("http://user:secret@{address}/hook?key=secret"), &options);
        let verdict = verdict.handle(message("a")).await;
        serving.join().unwrap();
        (address, verdict)
    }

    #[tokio::test]
    async fn requests_describe_the_message_and_reuse_connections() {
        let (address, serving) = serve(vec![answer("200 OK", "", "unread"), answer("204 No Content", "", "")]);
        let handler = handler(&format!("http://user:secret@{address}/hook?a=b"), &options());
        assert_eq!(handler.handle(message("one")).await, Verdict::Done(None));
        assert_eq!(handler.handle(message("two")).await, Verdict::Done(None));
        let requests = serving.join().unwrap();
        assert!(requests[0].starts_with("POST /hook?a=b HTTP/1.1\r\n"), "{requests:?}");
        for line in [
            "content-type: application/octet-stream",
            concat!("user-agent: mqueue/", env!("CARGO_PKG_VERSION")),
            "authorization: Basic dXNlcjpzZWNyZXQ=",
            "x-mqueue-stream: foo",
            "x-mqueue-group: 1",
            "x-mqueue-id: 0123456789abcdef",
            "x-mqueue-attempts: 2",
            "x-mqueue-timestamp: 1700000000123456789",
        ] {
            assert!(requests[0].lines().any(|given| given == line), "{line}: {requests:?}");
        }
        assert!(requests[0].ends_with("\r\n\r\none") && requests[1].ends_with("\r\n\r\ntwo"), "{requests:?}");
    }

    #[tokio::test]
    async fn status_decides_the_verdict() {
        let hour = Some(Duration::from_secs(3600));
        for (status, headers, after) in [
            ("408 Request Timeout", "retry-after: 7\r\n", Some(Duration::from_secs(7))),
            ("500 Internal Server Error", "", None),
        ] {
            let (address, verdict) = verdict(answer(status, headers, "sorry"), options()).await;
            let why = format!("HTTP {status} from http://{address}/hook");
            assert_eq!(verdict, Verdict::Retry { after, why }, "{status} {headers}");
        }
        for (status, headers, after) in [
            ("429 Too Many Requests", "retry-after: 7\r\n", Some(Duration::from_secs(7))),
            ("503 Service Unavailable", "retry-after: 99999\r\n", hour),
            ("503 Service Unavailable", "retry-after: Wed, 21 Oct 2015 07:28:00 GMT\r\n", None),
        ] {
            let (address, verdict) = verdict(answer(status, headers, "sorry"), options()).await;
            let why = format!("HTTP {status} from http://{address}/hook");
            assert_eq!(verdict, Verdict::Unavailable { after, why }, "{status} {headers}");
        }
        for status in ["502 Bad Gateway", "504 Gateway Timeout"] {
            let (address, verdict) = verdict(answer(status, "", "sorry"), options()).await;
            let why = format!("HTTP {status} from http://{address}/hook");
            assert_eq!(verdict, Verdict::Unanswered { after: None, why });
        }
        for status in ["400 Bad Request", "410 Gone", "422 Unprocessable Entity"] {
            let (address, verdict) = verdict(answer(status, "retry-after: 7\r\n", ""), options()).await;
            assert_eq!(verdict, Verdict::drop(format!("HTTP {status} from http://{address}/hook")));
        }
    }

    #[test]
    fn single_refusals_blame_the_message_and_consecutive_ones_the_configuration() {
        let mut history = AnswerHistory::default();
        for refusal in [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::NOT_FOUND] {
            assert!(history.is_misconfigured(refusal), "nothing worked so far: {refusal}");
        }
        assert!(!history.is_misconfigured(StatusCode::OK));
        for _ in 0..MAX_CHANCE_REFUSALS {
            assert!(!history.is_misconfigured(StatusCode::NOT_FOUND));
        }
        assert!(!history.is_misconfigured(StatusCode::BAD_GATEWAY));
        assert!(history.is_misconfigured(StatusCode::NOT_FOUND), "a server in trouble is no other answer");
        assert!(!history.is_misconfigured(StatusCode::UNPROCESSABLE_ENTITY), "a message was judged");
        assert!(!history.is_misconfigured(StatusCode::NOT_FOUND));
    }

    #[test]
    fn one_refusal_of_all_messages_of_a_run_is_not_theirs_from_the_fourth_on() {
        let mut answers = AnswerHistory::default();
        let seen = [StatusCode::BAD_REQUEST; 5].map(|status| answers.is_misconfigured(status));
        assert_eq!(seen, [false, false, false, true, true]);
        assert!(!answers.is_misconfigured(StatusCode::BAD_GATEWAY), "no judgement");
        assert!(answers.is_misconfigured(StatusCode::BAD_REQUEST));
        assert!(!answers.is_misconfigured(StatusCode::GONE), "another one: messages are told apart");
        assert_eq!([StatusCode::BAD_REQUEST; 5].map(|status| answers.is_misconfigured(status)), [false; 5]);
        let mut answers = AnswerHistory::default();
        assert!(!answers.is_misconfigured(StatusCode::OK));
        assert_eq!([StatusCode::BAD_REQUEST; 5].map(|status| answers.is_misconfigured(status)), [false; 5]);
        assert!(AnswerHistory::default().is_misconfigured(StatusCode::METHOD_NOT_ALLOWED), "as 404");
    }

    #[tokio::test]
    async fn a_redirect_is_a_retry_that_names_the_new_address() {
        let (address, verdict) = verdict(answer("302 Found", "location: /new?key=secret\r\n", ""), options()).await;
        let why =
            format!("HTTP 302 Found from http://{address}/hook: moved to http://{address}/new: use that URL instead");
        assert_eq!(verdict, Verdict::retry(why));
    }

    #[tokio::test]
    async fn response_bodies_are_kept_for_the_next_hop() {
        let options = HandlerOptions { capture_output: true, ..options() };
        let (_, kept) = verdict(answer("200 OK", "", "result"), options.clone()).await;
        assert_eq!(kept, Verdict::Done(Some("result".into())));

        let cut_off = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf".to_owned();
        let (address, cut_off) = verdict(cut_off, options).await;
        let Verdict::Retry { why, .. } = cut_off else { panic!("{cut_off:?}") };
        assert!(why.starts_with(&format!("answer cut off by http://{address}/hook: ")), "{why}");
    }

    #[tokio::test]
    async fn a_timeout_counts_as_a_try_and_a_refused_connection_does_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let brief = HandlerOptions { timeout: Duration::from_millis(50), ..options() };
        let url = format!("http://user:secret@{address}/?key=secret");
        let verdict = handler(&url, &brief).handle(message("a")).await;
        assert_eq!(verdict, Verdict::unanswered(format!("no answer from http://{address}/: timed out")));

        drop(listener);
        let verdict = handler(&url, &options()).handle(message("a")).await;
        let why = format!("no answer from http://{address}/: connection refused");
        assert_eq!(verdict, Verdict::Unavailable { after: None, why });
    }

    #[tokio::test]
    async fn https_begins_with_a_tls_handshake() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        let serving = thread::spawn(move || {
            let mut first = [0];
            listener.accept().unwrap().0.read_exact(&mut first).unwrap();
            first
        });
        let verdict = handler(&url, &options()).handle(message("a")).await;
        assert!(matches!(verdict, Verdict::Unavailable { .. }), "{verdict:?}");
        assert_eq!(serving.join().unwrap(), [0x16]);
    }
}
