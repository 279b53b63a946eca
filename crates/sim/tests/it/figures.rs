//! The latency that the protocol promises, and what it costs.

use cascade_sim::figures::{measure, plot, table};

#[test]
fn a_block_every_two_delays_and_finality_after_three() {
    let slow = std::env::var_os("CASCADE_SLOW").is_some();
    let sizes: &[usize] = if slow { &[4, 5, 7, 10, 16, 31, 64, 100] } else { &[4, 5, 7, 16] };
    for &nodes in sizes {
        for delay in [40, 100] {
            let figure = measure(nodes, delay, 30);
            let near = |(least, most): (f64, f64), wanted: f64| least >= 0.95 * wanted && most <= 1.05 * wanted;
            assert!(near(figure.interval, 2.0), "{figure:?}");
            assert!(near(figure.finality, 3.0), "{figure:?}");
        }
    }
}

#[test]
fn traffic_grows_with_the_committee_and_checks_do_not() {
    let figures = [4, 16].map(|nodes| measure(nodes, 100, 30));
    let [small, large] = figures;
    // A node tells each of the others at most what it votes, twice, and the certificate on which it goes on.
    for figure in figures {
        let others = figure.nodes as f64 - 1.0;
        assert!(figure.messages <= 3.0 * others + 1.0, "{figure:?}");
        assert!(figure.bytes > 200.0 * others, "{figure:?}");
    }
    assert!(large.verifications < small.verifications + 1.0, "{figures:?}");
    let drawn = plot(&figures);
    assert!(drawn.starts_with("<svg") && drawn.ends_with("</svg>\n") && drawn.matches("<circle").count() == 6);
    assert_eq!(table(&figures).lines().count(), 4);
}
