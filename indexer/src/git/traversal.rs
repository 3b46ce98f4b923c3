//! The order in which commits are imported.

use std::collections::BTreeSet;

use gix::{
    ObjectId,
    objs::{Data, Find, Kind},
    oid,
    traverse::commit::topo,
};

use super::commit_object::CommitObject;

/// Hashes of all commits that `tips` lead to, parents before their children, else by date, the oldest first.
///
/// Commits that are missing are among them, so that reading them tells. 20 bytes a commit remain; while it runs, the state of the
/// traversal comes to some 200 more.
pub(super) fn oldest_first(
    repository: &gix::Repository,
    shallow: &BTreeSet<ObjectId>,
    tips: &BTreeSet<ObjectId>,
) -> gix::Result<Vec<ObjectId>> {
    let skeletons = CommitSkeletons { repository, shallow };
    let newest_first =
        topo::Builder::new(skeletons).with_tips(tips.iter().copied()).sorting(topo::Sorting::DateOrder).build()?;
    let mut ids = newest_first.map(|info| Ok(info?.id)).collect::<gix::Result<Vec<_>>>()?;
    ids.reverse();
    Ok(ids)
}

/// Commits reduced to parents and date. The traversal ends at the first commit that it cannot decode: here every one can be.
struct CommitSkeletons<'a> {
    repository: &'a gix::Repository,
    /// Commits whose parents a shallow clone left out.
    shallow: &'a BTreeSet<ObjectId>,
}

impl Find for CommitSkeletons<'_> {
    fn try_find<'a>(&self, id: &oid, buffer: &'a mut Vec<u8>) -> gix::Result<Option<Data<'a>>> {
        let found = self.repository.objects.try_find(id, buffer).ok().flatten();
        let commit = found.filter(|found| found.kind == Kind::Commit).map(|found| CommitObject::parse(found.data));
        let commit = commit.unwrap_or_default();
        let parents = commit.parents.iter().filter(|_| !self.shallow.contains(id));
        let parents: Vec<String> = parents.map(|parent| format!("parent {parent}\n")).collect();
        let (tree, parents, seconds) = (ObjectId::empty_tree(id.kind()), parents.concat(), commit.commit_seconds());
        let text = format!("tree {tree}\n{parents}author  <> {seconds} +0000\ncommitter  <> {seconds} +0000\n\n");
        buffer.clear();
        buffer.extend_from_slice(text.as_bytes());
        Ok(Some(Data::new(buffer, Kind::Commit, id.kind())))
    }
}
