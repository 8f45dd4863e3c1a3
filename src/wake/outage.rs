//! A broker's outage, logged when it begins and when it ends.

use std::fmt::Display;
use std::time::{Duration, Instant};

use crate::client::HttpError;

/// The last error, and the time of the first one.
#[derive(Debug, Default)]
pub struct Outage(Option<(String, Instant)>);

impl Outage {
    /// Records the result of a request. If quiet, nothing is logged.
    pub fn is_now(&mut self, error: Option<&HttpError>, who: impl Display, is_quiet: bool) {
        match (error, &mut self.0) {
            (Some(error), None) => {
                if !is_quiet {
                    tracing::warn!("{error}");
                }
                self.0 = Some((error.to_string(), Instant::now()));
            }
            (Some(error), Some((text, _))) => *text = error.to_string(),
            (None, Some(_)) => {
                tracing::info!("{who} answers again");
                self.0 = None;
            }
            (None, None) => {}
        }
    }

    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }

    pub fn lasts(&self, long: Duration) -> bool {
        self.0.as_ref().is_some_and(|(_, since)| since.elapsed() > long)
    }

    pub fn text(&self) -> Option<String> {
        self.0.as_ref().map(|(text, _)| text.clone())
    }
}
