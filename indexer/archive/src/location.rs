//! Where the table is, as the engines that read it name it.

use std::path::Path;

use percent_encoding::percent_decode_str;
use tidemark_store::Store;

use crate::error::ArchiveError;

/// The location of the table in `store`: `s3://bucket/key`, `gs://bucket/key`, `abfss://container@account.dfs.core.windows.net/key`,
/// a path for a folder.
pub(crate) fn table_location(store: &Store) -> String {
    let url = store.url();
    let segments = url.path().split('/').filter(|segment| !segment.is_empty());
    let key = segments.map(|segment| percent_decode_str(segment).decode_utf8_lossy()).collect::<Vec<_>>().join("/");
    let bucket = url.host_str().unwrap_or_default();
    match url.scheme() {
        "file" => {
            url.to_file_path().as_deref().map_or_else(|()| format!("/{key}"), |path: &Path| path.display().to_string())
        }
        "az" => match azure_host(&store.location()) {
            Some(host) => format!("abfss://{bucket}@{host}/{key}"),
            None => format!("az://{bucket}/{key}"),
        },
        scheme => format!("{scheme}://{bucket}/{key}"),
    }
}

/// The host of the account's file system, from the endpoint of its blobs; `None` where that is an emulator's.
fn azure_host(location: &str) -> Option<String> {
    let host = location.split_once("?endpoint=https://")?.1;
    let (account, domain) = host.split_once(".blob.")?;
    (!domain.contains('/')).then(|| format!("{account}.dfs.{domain}"))
}

/// The key of the object that the table at `location` names `path`.
pub(crate) fn key_of_path<'a>(location: &str, path: &'a str, by: &str) -> Result<&'a str, ArchiveError> {
    let key = path.strip_prefix(location).and_then(|rest| rest.strip_prefix('/'));
    key.ok_or_else(|| ArchiveError::Damaged {
        key: by.to_owned(),
        why: format!("it names \"{path}\", which lies outside of the table at \"{location}\""),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_of_azure_has_a_file_system() {
        let host = azure_host("az://wal/x?endpoint=https://one.blob.core.windows.net");
        assert_eq!(host.as_deref(), Some("one.dfs.core.windows.net"));
        assert_eq!(azure_host("az://wal/x?endpoint=http://127.0.0.1:10000/devstoreaccount1"), None);
    }

    #[test]
    fn a_folder_is_named_by_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap().join("a b");
        std::fs::create_dir(&root).unwrap();
        let store = Store::folder(&root).unwrap().below("archive/x");
        let location = table_location(&store);
        assert_eq!(location, format!("{}/archive/x", root.display()));
        assert_eq!(key_of_path(&location, &format!("{location}/data/y"), "m").unwrap(), "data/y");
        for outside in ["/elsewhere/data/y".to_owned(), format!("{location}y"), location.clone()] {
            assert!(key_of_path(&location, &outside, "m").is_err(), "{outside}");
        }
    }

    #[test]
    fn a_bucket_is_named_without_its_endpoint() {
        let url = "memory://bucket/a%20b".parse().unwrap();
        let store = Store::over(std::sync::Arc::new(object_store::memory::InMemory::new()), url).below("archive");
        assert_eq!(table_location(&store), "memory://bucket/a b/archive");
    }
}
