//! Where a store is, as a text that two processes compare.

use url::Url;

use crate::scheme::StoreScheme;

/// What the `endpoint` of a store's location is read from: again each time, since credentials may name it and may come later.
pub(crate) type EndpointSource = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// The URL with one slash between its segments and none at its end, and with the endpoint, which is a part of where a bucket is:
/// `s3://bucket/prefix?endpoint=https://s3.corp`.
pub(crate) fn location(scheme: StoreScheme, url: &Url, endpoint: Option<&str>) -> String {
    let mut place = url.clone();
    if scheme != StoreScheme::Folder {
        place.set_path(&scheme.base(url));
    }
    let place = place.as_str().trim_end_matches('/');
    match endpoint {
        Some(endpoint) => format!("{place}?endpoint={}", endpoint.trim_end_matches('/')),
        None => place.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::{Store, StoreAccess, StoreEnvironment, StoreSettings};

    fn location(url: &str, variables: &[(&str, &str)], endpoint: Option<&str>) -> String {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let settings = StoreSettings { endpoint: endpoint.map(str::to_owned), ..StoreSettings::default() };
        let access = StoreAccess::new(&settings, variables.collect::<StoreEnvironment>());
        Store::open_as(&url.parse().unwrap(), &access).unwrap().location()
    }

    #[test]
    fn one_place_has_one_location() {
        for url in ["s3://wal/orders", "s3://wal/orders/", "s3://wal//orders/"] {
            assert_eq!(location(url, &[], None), "s3://wal/orders");
            for endpoint in ["https://s3.corp", "https://s3.corp/"] {
                let expected = "s3://wal/orders?endpoint=https://s3.corp";
                assert_eq!(location(url, &[], Some(endpoint)), expected);
                assert_eq!(location(url, &[("AWS_ENDPOINT_URL", endpoint)], None), expected);
            }
        }
        assert_eq!(location("s3://wal", &[], None), "s3://wal");
        let folder = tempfile::tempdir().unwrap();
        let store = Store::folder(folder.path()).unwrap();
        assert_eq!(store.location(), format!("file://{}", folder.path().canonicalize().unwrap().display()));
        assert_eq!(store.below("log").location(), format!("{}/log", store.location()));
    }

    #[test]
    fn the_same_name_elsewhere_is_another_location() {
        let emulator = [("STORAGE_EMULATOR_HOST", "localhost:9023")];
        assert_eq!(location("gs://wal", &emulator, None), "gs://wal?endpoint=http://localhost:9023");
        assert_eq!(location("gs://wal", &[], Some("https://gcs.corp")), "gs://wal?endpoint=https://gcs.corp");
        assert_eq!(location("gs://wal", &[], None), "gs://wal");
        let account = |name| [("AZURE_STORAGE_ACCOUNT", name), ("AZURE_STORAGE_KEY", "a2V5")];
        let expected = "az://wal/x?endpoint=https://one.blob.core.windows.net";
        assert_eq!(location("az://wal/x", &account("one"), None), expected);
        assert_ne!(location("az://wal/x", &account("two"), None), expected);
    }

    #[test]
    fn an_account_that_a_folder_of_credentials_names_counts_too() {
        let folder = tempfile::tempdir().unwrap();
        let settings =
            StoreSettings { credentials_dir: Some(Path::new(folder.path()).to_owned()), ..StoreSettings::default() };
        let access = StoreAccess::new(&settings, StoreEnvironment::default());
        let store = Store::open_as(&"az://wal".parse().unwrap(), &access).unwrap();
        for (name, value) in [("AZURE_STORAGE_ACCOUNT_NAME", "one"), ("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")] {
            std::fs::write(folder.path().join(name), value).unwrap();
        }
        assert_eq!(store.location(), "az://wal?endpoint=https://one.blob.core.windows.net");
    }
}
