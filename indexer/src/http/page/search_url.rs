//! The search that a page shows, and the addresses of searches close to it.

use crate::http::{
    arguments::{CountedField, NamedValue as _},
    extract::{QueryString, encode, names_of},
    search::{ANSWER_PARAMETERS, SearchArgs},
};

/// The parameters of a search that are worth carrying on; never the page that was shown.
#[derive(Clone, Debug, Default)]
pub(crate) struct SearchUrl {
    pairs: Vec<(String, String)>,
}

/// What belongs to one page of the answer and not to the search.
const FLEETING: [&str; 1] = ["cursor"];

/// Whether a parameter narrows the hits beside the query.
fn is_filter(name: &str) -> bool {
    name != "q" && !ANSWER_PARAMETERS.contains(&name)
}

/// The parameter that names what is counted.
const FACETS: &str = "facets";
/// The value of parameters that mean the client's time.
pub(crate) const CLIENT_TIME: &str = "clientTime";

impl SearchUrl {
    /// The search that the parameters ask for.
    pub(crate) fn of(query: &QueryString) -> Self {
        let known = names_of::<SearchArgs>();
        let lasting = |(name, _): &&(String, String)| known.contains(name) && !FLEETING.contains(&name.as_str());
        let mut pairs: Vec<(String, String)> = query.pairs().iter().filter(lasting).cloned().collect();
        // A form sends one attribute more beside those that are counted; the API takes them in one value.
        let given: Vec<String> =
            pairs.iter().filter(|(name, _)| name == FACETS).map(|(_, value)| value.clone()).collect();
        pairs.retain(|(name, _)| name != FACETS);
        let mut counted = Vec::<&str>::new();
        for name in given.iter().flat_map(|value| value.split(',')).map(str::trim) {
            if !name.is_empty() && !counted.contains(&name) {
                counted.push(name);
            }
        }
        if !counted.is_empty() {
            pairs.push((FACETS.to_owned(), counted.join(",")));
        }
        Self { pairs }
    }

    /// The attributes that are counted.
    pub(crate) fn attributes(&self) -> Vec<&str> {
        self.get(FACETS).split(',').filter(|name| is_attribute(name)).collect()
    }

    /// The search without the count of an attribute.
    pub(crate) fn without_attribute(&self, attribute: &str) -> Self {
        let others: Vec<&str> = self.get(FACETS).split(',').filter(|name| *name != attribute).collect();
        self.set(FACETS, &others.join(","))
    }

    /// What the API is asked: where only attributes are named they are counted beside what always is.
    pub(crate) fn asked(&self) -> Self {
        let counted = self.get(FACETS);
        if counted.is_empty() || !counted.split(',').all(is_attribute) {
            return self.clone();
        }
        self.set(FACETS, &format!("{},{counted}", CountedField::names(",")))
    }

    /// The parameters of a request for this search, with what is counted in one value.
    pub(crate) fn asked_of(&self, query: &QueryString) -> QueryString {
        match self.asked().get(FACETS) {
            "" => query.clone(),
            counted => query.replaced(FACETS, counted),
        }
    }

    /// Whether the query has this clause.
    pub(crate) fn has_clause(&self, clause: &str) -> bool {
        self.get("q").contains(clause)
    }

    /// The search narrowed by one more clause of the query.
    pub(crate) fn with_clause(&self, clause: &str) -> Self {
        match self.get("q") {
            "" => self.set("q", clause),
            // Otherwise the clause would belong to the last alternative.
            query if query.contains(" OR ") => self.set("q", &format!("({query}) {clause}")),
            query => self.set("q", &format!("{query} {clause}")),
        }
    }

    /// The search without a clause of the query.
    pub(crate) fn without_clause(&self, clause: &str) -> Self {
        self.set("q", self.get("q").replacen(clause, "", 1).trim())
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
        self.pairs.iter().filter(|(name, _)| is_filter(name)).map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// What another query keeps of this search: all but its own text.
    pub(crate) fn kept(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().filter(|(name, _)| name != "q").map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Every parameter.
    pub(crate) fn pairs(&self) -> &[(String, String)] {
        &self.pairs
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
        let kept = |(name, _): &&(String, String)| !is_filter(name);
        Self { pairs: self.pairs.iter().filter(kept).cloned().collect() }
    }

    /// The address of the page that answers it.
    pub(crate) fn href(&self) -> String {
        format!("./{}", encode(self.pairs.iter()))
    }

    /// The address of the API's answer to it.
    pub(crate) fn api(&self) -> String {
        format!("v1/search{}", encode(self.asked().pairs.iter()))
    }
}

fn is_attribute(name: &str) -> bool {
    name.starts_with("payload.") || name.starts_with("descriptor.")
}

/// The clause of a query that an attribute has exactly this value.
pub(crate) fn exact_clause(attribute: &str, value: &str) -> String {
    let mut name = String::new();
    for char in attribute.chars() {
        match char {
            // Once for the path of an attribute, and once for the query.
            '\\' => name.push_str(r"\\\\"),
            char if char.is_alphanumeric() || "._-".contains(char) => name.push(char),
            char => name.extend(['\\', char]),
        }
    }
    let value = quoted_value(value);
    format!("{name}:[{value} TO {value}]")
}

/// A value as a query writes it.
pub(crate) fn quoted_value(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', r"\\").replace('"', "\\\""))
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

    fn search(query: &str) -> SearchUrl {
        SearchUrl::of(&QueryString::read(Some(query)).unwrap())
    }

    #[test]
    fn attributes_are_counted_beside_what_always_is() {
        let one = search("facets=payload.a,+payload.a&facets=descriptor.b&facets=");
        assert_eq!(one.attributes(), ["payload.a", "descriptor.b"]);
        assert_eq!(one.href(), "./?facets=payload.a%2Cdescriptor.b");
        let counted = "kind%2Crepo%2Coutcome%2Ccontributor%2Ctime%2Cpayload.a%2Cdescriptor.b";
        assert_eq!(one.api(), format!("v1/search?facets={counted}"));
        assert_eq!(one.without_attribute("payload.a").href(), "./?facets=descriptor.b");
        assert_eq!(search("facets=kind,payload.a").api(), "v1/search?facets=kind%2Cpayload.a");
        assert_eq!(search("q=a").api(), "v1/search?q=a");
    }

    #[test]
    fn a_clause_belongs_to_the_whole_query() {
        let clause = exact_clause("payload.attributes.build number", r#"a "b" \c"#);
        assert_eq!(clause, r#"payload.attributes.build\ number:["a \"b\" \\c" TO "a \"b\" \\c"]"#);
        for (query, narrowed) in [("", "x:[1 TO 1]"), ("q=a", "a x:[1 TO 1]"), ("q=a+OR+b", "(a OR b) x:[1 TO 1]")] {
            let with = search(query).with_clause("x:[1 TO 1]");
            assert_eq!(with.get("q"), narrowed);
            assert!(with.has_clause("x:[1 TO 1]") && !with.without_clause("x:[1 TO 1]").has_clause("x:"));
        }
    }
}
