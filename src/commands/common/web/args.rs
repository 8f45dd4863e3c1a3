//! Flags of the page: the same in `mqueue web` and `mqueue broker`.

use std::path::PathBuf;

/// The access to the page.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Access")]
pub(crate) struct AccessArgs {
    /// Allow pausing, emptying and deleting, and retrying and dropping dead letters, with a token
    /// of --bearer-token-file [default: false, the page is read-only]
    #[arg(long)]
    pub allow_actions: bool,

    /// File with tokens, one a line, each with its scopes; read again on SIGHUP [default: none]
    ///
    /// A line is TOKEN [act] [name=NAME] [streams=NAME,NAME] [groups=NAME,NAME]. A token alone has
    /// all scopes. An action needs the scope act, and is logged with the token's name. On an
    /// address that other machines can reach, a token is needed to look, too.
    #[arg(long, env = "MQUEUE_BEARER_TOKEN_FILE", value_name = "PATH")]
    pub bearer_token_file: Option<PathBuf>,

    /// Listen on an address that other machines can reach, and let them look without a token
    /// [default: refused]
    #[arg(long)]
    pub insecure: bool,
}
