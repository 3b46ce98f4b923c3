//! The control groups of a cluster's pods, in both versions of the hierarchy.
//!
//! They are the one thing that namespaces do not remove: the [reaper](super::reaper) does.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

const ROOT: &str = "/sys/fs/cgroup";

/// Where the kubelet of a node puts its pods, below the root of each hierarchy.
pub(crate) fn of_node(cluster: &str, node: u8) -> String {
    format!("/{cluster}/node{node}")
}

/// Makes a group for each node in every hierarchy.
pub(crate) fn prepare(cluster: &str, nodes: u8) -> io::Result<()> {
    let root = Path::new(ROOT);
    let unified = root.join("cgroup.controllers").exists();
    let tops = if unified { vec![root.to_owned()] } else { hierarchies(root)? };
    for top in tops {
        for node in 1..=nodes {
            fs::create_dir_all(top.join(&of_node(cluster, node)[1..]))?;
        }
        if unified {
            // Each level passes its controllers on to the next.
            delegate(&top);
            delegate(&top.join(cluster));
        }
    }
    Ok(())
}

/// The folders of version 1, one a set of controllers, links to the same left out.
fn hierarchies(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() && entry.path().join("cgroup.procs").exists() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Passes on what can be: a controller that the machine keeps to itself is one that pods get no limits from.
fn delegate(group: &Path) {
    let controllers = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
    for controller in controllers.split_whitespace() {
        let _ = fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}
