//! Owns the files that TLS needs: reads them once, when a node starts.
//!
//! The client reads them by itself, at every attempt to connect, and a file that is wrong is to it one more failed attempt,
//! which it makes again for ever. So they are read here first, as it would read them, and what is wrong is told.

use crate::nats::BusError;
use async_nats::rustls::crypto::ring;
use async_nats::rustls::pki_types::pem::PemObject as _;
use async_nats::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use async_nats::rustls::{ClientConfig, RootCertStore};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Sees that root certificates, and a certificate with its key, can be used.
pub(crate) fn check(ca: Option<&Path>, identity: Option<&(PathBuf, PathBuf)>) -> Result<(), BusError> {
    let mut trusted = RootCertStore::empty();
    if let Some(path) = ca {
        for certificate in certificates("ca", path)? {
            trusted.add(certificate).map_err(|e| wrong("ca", path, &format!("cannot be trusted: {e}")))?;
        }
    }
    let Some((path, key_path)) = identity else { return Ok(()) };
    let chain = certificates("certificate", path)?;
    let key = PrivateKeyDer::from_pem_file(key_path)
        .map_err(|e| wrong("key", key_path, &format!("holds no private key as PEM: {e}")))?;
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_root_certificates(trusted).with_client_auth_cert(chain, key))
        .map_err(|e| wrong("key", key_path, &format!("does not go with `bus.certificate`: {e}")))?;
    Ok(())
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, BusError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(wrong(key, path, "holds no certificate as PEM")),
        Err(e) => Err(wrong(key, path, &format!("cannot be read as PEM: {e}"))),
    }
}

fn wrong(key: &'static str, path: &Path, reason: &str) -> BusError {
    BusError::Certificate { key, path: path.to_owned(), reason: reason.to_owned() }
}
