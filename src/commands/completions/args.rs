//! `mqueue completions`.

use clap::ValueEnum;

/// Print the script that completes commands and names in a shell
///
/// The script asks this program at each Tab: for commands, flags and their values, for names of
/// streams and groups, which the broker of the command line, the environment or the context tells
/// within 150 ms, and for names of contexts. A broker that does not answer in time has no names.
///
/// bash  mqueue completions bash >~/.local/share/bash-completion/completions/mqueue
/// zsh   mqueue completions zsh >DIR/_mqueue, where DIR is a folder of $fpath
/// fish  mqueue completions fish >~/.config/fish/completions/mqueue.fish
///
/// Or for one session: `source <(mqueue completions bash)` in bash and zsh, `mqueue completions
/// fish | source` in fish. In zsh, compinit has to run before.
///
/// Exit code: 0; 1 if standard output cannot be written to.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// Shell that reads the script
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: CompletionShell,
}

/// A shell with completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CompletionShell {
    /// GNU bash, 4.4 or later
    Bash,
    /// zsh, 5 or later
    Zsh,
    /// fish, 3 or later
    Fish,
}
