//! The profile that AWS's tools would use, from the files that they share.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use aws_runtime::env_config::{
    file::{EnvConfigFileKind, EnvConfigFiles},
    property::PropertiesKey,
    section::EnvConfigSections,
};
use aws_types::os_shim_internal::{Env, Fs};
use futures::FutureExt as _;

use super::profile_refusal::ProfileRefusal;
use crate::{
    configuration::ConfiguredValue,
    environment::{StoreEnvironment, is_true},
    errors::error_chain,
};

const DEFAULT_PROFILE: &str = "default";
/// Variables that select a profile, the first one first.
const PROFILE_VARIABLES: [&str; 2] = ["AWS_PROFILE", "AWS_DEFAULT_PROFILE"];
/// The shared files: the variable that names each, and its name in `~/.aws`. A field of the first counts before one of the second.
const SHARED_FILES: [(EnvConfigFileKind, &str, &str); 2] = [
    (EnvConfigFileKind::Credentials, "AWS_SHARED_CREDENTIALS_FILE", "credentials"),
    (EnvConfigFileKind::Config, "AWS_CONFIG_FILE", "config"),
];

/// The selected profile, in each of the shared files that exist.
#[derive(Clone, Debug)]
pub(super) struct AwsProfile {
    /// The profile that a variable selects; `None` for the default one.
    selected: Option<ConfiguredValue>,
    files: Vec<SharedFile>,
}

#[derive(Clone, Debug)]
struct SharedFile {
    kind: EnvConfigFileKind,
    path: PathBuf,
    sections: EnvConfigSections,
}

impl AwsProfile {
    /// Reads the files. A profile that a variable selects must be in one of them.
    pub(super) fn load(environment: &StoreEnvironment) -> Result<Self, ProfileRefusal> {
        let selected = environment.configured(&PROFILE_VARIABLES);
        let name = selected.as_ref().map_or(DEFAULT_PROFILE, |selected| &selected.value);
        let paths = SHARED_FILES.map(|(kind, variable, name)| (kind, shared_path(environment, variable, name)));
        let mut files = Vec::new();
        for (kind, path) in &paths {
            if let Some(path) = path
                && let Some(sections) = read(*kind, path, name)?
            {
                files.push(SharedFile { kind: *kind, path: path.clone(), sections });
            }
        }
        if let Some(ConfiguredValue { value, source }) = &selected
            && !files.iter().any(|file| file.sections.get_profile(value).is_some())
        {
            let paths = paths.iter().filter_map(|(_, path)| Some(format!("\"{}\"", path.as_ref()?.display())));
            let paths = paths.collect::<Vec<_>>().join(" or ");
            let why = format!("profile \"{value}\" ({source}) is not in {paths}");
            return Err(ProfileRefusal { why, remedy: "add the profile there, or correct AWS_PROFILE" });
        }
        Ok(Self { selected, files })
    }

    /// The value of a field of the profile.
    pub(super) fn get(&self, field: &str) -> Option<ConfiguredValue> {
        self.files.iter().find_map(|file| {
            let value = file.sections.get(field)?.trim();
            (!value.is_empty()).then(|| ConfiguredValue { value: value.to_owned(), source: file.source(field) })
        })
    }

    /// The endpoint of S3: that of the services section that the profile names, else the profile's own.
    pub(super) fn endpoint(&self) -> Option<ConfiguredValue> {
        if self.get("ignore_configured_endpoint_urls").is_some_and(|ignore| is_true(&ignore.value)) {
            return None;
        }
        let of_service = self.get("services").and_then(|services| {
            let key = PropertiesKey::builder().section_key("services").section_name(&services.value);
            let key = key.property_name("s3").sub_property_name("endpoint_url").build().ok()?;
            self.files.iter().find_map(|SharedFile { path, sections, .. }| {
                let value = sections.other_sections().get(&key)?.clone();
                let source = format!("section \"services {}\" of \"{}\"", services.value, path.display());
                Some(ConfiguredValue { value, source })
            })
        });
        of_service.or_else(|| self.get("endpoint_url"))
    }

    /// The name that a variable selects.
    pub(super) fn selected(&self) -> Option<&str> {
        self.selected.as_ref().map(|selected| selected.value.as_str())
    }

    /// The files that exist, as AWS's crate takes them.
    pub(super) fn files(&self) -> EnvConfigFiles {
        // It takes no empty list, and of two files the later one counts.
        let files = EnvConfigFiles::builder().with_contents(EnvConfigFileKind::Config, "");
        self.files.iter().rev().fold(files, |files, file| files.with_file(file.kind, file.path.clone())).build()
    }
}

impl SharedFile {
    fn source(&self, field: &str) -> String {
        format!("{field} of profile \"{}\" in \"{}\"", self.sections.selected_profile(), self.path.display())
    }
}

/// Where a shared file is; `None` where neither a variable nor a home folder tells.
fn shared_path(environment: &StoreEnvironment, variable: &str, name: &str) -> Option<PathBuf> {
    let home = || environment.first(&["HOME"]).map(PathBuf::from);
    let Some(path) = environment.first(&[variable]) else { return Some(home()?.join(".aws").join(name)) };
    match path.strip_prefix("~/") {
        Some(rest) => Some(home()?.join(rest)),
        None => Some(PathBuf::from(path)),
    }
}

/// The sections of a file, with `profile` selected; `None` if there is no such file.
fn read(kind: EnvConfigFileKind, path: &Path, profile: &str) -> Result<Option<EnvConfigSections>, ProfileRefusal> {
    let refused = |why: String| ProfileRefusal {
        why: format!("\"{}\" cannot be read: {why}", path.display()),
        remedy: "correct the file, or name another one in AWS_CONFIG_FILE or AWS_SHARED_CREDENTIALS_FILE",
    };
    match std::fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refused(error.to_string())),
        Ok(_) => {}
    }
    let file = EnvConfigFiles::builder().with_file(kind, path).build();
    // It reads files alone, without waiting: the path is complete, so no variable is asked for.
    let (fs, env) = (Fs::real(), Env::from_slice(&[]));
    let loaded = aws_config::profile::load(&fs, &env, &file, Some(profile.to_owned().into())).now_or_never();
    let loaded = loaded.ok_or_else(|| refused("it was not read at once".to_owned()))?;
    loaded.map(Some).map_err(|error| refused(error_chain(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The form of AWS's documentation: a profile, nested settings, a services section.
    const CONFIG: &str = "\
        [default]\nregion = eu-west-1\n# endpoint_url = no\n\n\
        [profile logs]\nregion = eu-north-1\ns3 =\n  endpoint_url = https://nested\n  region = nested\nservices = local\n\
        ca_bundle = /etc/ca.pem\n\n\
        [services local]\ns3 =\n  endpoint_url = https://s3.corp\ndynamodb =\n  endpoint_url = https://dynamodb.corp\n";
    const CREDENTIALS: &str = "[logs]\naws_access_key_id=ID\naws_secret_access_key = a=b\n";

    fn load(profile: Option<&str>) -> Result<(AwsProfile, tempfile::TempDir), String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(".aws")).unwrap();
        std::fs::write(folder.path().join(".aws/config"), CONFIG).unwrap();
        std::fs::write(folder.path().join(".aws/credentials"), CREDENTIALS).unwrap();
        let variables = [("HOME", folder.path().to_str()), ("AWS_PROFILE", profile)];
        let variables = variables.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
        let loaded = AwsProfile::load(&variables.collect()).map_err(|refusal| refusal.why)?;
        Ok((loaded, folder))
    }

    fn value(found: Option<ConfiguredValue>) -> Option<String> {
        found.map(|found| found.value)
    }

    #[test]
    fn nested_settings_are_not_the_profiles_own() {
        let (logs, folder) = load(Some("logs")).unwrap();
        assert_eq!(value(logs.get("region")).as_deref(), Some("eu-north-1"));
        assert_eq!(value(logs.get("aws_secret_access_key")).as_deref(), Some("a=b"));
        let endpoint = logs.endpoint().unwrap();
        assert_eq!(endpoint.value, "https://s3.corp");
        assert!(endpoint.source.contains("section \"services local\""), "{}", endpoint.source);
        let config = folder.path().join(".aws/config");
        let source = format!("region of profile \"logs\" in \"{}\"", config.display());
        assert_eq!(logs.get("region").unwrap().source, source);
        let (default, _folder) = load(None).unwrap();
        assert_eq!(value(default.get("region")).as_deref(), Some("eu-west-1"));
        assert_eq!(default.endpoint(), None);
    }

    #[test]
    fn an_unknown_profile_is_named_with_the_files() {
        let why = load(Some("none")).err().unwrap();
        for part in ["profile \"none\" (variable AWS_PROFILE)", ".aws/config", ".aws/credentials"] {
            assert!(why.contains(part), "{why}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_parsed_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        std::fs::write(&file, "[default\nregion = x\n").unwrap();
        let environment = [("AWS_CONFIG_FILE".to_owned(), file.display().to_string())].into_iter().collect();
        let why = AwsProfile::load(&environment).err().unwrap().why;
        assert!(why.contains(&file.display().to_string()), "{why}");
    }
}
