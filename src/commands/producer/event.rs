//! Generated events, published where there is no input: pure.
//!
//! ```text
//!  {"run":"1f2e3d4c","task":1,"seq":7,"created":1795213597000000000,"payload":{"key_0":"…","key_1":"…"}}
//!   └────────────────────── differs in each event ────────────────┘ └──── made once for all of a run ───┘
//! ```

use std::io::Write;

use bytes::Bytes;

/// The length of a payload's value: with its key it comes to about 1 KB, and 1000 of them stay
/// below nsqd's default limit of 1 MiB.
const VALUE_LENGTH: usize = 1000;

/// The events of one task. Each sequence number is used once, and none is skipped.
#[derive(Debug)]
pub(super) struct EventGenerator {
    /// `{"run":"…","task":1,"seq":`
    head: String,
    task: u32,
    seq: u64,
    /// `,"payload":{…}}`, or `}`.
    end: Bytes,
}

impl EventGenerator {
    /// Makes the events of a task of a run; `end` comes from [`payload`].
    pub(super) fn new(run: &str, task: u32, end: Bytes) -> Self {
        Self { head: format!(r#"{{"run":"{run}","task":{task},"seq":"#), task, seq: 0, end }
    }

    /// Makes the next event, created at `created` (ns since 1970).
    pub(super) fn make(&mut self, created: u128) -> Bytes {
        self.seq += 1;
        let mut body = Vec::with_capacity(self.head.len() + self.end.len() + 64);
        body.extend_from_slice(self.head.as_bytes());
        write!(body, r#"{},"created":{created}"#, self.seq).expect("a Vec takes all");
        body.extend_from_slice(&self.end);
        body.into()
    }

    /// Returns the name of the last event: `task 1 seq 7`.
    pub(super) fn name_of_last(&self) -> String {
        format!("task {} seq {}", self.task, self.seq)
    }
}

/// Makes the end of all events of a run: a payload of `keys` keys with random values.
pub(super) fn payload(keys: u32, rng: &mut fastrand::Rng) -> Bytes {
    if keys == 0 {
        return Bytes::from_static(b"}");
    }
    let mut end = String::with_capacity(keys as usize * (VALUE_LENGTH + 16) + 16);
    end.push_str(r#","payload":{"#);
    for key in 0..keys {
        let comma = if key == 0 { "" } else { "," };
        end.push_str(&format!(r#"{comma}"key_{key}":""#));
        end.extend(std::iter::repeat_with(|| rng.alphanumeric()).take(VALUE_LENGTH));
        end.push('"');
    }
    end.push_str("}}");
    end.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_json_with_run_task_sequence_and_time() {
        let mut events = EventGenerator::new("00001f2e", 3, payload(0, &mut fastrand::Rng::with_seed(1)));
        assert_eq!(events.make(17), r#"{"run":"00001f2e","task":3,"seq":1,"created":17}"#);
        assert_eq!(events.make(18), r#"{"run":"00001f2e","task":3,"seq":2,"created":18}"#);
        assert_eq!(events.name_of_last(), "task 3 seq 2");
    }

    #[test]
    fn a_payload_has_its_keys_and_a_thousand_stay_below_nsqds_default_limit() {
        for keys in [1, 2, 1000, 10_000] {
            let body =
                EventGenerator::new("1", 1, payload(keys, &mut fastrand::Rng::with_seed(1))).make(u128::from(u64::MAX));
            let event: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(event["payload"].as_object().unwrap().len(), keys as usize);
            let (least, most) = (keys as usize * 1000, keys as usize * 1048 + 200);
            assert!((least..most).contains(&body.len()), "{keys} keys make {} bytes", body.len());
        }
    }
}
