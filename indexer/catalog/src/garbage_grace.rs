//! The grace, and what a pass deletes by it: garbage that every pass since then has seen is deleted, other garbage becomes a
//! candidate. Pure functions.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tidemark_store::StoreSecond;

use crate::{
    collector_state::{MAX_GARBAGE_CANDIDATES, MAX_GARBAGE_LISTS},
    garbage_list::{GarbageKey, GarbageList, MAX_LIST_CANDIDATES},
    mutants,
    names::{Generation, generation_of_list},
    referenced_objects::ReferencedObjects,
};

/// For how long an object must have been seen unreferenced before it is deleted, by the index's store time. A constant of the
/// format: readers rely on it, each drops a manifest half of it after its successor.
pub const GARBAGE_GRACE: Duration = Duration::from_hours(24);

/// How much a state names at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CandidateLimits {
    /// Candidates in all.
    pub(crate) candidates: u64,
    /// Lists.
    pub(crate) lists: u64,
    /// Candidates of one list.
    pub(crate) list_candidates: u64,
}

impl CandidateLimits {
    /// Those of the format.
    pub(crate) const FORMAT: Self =
        Self { candidates: MAX_GARBAGE_CANDIDATES, lists: MAX_GARBAGE_LISTS, list_candidates: MAX_LIST_CANDIDATES };
}

/// An object of the listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListedObject {
    pub(crate) generation: Generation,
    pub(crate) key: GarbageKey,
    pub(crate) size: u64,
    /// When it was written.
    pub(crate) time: StoreSecond,
}

/// An object to delete now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DueObject {
    pub(crate) object: ListedObject,
    /// Which of the plan's lists names it.
    list: usize,
}

/// A list to create.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NewGarbageList {
    pub(crate) generation: Generation,
    /// Ascending.
    pub(crate) keys: Vec<GarbageKey>,
    /// The date of the lists in whose place it comes. Without one its record dates it.
    pub(crate) since: Option<StoreSecond>,
}

/// Which lists a pass leaves to the next one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct PlannedLists {
    /// Those of the state before that stay as they are, by name.
    pub(crate) kept: BTreeMap<String, GarbageList>,
    /// Those to create.
    pub(crate) new: Vec<NewGarbageList>,
    /// Garbage that is deleted by a later pass.
    pub(crate) candidates: u64,
    /// Garbage that no list has room for.
    pub(crate) waiting: u64,
}

/// A list of the state before, and what the pass saw of it.
struct SeenList {
    name: String,
    generation: Generation,
    list: GarbageList,
    is_due: bool,
    /// Members that are no garbage.
    named: BTreeSet<GarbageKey>,
    /// Members that were due and could not be deleted.
    left: Vec<GarbageKey>,
}

impl SeenList {
    /// Whether nothing of it could be deleted.
    fn is_whole(&self) -> bool {
        self.left.len() as u64 == self.list.keys
    }
}

/// What a pass does. It sees the listed objects generation by generation, each in parts of any size.
pub(crate) struct GracePlan {
    limits: CandidateLimits,
    now: StoreSecond,
    /// The generations that the pass lists.
    generations: BTreeSet<Generation>,
    lists: Vec<SeenList>,
    /// The objects that the lists name, ascending, with the list of each.
    members: BTreeMap<Generation, Vec<(GarbageKey, usize)>>,
    /// Garbage that no list names, by generation.
    fresh: BTreeMap<Generation, Vec<GarbageKey>>,
    /// How many of the generation that was seen last find room.
    allowance: u64,
    /// Members that stay.
    standing: u64,
    waiting: u64,
}

impl GracePlan {
    /// Of a pass that began at `now` and lists `generations`. `before` are the lists of the state that it began with, with the
    /// objects that each names. Those that are left out are dropped: what they named gets a new date.
    pub(crate) fn new(
        before: Vec<(String, GarbageList, Vec<GarbageKey>)>,
        generations: BTreeSet<Generation>,
        now: StoreSecond,
        limits: CandidateLimits,
    ) -> Self {
        let (mut lists, mut members) = (Vec::new(), BTreeMap::<Generation, Vec<_>>::new());
        for (name, list, keys) in before {
            let Some(generation) = generation_of_list(&name) else { continue };
            members.entry(generation.clone()).or_default().extend(keys.into_iter().map(|key| (key, lists.len())));
            let is_due = list.since.is_some_and(|since| since.after(GARBAGE_GRACE) <= now);
            lists.push(SeenList { name, generation, list, is_due, named: BTreeSet::new(), left: Vec::new() });
        }
        for members in members.values_mut() {
            members.sort_unstable();
        }
        let fresh = BTreeMap::new();
        Self { limits, now, generations, lists, members, fresh, allowance: 0, standing: 0, waiting: 0 }
    }

    /// Takes in a part of the listing, in its order; `referenced` was read after it. Gives what is to be deleted now.
    pub(crate) fn observe(&mut self, listed: Vec<ListedObject>, referenced: &ReferencedObjects) -> Vec<DueObject> {
        let mut due = Vec::new();
        for object in listed {
            let list = self.list_of(&object);
            if !referenced.is_garbage(&object.generation, &object.key) {
                // It loses its date: only what was garbage in every pass since is deleted.
                if let Some(list) = list.and_then(|list| self.lists.get_mut(list)) {
                    list.named.insert(object.key);
                }
                continue;
            }
            let Some((index, list)) = list.and_then(|index| Some((index, self.lists.get(index)?))) else {
                self.date(&object);
                continue;
            };
            let since = mutants::garbage_since(list.list.since, object.time);
            if since.is_some_and(|since| since.after(GARBAGE_GRACE) <= self.now) {
                due.push(DueObject { object, list: index });
            } else {
                self.standing += 1;
            }
        }
        due
    }

    /// These could not be deleted: they stay candidates, with their dates.
    pub(crate) fn keep(&mut self, undeleted: &[DueObject]) {
        for DueObject { object, list } in undeleted {
            if let Some(list) = self.lists.get_mut(*list) {
                list.left.push(object.key);
            }
        }
    }

    fn list_of(&self, object: &ListedObject) -> Option<usize> {
        let members = self.members.get(&object.generation)?;
        let at = members.partition_point(|(key, _)| *key < object.key);
        members.get(at).filter(|(key, _)| *key == object.key).map(|(_, list)| *list)
    }

    /// A new candidate, if there is room.
    fn date(&mut self, object: &ListedObject) {
        if !self.fresh.contains_key(&object.generation) {
            self.allowance = self.allowance_of(&object.generation);
        }
        let fresh = self.fresh.entry(object.generation.clone()).or_default();
        if (fresh.len() as u64) < self.allowance {
            fresh.push(object.key);
        } else {
            self.waiting += 1;
        }
    }

    /// How many new candidates of `generation` find room: its share, beside the generations that come after it, of what those
    /// before it and the lists that are not due leave. A generation with much garbage does not starve the others.
    fn allowance_of(&self, generation: &Generation) -> u64 {
        let sharing = (self.generations.range(generation..).count() as u64).max(1);
        let standing = self.lists.iter().filter(|list| !list.is_due);
        let (mut lists, mut candidates) = (0, 0);
        for keys in standing.map(|list| list.list.keys) {
            (lists, candidates) = (lists + 1, candidates + keys);
        }
        for keys in self.fresh.values().map(|keys| keys.len() as u64) {
            (lists, candidates) = (lists + keys.div_ceil(self.limits.list_candidates), candidates + keys);
        }
        let candidates = self.limits.candidates.saturating_sub(candidates).div_ceil(sharing);
        let lists = self.limits.lists.saturating_sub(lists).div_ceil(sharing);
        candidates.min(lists.saturating_mul(self.limits.list_candidates))
    }

    /// What the pass leaves, after it has seen all.
    pub(crate) fn finish(mut self) -> PlannedLists {
        let mut planned = PlannedLists {
            candidates: self.standing + self.fresh.values().map(|keys| keys.len() as u64).sum::<u64>(),
            waiting: self.waiting,
            ..PlannedLists::default()
        };
        let mut undeleted = BTreeMap::<Generation, Vec<SeenList>>::new();
        for (index, list) in std::mem::take(&mut self.lists).into_iter().enumerate() {
            let is_large = list.list.keys * 2 > self.limits.list_candidates;
            let stays =
                if list.is_due { list.is_whole() && is_large } else { mutants::keeps_list(list.named.is_empty()) };
            if stays {
                planned.kept.insert(list.name, list.list);
            } else if list.is_due {
                undeleted.entry(list.generation.clone()).or_default().push(list);
            } else {
                planned.new.extend(self.without_named(index, &list));
            }
        }
        for (generation, left) in undeleted {
            self.gather(&generation, left, &mut planned);
        }
        self.add_fresh(&mut planned);
        planned
    }

    /// The list `index` without the members that are no garbage.
    fn without_named(&self, index: usize, list: &SeenList) -> Option<NewGarbageList> {
        let members = self.members.get(&list.generation)?.iter().filter(|(_, of)| *of == index);
        let keys: Vec<_> = members.map(|(key, _)| *key).filter(|key| !list.named.contains(key)).collect();
        let stays = mutants::keeps_list(!keys.is_empty());
        stays.then(|| NewGarbageList { generation: list.generation.clone(), keys, since: list.list.since })
    }

    /// What could not be deleted of lists that are due moves into as few as possible, so that one locked object a day does not
    /// make a list a day. What did not change is not written again.
    fn gather(&self, generation: &Generation, due: Vec<SeenList>, planned: &mut PlannedLists) {
        let mut left: Vec<_> = due.into_iter().filter(|list| !list.left.is_empty()).collect();
        if left.len() == 1
            && let Some(only) = left.pop_if(|only| only.is_whole())
        {
            planned.kept.insert(only.name, only.list);
        }
        let since = left.iter().filter_map(|list| list.list.since).max();
        let mut keys: Vec<_> = left.iter_mut().flat_map(|list| std::mem::take(&mut list.left)).collect();
        keys.sort_unstable();
        keys.dedup();
        planned.new.extend(self.chunks(generation, &keys, since));
    }

    fn chunks<'a>(
        &self,
        generation: &'a Generation,
        keys: &'a [GarbageKey],
        since: Option<StoreSecond>,
    ) -> impl Iterator<Item = NewGarbageList> + 'a {
        let size = usize::try_from(self.limits.list_candidates).unwrap_or(usize::MAX).max(1);
        let list =
            move |keys: &[GarbageKey]| NewGarbageList { generation: generation.clone(), keys: keys.to_vec(), since };
        keys.chunks(size).map(list)
    }

    /// The new candidates. Where objects could not be deleted, less of them than was thought finds room.
    fn add_fresh(&self, planned: &mut PlannedLists) {
        let kept = planned.kept.values().map(|list| list.keys);
        let sizes: Vec<_> = kept.chain(planned.new.iter().map(|list| list.keys.len() as u64)).collect();
        let (mut lists, mut candidates) = (sizes.len() as u64, sizes.iter().sum::<u64>());
        for (generation, keys) in &self.fresh {
            for list in self.chunks(generation, keys, None) {
                let count = list.keys.len() as u64;
                if lists < self.limits.lists && candidates + count <= self.limits.candidates {
                    (lists, candidates) = (lists + 1, candidates + count);
                    planned.new.push(list);
                } else {
                    planned.waiting += count;
                    planned.candidates -= count;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidemark_store::ChainState as _;

    use super::*;
    use crate::{
        collector_state::CollectorState, garbage_list::tests::key, identity::LogId, referenced_objects::GenerationFate,
    };

    const HOUR: Duration = Duration::from_hours(1);
    const SMALL: CandidateLimits = CandidateLimits { candidates: 20, lists: 6, list_candidates: 5 };

    /// An object: its generation and its number.
    type ObjectId = (u64, u64);

    /// Collectors over objects that exist, are named, and are locked.
    struct CollectedIndex {
        limits: CandidateLimits,
        now: StoreSecond,
        state: CollectorState,
        /// What each list names.
        keys: BTreeMap<String, Vec<GarbageKey>>,
        objects: BTreeSet<ObjectId>,
        /// Those that no longer exist: names are used once.
        gone: BTreeSet<ObjectId>,
        named: BTreeSet<ObjectId>,
        locked: BTreeSet<ObjectId>,
        generations: u64,
        created_lists: u64,
    }

    fn numbered(number: u64) -> Generation {
        Generation::numbered(number)
    }

    impl CollectedIndex {
        fn new(limits: CandidateLimits, generations: u64) -> Self {
            Self {
                limits,
                now: StoreSecond::from_unix(1_000_000),
                state: CollectorState::new(LogId("0".repeat(32))),
                keys: BTreeMap::new(),
                objects: BTreeSet::new(),
                gone: BTreeSet::new(),
                named: BTreeSet::new(),
                locked: BTreeSet::new(),
                generations,
                created_lists: 0,
            }
        }

        /// A pass whose listing comes in parts of `window` objects. Gives what it deleted, and its lists.
        fn pass(&mut self, window: usize) -> (BTreeSet<ObjectId>, PlannedLists) {
            let before =
                self.state.lists.iter().map(|(name, list)| (name.clone(), list.clone(), self.keys[name].clone()));
            let generations = (1..=self.generations).map(numbered).collect();
            let mut plan = GracePlan::new(before.collect(), generations, self.now, self.limits);
            let referenced = ReferencedObjects {
                named: self
                    .named
                    .iter()
                    .map(|(generation, number)| key(1, *number).in_generation(&numbered(*generation)))
                    .collect(),
                generations: (1..=self.generations).map(|number| (numbered(number), GenerationFate::Closed)).collect(),
                ..ReferencedObjects::default()
            };
            let listed: Vec<_> = self.objects.iter().copied().collect();
            let mut deleted = BTreeSet::new();
            for part in listed.chunks(window) {
                let listed = part.iter().map(|(generation, number)| ListedObject {
                    generation: numbered(*generation),
                    key: key(1, *number),
                    size: 1,
                    time: StoreSecond::from_unix(0),
                });
                for due in plan.observe(listed.collect(), &referenced) {
                    let is_due = |(generation, number): &ObjectId| {
                        numbered(*generation) == due.object.generation && key(1, *number) == due.object.key
                    };
                    let id = *part.iter().find(|id| is_due(id)).unwrap();
                    if self.locked.contains(&id) {
                        plan.keep(std::slice::from_ref(&due));
                    } else {
                        self.objects.remove(&id);
                        self.gone.insert(id);
                        deleted.insert(id);
                    }
                }
            }
            let planned = plan.finish();
            let mut next = CollectorState { lists: planned.kept.clone(), ..self.state.clone() };
            for new in &planned.new {
                assert!(new.keys.len() as u64 <= self.limits.list_candidates && new.keys.is_sorted());
                self.created_lists += 1;
                let name = format!("{}/{:032x}", new.generation, self.created_lists);
                let list =
                    GarbageList { keys: new.keys.len() as u64, size: 1, checksum: String::new(), since: new.since };
                self.keys.insert(name.clone(), new.keys.clone());
                next.lists.insert(name, list);
            }
            next.check_state().unwrap();
            next.check_transition(&self.state).unwrap();
            assert!(next.lists.len() as u64 <= self.limits.lists);
            assert!(next.lists.values().map(|list| list.keys).sum::<u64>() <= self.limits.candidates);
            next.apply_store_time(self.now);
            self.state = next;
            (deleted, planned)
        }

        /// The dates of those that exist.
        fn dates(&self) -> BTreeMap<ObjectId, StoreSecond> {
            let mut dates = BTreeMap::new();
            for (generation, number) in &self.objects {
                let of = |(name, list): (&String, &GarbageList)| {
                    let is_named = generation_of_list(name) == Some(numbered(*generation))
                        && self.keys[name].contains(&key(1, *number));
                    is_named.then_some(list.since.unwrap())
                };
                let found: Vec<_> = self.state.lists.iter().filter_map(of).collect();
                assert!(found.len() <= 1, "named by two lists");
                dates.extend(found.first().map(|since| ((*generation, *number), *since)));
            }
            dates
        }
    }

    /// What happens between two passes.
    #[derive(Clone, Debug)]
    enum IndexChange {
        Create(ObjectId),
        ToggleNamed(ObjectId),
        ToggleLocked(ObjectId),
        Vanish(ObjectId),
    }

    fn events() -> impl Strategy<Value = Vec<(Vec<IndexChange>, u64, usize)>> {
        let id = || (1..4_u64, 0..12_u64);
        let event = prop_oneof![
            6 => id().prop_map(IndexChange::Create),
            2 => id().prop_map(IndexChange::ToggleNamed),
            1 => id().prop_map(IndexChange::ToggleLocked),
            1 => id().prop_map(IndexChange::Vanish),
        ];
        prop::collection::vec((prop::collection::vec(event, 0..8), 1..20_u64, 1..9_usize), 1..30)
    }

    fn happen(world: &mut CollectedIndex, events: Vec<IndexChange>) {
        let toggle = |set: &mut BTreeSet<ObjectId>, id: ObjectId| {
            if !set.remove(&id) {
                set.insert(id);
            }
        };
        for event in events {
            match event {
                IndexChange::Create(id) if world.gone.contains(&id) => {}
                IndexChange::Create(id) => drop(world.objects.insert(id)),
                IndexChange::ToggleNamed(id) => toggle(&mut world.named, id),
                IndexChange::ToggleLocked(id) => toggle(&mut world.locked, id),
                IndexChange::Vanish(id) => world.gone.extend(world.objects.take(&id)),
            }
        }
    }

    proptest! {
        /// A date an object, as if there were no lists.
        #[test]
        fn lists_say_what_a_date_an_object_would(passes in events()) {
            let limits = CandidateLimits { candidates: 10_000, lists: 10_000, ..SMALL };
            let (mut world, mut model) = (CollectedIndex::new(limits, 3), BTreeMap::<ObjectId, StoreSecond>::new());
            for (events, hours, window) in passes {
                happen(&mut world, events);
                world.now = world.now.after(HOUR * u32::try_from(hours).unwrap());
                let before = world.objects.clone();
                model.retain(|id, _| before.contains(id) && !world.named.contains(id));
                let due: BTreeSet<_> =
                    model.iter().filter(|(_, since)| since.after(GARBAGE_GRACE) <= world.now).map(|(id, _)| *id).collect();
                let (deleted, planned) = world.pass(window);
                prop_assert_eq!(&deleted, &due.difference(&world.locked).copied().collect());
                model.retain(|id, _| !deleted.contains(id));
                for id in before.difference(&world.named).filter(|id| !deleted.contains(id)) {
                    model.entry(*id).or_insert(world.now);
                }
                let dates = world.dates();
                prop_assert!(dates.keys().eq(model.keys()));
                for (id, since) in &dates {
                    // What could not be deleted may be gathered with others that could not.
                    let is_due = |since: StoreSecond| since.after(GARBAGE_GRACE) <= world.now;
                    prop_assert!(*since == model[id] || (is_due(*since) && is_due(model[id])), "{:?}", id);
                }
                prop_assert_eq!(planned.waiting, 0);
            }
        }

        /// With little room: nothing goes before it was garbage for the grace, and all goes in the end.
        #[test]
        fn nothing_goes_early_and_everything_goes_where_room_is_short(passes in events()) {
            let mut world = CollectedIndex::new(SMALL, 3);
            let mut garbage_since = BTreeMap::<ObjectId, StoreSecond>::new();
            for (events, hours, window) in passes {
                happen(&mut world, events);
                world.now = world.now.after(HOUR * u32::try_from(hours).unwrap());
                garbage_since.retain(|id, _| world.objects.contains(id) && !world.named.contains(id));
                for id in world.objects.difference(&world.named) {
                    garbage_since.entry(*id).or_insert(world.now);
                }
                let garbage = garbage_since.len() as u64;
                let (deleted, planned) = world.pass(window);
                for id in &deleted {
                    prop_assert!(garbage_since[id].after(GARBAGE_GRACE) <= world.now, "{:?}", id);
                }
                let locked = garbage_since.keys().filter(|id| world.locked.contains(id)).count() as u64;
                let counted = deleted.len() as u64 + planned.candidates + planned.waiting;
                prop_assert!(counted <= garbage && garbage <= counted + locked);
            }
            world.locked.clear();
            world.named.clear();
            for _ in 0..8 * 25 {
                world.now = world.now.after(HOUR);
                world.pass(4);
            }
            prop_assert!(world.objects.is_empty(), "{:?} stay", world.objects);
            world.pass(4);
            prop_assert!(world.state.lists.is_empty());
        }
    }

    #[test]
    fn what_finds_no_room_waits_until_the_pass_that_deletes_others() {
        let mut world = CollectedIndex::new(SMALL, 1);
        world.objects = (0..25).map(|number| (1, number)).collect();
        let (_, planned) = world.pass(7);
        assert_eq!((planned.candidates, planned.waiting, planned.new.len()), (20, 5, 4));
        world.now = world.now.after(GARBAGE_GRACE);
        let (deleted, planned) = world.pass(7);
        assert_eq!((deleted.len(), planned.candidates, planned.waiting), (20, 5, 0));
        world.now = world.now.after(GARBAGE_GRACE);
        assert_eq!(world.pass(7).0.len(), 5);
    }

    /// Of ten generations, the first has garbage without end: each has its share in the first pass.
    #[test]
    fn no_generation_keeps_another_waiting() {
        let limits = CandidateLimits { candidates: 100, lists: 40, list_candidates: 5 };
        let mut world = CollectedIndex::new(limits, 10);
        world.objects = (0..200).map(|number| (1, number)).chain((2..=10).map(|generation| (generation, 0))).collect();
        let (_, planned) = world.pass(30);
        let generations: Vec<_> = planned.new.iter().map(|list| list.generation.number()).collect();
        assert_eq!(generations, [1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        // What the others left is for the next pass.
        world.now = world.now.after(HOUR);
        let before = planned.candidates;
        assert!(world.pass(30).1.candidates > before);
    }

    #[test]
    fn what_does_not_change_is_not_written_again() {
        let mut world = CollectedIndex::new(SMALL, 2);
        world.objects = (0..4).flat_map(|number| [(1, number), (2, number)]).collect();
        world.locked = [(1, 2), (2, 0), (2, 1), (2, 2), (2, 3)].into();
        world.pass(3);
        assert_eq!(world.created_lists, 2);
        for hour in 0..30 {
            world.now = world.now.after(HOUR);
            world.pass(3);
            assert_eq!(world.created_lists, if hour < 23 { 2 } else { 3 }, "{hour}");
        }
        assert_eq!(world.objects, world.locked);
    }

    /// A locked object a day, for a month.
    #[test]
    fn locked_objects_make_no_list_a_day() {
        let limits = CandidateLimits { candidates: 100, lists: 40, list_candidates: 10 };
        let mut world = CollectedIndex::new(limits, 1);
        for day in 0..30 {
            world.objects.extend([(1, day), (1, 100 + day)]);
            world.locked.insert((1, day));
            for _ in 0..5 {
                world.pass(10);
                world.now = world.now.after(HOUR * 5);
            }
        }
        world.pass(10);
        assert!(world.state.lists.len() <= 2 * 30 / 10 + 2, "{} lists", world.state.lists.len());
    }
}
