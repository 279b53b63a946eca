//! Parameters of requests: positional, hostile, and answered in geth's words when they are wrong.

use alloy_eips::{BlockId, BlockNumberOrTag};
use alloy_primitives::{B256, U256, hex};
use bytes::Bytes;
use cascade_primitives::Height;
use jsonrpsee::types::Params;
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned},
};
use serde_json::value::RawValue;

use super::error::{self, Answer};

/// Most parameters that any method takes. Further ones are refused before they are kept.
const MOST: usize = 8;

/// The positional parameters of a request.
#[derive(Debug)]
pub(crate) struct Args<'a> {
    values: Vec<&'a RawValue>,
}

struct Values<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Values<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Values<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an array of parameters")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = seq.next_element::<&'de RawValue>()? {
                    if values.len() == MOST {
                        return Err(de::Error::custom(format!("too many arguments, want at most {MOST}")));
                    }
                    values.push(value);
                }
                Ok(Values(values))
            }
        }

        deserializer.deserialize_seq(Visitor)
    }
}

impl<'a> Args<'a> {
    /// Splits the parameters of a request of a method that takes at most `most`.
    pub(crate) fn new(params: &'a Params<'_>, most: usize) -> Answer<Self> {
        let Some(text) = params.as_str() else { return Ok(Self { values: Vec::new() }) };
        if !text.trim_start().starts_with('[') {
            return Err(error::params("non-array args"));
        }
        let Values(values) = serde_json::from_str(text).map_err(|reason| error::params(short(&reason)))?;
        if values.len() > most {
            return Err(error::params(format!("too many arguments, want at most {most}")));
        }
        Ok(Self { values })
    }

    /// The parameter at `index`.
    pub(crate) fn get<T: DeserializeOwned>(&self, index: usize) -> Answer<T> {
        let missing = || error::params(format!("missing value for required argument {index}"));
        self.optional(index)?.ok_or_else(missing)
    }

    /// The parameter at `index`, if it is there and not null.
    pub(crate) fn optional<T: DeserializeOwned>(&self, index: usize) -> Answer<Option<T>> {
        match self.values.get(index).map(|value| value.get()) {
            None | Some("null") => Ok(None),
            Some(text) => match serde_json::from_str(text) {
                Ok(value) => Ok(Some(value)),
                Err(reason) => Err(error::params(format!("invalid argument {index}: {}", short(&reason)))),
            },
        }
    }

    /// A byte string of hex at `index`, decoded once.
    pub(crate) fn bytes(&self, index: usize) -> Answer<Bytes> {
        Ok(self.get::<Data>(index)?.0)
    }
}

/// The text of a parse error, cut: it may repeat what the client sent.
fn short(reason: &serde_json::Error) -> String {
    let text = reason.to_string();
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// A number in a client's request: `"0x1f"` or 31.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Number(pub(crate) u64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Number;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number below 2^64, plain or as 0x-prefixed hex")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Number, E> {
                Ok(Number(value))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Number, E> {
                let invalid = || E::invalid_value(de::Unexpected::Str(&value[..value.len().min(40)]), &self);
                let digits = value.strip_prefix("0x").filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
                match digits {
                    Some(digits) => u64::from_str_radix(digits, 16).map(Number).map_err(|_| invalid()),
                    None if value.is_ascii() => Err(invalid()),
                    None => Err(E::invalid_value(de::Unexpected::Other("text that is not ASCII"), &self)),
                }
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// A byte string: `0x` and an even number of hex digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Data(pub(crate) Bytes);

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Data;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a byte string as 0x-prefixed hex")
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Data, E> {
                if !value.starts_with("0x") {
                    return Err(E::custom("hex string without 0x prefix"));
                }
                hex::decode(value).map(|bytes| Data(bytes.into())).map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Visitor)
    }
}

/// A storage slot: a quantity or 32 bytes, shorter hex with or without leading zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(pub(super) U256);

impl<'de> Deserialize<'de> for Slot {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let digits = text.strip_prefix("0x").unwrap_or(&text);
        if digits.is_empty() || digits.len() > 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(de::Error::custom("a storage slot is 1 to 64 digits of hex"));
        }
        Ok(Self(U256::from_str_radix(digits, 16).map_err(de::Error::custom)?))
    }
}

/// The block that an `eth_` method is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockRef(pub(super) BlockId);

impl BlockRef {
    pub(super) const LATEST: Self = Self(BlockId::Number(BlockNumberOrTag::Latest));
}

impl<'de> Deserialize<'de> for BlockRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BlockId::deserialize(deserializer).map(Self)
    }
}

/// What an `l2_` method is about: a height (plain or hex), a tag, or a hash of 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    Height(Height),
    Tag(BlockNumberOrTag),
    Hash(B256),
}

impl<'de> Deserialize<'de> for Subject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Subject;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a height, a hash of 32 bytes, or one of latest, safe, finalized, pending, earliest")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Subject, E> {
                Ok(Subject::Height(Height(value)))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Subject, E> {
                let invalid = || E::invalid_value(de::Unexpected::Other("other text"), &self);
                if value.len() == 66 {
                    return value.parse().map(Subject::Hash).map_err(|_| invalid());
                }
                match value.parse::<BlockNumberOrTag>() {
                    Ok(BlockNumberOrTag::Number(height)) => Ok(Subject::Height(Height(height))),
                    Ok(tag) => Ok(Subject::Tag(tag)),
                    Err(_) => Err(invalid()),
                }
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args<T>(text: &str, most: usize, read: impl FnOnce(&Args<'_>) -> Answer<T>) -> Result<T, String> {
        let params = Params::new(Some(text));
        Args::new(&params, most).and_then(|args| read(&args)).map_err(|error| {
            assert_eq!(error.code(), error::PARAMS);
            error.message().to_owned()
        })
    }

    #[test]
    fn wrong_parameters_are_named() {
        assert_eq!(args("[]", 1, |a| a.get::<Number>(0)), Err("missing value for required argument 0".to_owned()));
        assert_eq!(args("[null]", 1, |a| a.get::<Number>(0)), Err("missing value for required argument 0".to_owned()));
        assert_eq!(args("[1,2]", 1, |a| a.get::<Number>(0)), Err("too many arguments, want at most 1".to_owned()));
        assert_eq!(args("{\"a\":1}", 1, |a| a.get::<Number>(0)), Err("non-array args".to_owned()));
        let error = args("[1,\"x\"]", 2, |a| a.get::<Number>(1)).unwrap_err();
        assert!(error.starts_with("invalid argument 1: "), "{error}");
        let many = format!("[{}1]", "1,".repeat(100_000));
        assert!(args(&many, 1, |a| a.get::<Number>(0)).unwrap_err().contains("too many"));
    }

    #[test]
    fn numbers_are_hex_or_plain_and_bounded() {
        let number = |text: &str| serde_json::from_str::<Number>(text).map(|n| n.0).ok();
        assert_eq!(number("\"0x1f\""), Some(31));
        assert_eq!(number("31"), Some(31));
        assert_eq!(number("\"0xffffffffffffffff\""), Some(u64::MAX));
        for bad in
            ["\"0x10000000000000000\"", "\"0x\"", "\"31\"", "-1", "1.5", "1e30", "\"0x-1\"", "\"0x+1\"", "{}", "[]"]
        {
            assert_eq!(number(bad), None, "{bad}");
        }
        assert_eq!(number(&format!("\"{}\"", "\u{20ac}".repeat(100))), None);
    }

    #[test]
    fn byte_strings_have_a_prefix_and_whole_bytes() {
        let data = |text: &str| serde_json::from_str::<Data>(text).map(|data| data.0.to_vec()).ok();
        assert_eq!(data("\"0x\""), Some(vec![]));
        assert_eq!(data("\"0x00fF\""), Some(vec![0, 255]));
        for bad in ["\"00ff\"", "\"0x0\"", "\"0x0g\"", "\"0x0x00\"", "[0,255]", "7", "\"\""] {
            assert_eq!(data(bad), None, "{bad}");
        }
    }

    #[test]
    fn slots_and_subjects() {
        let slot = |text: &str| serde_json::from_str::<Slot>(text).map(|s| s.0).ok();
        assert_eq!(slot("\"0x0\""), Some(U256::ZERO));
        assert_eq!(slot(&format!("\"0x{}\"", "f".repeat(64))), Some(U256::MAX));
        assert_eq!(slot(&format!("\"0x{}\"", "f".repeat(65))), None);
        assert_eq!(slot("\"0x\""), None);
        let subject = |text: &str| serde_json::from_str::<Subject>(text).ok();
        assert_eq!(subject("7"), Some(Subject::Height(Height(7))));
        assert_eq!(subject("\"0x7\""), Some(Subject::Height(Height(7))));
        assert_eq!(subject("\"latest\""), Some(Subject::Tag(BlockNumberOrTag::Latest)));
        assert_eq!(subject(&format!("\"0x{}\"", "11".repeat(32))), Some(Subject::Hash(B256::repeat_byte(0x11))));
        assert_eq!(subject(&format!("\"0x{}\"", "zz".repeat(32))), None);
        assert_eq!(subject("\"nonsense\""), None);
    }

    #[test]
    fn deep_json_is_an_error_and_not_a_crash() {
        let deep = format!("[{}{}]", "[".repeat(100_000), "]".repeat(100_000));
        assert!(args(&deep, 1, |a| a.get::<serde_json::Value>(0)).is_err());
    }
}
