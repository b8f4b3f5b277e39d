//! Certificates: read from files, or made for a developer's machine.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tidewheel_api::{Authority, SignedCertificate};

use crate::config::Config;
use crate::fail::{Exit, Failure, Outcome, While};
use crate::profile::write_private;

/// The authority that signs agents' certificates: certificate and key, made once per folder. The key has to be kept like
/// the database: who has it can pass for an agent whose record still stands.
const AUTHORITY_CERT: &str = "agents-ca.pem";
const AUTHORITY_KEY: &str = "agents-ca.key";
/// A clock that is so far behind does not refuse a new certificate.
const CLOCK_SKEW: Duration = Duration::from_secs(24 * 60 * 60);

/// What a listener with TLS needs.
pub(super) struct Tls {
    pub(super) listener: rustls::ServerConfig,
    pub(super) authority: Authority,
}

/// The listener's TLS settings, if a certificate is configured. Clients may show a certificate of the authority in the
/// folder; one of another authority ends the handshake.
pub(super) fn server_config(config: &Config, data_dir: &Path) -> Outcome<Option<Tls>> {
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
    let (authority, root) = authority(data_dir, config.duration("tls.agentCertLife"))?;
    let what = || "cannot use the authority of the agents' certificates".to_owned();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root).doing(Exit::Failed, what)?;
    let verifier = rustls::server::WebPkiClientVerifier::builder(roots.into()).allow_unauthenticated().build();
    let verifier = verifier.doing(Exit::Failed, what)?;
    let made = rustls::ServerConfig::builder().with_client_cert_verifier(verifier).with_single_cert(chain, private);
    let listener = made.map_err(|error| unreadable(&cert, &error))?;
    Ok(Some(Tls { listener, authority }))
}

/// The authority of the folder, and its certificate.
fn authority(folder: &Path, life: Duration) -> Outcome<(Authority, CertificateDer<'static>)> {
    let (cert, key) = (folder.join(AUTHORITY_CERT), folder.join(AUTHORITY_KEY));
    let what = || format!("cannot use the authority of the agents' certificates in {}", folder.display());
    if !(cert.exists() && key.exists()) {
        let pair = rcgen::KeyPair::generate().doing(Exit::Failed, what)?;
        let made = authority_params().self_signed(&pair).doing(Exit::Failed, what)?;
        write_private(&key, &pair.serialize_pem()).doing(Exit::Failed, what)?;
        write_private(&cert, &made.pem()).doing(Exit::Failed, what)?;
    }
    let root = CertificateDer::from_pem_file(&cert).doing(Exit::Failed, what)?;
    let pem = std::fs::read_to_string(&key).doing(Exit::Failed, what)?;
    let pair = rcgen::KeyPair::from_pem(&pem).doing(Exit::Failed, what)?;
    // The same name and key as the certificate in the folder has.
    let issuer = rcgen::Issuer::new(authority_params(), pair);
    let sign = move |csr: &str, id: &str| sign(&issuer, csr, id, life).map_err(|error| error.to_string());
    Ok((Authority(Arc::new(sign)), root))
}

fn authority_params() -> rcgen::CertificateParams {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = named("Tidewheel agents");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    params
}

fn named(name: &str) -> rcgen::DistinguishedName {
    let mut out = rcgen::DistinguishedName::new();
    out.push(rcgen::DnType::CommonName, name);
    out
}

/// A client certificate for the key of a signing request. Nothing else of the request counts: what it says of itself is
/// the agent's claim.
fn sign(
    issuer: &rcgen::Issuer<'_, rcgen::KeyPair>,
    csr: &str,
    id: &str,
    life: Duration,
) -> Result<SignedCertificate, rcgen::Error> {
    let mut request = rcgen::CertificateSigningRequestParams::from_pem(csr)?;
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = named(id);
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let end = Duration::from_secs((now + life).as_secs());
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + now.saturating_sub(CLOCK_SKEW);
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + end;
    request.params = params;
    let made = request.signed_by(issuer)?;
    Ok(SignedCertificate { pem: made.pem(), der: made.der().to_vec(), not_after_ms: super::millis(end) })
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
