//! Fixed pieces of work, for counting their instructions: `scripts/instructions` runs each under valgrind.
//!
//! Run: `cargo bench --bench instructions` names the scenes, with their operations; `-- SCENE` runs one. No scene looks at a clock to decide
//! anything, has threads, or draws random numbers, so its instructions are the same in every run, but for what the hash
//! tables' seeds do to them.

#![allow(clippy::print_stdout, clippy::unwrap_used, unreachable_pub)]

mod broker;
mod codec;
mod publish;
mod wakeup;

/// A piece of work that is ready to be done, and is done once.
type Work = Box<dyn FnOnce()>;

/// What is counted.
struct Scene {
    name: &'static str,
    /// What it does so many times.
    operations: u64,
    /// What is not counted.
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

/// The function that is counted, by its name, with all that it calls.
#[inline(never)]
fn counted(work: Work) {
    work();
    // not the last thing that is done: a call in its place could become a jump, which is no call any more
    std::hint::black_box(());
}
