//! Amounts and addresses as people write them.

use alloy_primitives::{Address, U256};

/// Digits behind the point of an amount in CAS: 1 CAS is 10^18 wei.
const DECIMALS: usize = 18;

/// Wei of an amount in CAS such as `1`, `0.5` or `12.000000000000000001`.
///
/// # Errors
/// A text that says what is wrong.
pub fn parse_cas(text: &str) -> Result<U256, String> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return Err(format!("`{text}` is no amount; write it as 1 or 0.25 (in CAS)"));
    }
    if fraction.len() > DECIMALS {
        return Err(format!("`{text}` has more than {DECIMALS} digits behind the point; the smallest unit is 1 wei"));
    }
    let padded = format!("{whole}{fraction:0<DECIMALS$}");
    U256::from_str_radix(&padded, 10).map_err(|_| format!("`{text}` is more than 2^256 wei"))
}

/// An address. Capital letters among its digits are a checksum (EIP-55), which must be right: a mistyped digit would
/// send money to nobody. All lower or all upper case carries none.
///
/// # Errors
/// A text that says what is wrong.
pub fn parse_address(text: &str) -> Result<Address, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    if digits.len() != 40 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(format!("`{text}` is no address: 0x and 40 hex digits"));
    }
    let address: Address = digits.parse().map_err(|_| format!("`{text}` is no address"))?;
    let mixed = digits.bytes().any(|b| b.is_ascii_lowercase()) && digits.bytes().any(|b| b.is_ascii_uppercase());
    if mixed && !address.to_checksum(None).ends_with(digits) {
        return Err(format!(
            "`{text}`: the checksum (its capital letters) is wrong, so a digit may be mistyped; all lower case skips this"
        ));
    }
    Ok(address)
}

/// An amount in CAS, without trailing zeros.
#[must_use]
pub fn format_cas(wei: U256) -> String {
    let text = format!("{:0>width$}", wei.to_string(), width = DECIMALS + 1);
    let (whole, fraction) = text.split_at(text.len() - DECIMALS);
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() { whole.to_owned() } else { format!("{whole}.{fraction}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_digit_breaks_the_checksum_of_an_address() {
        let right = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";
        assert!(parse_address(right).is_ok());
        assert!(parse_address(&right.to_lowercase()).is_ok());
        assert!(parse_address("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92267").unwrap_err().contains("checksum"));
        assert!(parse_address("0x1234").unwrap_err().contains("40 hex digits"));
    }

    #[test]
    fn amounts_convert_exactly() {
        for (text, wei) in [("1", "1000000000000000000"), ("0.5", "500000000000000000"), (".000000000000000001", "1")] {
            assert_eq!(parse_cas(text).unwrap().to_string(), wei);
        }
        for text in ["0", "1", "0.25", "12.000000000000000001"] {
            assert_eq!(format_cas(parse_cas(text).unwrap()), text);
        }
        for bad in ["", ".", "-1", "1e3", "1,5", "0.0000000000000000001", "0x10"] {
            assert!(parse_cas(bad).is_err(), "{bad}");
        }
        assert!(parse_cas(&"9".repeat(80)).is_err());
    }
}
