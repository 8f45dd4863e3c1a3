//! The probes of brokers, folders and systemd, all concurrent, each with a deadline. Nothing is
//! changed, and no consumer is woken.

mod brokers;
mod folders;
mod security;
mod settings;
mod systemd;
mod unit_flags;
mod wakeup_process;

use std::time::Duration;

use futures_util::future::join;
use nix::unistd::{User, getgrouplist, getuid};

use super::observed::{Account, Observed, ShownSecurity};
use crate::commands::doctor::args::Args;

/// The user of the wakeup unit.
const WAKEUP_USER: &str = "mqueue";

/// Runs all probes.
pub(super) async fn run_all(args: &Args) -> Observed {
    let (mut observed, systemd) = join(brokers::ask(&args.broker, args.deadline), systemd::ask(args.deadline)).await;
    observed.systemd = systemd;
    observed.growth =
        brokers::watch(&args.broker, &observed, args.watch.min(Duration::from_secs(3600)), args.deadline).await;
    observed.folders = folders::read(&args.sockets);
    observed.wakeup_user = account(WAKEUP_USER);
    observed.unprivileged_user = unprivileged_user();
    observed.security = ShownSecurity {
        commands: args.broker.security.api_commands(),
        flags: args.broker.security.shell_flags(),
        variables: args.broker.security.variables(),
    };
    security::examine(args, &mut observed).await;
    observed.wakeup_runs = wakeup_process::is_running();
    observed
}

fn account(name: &str) -> Option<Account> {
    let user = User::from_name(name).ok().flatten()?;
    let c_name = std::ffi::CString::new(name).ok()?;
    let gids = getgrouplist(&c_name, user.gid).unwrap_or_else(|_| vec![user.gid]);
    Some(Account { name: user.name, uid: user.uid.as_raw(), gids: gids.into_iter().map(|gid| gid.as_raw()).collect() })
}

/// Returns the current user, unless it is root, which may poke every socket.
fn unprivileged_user() -> Option<String> {
    let uid = getuid();
    let name = || User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
    (!uid.is_root()).then(name)
}
