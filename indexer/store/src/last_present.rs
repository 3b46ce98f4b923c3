//! The end of a sequence without gaps, found without listing it.

/// The last number that is `present`, given that `known` is, and that no number is present after one that is not.
///
/// Asks for `known + 1`, `+ 2`, `+ 4`, … until one is absent, then halves: about twice the logarithm of the distance, one question at a time.
/// Where the numbers have gaps, the answer is present and the next number is not.
pub async fn last_present<F, E>(known: u64, present: impl Fn(u64) -> F) -> Result<u64, E>
where
    F: Future<Output = Result<bool, E>>,
{
    let (mut known, mut step) = (known, 1);
    let mut absent = loop {
        let next = known.saturating_add(step);
        if !present(next).await? {
            break next;
        }
        known = next;
        step = step.saturating_mul(2);
    };
    while absent - known > 1 {
        let middle = known + (absent - known) / 2;
        if present(middle).await? { known = middle } else { absent = middle }
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, convert::Infallible, future::ready};

    use super::*;

    #[tokio::test]
    async fn the_last_number_is_found_from_any_that_is_present() {
        for last in 1..70 {
            for known in 1..=last {
                let asked = Cell::new(0);
                let found = last_present(known, |number| {
                    asked.set(asked.get() + 1);
                    ready(Ok::<_, Infallible>(number <= last))
                });
                assert_eq!(found.await, Ok(last), "from {known}");
                let most = 2 * (last - known + 2).ilog2() + 1;
                assert!(asked.get() <= most, "{} questions for {known} to {last}", asked.get());
            }
        }
    }

    #[tokio::test]
    async fn a_question_that_fails_ends_the_search() {
        let found = last_present(1, |number| ready(if number < 4 { Ok(true) } else { Err(number) }));
        assert_eq!(found.await, Err(4));
    }
}
