//! The handler with real commands.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::time::{Instant, pause};

use super::*;
use crate::handler::testing::{TestPipe, message, options, rest};
use crate::proto::MessageId;

/// Returns a script that runs `answer` for each `$line`.
fn each(answer: &str) -> String {
    format!("while read -r line; do {answer}; done")
}

fn pipe(command: &str) -> PipeHandler {
    PipeHandler::new(command, &options()).unwrap()
}

fn captured(command: &str) -> PipeHandler {
    PipeHandler::new(command, &HandlerOptions { capture_output: true, ..options() }).unwrap()
}

fn with_timeout(command: &str, millis: u64) -> PipeHandler {
    PipeHandler::new(command, &HandlerOptions { timeout: Duration::from_millis(millis), ..options() }).unwrap()
}

/// Handles these messages concurrently.
async fn handled(handler: &PipeHandler, bodies: &[&'static str]) -> Vec<Verdict> {
    join_all(bodies.iter().map(|body| handler.handle(message(*body)))).await
}

/// Returns the reason of the first message's retry; the second is done by the next run.
async fn blamed(handler: &PipeHandler) -> String {
    let verdicts = handled(handler, &["bad", "good"]).await;
    assert_eq!(verdicts[1], Verdict::Done(None), "only the first is to blame: {verdicts:?}");
    let Verdict::Retry { after: None, why } = &verdicts[0] else { panic!("{verdicts:?}") };
    why.clone()
}

/// Returns a command that runs `what` for a line with "bad", and is done with any other line.
fn bad(what: &str) -> String {
    each(&format!("case $line in *bad*) {what};; *) echo ok;; esac"))
}

#[tokio::test]
async fn each_message_gets_the_answer_to_its_own_line() {
    let handler = captured(&each(r#"printf 'ok %s\n' "$line""#));
    let verdicts = handled(&handler, &["a", "b \\ \n", "c"]).await;
    let line = |body: &str| {
        let head =
            r#"{"stream":"foo","group":"1","id":"0123456789abcdef","timestamp":1700000000123456789,"attempts":2"#;
        Verdict::Done(Some(format!(r#"{head},"body":"{body}"}}"#).into()))
    };
    assert_eq!(verdicts, [line("a"), line(r"b \\ \n"), line("c")]);
}

#[tokio::test]
async fn answers_decide_the_verdict() {
    let handler = pipe("read -r a; echo ok; read -r b; echo retry 5 locked; read -r c; echo drop no such user; cat");
    let verdicts = handled(&handler, &["a", "b", "c"]).await;
    let locked = Verdict::Retry { after: Some(Duration::from_secs(5)), why: "locked".to_owned() };
    assert_eq!(verdicts, [Verdict::Done(None), locked, Verdict::drop("no such user")]);
}

#[tokio::test]
async fn one_run_handles_ten_thousand_messages_and_has_stream_and_group_in_its_environment() {
    let handler = captured(&format!("n=0; {}", each(r#"n=$((n+1)); echo "ok $n $MQUEUE_STREAM $MQUEUE_GROUP""#)));
    for hundred in 0..100 {
        let verdicts = join_all((0..100).map(|_| handler.handle(message("a")))).await;
        for (at, verdict) in verdicts.into_iter().enumerate() {
            assert_eq!(verdict, Verdict::Done(Some(format!("{} foo 1", 100 * hundred + at + 1).into())));
        }
    }
}

#[tokio::test]
async fn only_the_current_message_is_retried_when_a_run_ends() {
    assert_eq!(blamed(&pipe(&bad("kill -9 $$"))).await, "the command ended: killed by signal 9");
    assert_eq!(blamed(&pipe(&bad("exit 3"))).await, "the command ended: exit status 3");
    assert_eq!(blamed(&pipe(&bad("exit 0"))).await, "the command ended: exit status 0");
    assert_eq!(
        blamed(&pipe(&bad("nosuch 2>/dev/null; exit $?"))).await,
        "the command ended: exit status 127 (command not found)"
    );
}

#[tokio::test]
async fn answers_before_the_end_of_a_run_count() {
    let handler = pipe(&bad("echo ok; echo drop; kill -9 $$"));
    let verdicts = handled(&handler, &["bad", "good", "good"]).await;
    let killed = Verdict::retry("the command ended: killed by signal 9");
    assert_eq!(verdicts, [Verdict::Done(None), Verdict::drop("dropped by the command"), killed]);
}

#[tokio::test]
async fn a_run_may_exit_successfully_after_some_messages() {
    let handler = captured(r#"for n in 1 2; do read -r line; echo "ok $n"; done"#);
    let verdicts = handled(&handler, &["a", "b", "c", "d", "e"]).await;
    assert_eq!(verdicts, ["1", "2", "1", "2", "1"].map(|n| Verdict::Done(Some(n.into()))));
}

#[tokio::test]
async fn invalid_answers_end_the_run() {
    assert_eq!(blamed(&pipe(&bad("echo what"))).await, "the command answered \"what\", not ok, retry or drop");
    assert_eq!(blamed(&pipe(&bad("echo"))).await, "the command answered \"\", not ok, retry or drop");
    let reason = "the command answered with a line of more than 67108864 bytes";
    assert_eq!(blamed(&pipe(&bad("exec cat /dev/zero"))).await, reason);
    let closes = bad("exec sleep 1000 >&- <&-");
    assert_eq!(blamed(&pipe(&closes)).await, "the command closed its standard input or output");
}

#[tokio::test]
async fn a_timeout_ends_the_run_and_its_children() {
    let test_pipe = TestPipe::new();
    let handler = with_timeout(&test_pipe.script(&bad("sleep 1000 & echo up >&3; wait")), 300);
    let (reader, why) = tokio::join!(test_pipe.wait_until_up(), blamed(&handler));
    assert_eq!(why, "timed out after 300ms");
    handler.close().await;
    assert_eq!(rest(reader).await.unwrap(), "");
}

#[tokio::test]
async fn unsolicited_answers_acknowledge_no_message() {
    // "yes" never reads: no message may be done
    let Verdict::Retry { why, .. } = pipe("yes ok").handle(message(vec![b'x'; 1 << 20])).await else { panic!("done") };
    assert_eq!(why, "the command wrote \"ok\" without a message to answer");
    let twice = captured(&format!("n=0; {}", each(r#"n=$((n+1)); printf "ok $n\nok again\n""#)));
    for _ in 0..3 {
        // the second line ends the run before the next message is written
        assert_eq!(twice.handle(message("a")).await, Verdict::Done(Some("1".into())));
    }
}

/// Returns a command that answers by id, and runs `bad` for a line with "bad".
fn by_id(bad: &str) -> String {
    let id = r#"id=${line#*\"id\":\"}; id=${id%%\"*}"#;
    each(&format!(r#"{id}; case $line in *bad*) {bad};; *) echo "id=$id ok $id";; esac"#))
}

/// Creates a message with its own id.
fn numbered(number: u8, body: &'static str) -> Message {
    Message { id: MessageId([b'a' + number; 16]), ..message(body) }
}

#[tokio::test]
async fn stray_lines_acknowledge_no_message_once_answers_have_ids() {
    let handler = captured(&by_id(r#"echo "id=$id ok"; echo ok"#));
    let handle = |number, body| handler.handle(numbered(number, body));
    let verdicts = join_all([handle(0, "good"), handle(1, "bad"), handle(2, "good"), handle(3, "good")]).await;
    let reason = "the command answered \"ok\" without the id that it gave before";
    let done = |id: &'static str| Verdict::Done(Some(id.into()));
    let expected = [done("aaaaaaaaaaaaaaaa"), Verdict::Done(None), Verdict::retry(reason), done("dddddddddddddddd")];
    assert_eq!(verdicts, expected);
}

#[tokio::test]
async fn an_answer_with_another_id_ends_the_run() {
    let handler = captured(&by_id(r#"echo "id=x ok""#));
    let verdicts = join_all([handler.handle(numbered(0, "bad")), handler.handle(numbered(1, "good"))]).await;
    let reason = "the command answered for message \"x\" instead of aaaaaaaaaaaaaaaa";
    assert_eq!(verdicts, [Verdict::retry(reason), Verdict::Done(Some("bbbbbbbbbbbbbbbb".into()))]);
}

#[tokio::test]
async fn long_lines_in_both_directions_do_not_deadlock() {
    // each line, and each answer, exceeds the capacity of a pipe
    let (handler, body) = (captured(&each(r#"printf 'ok %s\n' "$line""#)), "x".repeat(200_000));
    let verdicts = join_all((0..5).map(|_| handler.handle(message(body.clone())))).await;
    for verdict in verdicts {
        let Verdict::Done(Some(output)) = verdict else { panic!("{verdict:?}") };
        assert!(output.len() > 200_000, "{}", output.len());
    }
    let deaf = with_timeout("while :; do sleep 1; done", 300);
    assert_eq!(deaf.handle(message(body)).await, Verdict::retry("timed out after 300ms"));
}

#[tokio::test]
async fn abandoned_messages_do_not_shift_the_answers_of_others() {
    let test_pipe = TestPipe::new();
    let handler =
        Arc::new(captured(&test_pipe.script("read -r a; echo up >&3; read -r b; echo \"ok $a\"; echo \"ok $b\"; cat")));
    let first = tokio::spawn({
        let handler = handler.clone();
        async move { handler.handle(message("a")).await }
    });
    let _reader = test_pipe.wait_until_up().await;
    first.abort();
    // this message is given up before its line is written, so the command never reads it
    assert_eq!(handler.handle(message("b")).now_or_never(), None);
    let Verdict::Done(Some(output)) = handler.handle(message("c")).await else { panic!("not done") };
    assert!(output.ends_with(br#""body":"c"}"#), "{output:?}");
}

#[tokio::test]
async fn stopping_releases_messages_of_a_broken_command() {
    let options = options();
    options.stop.cancel();
    let handler = PipeHandler::new("exit 1", &options).unwrap();
    let verdicts = handled(&handler, &["a", "b", "c"]).await;
    assert_eq!(verdicts, [Verdict::retry("the command ended: exit status 1"), Verdict::Release, Verdict::Release]);
}

#[tokio::test]
async fn failing_runs_are_restarted_with_backoff() {
    let (handler, start) = (pipe("exit 1"), Instant::now());
    for verdict in handled(&handler, &["a", "b", "c", "d"]).await {
        assert_eq!(verdict, Verdict::retry("the command ended: exit status 1"));
    }
    // after at least 50, 100 and 200 ms
    assert!(start.elapsed() >= Duration::from_millis(350), "{:?}", start.elapsed());
}

#[tokio::test]
async fn close_lets_the_command_exit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("end");
    let handler = pipe(&format!("{}; echo well >{}", each("echo ok"), path.display()));
    assert_eq!(handler.handle(message("a")).await, Verdict::Done(None));
    handler.close().await;
    assert_eq!(fs::read_to_string(path).unwrap(), "well\n");
    assert!(matches!(handler.handle(message("b")).await, Verdict::Retry { .. }));
}

#[tokio::test]
async fn close_kills_a_command_that_does_not_exit() {
    let test_pipe = TestPipe::new();
    let stays = format!("trap '' TERM; echo up >&3; {}; while :; do sleep 1; done", each("echo ok"));
    let handler = pipe(&test_pipe.script(&stays));
    let (reader, verdict) = tokio::join!(test_pipe.wait_until_up(), handler.handle(message("a")));
    assert_eq!(verdict, Verdict::Done(None));
    // from here on only the clock can terminate it
    pause();
    handler.close().await;
    assert_eq!(rest(reader).await.unwrap(), "");
}
