//! A few seeds over the real engine. Its threads are not the simulation's, so that only what came out is looked at.

use tidemark_sim::{Knobs, run, scenario::mixed};

#[test]
fn a_few_seeds_over_tantivy_hold() {
    for seed in 0..4 {
        let folder = tempfile::tempdir().unwrap();
        let knobs = |seed| Knobs::real(seed, folder.path().to_owned());
        let report = run(seed, None, false, |seed, echo| mixed::run(seed, knobs(seed), echo));
        assert!(report.violation.is_none(), "{}", report.explain("mixed, over tantivy"));
        assert!(report.marks.contains("indexed Committed"), "seed {seed} indexes nothing");
    }
}
