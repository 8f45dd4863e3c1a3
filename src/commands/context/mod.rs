//! `mqueue context`: settings of clusters under names.

pub(crate) mod args;

use self::args::{Args, ContextAction};
use super::common::context::{ClusterSettings, ContextFile};
use super::common::exit::Exit;
use super::common::stdout;

/// Runs the command to its end.
pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let mut file = ContextFile::load()?;
    let said = match args.action {
        ContextAction::Add(add) => {
            let settings = ClusterSettings::of(&add.broker)?;
            // what cannot be used later is refused now
            add.broker.clone().load_security(None)?;
            file.contexts.insert(add.name.clone(), settings);
            let current = file.current.get_or_insert_with(|| add.name.clone()).clone();
            let path = file.save()?;
            match current == add.name {
                true => format!("context {} is in {}, and is the current one\n", add.name, path.display()),
                false => format!("context {} is in {}; the current one is {current}\n", add.name, path.display()),
            }
        }
        ContextAction::Use { name, .. } => {
            if let Some(name) = &name {
                file.get(name)?;
            }
            file.current = name;
            file.save()?;
            match &file.current {
                Some(name) => format!("the current context is {name}\n"),
                None => "there is no current context\n".to_owned(),
            }
        }
        ContextAction::Rm { name } => {
            file.get(&name)?;
            file.contexts.remove(&name);
            file.current = file.current.filter(|current| *current != name);
            file.save()?;
            format!("context {name} is removed\n")
        }
        ContextAction::Ls => list(&file),
    };
    stdout::print(&said)?;
    Ok(Exit::Success)
}

/// One line for each context: its name, and its settings as they are in the file.
fn list(file: &ContextFile) -> String {
    let line = |(name, settings): (_, &ClusterSettings)| {
        let star = if file.current.as_ref() == Some(name) { '*' } else { ' ' };
        let settings = toml::to_string(settings).expect("names and texts");
        format!("{star} {name}: {}\n", settings.trim_end().replace('\n', ", "))
    };
    match file.contexts.is_empty() {
        true => "no contexts: `mqueue context add --help`\n".to_owned(),
        false => file.contexts.iter().map(line).collect(),
    }
}
