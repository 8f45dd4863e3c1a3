//! Options of `--handler file:PATH`, from flags.

use crate::commands::common::exit::Exit;
use crate::commands::common::exit::Failure;
use crate::commands::consumer::args::Args;
use mqueue::handler::{FileNameFormats, FileOptions, HandlerSpec, PrintOutput, Rotation};

/// Makes the options from the flags. Fails for flags that the handler does not support.
pub(super) fn options(args: &Args, output: Option<PrintOutput>) -> Result<FileOptions, Failure> {
    let files = &args.files;
    if output.is_some() && !matches!(args.handling.handler, HandlerSpec::File(_) | HandlerSpec::Print) {
        return Err(usage("--output is for --handler print and file:PATH: leave it out"));
    }
    if !matches!(args.handling.handler, HandlerSpec::File(_)) {
        let flag = if files.gzip { "--gzip is" } else { "--rotate-… and --…-format are" };
        return match files.gzip || files.rotates() {
            true => Err(usage(format!("{flag} for --handler file:PATH: leave it out, or name a file"))),
            false => Ok(FileOptions::default()),
        };
    }
    let rotation = files.rotates().then(|| {
        let suffix = if files.gzip { ".gz" } else { "" };
        let formats = FileNameFormats { filename: files.filename_format(), datetime: files.datetime_format(), suffix };
        Rotation::new(formats, &args.stream, files.rotate_size, files.rotate_interval).map_err(usage)
    });
    Ok(FileOptions {
        output: output.unwrap_or(PrintOutput::Body),
        gzip: files.gzip.then_some(files.gzip_level),
        rotation: rotation.transpose()?,
    })
}

fn usage(why: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Usage, why.to_string())
}
