//! Memory files: a command reads complete data, or none.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// The file is not executable (Linux 6.3); vm.memfd_noexec=2 permits no other kind.
const NOEXEC: MFdFlags = MFdFlags::from_bits_retain(0x8);

/// Creates an empty memory file for reading and writing, closed in children.
pub(super) fn create(name: &CStr) -> io::Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let made = match memfd_create(name, flags | NOEXEC) {
        // an older kernel
        Err(Errno::EINVAL) => memfd_create(name, flags),
        made => made,
    };
    Ok(made?.into())
}

/// Creates a read-only memory file with these bytes, positioned at its start.
pub(super) fn sealed(name: &CStr, bytes: &[u8]) -> io::Result<File> {
    let file = create(name)?;
    file.write_all_at(bytes, 0)?;
    let seals = SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn sealed_files_are_complete_and_immutable() {
        let mut file = sealed(c"test", b"body").unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "body");
        assert!(file.write_all_at(b"x", 0).is_err() && file.set_len(2).is_err());
    }
}
