//! Error text for arguments that clap refuses; names the environment variable if the refused value
//! comes from one.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, Error};
use clap::{Arg, Command};

use super::cli::whole_command_line;

/// Renders clap's error for these arguments. A value from the environment was not typed, so the
/// text names its source: `invalid value 'abc' for '--count <N>' (from the environment variable
/// COUNT): …`.
pub(crate) fn text(error: &Error, typed: &[OsString]) -> String {
    let mut text = error.render().to_string();
    let cli = whole_command_line();
    let command = typed.iter().skip(1).find_map(|word| cli.find_subcommand(word)).unwrap_or(&cli);
    for kind in [ContextKind::InvalidArg, ContextKind::PriorArg] {
        let Some(ContextValue::String(shown)) = error.get(kind) else { continue };
        if let Some(variable) = variable(command, shown, typed) {
            let quoted = format!("'{shown}'");
            text = text.replacen(&quoted, &format!("{quoted} (from the environment variable {variable})"), 1);
        }
    }
    text
}

/// Returns the variable that set the argument that clap shows as `shown`, unless the argument was
/// typed.
fn variable(command: &Command, shown: &str, typed: &[OsString]) -> Option<String> {
    let flag = shown.split([' ', '=']).next()?;
    let arg = command.get_arguments().find(|arg| flags(arg).iter().any(|name| name == flag))?;
    let names = flags(arg);
    let is_it = |word: &OsString| {
        let word = word.to_string_lossy();
        names.iter().any(|name| match name.starts_with("--") {
            true => word.split('=').next() == Some(name),
            false => word.starts_with(name.as_str()) && !word.starts_with("--"),
        })
    };
    let name = arg.get_env()?.to_string_lossy().into_owned();
    (!typed.iter().any(is_it) && std::env::var_os(&name).is_some()).then_some(name)
}

/// Returns every spelling of a flag.
fn flags(arg: &Arg) -> Vec<String> {
    let long = arg.get_long_and_visible_aliases().unwrap_or_default();
    let hidden = arg.get_all_aliases().unwrap_or_default();
    let short = arg.get_short_and_visible_aliases().unwrap_or_default();
    let long = long.into_iter().chain(hidden).map(|name| format!("--{name}"));
    long.chain(short.into_iter().map(|name| format!("-{name}"))).collect()
}
