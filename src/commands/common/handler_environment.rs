//! The environment of commands that handle messages: without the variables that set flags of
//! mqueue.
//!
//! A handler may call mqueue itself: `COUNT=1` in a consumer's settings is meant for the consumer,
//! and would have `mqueue producer` in its handler generate an event in place of the message.

use crate::commands::cli::whole_command_line;

/// The variables that handlers inherit although they set flags: where NSQ is, how it is connected
/// to, and what is logged. They mean the same to every command, and without those of TLS a command
/// of the handler would send in plain text what its consumer received encrypted. The secret for
/// AUTH stays with the consumer: without it nsqd refuses.
const INHERITED: [&str; 12] = [
    "LOOKUPD_HTTP_ADDRESS",
    "MQUEUE_DEFLATE",
    "MQUEUE_LOG",
    "MQUEUE_SNAPPY",
    "MQUEUE_TLS",
    "MQUEUE_TLS_CA_FILE",
    "MQUEUE_TLS_CERT_FILE",
    "MQUEUE_TLS_INSECURE_SKIP_VERIFY",
    "MQUEUE_TLS_KEY_FILE",
    "MQUEUE_TLS_SERVER_NAME",
    "NSQD_HTTP_ADDRESS",
    "NSQD_TCP_ADDRESS",
];

/// Lists the variables that a handler's command does not inherit: those of all flags of all
/// commands, except the inherited ones.
pub(crate) fn withheld() -> Vec<String> {
    let cli = whole_command_line();
    let commands = std::iter::once(&cli).chain(cli.get_subcommands());
    let variables = commands.flat_map(clap::Command::get_arguments).filter_map(clap::Arg::get_env);
    let mut names: Vec<String> = variables.map(|name| name.to_string_lossy().into_owned()).collect();
    names.retain(|name| !INHERITED.contains(&name.as_str()));
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variables_of_every_flag_are_withheld_but_for_the_inherited_ones() {
        let (withheld, cli) = (withheld(), whole_command_line());
        assert!(withheld.len() > 50, "{withheld:?}");
        let mut inherited: Vec<String> = Vec::new();
        for arg in std::iter::once(&cli).chain(cli.get_subcommands()).flat_map(clap::Command::get_arguments) {
            let Some(name) = arg.get_env().and_then(|name| name.to_str()) else { continue };
            if !withheld.iter().any(|withheld| withheld == name) {
                inherited.push(name.to_owned());
            }
        }
        inherited.sort_unstable();
        inherited.dedup();
        assert_eq!(inherited, INHERITED);
    }

    #[test]
    fn no_flag_is_set_by_what_a_handler_is_told_of_its_message() {
        for told in ["MQUEUE_STREAM", "MQUEUE_GROUP", "MQUEUE_ID", "MQUEUE_ATTEMPTS", "MQUEUE_TIMESTAMP"] {
            assert!(!withheld().iter().any(|name| name == told), "{told} sets a flag, and is set for handlers");
        }
    }
}
