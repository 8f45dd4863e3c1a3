//! The rate at which the disk syncs single writes.

use std::io::Write;
use std::time::{Duration, Instant};

/// Writes 200 B and syncs, again and again; returns the rate.
pub fn synced_writes() -> f64 {
    let mut file = tempfile::tempfile().unwrap();
    let (begun, mut count) = (Instant::now(), 0_u32);
    while begun.elapsed() < Duration::from_secs(2) {
        file.write_all(&[b'x'; 200]).unwrap();
        file.sync_data().unwrap();
        count += 1;
    }
    f64::from(count) / begun.elapsed().as_secs_f64()
}
