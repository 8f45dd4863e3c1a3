//! The question before an action that loses something.

use std::io::{self, BufRead, IsTerminal, Write};

use super::exit::{Exit, Failure};

/// Asks on the terminal whether to do this, such as `delete orders`; `yes` answers in advance.
///
/// # Errors
/// Fails without a terminal, unless `yes` is set.
pub(crate) fn is_confirmed(what: &str, yes: bool) -> Result<bool, Failure> {
    if yes {
        return Ok(true);
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Failure::new(Exit::Usage, format!("to {what} without a terminal, give --yes")));
    }
    let mut answer = String::new();
    let asked = write!(io::stderr().lock(), "{what}? [y/N] ").and_then(|()| io::stdin().lock().read_line(&mut answer));
    Ok(asked.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes"))
}
