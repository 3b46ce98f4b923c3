//! Two streams in the same order, item by item.

use std::pin::Pin;

use futures::{
    Stream, StreamExt as _, TryStreamExt as _,
    stream::{self, Peekable},
};

/// What two streams have of each key, by ascending key: an item of one of them, or one of each. In both, keys ascend and stand once. Ends
/// with the first error.
pub(crate) fn paired<L, R, K, E>(
    left: impl Stream<Item = Result<L, E>> + Send,
    right: impl Stream<Item = Result<R, E>> + Send,
    key_of_left: fn(&L) -> K,
    key_of_right: fn(&R) -> K,
) -> impl Stream<Item = Result<(Option<L>, Option<R>), E>> + Send
where
    L: Send,
    R: Send,
    K: Ord + Send,
    E: Send,
{
    let streams = (Box::pin(left.peekable()), Box::pin(right.peekable()));
    stream::try_unfold(streams, move |(mut left, mut right)| async move {
        let of_left = next_key(&mut left, key_of_left).await?;
        let of_right = next_key(&mut right, key_of_right).await?;
        let (has_left, has_right) = match (of_left, of_right) {
            (Some(of_left), Some(of_right)) => (of_left <= of_right, of_right <= of_left),
            (of_left, of_right) => (of_left.is_some(), of_right.is_some()),
        };
        let pair = (
            if has_left { left.try_next().await? } else { None },
            if has_right { right.try_next().await? } else { None },
        );
        Ok((has_left || has_right).then_some((pair, (left, right))))
    })
}

/// The key of the next item; the error, if that is next.
async fn next_key<S, T, K, E>(stream: &mut Pin<Box<Peekable<S>>>, key_of: fn(&T) -> K) -> Result<Option<K>, E>
where
    S: Stream<Item = Result<T, E>>,
{
    match stream.as_mut().peek().await {
        Some(Ok(item)) => return Ok(Some(key_of(item))),
        None => return Ok(None),
        Some(Err(_)) => {}
    }
    stream.try_next().await.map(|_| None)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    type TestPair = (Option<u8>, Option<u8>);

    fn pairs(left: Vec<Result<u8, u8>>, right: Vec<Result<u8, u8>>) -> Result<Vec<TestPair>, u8> {
        let paired = paired(stream::iter(left), stream::iter(right), |key| *key, |key| *key);
        futures::executor::block_on(paired.try_collect())
    }

    proptest! {
        #[test]
        fn each_item_of_both_comes_once_beside_that_of_its_key(left: BTreeSet<u8>, right: BTreeSet<u8>) {
            let of = |set: &BTreeSet<u8>| set.iter().copied().map(Ok).collect();
            let expected: Vec<_> =
                left.union(&right).map(|key| (left.get(key).copied(), right.get(key).copied())).collect();
            prop_assert_eq!(pairs(of(&left), of(&right)), Ok(expected));
        }
    }

    #[test]
    fn an_error_of_either_ends_it() {
        assert_eq!(pairs(vec![Ok(1), Err(9)], vec![Ok(1), Ok(2)]), Err(9));
        assert_eq!(pairs(vec![Ok(1), Ok(2)], vec![Err(9)]), Err(9));
    }
}
