//! Whatever the parameters, nothing fails and every refusal is a problem that says why.

use axum::http::header;
use proptest::prelude::*;

use super::{fake::FakeSearch, get, router};
use crate::http::{
    arguments::MinTokenArgs,
    extract::{encode, names_of},
    search::SearchArgs,
};

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[0-9]{1,22}",
        "-?[0-9]{1,4}-[0-9]{2}-[0-9]{2}(T[0-9:.]{0,12})?Z?",
        "[0-9A-Za-z]{27}",
        Just("true".to_owned()),
        Just("newest".to_owned()),
        Just("late,,aborted".to_owned()),
    ]
}

fn query() -> impl Strategy<Value = String> {
    let known = [names_of::<SearchArgs>(), names_of::<MinTokenArgs>()].concat();
    let name = prop_oneof![9 => proptest::sample::select(known), 1 => any::<String>()];
    prop::collection::vec((name, value()), 0..6).prop_map(|pairs| encode(pairs.iter()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_parameters_make_it_fail(query in query(), page: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let uri = format!("{}{query}", if page { "/" } else { "/v1/search" });
        let answer = runtime.block_on(async { get(&router(FakeSearch::with_entries()), &uri).await });
        prop_assert!([200, 400, 414, 504].contains(&answer.status.as_u16()), "{}: {}", uri, answer.text);
        if !page && answer.status != 200 {
            prop_assert_eq!(answer.header(header::CONTENT_TYPE), "application/problem+json");
            prop_assert!(answer.status == 414 || answer.json()["parameter"].is_string());
        }
    }
}
