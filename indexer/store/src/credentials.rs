//! Credentials in a folder of files, as a mounted Secret is.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use crate::{environment::StoreEnvironment, errors::StoreError, scheme::StoreScheme};

/// A credential and whether the store works without it.
struct CredentialName {
    name: &'static str,
    need: CredentialNeed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum CredentialNeed {
    Always,
    /// Unless the credential of this name is there.
    Without(&'static str),
    Never,
}

const S3: [CredentialName; 3] =
    [needed("AWS_ACCESS_KEY_ID"), needed("AWS_SECRET_ACCESS_KEY"), optional("AWS_SESSION_TOKEN")];
const GOOGLE: [CredentialName; 1] = [needed("GOOGLE_SERVICE_ACCOUNT_KEY")];
/// The account may be a setting of the store.
const AZURE: [CredentialName; 3] = [
    optional("AZURE_STORAGE_ACCOUNT_NAME"),
    CredentialName { name: "AZURE_STORAGE_ACCOUNT_KEY", need: CredentialNeed::Without("AZURE_STORAGE_SAS_TOKEN") },
    optional("AZURE_STORAGE_SAS_TOKEN"),
];

/// The process's own credentials of each store: a folder stands in for all of them.
const REPLACED: [&str; 24] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_PATH",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_SKIP_SIGNATURE",
    "AZURE_STORAGE_ACCOUNT",
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_ACCESS_KEY",
    "AZURE_STORAGE_MASTER_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_SAS_KEY",
    "AZURE_STORAGE_TOKEN",
    "AZURE_FEDERATED_TOKEN_FILE",
];

const fn needed(name: &'static str) -> CredentialName {
    CredentialName { name, need: CredentialNeed::Always }
}

const fn optional(name: &'static str) -> CredentialName {
    CredentialName { name, need: CredentialNeed::Never }
}

/// The folder of one store's credentials.
#[derive(Clone, Debug)]
pub(crate) struct CredentialsFolder {
    path: PathBuf,
    scheme: StoreScheme,
    url: String,
}

/// The credentials in a folder: names and values, values without blanks at either end.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct StoreCredentials {
    folder: PathBuf,
    values: Vec<(&'static str, String)>,
}

impl CredentialsFolder {
    pub(crate) fn new(path: &Path, scheme: StoreScheme, url: &str) -> Self {
        Self { path: path.to_owned(), scheme, url: url.to_owned() }
    }

    /// Reads the files. One that is needed and missing or empty is named with the remedy.
    pub(crate) fn read(&self) -> Result<StoreCredentials, StoreError> {
        let mut found = Vec::new();
        for CredentialName { name, need } in names(self.scheme) {
            let needed = match need {
                CredentialNeed::Always => true,
                CredentialNeed::Without(other) => !self.path.join(other).exists(),
                CredentialNeed::Never => false,
            };
            match std::fs::read_to_string(self.path.join(name)) {
                Ok(text) if !text.trim().is_empty() => found.push((*name, text.trim().to_owned())),
                Ok(_) if needed => return Err(self.missing(name, "it is empty".to_owned())),
                Err(error) if needed && error.kind() == ErrorKind::NotFound => {
                    return Err(self.missing(name, "there is no such file".to_owned()));
                }
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(self.missing(name, error.to_string())),
                _ => {}
            }
        }
        Ok(StoreCredentials { folder: self.path.clone(), values: found })
    }

    fn missing(&self, name: &str, why: String) -> StoreError {
        StoreError::Missing {
            url: self.url.clone(),
            file: self.path.join(name).display().to_string(),
            why,
            remedy: format!("add key \"{name}\" to the Secret (or create that file); it is read at once"),
        }
    }
}

impl StoreCredentials {
    /// `environment` with these credentials instead of its own. A setting of the store counts before them.
    pub(crate) fn over(&self, environment: &StoreEnvironment) -> StoreEnvironment {
        let mut environment = environment.clone();
        let replaced: Vec<_> = REPLACED.into_iter().filter(|name| !environment.is_setting(name)).collect();
        environment.unset(&replaced);
        for (name, value) in &self.values {
            if environment.is_setting(name) {
                continue;
            }
            environment.set_from(name, value, &format!("file \"{}\"", self.folder.join(name).display()));
        }
        environment
    }
}

fn names(scheme: StoreScheme) -> &'static [CredentialName] {
    match scheme {
        StoreScheme::S3 => &S3,
        StoreScheme::Google => &GOOGLE,
        StoreScheme::Azure => &AZURE,
        StoreScheme::Memory | StoreScheme::Folder => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)]) -> Result<StoreCredentials, StoreError> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        CredentialsFolder::new(folder.path(), StoreScheme::S3, "s3://bucket").read()
    }

    #[test]
    fn files_are_credentials_and_nothing_else() {
        let files = [("AWS_ACCESS_KEY_ID", "id\n"), ("AWS_SECRET_ACCESS_KEY", "secret"), ("AWS_REGION", "mars")];
        let process = [("AWS_SESSION_TOKEN", "old"), ("AWS_REGION", "eu")];
        let process = process.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let environment = read(&files).ok().unwrap().over(&process);
        assert_eq!(environment.get("AWS_ACCESS_KEY_ID"), Some("id"));
        assert_eq!(environment.get("AWS_SESSION_TOKEN"), None);
        assert_eq!(environment.get("AWS_REGION"), Some("eu"));
    }

    #[test]
    fn what_is_missing_or_empty_is_named() {
        for files in [&[][..], &[("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", " \n")]] {
            let error = read(files).err().unwrap();
            let name = if files.is_empty() { "AWS_ACCESS_KEY_ID" } else { "AWS_SECRET_ACCESS_KEY" };
            assert!(matches!(&error, StoreError::Missing { .. }) && error.to_string().contains(name), "{error}");
            assert!(error.to_string().contains("Secret"), "{error}");
        }
    }
}
