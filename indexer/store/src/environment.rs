//! Where credentials and endpoints come from.

use std::{collections::BTreeMap, str::FromStr};

/// The variables that each store's own tools read: the process's, or others in their place.
#[derive(Clone, Default)]
pub struct StoreEnvironment(BTreeMap<String, String>);

impl StoreEnvironment {
    /// The process's own.
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// The variable's value, if it is set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The value of the first of `names` that is set and not empty.
    pub(crate) fn first(&self, names: &[&str]) -> Option<&str> {
        names.iter().filter_map(|name| self.get(name)).find(|value| !value.is_empty())
    }

    /// Whether the variable is set to a true value.
    pub(crate) fn is_true(&self, name: &str) -> bool {
        self.get(name).is_some_and(is_true)
    }

    /// The settings that `object_store` reads from variables that start with `prefix`.
    pub(crate) fn settings<K: FromStr>(&self, prefix: &str) -> Vec<(K, &str)> {
        let set = self.0.iter().filter(|(name, value)| name.starts_with(prefix) && !value.is_empty());
        set.filter_map(|(name, value)| Some((name.to_ascii_lowercase().parse().ok()?, value.as_str()))).collect()
    }

    /// This environment with `defaults` for the variables that it does not set.
    pub(crate) fn or(&self, mut defaults: Self) -> Self {
        defaults.0.extend(self.0.clone());
        defaults
    }

    /// Takes variables away.
    pub(crate) fn unset(&mut self, names: &[&str]) {
        for name in names {
            self.0.remove(*name);
        }
    }

    /// Sets variables to one value.
    pub(crate) fn set_all(&mut self, names: &[&str], value: &str) {
        for name in names {
            self.set(name, value);
        }
    }

    /// Sets a variable.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), value.to_owned());
    }
}

/// Whether the value of a variable means true.
pub(crate) fn is_true(value: &str) -> bool {
    ["1", "true", "yes", "on"].contains(&value.to_ascii_lowercase().as_str())
}

impl FromIterator<(String, String)> for StoreEnvironment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        Self(variables.into_iter().collect())
    }
}

/// Names only: values may be secrets.
impl std::fmt::Debug for StoreEnvironment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
