//! The output file of `--plot`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use super::exit::{Exit, Failure};

use mqueue::io_error::describe;

/// An open file that keeps its old content until `write`.
pub(crate) struct PlotFile<'a> {
    path: &'a Path,
    file: File,
}

impl<'a> PlotFile<'a> {
    /// Opens the file before the run, so that a missing folder is reported early. The old content
    /// stays until `write`.
    pub(crate) fn at(path: &'a Path) -> Result<Self, Failure> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        Ok(Self { path, file: file.map_err(|e| no_picture(path, &e))? })
    }

    /// Replaces the content with the plot.
    pub(crate) fn write(mut self, svg: &str) -> Result<(), Failure> {
        // fails for a device or a pipe, which cannot be truncated
        let _ = self.file.set_len(0);
        self.file.write_all(svg.as_bytes()).map_err(|e| no_picture(self.path, &e))
    }
}

fn no_picture(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(
        Exit::Failure,
        format!("cannot write {}: {}: name another file with --plot", path.display(), describe(error)),
    )
}
