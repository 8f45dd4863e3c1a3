//! A file that a picture is to be drawn into.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use super::exit::{Exit, Failure};

/// It is open, and holds what it held before.
pub(crate) struct Picture<'a> {
    path: &'a Path,
    file: File,
}

impl<'a> Picture<'a> {
    /// Opens it: a folder that is not there is better said before than after. What it holds stays until there is something new.
    pub(crate) fn at(path: &'a Path) -> Result<Self, Failure> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        Ok(Self { path, file: file.map_err(|e| no_picture(path, &e))? })
    }

    /// Puts the picture in it.
    pub(crate) fn write(mut self, svg: &str) -> Result<(), Failure> {
        // a device, or a pipe, cannot be made shorter
        let _ = self.file.set_len(0);
        self.file.write_all(svg.as_bytes()).map_err(|e| no_picture(self.path, &e))
    }
}

fn no_picture(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Failure, format!("cannot write {}: {error}: name another file with --plot", path.display()))
}
