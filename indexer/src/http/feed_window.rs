//! What is on its way to a client that acknowledges: how much more may be sent, and up to where everything is acknowledged. Pure.

use std::collections::VecDeque;

use tidemark_search::api::FeedPosition;

/// The most credits that a client may grant.
pub(super) const MAX_CREDITS: u32 = 10_000;
/// The most bytes of changes that are sent and not acknowledged; a larger change is sent alone.
pub(super) const MAX_UNACKNOWLEDGED_BYTES: usize = 4 * 1024 * 1024;
/// How many changes are remembered beyond the oldest one that is not acknowledged.
const MAX_REMEMBERED: usize = MAX_CREDITS as usize;

/// The changes that a client was sent and has not acknowledged.
#[derive(Debug)]
pub(super) struct FeedWindow {
    credits: usize,
    /// From the oldest change that is not acknowledged on.
    sent: VecDeque<SentChange>,
    /// How many of them are not acknowledged, and their bytes.
    unacknowledged: usize,
    bytes: usize,
    /// Where the client began.
    begin: FeedPosition,
    /// Nothing that was sent up to here waits for an acknowledgement.
    acknowledged: FeedPosition,
    /// The last position that the client was given.
    given: FeedPosition,
}

#[derive(Debug)]
struct SentChange {
    position: FeedPosition,
    bytes: usize,
    is_acknowledged: bool,
}

/// An acknowledgement of what the client was never sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" was never sent on this connection")]
pub(super) struct UnsentPosition(FeedPosition);

impl FeedWindow {
    /// The window of a client that begins after `begin`. It has no credit yet.
    pub(super) fn new(begin: FeedPosition) -> Self {
        let (acknowledged, given) = (begin.clone(), begin.clone());
        Self { credits: 0, sent: VecDeque::new(), unacknowledged: 0, bytes: 0, begin, acknowledged, given }
    }

    /// So many changes may be unacknowledged from now on.
    pub(super) fn set_credits(&mut self, credits: u32) {
        self.credits = credits.min(MAX_CREDITS) as usize;
    }

    /// How many more changes may be sent, if they are small.
    pub(super) fn room(&self) -> usize {
        if self.unacknowledged > 0 && self.bytes >= MAX_UNACKNOWLEDGED_BYTES {
            return 0;
        }
        let remembered = MAX_REMEMBERED.saturating_sub(self.sent.len());
        self.credits.saturating_sub(self.unacknowledged).min(remembered)
    }

    /// Whether a change of so many bytes may be sent.
    pub(super) fn has_room_for(&self, bytes: usize) -> bool {
        let fits = self.unacknowledged == 0 || self.bytes.saturating_add(bytes) <= MAX_UNACKNOWLEDGED_BYTES;
        fits && self.room() > 0
    }

    /// How many changes the client has to acknowledge.
    pub(super) fn unacknowledged(&self) -> usize {
        self.unacknowledged
    }

    /// Up to where everything is acknowledged. It never goes back.
    pub(super) fn acknowledged(&self) -> &FeedPosition {
        &self.acknowledged
    }

    /// The last position that the client was given.
    pub(super) fn given(&self) -> &FeedPosition {
        &self.given
    }

    /// A change is sent.
    pub(super) fn send(&mut self, position: FeedPosition, bytes: usize) {
        self.given = position.clone();
        self.unacknowledged += 1;
        self.bytes += bytes;
        self.sent.push_back(SentChange { position, bytes, is_acknowledged: false });
    }

    /// The client is given a position after records that its query leaves out, which need no acknowledgement.
    pub(super) fn pass(&mut self, position: FeedPosition) {
        self.given = position;
        self.settle();
    }

    /// Everything up to `position` is acknowledged.
    pub(super) fn acknowledge(&mut self, position: &FeedPosition) -> Result<(), UnsentPosition> {
        if self.is_settled(position) {
            return Ok(());
        }
        let through = if *position == self.given { self.sent.len() } else { self.place_of(position)? + 1 };
        for sent in self.sent.iter_mut().take(through).filter(|sent| !sent.is_acknowledged) {
            sent.is_acknowledged = true;
            self.unacknowledged -= 1;
            self.bytes -= sent.bytes;
        }
        self.settle();
        Ok(())
    }

    /// The change at `position` alone is acknowledged.
    pub(super) fn acknowledge_one(&mut self, position: &FeedPosition) -> Result<(), UnsentPosition> {
        if self.is_settled(position) {
            return Ok(());
        }
        let place = self.place_of(position)?;
        if let Some(sent) = self.sent.get_mut(place).filter(|sent| !sent.is_acknowledged) {
            sent.is_acknowledged = true;
            self.unacknowledged -= 1;
            self.bytes -= sent.bytes;
        }
        self.settle();
        Ok(())
    }

    /// Whether it was acknowledged before: an acknowledgement may come twice.
    fn is_settled(&self, position: &FeedPosition) -> bool {
        let known = self.begin.generation.clone()..=self.given.generation.clone();
        (self.begin.seq..=self.acknowledged.seq).contains(&position.seq)
            && known.contains(&position.generation)
            && position.origin == self.given.origin
    }

    fn place_of(&self, position: &FeedPosition) -> Result<usize, UnsentPosition> {
        let place = self.sent.binary_search_by_key(&position.seq, |sent| sent.position.seq).ok();
        let place = place.filter(|place| self.sent.get(*place).is_some_and(|sent| sent.position == *position));
        place.ok_or_else(|| UnsentPosition(position.clone()))
    }

    /// Forgets what is acknowledged without a gap.
    fn settle(&mut self) {
        while let Some(sent) = self.sent.pop_front_if(|sent| sent.is_acknowledged) {
            self.acknowledged = sent.position;
        }
        if self.sent.is_empty() {
            self.acknowledged = self.given.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a client or the feed does. Numbers are taken modulo what there is.
    #[derive(Clone, Debug)]
    enum FeedStep {
        Credits(u32),
        /// The next change, after so many that the query leaves out.
        Change {
            skipped: u64,
            bytes: usize,
        },
        Pass {
            skipped: u64,
        },
        /// The index is built again: later positions are of the next generation.
        Reindex,
        Through(usize),
        One(usize),
        /// Of a change that was never sent.
        Foreign {
            ahead: u64,
            each: bool,
        },
    }

    fn step() -> impl Strategy<Value = FeedStep> {
        prop_oneof![
            1 => (0u32..12).prop_map(FeedStep::Credits),
            8 => (0u64..3, 1usize..MAX_UNACKNOWLEDGED_BYTES * 3 / 2).prop_map(|(skipped, bytes)| FeedStep::Change { skipped, bytes: bytes / 4 }),
            1 => Just(FeedStep::Change { skipped: 0, bytes: MAX_UNACKNOWLEDGED_BYTES + 1 }),
            1 => (1u64..5).prop_map(|skipped| FeedStep::Pass { skipped }),
            1 => Just(FeedStep::Reindex),
            2 => any::<usize>().prop_map(FeedStep::Through),
            3 => any::<usize>().prop_map(FeedStep::One),
            1 => (1u64..4, any::<bool>()).prop_map(|(ahead, each)| FeedStep::Foreign { ahead, each }),
        ]
    }

    /// Everything that was ever sent, kept as it is: the seq, the position, the bytes, whether it is acknowledged.
    struct NaiveWindow {
        credits: usize,
        generation: u64,
        seq: u64,
        sent: Vec<(FeedPosition, usize, bool)>,
        settled: u64,
    }

    impl NaiveWindow {
        fn position(&self, seq: u64) -> FeedPosition {
            format!("g{}:{seq}:0123456789abcdef", self.generation).parse().unwrap()
        }

        fn unacknowledged(&self) -> (usize, usize) {
            let waiting = self.sent.iter().filter(|(.., acknowledged)| !acknowledged);
            waiting.fold((0, 0), |(count, sum), (_, bytes, _)| (count + 1, sum + bytes))
        }

        /// Up to where everything is acknowledged.
        fn prefix(&mut self) -> u64 {
            let waits = self.sent.iter().position(|(.., acknowledged)| !acknowledged);
            let settled = match waits {
                None => self.seq,
                Some(0) => 0,
                Some(place) => self.sent[place - 1].0.seq,
            };
            self.settled = self.settled.max(settled);
            self.settled
        }
    }

    proptest! {
        #[test]
        fn what_is_unacknowledged_stays_within_the_bounds_and_positions_never_go_back(steps in prop::collection::vec(step(), 1..200)) {
            let mut model = NaiveWindow { credits: 0, generation: 1, seq: 0, sent: Vec::new(), settled: 0 };
            let mut window = FeedWindow::new(model.position(0));
            for step in steps {
                let before = window.acknowledged().seq;
                match step {
                    FeedStep::Credits(credits) => {
                        window.set_credits(credits);
                        model.credits = credits as usize;
                    }
                    FeedStep::Change { skipped, bytes } => {
                        let (count, sum) = model.unacknowledged();
                        let may = count < model.credits && (count == 0 || sum + bytes <= MAX_UNACKNOWLEDGED_BYTES);
                        prop_assert_eq!(window.has_room_for(bytes), may);
                        if may {
                            model.seq += skipped + 1;
                            let position = model.position(model.seq);
                            window.send(position.clone(), bytes);
                            model.sent.push((position, bytes, false));
                        }
                    }
                    FeedStep::Pass { skipped } => {
                        model.seq += skipped;
                        window.pass(model.position(model.seq));
                    }
                    FeedStep::Reindex => model.generation += 1,
                    FeedStep::Through(of) => if let Some(of) = of.checked_rem(model.sent.len()) {
                        window.acknowledge(&model.sent[of].0).unwrap();
                        model.sent[..=of].iter_mut().for_each(|(.., acknowledged)| *acknowledged = true);
                    }
                    FeedStep::One(of) => if let Some(of) = of.checked_rem(model.sent.len()) {
                        window.acknowledge_one(&model.sent[of].0).unwrap();
                        model.sent[of].2 = true;
                    }
                    FeedStep::Foreign { ahead, each } => {
                        let other = model.position(window.given().seq + ahead);
                        let refused = if each { window.acknowledge_one(&other) } else { window.acknowledge(&other) };
                        prop_assert_eq!(refused, Err(UnsentPosition(other)));
                    }
                }
                let (count, sum) = model.unacknowledged();
                prop_assert_eq!((window.unacknowledged, window.bytes), (count, sum));
                prop_assert!(count <= 12 && (count < 2 || sum <= MAX_UNACKNOWLEDGED_BYTES), "{} changes, {} bytes", count, sum);
                prop_assert_eq!(window.unacknowledged(), count);
                prop_assert!(window.acknowledged().seq >= before, "from {} back to {}", before, window.acknowledged());
                prop_assert_eq!(window.acknowledged().seq, model.prefix());
            }
        }
    }

    fn position(text: &str) -> FeedPosition {
        text.parse().unwrap()
    }

    #[test]
    fn an_acknowledgement_of_what_was_never_sent_is_refused() {
        let mut window = FeedWindow::new(position("g1:4:0123456789abcdef"));
        window.set_credits(3);
        for seq in [5, 7] {
            window.send(position(&format!("g1:{seq}:0123456789abcdef")), 1);
        }
        for text in [
            "g1:3",
            "g1:4",
            "g1:5",
            "g1:6:0123456789abcdef",
            "g1:8:0123456789abcdef",
            "g2:5:0123456789abcdef",
            "g1:5:0123456789abcdee",
        ] {
            assert!(window.acknowledge_one(&position(text)).is_err(), "{text}");
            assert!(window.acknowledge(&position(text)).is_err(), "{text}");
        }
        // Twice, and in any order.
        for text in ["g1:7:0123456789abcdef", "g1:7:0123456789abcdef", "g1:5:0123456789abcdef", "g1:4:0123456789abcdef"]
        {
            window.acknowledge_one(&position(text)).unwrap();
        }
        assert_eq!((window.acknowledged().seq, window.unacknowledged()), (7, 0));
    }

    #[test]
    fn what_is_acknowledged_behind_a_gap_is_remembered_within_a_bound() {
        let mut window = FeedWindow::new(position("g1:0"));
        window.set_credits(MAX_CREDITS);
        let mut seq = 0;
        while window.has_room_for(1) {
            seq += 1;
            let at = position(&format!("g1:{seq}"));
            window.send(at.clone(), 1);
            if seq > 1 {
                window.acknowledge_one(&at).unwrap();
            }
        }
        assert_eq!((seq, window.acknowledged().seq), (u64::from(MAX_CREDITS), 0));
        window.acknowledge(&position("g1:1")).unwrap();
        assert_eq!((window.acknowledged().seq, window.room()), (seq, MAX_CREDITS as usize));
    }
}
