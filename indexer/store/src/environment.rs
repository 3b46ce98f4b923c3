//! Where credentials and endpoints come from.

use std::{collections::BTreeMap, str::FromStr};

use crate::configuration::ConfiguredValue;

/// The variables that each store's own tools read: the process's, or others in their place.
#[derive(Clone, Default)]
pub struct StoreEnvironment(BTreeMap<String, EnvironmentVariable>);

#[derive(Clone)]
struct EnvironmentVariable {
    value: String,
    /// Where the value comes from, unless it is the variable itself: a setting, a field of a file.
    source: Option<String>,
}

impl StoreEnvironment {
    /// The process's own.
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// The variable's value, if it is set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|variable| variable.value.as_str())
    }

    /// Where the value of a variable comes from, in words.
    pub(crate) fn source(&self, name: &str) -> String {
        let source = self.0.get(name).and_then(|variable| variable.source.clone());
        source.unwrap_or_else(|| format!("variable {name}"))
    }

    /// The value of the first of `names` that is set and not empty.
    pub(crate) fn first(&self, names: &[&str]) -> Option<&str> {
        self.get(self.first_name(names)?)
    }

    /// The first of `names` that is set and not empty.
    pub(crate) fn first_name<'a>(&self, names: &[&'a str]) -> Option<&'a str> {
        names.iter().copied().find(|name| self.get(name).is_some_and(|value| !value.is_empty()))
    }

    /// The value of the first of `names` that is set and not empty, and its source.
    pub(crate) fn configured(&self, names: &[&str]) -> Option<ConfiguredValue> {
        let name = self.first_name(names)?;
        Some(ConfiguredValue { value: self.get(name)?.to_owned(), source: self.source(name) })
    }

    /// Whether the variable is set to a true value.
    pub(crate) fn is_true(&self, name: &str) -> bool {
        self.get(name).is_some_and(is_true)
    }

    /// The settings that `object_store` reads from variables that start with `prefix`.
    pub(crate) fn settings<K: FromStr>(&self, prefix: &str) -> Vec<(K, ConfiguredValue)> {
        let names = self.0.keys().map(String::as_str).filter(|name| name.starts_with(prefix));
        names.filter_map(|name| Some((name.to_ascii_lowercase().parse().ok()?, self.configured(&[name])?))).collect()
    }

    /// Whether the value of a variable is not the variable's own.
    pub(crate) fn is_setting(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|variable| variable.source.is_some())
    }

    /// Takes variables away, settings in their place too.
    pub(crate) fn unset(&mut self, names: &[&str]) {
        for name in names {
            self.0.remove(*name);
        }
    }

    /// Sets a variable to a value that comes from `source`.
    pub(crate) fn set_from(&mut self, name: &str, value: &str, source: &str) {
        let variable = EnvironmentVariable { value: value.to_owned(), source: Some(source.to_owned()) };
        self.0.insert(name.to_owned(), variable);
    }
}

/// Whether the value of a variable means true.
pub(crate) fn is_true(value: &str) -> bool {
    ["1", "true", "yes", "on"].contains(&value.to_ascii_lowercase().as_str())
}

impl FromIterator<(String, String)> for StoreEnvironment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name, EnvironmentVariable { value, source: None }));
        Self(variables.collect())
    }
}

/// Names only: values may be secrets.
impl std::fmt::Debug for StoreEnvironment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
