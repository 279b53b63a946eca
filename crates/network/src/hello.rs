//! The hello: the first thing two nodes say to each other, on the first stream that the dialler opens.
//!
//! ```text
//!  dialler                                        listener
//!     | -- open stream: length u32, Hello, end -->  |   checks chain, bans, places, duplicates
//!     | <-- length u32, Hello, end --------------   |   the peer is connected
//!     |    or CONNECTION_CLOSE with a close code    |
//! ```
//!
//! It needs no signature of its own: TLS has proved both identities, and the stream is bound to them.
//!
//! **Two connections of one pair.** Both sides know of every connection who dialled it and the dialler's running
//! number of it (`dial`), so both keep the same one without a word: the one dialled by the smaller node id; of two by
//! the same dialler, the later dial. If the peer's `instance` differs from that of the connected one, the peer has
//! started anew and the old connection is dead.

use cascade_primitives::{Decode, DecodeError, DecodeErrorKind, Encode, Reader, codec::encode_byte_string};
use quinn::{RecvStream, SendStream};

use crate::{addr::Endpoint, config::NetworkId, error::HandshakeError, frame::PREFIX};

/// Longest software version string in bytes.
pub const MAX_AGENT: usize = 128;
/// Largest encoded hello in bytes.
pub const MAX_HELLO: usize = 512;

/// What a node says about itself at the start of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The chain that it belongs to.
    pub network: NetworkId,
    /// A random number per start of the process.
    pub instance: u64,
    /// The dialler's running number of this dial; 0 from the listener.
    pub dial: u64,
    /// The address that it can be dialled at, as it thinks.
    pub listen: Option<Endpoint>,
    /// Software and version: at most [`MAX_AGENT`] printable ASCII characters.
    pub agent: String,
}

impl Encode for Hello {
    fn encode(&self, out: &mut Vec<u8>) {
        self.network.encode(out);
        self.instance.encode(out);
        self.dial.encode(out);
        self.listen.encode(out);
        encode_byte_string(self.agent.as_bytes(), out);
    }
}

impl Decode for Hello {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let network = NetworkId::decode(r)?;
        let instance = u64::decode(r.field("instance"))?;
        let dial = u64::decode(r.field("dial"))?;
        let listen = Option::decode(r.field("listen address"))?;
        let agent = r.field("agent").byte_string(MAX_AGENT)?;
        if !agent.iter().all(|b| b.is_ascii_graphic() || *b == b' ') {
            return Err(r.error(DecodeErrorKind::NotCanonical("an agent is printable ASCII")));
        }
        let agent = String::from_utf8_lossy(&agent).into_owned();
        Ok(Self { network, instance, dial, listen, agent })
    }
}

/// Writes a hello and ends the stream.
pub(crate) async fn write(stream: &mut SendStream, hello: &Hello) -> Result<(), quinn::WriteError> {
    let body = hello.to_bytes();
    let mut message = Vec::with_capacity(PREFIX + body.len());
    encode_byte_string(&body, &mut message);
    stream.write_all(&message).await?;
    // The stream is open, so it can be finished; should the connection be gone, the reader notices.
    let _ = stream.finish();
    Ok(())
}

/// Reads a hello. The chain is read first, so that a node of another chain whose hello looks otherwise still gets a
/// clear answer.
pub(crate) async fn read(stream: &mut RecvStream, ours: NetworkId) -> Result<Hello, HandshakeError> {
    let bytes = stream.read_to_end(PREFIX + MAX_HELLO).await.map_err(|e| match e {
        quinn::ReadToEndError::Read(quinn::ReadError::ConnectionLost(e)) => HandshakeError::from_connection(e, ours),
        quinn::ReadToEndError::TooLong => HandshakeError::Hello(too_long()),
        quinn::ReadToEndError::Read(e) => HandshakeError::Transport(e.to_string()),
    })?;
    parse(&bytes, ours)
}

fn too_long() -> DecodeError {
    let kind = DecodeErrorKind::TooLong { length: MAX_HELLO + 1, limit: MAX_HELLO };
    DecodeError { what: "hello", offset: 0, kind }
}

fn parse(bytes: &[u8], ours: NetworkId) -> Result<Hello, HandshakeError> {
    let mut r = Reader::new(bytes);
    let body = r.field("hello").byte_string(MAX_HELLO).map_err(HandshakeError::Hello)?;
    r.finish().map_err(HandshakeError::Hello)?;
    let theirs = NetworkId::decode(&mut Reader::new(&body)).map_err(HandshakeError::Hello)?;
    if theirs != ours {
        return Err(HandshakeError::WrongNetwork { ours, theirs });
    }
    Hello::from_slice(&body).map_err(HandshakeError::Hello)
}

#[cfg(test)]
mod tests {
    use cascade_primitives::{B256, ChainId};

    use super::*;

    fn hello(agent: &str) -> Hello {
        Hello {
            network: NetworkId { chain_id: ChainId(9), genesis_hash: B256::repeat_byte(3) },
            instance: 1,
            dial: 2,
            listen: Some(Endpoint::new("[2001:db8::1]:30303".parse().unwrap())),
            agent: agent.to_owned(),
        }
    }

    fn framed(hello: &Hello) -> Vec<u8> {
        let mut out = Vec::new();
        encode_byte_string(&hello.to_bytes(), &mut out);
        out
    }

    #[test]
    fn the_largest_hello_fits() {
        let largest = hello(&"x".repeat(MAX_AGENT));
        assert!(largest.to_bytes().len() <= MAX_HELLO);
        assert_eq!(parse(&framed(&largest), largest.network), Ok(largest));
    }

    #[test]
    fn another_chain_is_named_even_if_the_rest_is_unknown() {
        let ours = hello("a").network;
        let theirs = NetworkId { chain_id: ChainId(10), ..ours };
        let mut body = theirs.to_bytes();
        body.extend_from_slice(b"fields of another protocol");
        let mut message = Vec::new();
        encode_byte_string(&body, &mut message);
        assert_eq!(parse(&message, ours), Err(HandshakeError::WrongNetwork { ours, theirs }));
    }

    #[test]
    fn long_or_unprintable_agents_are_refused() {
        for agent in ["x".repeat(MAX_AGENT + 1), "esc\u{1b}[2J".to_owned(), "caf\u{e9}".to_owned()] {
            let bad = hello(&agent);
            assert!(matches!(parse(&framed(&bad), bad.network), Err(HandshakeError::Hello(_))), "{agent:?}");
        }
    }

    #[test]
    fn the_encoding_is_frozen() {
        let hex: String = hello("a/1").to_bytes().iter().map(|b| format!("{b:02x}")).collect();
        let genesis = "03".repeat(32);
        let address = "20010db8000000000000000000000001";
        assert_eq!(
            hex,
            format!("0900000000000000{genesis}01000000000000000200000000000000 0106{address}5f76 03000000612f31")
                .replace(' ', "")
        );
    }
}
