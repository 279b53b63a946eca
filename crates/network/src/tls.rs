//! Mutual TLS 1.3 on self-signed certificates that are pinned to node identities.
//!
//! A node's certificate holds its Ed25519 identity key and nothing else of interest: names, dates and issuer are
//! ignored. What counts is that the TLS handshake is signed with that key; the key *is* the node id. A dialler that
//! knows whom it means refuses any other key inside the handshake. Sessions are never resumed and there is no early
//! data, so that each connection proves both identities and nothing can be replayed.

use std::sync::{Arc, OnceLock};

use cascade_primitives::NodeId;
use quinn::{
    Connection,
    crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig},
};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use x509_parser::{certificate::X509Certificate, oid_registry::OID_SIG_ED25519, prelude::FromDer};
use zeroize::Zeroize;

use crate::{
    config::ProtocolVersion,
    error::NetworkError,
    identity::{Identity, is_sound},
};

/// The name that diallers send; no one checks it.
pub(crate) const SERVER_NAME: &str = "cascade";
/// The largest certificate that is looked at; ours have about 300 bytes.
const MAX_CERTIFICATE: usize = 4096;

/// A node's certificate and key for TLS.
#[derive(Debug)]
pub(crate) struct Credentials {
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
}

impl Credentials {
    pub(crate) fn new(identity: &Identity) -> Result<Self, NetworkError> {
        let fail = |e: rcgen::Error| NetworkError::Tls(e.to_string());
        let key = pkcs8(identity);
        let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&key, &rcgen::PKCS_ED25519).map_err(fail)?;
        let params = rcgen::CertificateParams::new(vec![SERVER_NAME.to_owned()]).map_err(fail)?;
        let certificate = params.self_signed(&pair).map_err(fail)?;
        Ok(Self { certificate: certificate.der().clone(), key })
    }

    /// The listener's side.
    pub(crate) fn server(&self, versions: &[ProtocolVersion]) -> Result<QuicServerConfig, NetworkError> {
        let fail = |e: Error| NetworkError::Tls(e.to_string());
        let provider = provider();
        let mut config = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(fail)?
            .with_client_cert_verifier(Arc::new(PinnedIdentity { provider, expected: None, found: Arc::default() }))
            .with_single_cert(vec![self.certificate.clone()], PrivateKeyDer::Pkcs8(self.key.clone_key()))
            .map_err(fail)?;
        config.alpn_protocols = versions.iter().map(|v| v.alpn()).collect();
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.max_early_data_size = 0;
        QuicServerConfig::try_from(config).map_err(|e| NetworkError::Tls(e.to_string()))
    }

    /// The dialler's side. With an expected identity, `found` receives the one that the
    /// listener showed.
    pub(crate) fn client(
        &self,
        versions: &[ProtocolVersion],
        expected: Option<NodeId>,
        found: Arc<OnceLock<NodeId>>,
    ) -> Result<QuicClientConfig, NetworkError> {
        let fail = |e: Error| NetworkError::Tls(e.to_string());
        let provider = provider();
        let mut config = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(fail)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(PinnedIdentity { provider, expected, found }))
            .with_client_auth_cert(vec![self.certificate.clone()], PrivateKeyDer::Pkcs8(self.key.clone_key()))
            .map_err(fail)?;
        config.alpn_protocols = versions.iter().map(|v| v.alpn()).collect();
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        QuicClientConfig::try_from(config).map_err(|e| NetworkError::Tls(e.to_string()))
    }
}

impl Drop for Credentials {
    fn drop(&mut self) {
        let mut key = std::mem::replace(&mut self.key, PrivatePkcs8KeyDer::from(Vec::new()));
        key.zeroize();
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The identity's key as PKCS #8 version 1 (RFC 8410, 7).
fn pkcs8(identity: &Identity) -> PrivatePkcs8KeyDer<'static> {
    const HEAD: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    let mut der = HEAD.to_vec();
    der.extend_from_slice(identity.seed().as_slice());
    PrivatePkcs8KeyDer::from(der)
}

/// The identity in a certificate: its public key must be a sound Ed25519 key.
fn node_of(certificate: &CertificateDer<'_>) -> Result<NodeId, Error> {
    let bad = || Error::InvalidCertificate(CertificateError::BadEncoding);
    if certificate.len() > MAX_CERTIFICATE {
        return Err(bad());
    }
    let (rest, parsed) = X509Certificate::from_der(certificate).map_err(|_| bad())?;
    let spki = parsed.public_key();
    if !rest.is_empty() || spki.algorithm.algorithm != OID_SIG_ED25519 {
        return Err(bad());
    }
    let key = <[u8; 32]>::try_from(spki.subject_public_key.data.as_ref()).map_err(|_| bad())?;
    let node = NodeId(key);
    if is_sound(node) { Ok(node) } else { Err(bad()) }
}

/// The identity that a peer's certificate (DER) shows; none if it is no certificate of a node.
#[must_use]
pub fn node_of_certificate(der: &[u8]) -> Option<NodeId> {
    node_of(&CertificateDer::from(der)).ok()
}

/// Accepts exactly the certificates that hold a node identity, and only the expected one if there is one.
#[derive(Debug)]
struct PinnedIdentity {
    provider: Arc<CryptoProvider>,
    expected: Option<NodeId>,
    found: Arc<OnceLock<NodeId>>,
}

impl PinnedIdentity {
    fn check(&self, certificate: &CertificateDer<'_>, chain: &[CertificateDer<'_>]) -> Result<(), Error> {
        let node = node_of(certificate)?;
        if self.expected.is_some() {
            // A handshake shows one certificate, so there is nothing to overwrite.
            let _ = self.found.set(node);
        }
        if !chain.is_empty() || self.expected.is_some_and(|expected| expected != node) {
            return Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure));
        }
        Ok(())
    }

    fn verify(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }
}

impl ServerCertVerifier for PinnedIdentity {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, intermediates).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("QUIC has no TLS 1.2".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for PinnedIdentity {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity, intermediates).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("QUIC has no TLS 1.2".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// Who is at the other end of an established connection, and the version that was negotiated.
pub(crate) fn peer_of(connection: &Connection) -> Option<(NodeId, ProtocolVersion)> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    let data = connection.handshake_data()?.downcast::<HandshakeData>().ok()?;
    Some((node_of(chain.first()?).ok()?, ProtocolVersion::from_alpn(&data.protocol?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_holds_the_identity() {
        let identity = Identity::from_seed(&[5; 32]);
        let credentials = Credentials::new(&identity).unwrap();
        assert_eq!(node_of(&credentials.certificate), Ok(identity.node_id()));
    }

    #[test]
    fn other_keys_trailing_bytes_and_garbage_are_refused() {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let other = rcgen::CertificateParams::new(vec![]).unwrap().self_signed(&pair).unwrap();
        assert!(node_of(other.der()).is_err());
        let credentials = Credentials::new(&Identity::from_seed(&[5; 32])).unwrap();
        let mut long = credentials.certificate.to_vec();
        long.push(0);
        assert!(node_of(&CertificateDer::from(long)).is_err());
        assert!(node_of(&CertificateDer::from(vec![0x30; 100])).is_err());
    }
}
