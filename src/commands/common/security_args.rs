//! TLS, compression and AUTH towards nsqd: the same flags in every command that connects to one.

use std::path::PathBuf;

use mqueue::client::{AuthSecret, Security};
use mqueue::io_error::describe;
use mqueue::net::tls::TlsClient;
use mqueue::net::transport::Compression;
use mqueue::wake::shell_commands::{ApiCommands, shell};

use super::exit::{Exit, Failure};
use super::tls_client_args::TlsClientArgs;
use super::values::whole;

/// Longest secret for AUTH, in bytes.
const MAX_SECRET: u64 = 64 * 1024;

/// TLS, compression and AUTH.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "TLS, compression and AUTH")]
pub(crate) struct SecurityArgs {
    /// Connect to nsqd with TLS; an nsqd without it is an error [default: no TLS]
    #[arg(long, env = "MQUEUE_TLS")]
    pub tls: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub certificates: TlsClientArgs,

    /// File with the secret for nsqd's AUTH [default: no AUTH]
    #[arg(long, env = "MQUEUE_AUTH_SECRET_FILE", value_name = "PATH")]
    pub auth_secret_file: Option<PathBuf>,

    /// Compress with deflate, at a level from 1 to 9 [default level: 6]
    #[arg(
        long,
        env = "MQUEUE_DEFLATE",
        value_name = "LEVEL",
        num_args = 0..=1,
        default_missing_value = "6",
        value_parser = whole::<u32>(1..=9),
        conflicts_with = "snappy"
    )]
    pub deflate: Option<u32>,

    /// Compress with Snappy [default: no compression]
    #[arg(long, env = "MQUEUE_SNAPPY")]
    pub snappy: bool,
}

impl SecurityArgs {
    /// Returns the flags that have another command of this program connect in the same way.
    pub(crate) fn flags(&self) -> Vec<String> {
        let switch = |flag: &str, is_set: bool| is_set.then(|| format!("--{flag}"));
        let secret = self.auth_secret_file.as_ref().map(|path| format!("--auth-secret-file={}", path.display()));
        let others = [secret, self.deflate.map(|level| format!("--deflate={level}")), switch("snappy", self.snappy)];
        let tls = switch("tls", self.tls).into_iter().chain(self.certificates.flags());
        tls.chain(others.into_iter().flatten()).collect()
    }

    /// Returns the same flags as words of a shell command, with paths that hold in every folder.
    pub(crate) fn shell_flags(&self) -> String {
        self.absolute().flags().iter().map(|flag| format!(" {}", shell(flag))).collect()
    }

    /// Returns the same settings as variables for a unit's settings file.
    pub(crate) fn variables(&self) -> Vec<String> {
        let variable = |flag: String| {
            let (name, value) = flag.split_once('=').unwrap_or((&flag, "true"));
            format!("MQUEUE_{}={value}", name.trim_start_matches('-').replace('-', "_").to_uppercase())
        };
        self.absolute().flags().into_iter().map(variable).collect()
    }

    /// Returns the commands that call HTTP APIs with the same settings.
    pub(crate) fn api_commands(&self) -> ApiCommands {
        let own = self.absolute();
        let file = |option: &str, path: &Option<PathBuf>| {
            path.iter().flat_map(|path| [option.to_owned(), path.display().to_string()]).collect::<Vec<_>>()
        };
        let insecure = own.certificates.tls_insecure_skip_verify.then(|| "--insecure".to_owned());
        let options: Vec<String> = [
            file("--cacert", &own.certificates.tls_ca_file),
            file("--cert", &own.certificates.tls_cert_file),
            file("--key", &own.certificates.tls_key_file),
            Vec::from_iter(insecure),
        ]
        .concat();
        ApiCommands::with_tls(&options, own.certificates.tls_server_name.as_deref(), self.shell_flags())
    }

    fn absolute(&self) -> Self {
        let mut own = self.clone();
        let files = [
            &mut own.certificates.tls_ca_file,
            &mut own.certificates.tls_cert_file,
            &mut own.certificates.tls_key_file,
            &mut own.auth_secret_file,
        ];
        for file in files.into_iter().flatten() {
            *file = std::path::absolute(&*file).unwrap_or_else(|_| file.clone());
        }
        own
    }

    /// Reads the files. `https` is true if an address begins with `https://`, which needs
    /// authorities without `--tls`, too.
    ///
    /// # Errors
    /// Fails if a file cannot be read or used.
    pub(crate) fn load(&self, https: bool) -> Result<(Security, Option<TlsClient>), Failure> {
        let usage = |e: &dyn std::fmt::Display| Failure::new(Exit::Usage, e);
        if let (false, Some(flag)) = (self.tls || https, self.certificates.flags().first()) {
            let flag = flag.split('=').next().unwrap_or_default();
            return Err(usage(&format!("{flag} is for TLS: add --tls, or name an address that begins with https://")));
        }
        let client = (self.tls || https).then(|| TlsClient::new(&self.certificates.settings()));
        let client = client.transpose().map_err(|e| usage(&e))?;
        let compression = match self.deflate {
            Some(level) => Some(Compression::Deflate(level)),
            None => self.snappy.then_some(Compression::Snappy),
        };
        let mut security = Security::default();
        security.tls = client.clone().filter(|_| self.tls);
        security.compression = compression;
        security.auth_secret = self.auth_secret()?;
        Ok((security, client))
    }

    fn auth_secret(&self) -> Result<Option<AuthSecret>, Failure> {
        let Some(path) = &self.auth_secret_file else { return Ok(None) };
        let shown = path.display();
        let failure = |why: &str| Failure::new(Exit::Usage, format!("cannot use the AUTH secret in {shown}: {why}"));
        let length = std::fs::metadata(path).map_err(|e| failure(&describe(&e)))?.len();
        if length > MAX_SECRET {
            return Err(failure("it is longer than 64 KiB"));
        }
        let secret = std::fs::read_to_string(path).map_err(|e| failure(&describe(&e)))?;
        match secret.trim_end_matches(['\r', '\n']) {
            "" => Err(failure("it is empty")),
            secret => Ok(Some(AuthSecret::new(secret.to_owned()))),
        }
    }
}
