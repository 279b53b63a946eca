//! A peer that speaks the protocol by hand, from the specification and not from the crate's code, and so can break it.

use std::{net::SocketAddr, sync::Arc};

use cascade_network::hello::Hello;
use cascade_primitives::{Decode, Encode};
use quinn::{
    ApplicationClose, ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream, TransportConfig,
    VarInt, crypto::rustls::QuicClientConfig,
};
use rustls::{
    DigitallySignedStruct, Error, SignatureScheme,
    client::{
        ResolvesClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{ring, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    sign::CertifiedKey,
};
use tokio::time::timeout;

use crate::helpers::{LIMIT, NETWORK, identity};

pub struct Raw {
    pub connection: Connection,
    endpoint: Endpoint,
}

pub fn hello() -> Hello {
    Hello { network: NETWORK, instance: 1, dial: 1, listen: None, agent: "raw".to_owned() }
}

#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        unreachable!("QUIC has no TLS 1.2")
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &ring::default_provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// A certificate and its key.
fn certified(seed: u8) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let mut der = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    der.extend_from_slice(identity(seed).seed().as_slice());
    let der = PrivatePkcs8KeyDer::from(der);
    let key = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ED25519).unwrap();
    let certificate = rcgen::CertificateParams::new(vec![]).unwrap().self_signed(&key).unwrap();
    (certificate.der().clone(), PrivateKeyDer::Pkcs8(der))
}

/// Shows one certificate and signs with the key of another, which rustls would refuse to be configured for.
#[derive(Debug)]
struct Thief(Arc<CertifiedKey>);

impl ResolvesClientCert for Thief {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Who a TLS client says that it is.
enum Shown {
    Nobody,
    Own(u8),
    /// The certificate of the first, the key of the second.
    Stolen(u8, u8),
}

fn tls(shown: &Shown, alpn: &[u8]) -> QuicClientConfig {
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone));
    let mut config = match *shown {
        Shown::Own(seed) => {
            let (certificate, key) = certified(seed);
            builder.with_client_auth_cert(vec![certificate], key).unwrap()
        }
        Shown::Stolen(owner, thief) => {
            let (certificate, (_, key)) = (certified(owner).0, certified(thief));
            let key = ring::sign::any_eddsa_type(match &key {
                PrivateKeyDer::Pkcs8(der) => der,
                _ => unreachable!("made above"),
            });
            let both = CertifiedKey::new(vec![certificate], key.unwrap());
            builder.with_client_cert_resolver(Arc::new(Thief(Arc::new(both))))
        }
        Shown::Nobody => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    QuicClientConfig::try_from(config).unwrap()
}

impl Raw {
    /// TLS only.
    pub async fn connect(addr: SocketAddr, seed: Option<u8>, alpn: &[u8]) -> Result<Self, ConnectionError> {
        let shown = seed.map_or(Shown::Nobody, Shown::Own);
        Self::connect_with(addr, &shown, alpn, TransportConfig::default()).await
    }

    /// TLS only, with the certificate of one and the key of another.
    pub async fn impersonate(addr: SocketAddr, owner: u8, thief: u8) -> Result<Self, ConnectionError> {
        Self::connect_with(addr, &Shown::Stolen(owner, thief), b"cascade/2", TransportConfig::default()).await
    }

    async fn connect_with(
        addr: SocketAddr,
        shown: &Shown,
        alpn: &[u8],
        transport: TransportConfig,
    ) -> Result<Self, ConnectionError> {
        let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut config = ClientConfig::new(Arc::new(tls(shown, alpn)));
        config.transport_config(Arc::new(transport));
        let connecting = endpoint.connect_with(config, addr, "anyone").unwrap();
        let connection = timeout(LIMIT, connecting).await.expect("no handshake")?;
        Ok(Self { connection, endpoint })
    }

    /// TLS and a hello of these bytes; the answer is the listener's hello or the end of the connection.
    pub async fn greet(addr: SocketAddr, seed: u8, hello: &[u8]) -> Result<(Self, Hello), ConnectionError> {
        let raw = Self::connect(addr, Some(seed), b"cascade/2").await?;
        let hello = raw.say(hello).await?;
        Ok((raw, hello))
    }

    pub async fn say(&self, hello: &[u8]) -> Result<Hello, ConnectionError> {
        let (mut send, mut recv) = self.connection.open_bi().await?;
        let prefix = u32::try_from(hello.len()).unwrap().to_le_bytes();
        let _ = send.write_all(&[&prefix, hello].concat()).await;
        let _ = send.finish();
        match timeout(LIMIT, recv.read_to_end(1000)).await.expect("no answer") {
            Ok(answer) => Ok(Hello::from_slice(&answer[4..]).unwrap()),
            Err(_) => Err(self.closed().await),
        }
    }

    /// A connected peer.
    pub async fn peer(addr: SocketAddr, seed: u8) -> Self {
        Self::greet(addr, seed, &hello().to_bytes()).await.unwrap().0
    }

    /// A connected peer that takes in no more of a stream than this many bytes ahead of its reading.
    pub async fn slow_peer(addr: SocketAddr, seed: u8, window: u32) -> Self {
        let mut transport = TransportConfig::default();
        transport.stream_receive_window(VarInt::from_u32(window));
        let raw = Self::connect_with(addr, &Shown::Own(seed), b"cascade/2", transport).await.unwrap();
        raw.say(&hello().to_bytes()).await.unwrap();
        raw
    }

    /// Opens a stream and writes these bytes.
    pub async fn stream(&self, bytes: &[u8]) -> SendStream {
        let mut stream = self.connection.open_uni().await.unwrap();
        // The other side may already have seen enough.
        let _ = stream.write_all(bytes).await;
        stream
    }

    /// The next stream of the other side and its channel id.
    pub async fn accept(&self) -> (u8, RecvStream) {
        let mut stream = timeout(LIMIT, self.connection.accept_uni()).await.expect("no stream").unwrap();
        let mut id = [0];
        stream.read_exact(&mut id).await.unwrap();
        (id[0], stream)
    }

    /// Moves to another socket.
    pub fn rebind(&self, socket: std::net::UdpSocket) {
        self.endpoint.rebind(socket).unwrap();
    }

    pub async fn closed(&self) -> ConnectionError {
        timeout(LIMIT, self.connection.closed()).await.expect("the connection stays open")
    }

    pub async fn close_code(&self) -> u64 {
        code_of(&self.closed().await)
    }
}

pub fn code_of(error: &ConnectionError) -> u64 {
    match error {
        ConnectionError::ApplicationClosed(ApplicationClose { error_code, .. }) => error_code.into_inner(),
        other => panic!("closed otherwise: {other}"),
    }
}

/// The next message on a stream.
pub async fn read_message(stream: &mut RecvStream) -> Vec<u8> {
    let read = async {
        let mut prefix = [0; 4];
        stream.read_exact(&mut prefix).await.unwrap();
        let mut message = vec![0; u32::from_le_bytes(prefix) as usize];
        stream.read_exact(&mut message).await.unwrap();
        message
    };
    timeout(LIMIT, read).await.expect("no message")
}
