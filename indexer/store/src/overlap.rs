//! Whether two URLs share objects.

/// Whether one URL is the other or lies below it: `s3://b/log` and `s3://b/log/x` do, `s3://b/log` and `s3://b/logs` do not.
pub fn urls_overlap(one: &str, other: &str) -> bool {
    let segments =
        |url: &str| url.split('/').filter(|segment| !segment.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    let (one, other) = (segments(one), segments(other));
    one.starts_with(&other) || other.starts_with(&one)
}
