//! Packets of whole lines.

/// Lines, gathered into packets of at most a number of bytes.
#[derive(Debug)]
pub(super) struct Packets {
    size: usize,
    packets: Vec<String>,
}

impl Packets {
    pub(super) fn new(size: usize) -> Self {
        Self { size, packets: Vec::new() }
    }

    /// Adds a line, which ends with a newline. A longer line than a packet gets a packet of its
    /// own.
    pub(super) fn push(&mut self, line: &str) {
        match self.packets.last_mut() {
            Some(packet) if packet.len() + line.len() <= self.size => packet.push_str(line),
            _ => self.packets.push(line.to_owned()),
        }
    }

    pub(super) fn into_vec(self) -> Vec<String> {
        self.packets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_full_and_no_line_is_split() {
        let mut packets = Packets::new(8);
        ["abc\n", "def\n", "g\n", "far too long\n", "h\n", "ijklm\n", "n\n"].iter().for_each(|line| packets.push(line));
        assert_eq!(packets.into_vec(), ["abc\ndef\n", "g\n", "far too long\n", "h\nijklm\n", "n\n"]);
        assert!(Packets::new(8).into_vec().is_empty());
    }
}
