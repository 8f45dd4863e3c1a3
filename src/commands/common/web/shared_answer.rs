//! An answer that is made once for all viewers, and kept for a while.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Mutex;

/// The maximum of answers.
const MAX_ANSWERS: usize = 64;

/// Answers by what was asked. While one is made, others wait for it.
#[derive(Debug)]
pub(super) struct SharedAnswers {
    kept: Duration,
    answers: Mutex<HashMap<String, (Instant, Bytes)>>,
}

impl SharedAnswers {
    /// Keeps each answer for this long.
    pub(super) fn new(kept: Duration) -> Self {
        Self { kept, answers: Mutex::default() }
    }

    /// Returns the answer; makes it if there is none that is new enough.
    pub(super) async fn get(&self, asked: &str, make: impl Future<Output = Bytes>) -> Bytes {
        let mut answers = self.answers.lock().await;
        answers.retain(|_, (at, _)| at.elapsed() < self.kept);
        if let Some((_, answer)) = answers.get(asked) {
            return answer.clone();
        }
        let answer = make.await;
        if answers.len() < MAX_ANSWERS {
            answers.insert(asked.to_owned(), (Instant::now(), answer.clone()));
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_is_made_once_for_all_and_again_later() {
        let answers = SharedAnswers::new(Duration::from_secs(3600));
        let made = std::cell::Cell::new(0);
        let make = || async {
            tokio::task::yield_now().await;
            made.set(made.get() + 1);
            Bytes::from(made.get().to_string())
        };
        let (first, second) = tokio::join!(answers.get("a", make()), answers.get("a", make()));
        assert_eq!((first.as_ref(), second.as_ref()), (&b"1"[..], &b"1"[..]));
        assert_eq!(answers.get("b", make()).await.as_ref(), b"2");
        let never = SharedAnswers::new(Duration::ZERO);
        never.get("a", make()).await;
        assert_eq!(never.get("a", make()).await.as_ref(), b"4");
        assert!(never.answers.lock().await.len() <= 1);
    }
}
