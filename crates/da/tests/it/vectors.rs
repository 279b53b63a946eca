//! The code against published vectors, and against a second implementation made from the definition.

use cascade_da::Square;
use reed_solomon_erasure::galois_8::ReedSolomon;

/// The parity of these shards.
fn parity<const N: usize>(data: &[[u8; N]], count: usize) -> Vec<[u8; N]> {
    let codec = ReedSolomon::new(data.len(), count).unwrap();
    let mut shards: Vec<Vec<u8>> = data.iter().map(|shard| shard.to_vec()).collect();
    shards.resize(data.len() + count, vec![0; N]);
    codec.encode(&mut shards).unwrap();
    shards[data.len()..].iter().map(|shard| shard.as_slice().try_into().unwrap()).collect()
}

#[test]
fn the_codec_gives_the_published_vandermonde_vectors() {
    // Backblaze JavaReedSolomon, ReedSolomonTest.java, `testOneEncode`; klauspost/reedsolomon, reedsolomon_test.go,
    // `TestOneEncode`.
    let data = [[0, 1], [4, 5], [2, 3], [6, 7], [8, 9]];
    assert_eq!(parity(&data, 5), [[12, 13], [10, 11], [14, 15], [90, 91], [94, 95]]);
    // The example of Backblaze's announcement (backblaze.com/blog/reed-solomon, 2015): four shards of four bytes and two of
    // parity, whose rows of the matrix are 1b 1c 12 14 and 1c 1b 14 12.
    let data = [*b"ABCD", *b"EFGH", *b"IJKL", *b"MNOP"];
    assert_eq!(parity(&data, 2), [[0x51, 0x52, 0x53, 0x49], [0x55, 0x56, 0x57, 0x25]]);
    let unit = |at: usize| std::array::from_fn(|i| u8::from(i == at));
    let rows: Vec<[u8; 4]> = parity(&[unit(0), unit(1), unit(2), unit(3)], 2);
    assert_eq!(rows, [[0x1b, 0x1c, 0x12, 0x14], [0x1c, 0x1b, 0x14, 0x12]]);
}

/// klauspost/reedsolomon, galois_test.go, `testGalois`: the field of the second implementation below is that of the first.
#[test]
fn the_field_gives_the_published_products_and_powers() {
    for (a, b, product) in [(3, 4, 12), (7, 7, 21), (23, 45, 41), (25, 50, 0xb8), (25, 255, 0x1f), (177, 201, 0xbd)] {
        assert_eq!(times(a, b), product, "{a} * {b}");
    }
    for (base, exponent, expected) in [(2, 2, 4), (5, 20, 235), (13, 7, 43)] {
        assert_eq!(power(base, exponent), expected, "{base}^{exponent}");
    }
}

fn times(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    while b != 0 {
        if b & 1 == 1 {
            product ^= a;
        }
        let carry = a >> 7;
        a <<= 1;
        if carry == 1 {
            a ^= 0x1d;
        }
        b >>= 1;
    }
    product
}

fn power(base: u8, exponent: usize) -> u8 {
    (0..exponent).fold(1, |value, _| times(value, base))
}

/// The rows of parity of the systematic Vandermonde code: V * (top of V)^-1, with V[r][c] = r^c in GF(2^8) mod 0x11d.
fn parity_rows(k: usize) -> Vec<Vec<u8>> {
    let row = |r: usize| (0..k).map(|c| power(r as u8, c)).collect::<Vec<u8>>();
    let mut top: Vec<Vec<u8>> = (0..k).map(row).collect();
    let mut inverse: Vec<Vec<u8>> = (0..k).map(|i| (0..k).map(|j| u8::from(i == j)).collect()).collect();
    for i in 0..k {
        let pivot = (i..k).find(|&r| top[r][i] != 0).expect("a Vandermonde matrix can be inverted");
        top.swap(i, pivot);
        inverse.swap(i, pivot);
        let scale = power(top[i][i], 254);
        for j in 0..k {
            top[i][j] = times(top[i][j], scale);
            inverse[i][j] = times(inverse[i][j], scale);
        }
        for r in (0..k).filter(|&r| r != i) {
            let factor = top[r][i];
            for j in 0..k {
                let (a, b) = (times(factor, top[i][j]), times(factor, inverse[i][j]));
                top[r][j] ^= a;
                inverse[r][j] ^= b;
            }
        }
    }
    let product = |r: usize| (0..k).map(|c| (0..k).fold(0, |sum, i| sum ^ times(row(r)[i], inverse[i][c]))).collect();
    (k..2 * k).map(product).collect()
}

#[test]
fn squares_of_every_width_are_encoded_as_the_definition_says() {
    for width in [1, 2, 4, 8, 16, 32, 64] {
        let square = Square::new(&super::body(width, 7)).unwrap();
        assert_eq!(square.shape().width(), width);
        let rows = parity_rows(width);
        let byte = |row: usize, column: usize| square.share(row as u16, column as u16).unwrap()[5];
        for line in [0, width - 1, width, 2 * width - 1] {
            for (i, matrix) in rows.iter().enumerate() {
                let sum = |at: &dyn Fn(usize) -> u8| (0..width).fold(0, |sum, j| sum ^ times(matrix[j], at(j)));
                assert_eq!(byte(line, width + i), sum(&|j| byte(line, j)), "row {line}, share {}", width + i);
                assert_eq!(byte(width + i, line), sum(&|j| byte(j, line)), "column {line}, share {}", width + i);
            }
        }
    }
}
