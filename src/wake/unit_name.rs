//! The names of the units behind a socket, as in the project's `systemd/` folder.

use std::path::Path;

use crate::wake::shell_commands::shell;

/// The part of the name that a socket, its service and its `mqueue-create` service share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitName(String);

impl UnitName {
    /// Derives the name from a socket's path.
    pub fn of(socket: &Path) -> Self {
        let stem = socket.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        Self(if stem == "consumer-nsq" { "-nsq".to_owned() } else { format!("@{stem}") })
    }

    /// `mqueue-consumer@G.socket`.
    pub fn socket(&self) -> String {
        shell(&format!("mqueue-consumer{}.socket", self.0))
    }

    /// `mqueue-consumer@G.service`.
    pub fn service(&self) -> String {
        shell(&format!("mqueue-consumer{}.service", self.0))
    }

    /// `mqueue-create@G.service`.
    pub fn create(&self) -> String {
        shell(&format!("mqueue-create{}.service", self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_names_follow_the_socket_name() {
        let unit = UnitName::of(Path::new("/run/mqueue/mail@2.sock"));
        assert_eq!(unit.socket(), "mqueue-consumer@mail@2.socket");
        assert_eq!(unit.create(), "mqueue-create@mail@2.service");
        assert_eq!(UnitName::of(Path::new("/run/mqueue/consumer-nsq.sock")).service(), "mqueue-consumer-nsq.service");
        assert_eq!(UnitName::of(Path::new("/x/a'b.sock")).socket(), r"'mqueue-consumer@a'\''b.socket'");
    }
}
