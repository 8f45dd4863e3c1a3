//! The listening sockets: activation sockets from systemd, and those named with `--listen`.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, UdpSocket, UnixDatagram, UnixListener};

use crate::commands::common::exit::Exit;
use crate::commands::common::exit::Failure;
use mqueue::io_error::describe;
use mqueue::net::{Endpoint, remove_stale_socket};
use mqueue::net::{bind_udp, listen};
use mqueue::systemd::{ActivationSocket, passed_sockets};

/// A socket, its name, and its file.
#[derive(Debug)]
pub(super) struct IngestSocket {
    pub(super) socket: FeedSocket,
    /// Name of the socket in log lines.
    pub(super) name: String,
    /// `None` for sockets without a file, and for activation sockets, whose file belongs to
    /// systemd.
    pub(super) file: Option<IngestSocketFile>,
}

/// A socket of any supported kind.
#[derive(Debug)]
pub(super) enum FeedSocket {
    Unix(UnixListener),
    Unixgram(UnixDatagram),
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// The file of a Unix socket, removed on drop. It must be dropped before the socket is closed: once
/// closed, another process may replace the file, and the new file must not be removed.
#[derive(Debug)]
pub(super) struct IngestSocketFile(PathBuf);

impl Drop for IngestSocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Opens all sockets; needs a tokio runtime. Fails if there are none, or one cannot be opened.
pub(super) async fn open(named: &[Endpoint]) -> Result<Vec<IngestSocket>, Failure> {
    let passed = passed_sockets().map_err(|e| Failure::new(Exit::Usage, e))?;
    let mut sockets: Vec<IngestSocket> = passed.into_iter().map(adopt).collect();
    for endpoint in named {
        sockets.push(bind(endpoint).await.map_err(|e| refused(endpoint, &e))?);
    }
    match sockets.is_empty() {
        true => Err(Failure::new(Exit::Usage, "nothing to listen on: name an address with --listen, as in unix:/PATH")),
        false => Ok(sockets),
    }
}

/// Takes over an activation socket.
fn adopt(ear: ActivationSocket) -> IngestSocket {
    let (socket, name) = match ear {
        ActivationSocket::Stream(socket) => {
            let name = socket.local_addr().ok().and_then(|a| a.as_pathname().map(Path::to_owned));
            (FeedSocket::Unix(socket), path_name("unix", name))
        }
        ActivationSocket::Datagram(socket) => {
            let name = socket.local_addr().ok().and_then(|a| a.as_pathname().map(Path::to_owned));
            (FeedSocket::Unixgram(socket), path_name("unixgram", name))
        }
        ActivationSocket::Tcp(socket) => {
            let name = address_name("tcp", socket.local_addr());
            (FeedSocket::Tcp(socket), name)
        }
        ActivationSocket::Udp(socket) => {
            let name = address_name("udp", socket.local_addr());
            (FeedSocket::Udp(socket), name)
        }
    };
    IngestSocket { socket, name: format!("{name} (passed by systemd)"), file: None }
}

fn path_name(scheme: &str, path: Option<PathBuf>) -> String {
    format!("{scheme}:{}", path.unwrap_or_default().display())
}

fn address_name(scheme: &str, address: io::Result<impl Display>) -> String {
    address.map_or_else(|_| scheme.to_owned(), |address| format!("{scheme}:{address}"))
}

async fn bind(endpoint: &Endpoint) -> io::Result<IngestSocket> {
    let file = |path: &Path| Some(IngestSocketFile(path.to_owned()));
    let name = endpoint.to_string();
    Ok(match endpoint {
        Endpoint::Unix(path) => {
            remove_stale_socket(path)?;
            IngestSocket { socket: FeedSocket::Unix(UnixListener::bind(path)?), name, file: file(path) }
        }
        Endpoint::Unixgram(path) => {
            remove_stale_socket(path)?;
            IngestSocket { socket: FeedSocket::Unixgram(UnixDatagram::bind(path)?), name, file: file(path) }
        }
        Endpoint::Tcp(address) => {
            let socket = listen(address).await?;
            let name = address_name("tcp", socket.local_addr());
            IngestSocket { socket: FeedSocket::Tcp(socket), name, file: None }
        }
        Endpoint::Udp(address) => {
            let socket = bind_udp(address).await?;
            let name = address_name("udp", socket.local_addr());
            IngestSocket { socket: FeedSocket::Udp(socket), name, file: None }
        }
    })
}

fn refused(endpoint: &Endpoint, error: &io::Error) -> Failure {
    let path = match endpoint {
        Endpoint::Unix(path) | Endpoint::Unixgram(path) => Some(path),
        Endpoint::Tcp(_) | Endpoint::Udp(_) => None,
    };
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse if path.is_some_and(|path| !is_socket(path)) => {
            "the path is a file, not a socket: name another path, or move the file".to_owned()
        }
        io::ErrorKind::AddrInUse => "another process listens there: stop it, or name another address".to_owned(),
        io::ErrorKind::NotFound => "its folder does not exist: create it, or name another".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied: name a writable folder".to_owned(),
        _ => describe(error),
    };
    Failure::new(Exit::Failure, format!("cannot listen on {endpoint}: {remedy}"))
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
}
