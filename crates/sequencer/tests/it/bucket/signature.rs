//! Signatures of requests, version 4, as S3 checks them (docs.aws.amazon.com, "Authenticating Requests: Using the
//! Authorization Header").

use ring::{digest, hmac};

fn keyed(key: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec()
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

/// Whether the request (its line and headers, and its body) is signed by the key.
pub fn is_right(head: &str, body: &[u8], id: &str, secret: &str) -> bool {
    check(head, body, id, secret).unwrap_or(false)
}

fn check(head: &str, body: &[u8], id: &str, secret: &str) -> Option<bool> {
    let mut lines = head.lines();
    let mut request = lines.next()?.split(' ');
    let (method, target) = (request.next()?, request.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers: Vec<(String, &str)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim()))
        .collect();
    let header = |name: &str| headers.iter().find(|(found, _)| found == name).map(|(_, value)| *value);
    let fields = header("authorization")?.strip_prefix("AWS4-HMAC-SHA256 ")?;
    let field = |name: &str| fields.split(',').find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('='));
    let (credential, signed) = (field("Credential")?, field("SignedHeaders")?);
    let (found, scope) = credential.split_once('/')?;
    let hash = header("x-amz-content-sha256")?;
    let mut canonical = format!("{method}\n{path}\n{query}\n");
    for name in signed.split(';') {
        canonical += &format!("{name}:{}\n", header(name)?);
    }
    canonical += &format!("\n{signed}\n{hash}");
    let text = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{}", header("x-amz-date")?, sha256(canonical.as_bytes()));
    let key = scope.split('/').fold(format!("AWS4{secret}").into_bytes(), |key, part| keyed(&key, part.as_bytes()));
    let expected = hex::encode(keyed(&key, text.as_bytes()));
    let covered = signed.split(';').any(|name| name == "host");
    Some(found == id && covered && hash == sha256(body) && field("Signature")? == expected)
}

#[test]
fn it_takes_the_published_example() {
    // "Example: GET Object" of the page above.
    let head = "GET /test.txt HTTP/1.1\r\nHost: examplebucket.s3.amazonaws.com\r\nRange: bytes=0-9\r\n\
         x-amz-content-sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\r\n\
         x-amz-date: 20130524T000000Z\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
         SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,\
         Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
    let (id, secret) = ("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
    assert!(is_right(head, b"", id, secret));
    assert!(!is_right(head, b"x", id, secret), "another body");
    assert!(!is_right(&head.replace("0-9", "0-8"), b"", id, secret), "another header");
    assert!(!is_right(&head.replace("/test", "/best"), b"", id, secret), "another object");
    assert!(!is_right(head, b"", id, &secret.to_lowercase()), "another key");
}
