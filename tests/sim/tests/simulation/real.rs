//! A few seeds over the real engine. The simulation does not control its threads, so only the results are checked.

use tidemark_sim::{SimConfig, run_seed, scenario::mixed};

#[test]
fn a_few_seeds_over_tantivy_hold() {
    for seed in 0..4 {
        let folder = tempfile::tempdir().unwrap();
        let config = |seed| SimConfig::real(seed, folder.path().to_owned());
        let report = run_seed(seed, None, false, |seed, echo| mixed::run(seed, config(seed), echo));
        assert!(report.violation.is_none(), "{}", report.explain("mixed, over tantivy"));
        assert!(report.marks.contains("indexed Committed"), "seed {seed} indexes nothing");
    }
}
