//! The search that a page shows, and the addresses of searches close to it.

use crate::http::{
    extract::{QueryString, encode, names_of},
    search::SearchArgs,
};

/// The parameters of a search that are worth carrying on; never the page that was shown.
#[derive(Clone, Debug, Default)]
pub(crate) struct SearchUrl {
    pairs: Vec<(String, String)>,
}

/// What belongs to one page of the answer and not to the search.
const FLEETING: [&str; 1] = ["cursor"];

/// What says how the answer is shown, and is no filter.
const FORM: [&str; 5] = ["q", "sort", "size", "facets", "highlight"];

impl SearchUrl {
    /// The search that the parameters ask for.
    pub(crate) fn of(query: &QueryString) -> Self {
        let known = names_of::<SearchArgs>();
        let lasting = |(name, _): &&(String, String)| known.contains(name) && !FLEETING.contains(&name.as_str());
        Self { pairs: query.pairs().iter().filter(lasting).cloned().collect() }
    }

    /// A search for one thing.
    pub(crate) fn about(name: &str, value: &str) -> Self {
        Self { pairs: vec![(name.to_owned(), value.to_owned())] }
    }

    /// The first value of a parameter.
    pub(crate) fn get(&self, name: &str) -> &str {
        let found = self.pairs.iter().find(|(given, _)| given == name);
        found.map_or("", |(_, value)| value)
    }

    /// Whether this value was asked for.
    pub(crate) fn has(&self, name: &str, value: &str) -> bool {
        self.pairs.iter().any(|(n, v)| n == name && v == value)
    }

    /// The filters in force.
    pub(crate) fn filters(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs
            .iter()
            .filter(|(name, _)| !FORM.contains(&name.as_str()))
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// What another query keeps of this search: all but its own text.
    pub(crate) fn kept(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().filter(|(name, _)| name != "q").map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether everything is asked for.
    pub(crate) fn is_everything(&self) -> bool {
        self.get("q").is_empty() && self.filters().next().is_none()
    }

    /// This search with one more value.
    pub(crate) fn with(&self, name: &str, value: &str) -> Self {
        let mut pairs = self.pairs.clone();
        pairs.push((name.to_owned(), value.to_owned()));
        Self { pairs }
    }

    /// This search without one value.
    pub(crate) fn without(&self, name: &str, value: &str) -> Self {
        let kept = |(n, v): &&(String, String)| n != name || v != value;
        Self { pairs: self.pairs.iter().filter(kept).cloned().collect() }
    }

    /// This search with exactly this value of the parameter; without the parameter when the value is empty.
    pub(crate) fn set(&self, name: &str, value: &str) -> Self {
        let kept = |(n, _): &&(String, String)| n != name;
        let pairs = self.pairs.iter().filter(kept).cloned().collect();
        let rest = Self { pairs };
        if value.is_empty() { rest } else { rest.with(name, value) }
    }

    /// The query without any filter.
    pub(crate) fn unfiltered(&self) -> Self {
        let kept = |(n, _): &&(String, String)| FORM.contains(&n.as_str());
        Self { pairs: self.pairs.iter().filter(kept).cloned().collect() }
    }

    /// The address of the page that answers it.
    pub(crate) fn href(&self) -> String {
        format!("./{}", encode(self.pairs.iter()))
    }

    /// The address of the API's answer to it.
    pub(crate) fn api(&self) -> String {
        format!("v1/search{}", encode(self.pairs.iter()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrowing_leaves_the_page_that_was_shown() {
        let query = QueryString::read(Some("q=a+b&kind=label&cursor=x&wait=3&color=red")).unwrap();
        let search_url = SearchUrl::of(&query);
        assert_eq!(search_url.with("repo", "c&d").href(), "./?q=a+b&kind=label&repo=c%26d");
        assert_eq!(search_url.without("kind", "label").href(), "./?q=a+b");
        assert_eq!(search_url.set("q", "").api(), "v1/search?kind=label");
        assert_eq!(search_url.unfiltered().href(), "./?q=a+b");
    }
}
