//! Random numbers of the system, from a seed.
//!
//! The standard library takes the keys of its hash maps from `getrandom`, and tokio the order in
//! which `select!` polls. On a thread with a seed, this function answers instead of the system's.

use std::cell::Cell;

thread_local! {
    static STATE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Makes the system's random numbers on this thread depend on the seed only. Must come before the
/// first hash map of the thread.
pub(super) fn seed_thread(seed: u64) {
    STATE.set(Some(seed));
    fastrand::seed(seed);
}

/// Replaces the C library's function of this name in the test program.
///
/// # Safety
/// As getrandom(2): `buffer` has room for `length` bytes.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, flags: u32) -> isize {
    let Ok(Some(state)) = STATE.try_with(Cell::get) else {
        // SAFETY: the arguments are the caller's
        return unsafe { nix::libc::syscall(nix::libc::SYS_getrandom, buffer, length, flags) as isize };
    };
    let mut numbers = fastrand::Rng::with_seed(state);
    STATE.set(Some(numbers.u64(..)));
    for index in 0..length {
        // SAFETY: the index is below the length of the buffer
        unsafe { buffer.add(index).write(numbers.u8(..)) };
    }
    length as isize
}
