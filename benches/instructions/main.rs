//! Fixed pieces of work, for counting their instructions: `scripts/instructions` runs each under
//! valgrind.
//!
//! Run: `cargo bench --bench instructions` lists the scenes with their operations; `-- SCENE` runs
//! one. No scene decides by a clock, has threads or draws random numbers, so its instructions are
//! the same in every run, except for the seeds of hash tables.

#![allow(clippy::print_stdout, clippy::unwrap_used, unreachable_pub)]

mod broker;
mod codec;
mod publish;
mod wakeup;

/// A prepared piece of work, done once.
type Work = Box<dyn FnOnce()>;

/// A scene, whose instructions are counted.
struct Scene {
    name: &'static str,
    /// The number of operations.
    operations: u64,
    /// The preparation, which is not counted.
    prepare: fn() -> Work,
}

const SCENES: [Scene; 7] = [
    Scene { name: "codec-commands", operations: codec::COMMANDS, prepare: codec::commands },
    Scene { name: "codec-messages", operations: codec::MESSAGES, prepare: codec::messages },
    Scene { name: "publish-one", operations: publish::ONE, prepare: publish::one },
    Scene { name: "publish-batch", operations: publish::BATCHED, prepare: publish::batched },
    Scene { name: "broker-memory", operations: broker::MESSAGES, prepare: broker::in_memory },
    Scene { name: "broker-log", operations: broker::MESSAGES, prepare: broker::with_a_log },
    Scene { name: "wakeup-decide", operations: wakeup::POLLS, prepare: wakeup::decide },
];

fn main() {
    // cargo adds --bench
    match std::env::args().skip(1).find(|arg| !arg.starts_with('-')) {
        None => SCENES.iter().for_each(|scene| println!("{} {}", scene.name, scene.operations)),
        Some(name) => match SCENES.iter().find(|scene| scene.name == name) {
            Some(scene) => counted((scene.prepare)()),
            None => panic!("no scene {name}: without an argument they are listed"),
        },
    }
}

/// The function whose instructions valgrind counts, with everything that it calls.
#[inline(never)]
fn counted(work: Work) {
    work();
    // not the last expression: a tail call could become a jump, which valgrind does not count as a
    // call
    std::hint::black_box(());
}
