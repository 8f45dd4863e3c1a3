//! A consumer that systemd starts when `mqueue wakeup` pokes its socket, and that ends after ten
//! seconds without a message.
//!
//! Run: `make up`, then `systemd-socket-activate -l /tmp/bar.sock cargo run --example
//! socket_activation` in one shell and `mqueue wakeup --socket-dir /tmp` in another; publish to
//! foo. The group is called bar, like the socket.

#![allow(clippy::print_stdout)]

use std::sync::Arc;
use std::time::Duration;

use mqueue::client::{Consumer, ConsumerConfig};
use mqueue::handler::Verdict;
use mqueue::proto::Message;
use mqueue::shutdown::Shutdown;
use mqueue::systemd::{ActivationSockets, Notifier};
use mqueue::worker::{Worker, WorkerConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let socket = ActivationSockets::from_env()?; // what systemd passed, if it did
    let nsqd = std::env::var("NSQD_TCP_ADDRESS").as_deref().unwrap_or("127.0.0.1:4150").parse()?;
    let config = ConsumerConfig::new("foo".parse()?, "bar".parse()?).with_nsqd(nsqd);
    let handler = |message: Message| async move {
        println!("{}", message.id);
        Verdict::done()
    };
    let consumer = Consumer::connect(config).await?;
    let idle = WorkerConfig::default().with_idle_timeout(Some(Duration::from_secs(10)));
    let worker = Worker::new(consumer, Arc::new(handler), idle)?;
    let reset_idle = worker.reset_idle();
    if let Some(socket) = socket {
        // an unread poke would start this program again at once; and a poke says that a message is
        // there
        tokio::spawn(async move {
            while socket.wait_for_pokes().await.is_ok() {
                reset_idle.notify_one();
            }
        });
    }
    Notifier.ready();
    worker.run(&Shutdown::on_signals(Duration::from_secs(30))?).await;
    Notifier.stopping();
    Ok(())
}
