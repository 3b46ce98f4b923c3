//! Names of git as names of repos and labels.

/// Bytes of a name at most, without its digest: stores take 255 in a segment.
const MAX_NAME_BYTES: usize = 200;

/// `name` with every character that a repo's or label's key must not hold replaced by `-`, and cut where it is too long. A
/// name that had to be changed ends with a digest of what it was, so that two names stay two.
pub(super) fn safe_name(name: &str) -> String {
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-');
    let safe: String = name.chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    match safe[..safe.floor_char_boundary(MAX_NAME_BYTES)].trim_matches('.') {
        "" => "repository".to_owned(),
        safe if safe == name => safe.to_owned(),
        safe => format!("{safe}-{:016x}", xxhash_rust::xxh3::xxh3_64(name.as_bytes())),
    }
}

/// Whether [`safe_name`] cuts `name`.
pub(super) fn is_too_long(name: &str) -> bool {
    name.len() > MAX_NAME_BYTES
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_hold_nothing_that_a_key_must_not() {
        assert!(safe_name("release/v1.0").starts_with("release-v1.0-"));
        assert_eq!(safe_name(".."), "repository");
        assert_eq!(safe_name("größe_1"), "größe_1");
    }

    #[test]
    fn names_that_differ_stay_apart() {
        let names = ["release/v1", "release-v1", "release:v1", "release v1", ".release-v1"].map(safe_name);
        assert_eq!(BTreeSet::from(names.clone()).len(), 5, "{names:?}");
        assert_eq!(names[1], "release-v1");
    }

    #[test]
    fn long_names_are_cut_and_stay_apart() {
        let names = [1, 2].map(|n| safe_name(&format!("{}{n}", "ü".repeat(150))));
        assert!(names[0] != names[1] && names[0].len() < 255, "{names:?}");
    }
}
