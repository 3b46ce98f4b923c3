//! What a store refuses or fails with, and how the adapter tells one from the other.

use std::error::Error;

use super::folder::Gone;

/// Longest part of a store's own words that a message repeats, in characters.
const LONGEST_WHY: usize = 400;

/// A store's refusal or failure. Every message names the object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The credentials do not allow the call.
    #[error(
        "\"{url}\" refused access to \"{key}\": {why}; nothing can be done there; check the credentials and the bucket's policy"
    )]
    Denied {
        #[doc = "the store"]
        url: String,
        #[doc = "the object"]
        key: String,
        #[doc = "the store's words"]
        why: String,
    },
    /// The credentials allow to read and not to write.
    #[error(
        "\"{url}\" lets \"{key}\" be read and not written: {why}; nothing can be written there; allow these credentials to put \
         objects, or use others"
    )]
    ReadOnly {
        #[doc = "the store"]
        url: String,
        #[doc = "the object"]
        key: String,
        #[doc = "the store's words"]
        why: String,
    },
    /// A file that the store's settings name is not to be had: a credential, or the authority's certificates.
    #[error("\"{file}\" cannot be used: {why}; nothing can be done in \"{url}\" without it; {remedy}")]
    Missing {
        #[doc = "the store"]
        url: String,
        #[doc = "the file"]
        file: String,
        #[doc = "what is wrong with it"]
        why: String,
        #[doc = "what to do"]
        remedy: String,
    },
    /// The bucket or container does not exist.
    #[error(
        "\"{url}\" does not exist ({why}); nothing can be read or written there; create the bucket or correct the URL"
    )]
    NoBucket {
        #[doc = "the store"]
        url: String,
        #[doc = "the store's words"]
        why: String,
    },
    /// The URL or the configuration cannot be used.
    #[error("\"{url}\" cannot be opened: {why}; nothing is read or written there; {remedy}")]
    Unusable {
        #[doc = "the URL"]
        url: String,
        #[doc = "what is wrong"]
        why: String,
        #[doc = "what to do"]
        remedy: String,
    },
    /// The key cannot name an object in this store.
    #[error("\"{url}\" cannot hold \"{key}\": {why}; nothing of that name is read or written; use another one")]
    BadKey {
        #[doc = "the store"]
        url: String,
        #[doc = "the key"]
        key: String,
        #[doc = "which rule it breaks"]
        why: String,
    },
    /// No URL can be signed for the object.
    #[error("no URL can be signed for \"{key}\" in \"{url}\": {why}; nothing is written through one; {remedy}")]
    Unsignable {
        #[doc = "the store"]
        url: String,
        #[doc = "the object"]
        key: String,
        #[doc = "what is missing"]
        why: String,
        #[doc = "what to do"]
        remedy: String,
    },
    /// The object is not there, where the caller said that it must be.
    #[error(
        "\"{url}\" has no \"{key}\"; what needs it cannot go on; bring it back from the bucket's versions or from a copy of the bucket"
    )]
    Absent {
        #[doc = "the store"]
        url: String,
        #[doc = "the object"]
        key: String,
    },
    /// The store does not take the request, and will not when it is repeated.
    #[error(
        "\"{url}\" does not take the request for \"{key}\": {why}; it will not take it when it is repeated; check the URL and \
         the store's settings"
    )]
    Refused {
        #[doc = "the store"]
        url: String,
        #[doc = "the object"]
        key: String,
        #[doc = "the store's words"]
        why: String,
    },
    /// Anything that may pass: time-outs, 5xx, connections that break.
    #[error(
        "\"{url}\" failed on \"{key}\": {why}; the work waits for it, also after it was tried again; check the store and the way to it"
    )]
    Failed {
        #[doc = "the store"]
        url: String,
        #[doc = "the object"]
        key: String,
        #[doc = "the store's words"]
        why: String,
    },
}

impl StoreError {
    /// The URL of the store at fault, or of the part of it that was asked.
    pub fn url(&self) -> &str {
        match self {
            Self::Denied { url, .. }
            | Self::ReadOnly { url, .. }
            | Self::Missing { url, .. }
            | Self::NoBucket { url, .. }
            | Self::Unusable { url, .. }
            | Self::BadKey { url, .. }
            | Self::Unsignable { url, .. }
            | Self::Absent { url, .. }
            | Self::Refused { url, .. }
            | Self::Failed { url, .. } => url,
        }
    }

    /// Whether trying again may help. The adapter has then tried already, for some seconds.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }
}

/// What an error of the transport means, before the object is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Denied,
    NoBucket,
    Region,
    PlainHttp,
    BadKey,
    Absent,
    Refused,
    Failed,
}

/// Names the object and the remedy of a transport's error.
pub(crate) fn classify(url: &str, key: &str, error: &object_store::Error) -> StoreError {
    if let Some(ours) = causes(error).find_map(|cause| cause.downcast_ref::<StoreError>()) {
        return ours.clone();
    }
    let words = error_chain(error);
    let why = said(&words).unwrap_or_else(|| shortened(&words));
    let (url, key) = (url.to_owned(), key.to_owned());
    match sort(error, &words) {
        Sort::Denied => StoreError::Denied { url, key, why },
        Sort::NoBucket => StoreError::NoBucket { url, why },
        Sort::Region => StoreError::Unusable {
            url,
            why: format!("the bucket is in another region ({why})"),
            remedy: "set AWS_REGION to the bucket's region".to_owned(),
        },
        Sort::PlainHttp => StoreError::Unusable {
            url,
            why: format!("its endpoint is plain http ({why})"),
            remedy: "use https, or set AWS_ALLOW_HTTP=true to allow it".to_owned(),
        },
        Sort::BadKey => StoreError::BadKey { url, key, why },
        Sort::Absent => StoreError::Absent { url, key },
        Sort::Refused => StoreError::Refused { url, key, why },
        Sort::Failed => StoreError::Failed { url, key, why },
    }
}

fn sort(error: &object_store::Error, words: &str) -> Sort {
    let says = |any: &[&str]| any.iter().any(|text| words.contains(text));
    if caused_by_gone(error) || says(&["NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist"]) {
        return Sort::NoBucket;
    }
    if says(&["AuthorizationHeaderMalformed", "PermanentRedirect", "BucketRegionError", "IllegalLocationConstraint"]) {
        return Sort::Region;
    }
    if says(&["URL scheme is not allowed"]) {
        return Sort::PlainHttp;
    }
    match error {
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => Sort::Denied,
        object_store::Error::InvalidPath { .. } | object_store::Error::NotSupported { .. } => Sort::BadKey,
        object_store::Error::NotFound { .. } => Sort::Absent,
        _ if says(&["AccessDenied", "SignatureDoesNotMatch", "InvalidAccessKeyId", "ExpiredToken"]) => Sort::Denied,
        _ if is_refusal(words) || says(&["<Code>NotImplemented</Code>"]) => Sort::Refused,
        _ => Sort::Failed,
    }
}

/// Whether the status in a transport's `words` says that the request is at fault, and not the moment.
fn is_refusal(words: &str) -> bool {
    let status = words.split("status code: ").nth(1).and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
    let passing = ["RequestTimeout", "IncompleteBody", "BadDigest"].iter().any(|code| words.contains(code));
    status.is_some_and(|status: u16| (400..500).contains(&status) && ![408, 409, 429].contains(&status)) && !passing
}

fn caused_by_gone(error: &object_store::Error) -> bool {
    causes(error).any(<dyn Error>::is::<Gone>)
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

/// The messages of an error and its causes, each once.
pub(crate) fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut words = String::new();
    for cause in causes(error) {
        let text = cause.to_string();
        if !words.contains(&text) {
            if !words.is_empty() {
                words.push_str(": ");
            }
            words.push_str(&text);
        }
    }
    words
}

/// What the store itself said, where its answer's body is in `words`: the code and the message.
fn said(words: &str) -> Option<String> {
    let element = |name: &str| {
        let rest = words.split_once(&format!("<{name}>"))?.1;
        Some(rest.split_once('<')?.0.trim().to_owned())
    };
    let code = element("Code")?;
    Some(match element("Message") {
        Some(message) if !message.is_empty() => shortened(&format!("{code}: {message}")),
        _ => code,
    })
}

/// `words` on one line, cut to a length that a log line bears.
fn shortened(words: &str) -> String {
    let line = words.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST_WHY) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> object_store::Error {
        object_store::Error::Generic { store: "S3", source: text.to_owned().into() }
    }

    #[test]
    fn each_refusal_names_the_object_and_the_remedy() {
        let said = |text: &str| classify("s3://b/log", "x", &generic(text)).to_string();
        assert!(said("<Code>NoSuchBucket</Code>").contains("create the bucket"));
        assert!(said("<Code>AuthorizationHeaderMalformed</Code>").contains("AWS_REGION"));
        assert!(said("URL scheme is not allowed").contains("AWS_ALLOW_HTTP=true"));
        assert!(said("<Code>AccessDenied</Code>").contains("check the credentials"));
        let failed = said("timed out");
        assert!(failed.starts_with("\"s3://b/log\" failed on \"x\": Generic S3 error: timed out; "), "{failed}");
    }

    #[test]
    fn only_failures_may_pass() {
        assert!(classify("u", "k", &generic("503 Slow Down")).is_retryable());
        assert!(!classify("u", "k", &generic("AccessDenied")).is_retryable());
        let status = |words: &str| classify("u", "k", &generic(&format!("non-2xx status code: {words}")));
        assert!(!status("400 Bad Request: <Code>InvalidRequest</Code>").is_retryable());
        assert!(!status("416 Range Not Satisfiable").is_retryable());
        for words in
            ["400 Bad Request: <Code>RequestTimeout</Code>", "408", "409 Conflict", "429", "500", "503 Slow Down"]
        {
            assert!(status(words).is_retryable(), "{words}");
        }
    }

    #[test]
    fn the_stores_own_words_are_picked_out() {
        let body =
            "PUT http://h/b: 404: <?xml?><Error><Code>NoSuchBucket</Code>\n<Message>no such bucket\nat all</Message>";
        assert_eq!(said(body).unwrap(), "NoSuchBucket: no such bucket at all");
        assert_eq!(said("<Code>SlowDown</Code>").unwrap(), "SlowDown");
        assert_eq!(said("connection refused"), None);
    }

    #[test]
    fn long_words_are_cut() {
        let words = "é ".repeat(1000);
        assert_eq!(shortened(&words).chars().count(), LONGEST_WHY + 1);
    }
}
