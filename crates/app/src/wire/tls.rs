//! Certificates: read from files, or made for a developer's machine.

use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::Config;
use crate::fail::{Exit, Failure, Outcome, While};
use crate::profile::write_private;

/// The listener's TLS settings, if a certificate is configured.
pub(super) fn server_config(config: &Config) -> Outcome<Option<rustls::ServerConfig>> {
    let (Some(cert), Some(key)) = (config.maybe("tls.certFile"), config.maybe("tls.keyFile")) else { return Ok(None) };
    let unreadable = |file: &str, error: &dyn std::fmt::Display| {
        Failure::usage(format!("cannot use {file}"), error.to_string())
            .next("tls.certFile and tls.keyFile are PEM files")
    };
    let chain = CertificateDer::pem_file_iter(&cert).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| unreadable(&cert, &error))?;
    if chain.is_empty() {
        return Err(unreadable(&cert, &"there is no certificate in it"));
    }
    let private = PrivateKeyDer::from_pem_file(&key).map_err(|error| unreadable(&key, &error))?;
    let made = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, private);
    made.map(Some).map_err(|error| unreadable(&cert, &error))
}

/// A certificate for this machine's loopback, made once per folder. Returns the files of certificate and key.
pub(crate) fn self_signed(folder: &Path) -> Outcome<(PathBuf, PathBuf)> {
    let (cert, key) = (folder.join("dev-cert.pem"), folder.join("dev-key.pem"));
    if cert.exists() && key.exists() {
        return Ok((cert, key));
    }
    let what = || "cannot make a certificate".to_owned();
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let made = rcgen::generate_simple_self_signed(names).doing(Exit::Failed, what)?;
    write_private(&key, &made.signing_key.serialize_pem()).doing(Exit::Failed, what)?;
    write_private(&cert, &made.cert.pem()).doing(Exit::Failed, what)?;
    Ok((cert, key))
}
