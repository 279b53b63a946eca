//! Commitments that are frozen. `CASCADE_BLESS=1 cargo test -p cascade-da` writes the file anew.

use std::{fmt::Write as _, fs, path::Path};

use cascade_da::{
    Axis, BadEncoding, Line, SampleId, Square,
    dispersal::disperse,
    wire::{Answer, Request},
};
use cascade_primitives::{Encode, Height};

pub fn golden(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("CASCADE_BLESS").is_some() {
        fs::create_dir_all(path.parent().expect("it is in a directory")).expect("the directory can be made");
        fs::write(&path, found).expect("the golden file can be written");
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(found, expected, "{name} changed: that is another protocol version");
}

#[test]
fn commitments_and_samples_keep_their_bytes() {
    let mut out = String::new();
    for len in [0, 1, 511, 512, 2048, 10_000, 128 << 10, 1 << 20, 2 << 20] {
        let square = Square::new(&super::noise(len, 42)).unwrap();
        let header = square.header_field();
        writeln!(
            out,
            "{len} bytes: width {}, shares of {}, root {}",
            header.width,
            header.share_size,
            hex::encode(header.root)
        )
        .unwrap();
    }
    let square = Square::new(&super::noise(1000, 42)).unwrap();
    writeln!(out, "sample {}", hex::encode(square.sample(1, 0, Axis::Column).unwrap().to_bytes())).unwrap();
    golden("commitments.txt", &out);
}

#[test]
fn messages_keep_their_bytes() {
    let ids = vec![SampleId { row: 1, column: 258, axis: Axis::Column }];
    let chunk = disperse(&super::noise(100, 42), 7).unwrap().remove(5);
    let lines = [
        ("request for roots", Request::Roots { height: Height(7) }.to_bytes()),
        ("request for samples", Request::Samples { height: Height(7), ids }.to_bytes()),
        ("request for a line", Request::Line { height: Height(7), line: Line::row(3) }.to_bytes()),
        ("answer: outside", Answer::Outside { oldest: Height(1), newest: Height(2) }.to_bytes()),
        ("answer: busy", Answer::Busy { retry_ms: 77 }.to_bytes()),
        ("chunk", chunk.to_bytes()),
        ("proof of another body", BadEncoding::Body(super::noise(64, 42).into()).to_bytes()),
    ];
    let text: String = lines.iter().map(|(name, bytes)| format!("{name} {}\n", hex::encode(bytes))).collect();
    golden("messages.txt", &text);
}
