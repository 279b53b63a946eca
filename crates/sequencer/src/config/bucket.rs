//! URLs of buckets: s3://BUCKET or s3://BUCKET/PREFIX.

/// What a URL of a bucket begins with.
pub const BUCKET_SCHEME: &str = "s3://";

/// Longest prefix, in bytes: S3's limit is 1,024 for a whole name.
const MAX_PREFIX: usize = 512;

/// A refused URL as errors may show it: without what stands in front of an '@', which may be a key.
#[must_use]
pub fn shown_bucket(url: &str) -> String {
    match url.rsplit_once('@') {
        Some((_, rest)) => format!("{BUCKET_SCHEME}...@{rest}"),
        None => url.to_owned(),
    }
}

/// The bucket and the prefix of a URL; the prefix has no slash at its ends.
///
/// # Errors
/// What is wrong with the URL.
pub fn parse_bucket(url: &str) -> Result<(&str, &str), &'static str> {
    let rest = url.strip_prefix(BUCKET_SCHEME).ok_or("must be s3://BUCKET or s3://BUCKET/PREFIX")?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let of_bucket = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'.' || byte == b'-';
    if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(of_bucket) {
        return Err("must name a bucket by 3 to 63 characters of a-z, 0-9, '.' and '-'");
    }
    let prefix = prefix.strip_suffix('/').filter(|prefix| !prefix.is_empty()).unwrap_or(prefix);
    if prefix.len() > MAX_PREFIX {
        return Err("must have a prefix of at most 512 bytes");
    }
    let of_prefix = |byte: u8| byte.is_ascii_alphanumeric() || b"._-=".contains(&byte);
    let whole = |part: &str| !part.is_empty() && part != "." && part != ".." && part.bytes().all(of_prefix);
    if !prefix.is_empty() && !prefix.split('/').all(whole) {
        return Err("must have a prefix of names with letters, digits, '.', '-', '_' and '='");
    }
    Ok((bucket, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_bucket_and_a_prefix() {
        assert_eq!(parse_bucket("s3://archive"), Ok(("archive", "")));
        assert_eq!(parse_bucket("s3://archive/"), Ok(("archive", "")));
        assert_eq!(parse_bucket("s3://archive/a/b=1/"), Ok(("archive", "a/b=1")));
        let wrong = ["s3://", "s3://ab", "s3://Archive", "s3:/archive", "http://archive", "archive", "s3://archive//"];
        for url in
            wrong.into_iter().chain(["s3://archive/a//b", "s3://archive/../b", "s3://archive/a b", "s3://archive/?"])
        {
            assert!(parse_bucket(url).is_err(), "{url}");
        }
        assert!(parse_bucket(&format!("s3://archive/{}", "a".repeat(MAX_PREFIX))).is_ok());
        assert!(parse_bucket(&format!("s3://archive/{}", "a".repeat(MAX_PREFIX + 1))).is_err());
    }

    #[test]
    fn keys_in_a_url_are_refused_and_not_repeated() {
        let url = "s3://id-3141:secret@2718@archive/chain";
        assert!(parse_bucket(url).is_err());
        assert_eq!(shown_bucket(url), "s3://...@archive/chain");
        assert_eq!(shown_bucket("s3://Archive"), "s3://Archive");
    }
}
