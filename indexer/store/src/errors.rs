//! The errors of a store, and how the adapter derives them from the transport's errors.

use std::{error::Error, path::PathBuf};

/// How much of a store's own words a message repeats, in characters.
const MAX_WHY_CHARS: usize = 400;

/// The root folder of a folder store was removed while the store was open.
#[derive(Debug, thiserror::Error)]
#[error("the folder \"{}\" is gone", .0.display())]
pub(crate) struct FolderGone(pub(crate) PathBuf);

/// A store's refusal or failure. Every message names the object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The credentials do not allow the call.
    #[error(
        "\"{url}\" refused access to \"{key}\": {why}; nothing can be done there; check the credentials and the bucket's policy"
    )]
    Denied {
        /// The store.
        url: String,
        /// The object.
        key: String,
        /// The store's own words.
        why: String,
    },
    /// The credentials allow reading but not writing.
    #[error(
        "\"{url}\" lets \"{key}\" be read and not written: {why}; nothing can be written there; allow these credentials to put \
         objects, or use others"
    )]
    ReadOnly {
        /// The store.
        url: String,
        /// The object.
        key: String,
        /// The store's own words.
        why: String,
    },
    /// A file that the store's settings name cannot be used: a credential, or the authority's certificates.
    #[error("\"{file}\" cannot be used: {why}; nothing can be done in \"{url}\" without it; {remedy}")]
    Missing {
        /// The store.
        url: String,
        /// The file.
        file: String,
        /// What is wrong with the file.
        why: String,
        /// What to do about it.
        remedy: String,
    },
    /// The bucket or container does not exist.
    #[error(
        "\"{url}\" does not exist ({why}); nothing can be read or written there; create the bucket or correct the URL"
    )]
    NoBucket {
        /// The store.
        url: String,
        /// The store's own words.
        why: String,
    },
    /// The URL or the configuration cannot be used.
    #[error("\"{url}\" cannot be opened: {why}; nothing is read or written there; {remedy}")]
    Unusable {
        /// The URL.
        url: String,
        /// What is wrong.
        why: String,
        /// What to do about it.
        remedy: String,
    },
    /// The key cannot name an object in this store.
    #[error("\"{url}\" cannot hold \"{key}\": {why}; nothing of that name is read or written; use another one")]
    BadKey {
        /// The store.
        url: String,
        /// The key.
        key: String,
        /// Which rule it breaks.
        why: String,
    },
    /// No URL can be signed for the object.
    #[error("no URL can be signed for \"{key}\" in \"{url}\": {why}; nothing is written through one; {remedy}")]
    Unsignable {
        /// The store.
        url: String,
        /// The object.
        key: String,
        /// What is missing.
        why: String,
        /// What to do about it.
        remedy: String,
    },
    /// The object is absent although the caller needs it.
    #[error(
        "\"{url}\" has no \"{key}\"; what needs it cannot go on; bring it back from the bucket's versions or from a copy of the bucket"
    )]
    Absent {
        /// The store.
        url: String,
        /// The object.
        key: String,
    },
    /// The store rejects the request, and will reject it again.
    #[error(
        "\"{url}\" does not take the request for \"{key}\": {why}; it will not take it when it is repeated; check the URL and \
         the store's settings"
    )]
    Refused {
        /// The store.
        url: String,
        /// The object.
        key: String,
        /// The store's own words.
        why: String,
    },
    /// A failure that may pass: time-outs, 5xx, broken connections.
    #[error(
        "\"{url}\" failed on \"{key}\": {why}; the work waits for it, also after it was tried again; check the store and the way to it"
    )]
    Failed {
        /// The store.
        url: String,
        /// The object.
        key: String,
        /// The store's own words.
        why: String,
    },
}

impl StoreError {
    /// The URL of the store, or of the part of it that was used.
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

    /// Whether a retry may help. Calls that retry have already retried for about 16 seconds when they return it.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }
}

/// What a transport error means, before the object is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ErrorClass {
    Denied,
    NoBucket,
    Region,
    PlainHttp,
    BadKey,
    Absent,
    Refused,
    Failed,
}

/// Turns a transport error into one that names the object and the remedy.
pub(crate) fn classify(url: &str, key: &str, error: &object_store::Error) -> StoreError {
    if let Some(ours) = causes(error).find_map(|cause| cause.downcast_ref::<StoreError>()) {
        return ours.clone();
    }
    let words = error_chain(error);
    let why = store_message(&words).unwrap_or_else(|| shortened(&words));
    let (url, key) = (url.to_owned(), key.to_owned());
    match class_of(error, &words) {
        ErrorClass::Denied => StoreError::Denied { url, key, why },
        ErrorClass::NoBucket => StoreError::NoBucket { url, why },
        ErrorClass::Region => StoreError::Unusable {
            url,
            why: format!("the bucket is in another region ({why})"),
            remedy: "set AWS_REGION to the bucket's region".to_owned(),
        },
        ErrorClass::PlainHttp => StoreError::Unusable {
            url,
            why: format!("its endpoint is plain http ({why})"),
            remedy: "use https, or set AWS_ALLOW_HTTP=true to allow it".to_owned(),
        },
        ErrorClass::BadKey => StoreError::BadKey { url, key, why },
        ErrorClass::Absent => StoreError::Absent { url, key },
        ErrorClass::Refused => StoreError::Refused { url, key, why },
        ErrorClass::Failed => StoreError::Failed { url, key, why },
    }
}

fn class_of(error: &object_store::Error, words: &str) -> ErrorClass {
    let says = |any: &[&str]| any.iter().any(|text| words.contains(text));
    if is_folder_gone(error) || says(&["NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist"]) {
        return ErrorClass::NoBucket;
    }
    if says(&["AuthorizationHeaderMalformed", "PermanentRedirect", "BucketRegionError", "IllegalLocationConstraint"]) {
        return ErrorClass::Region;
    }
    if says(&["URL scheme is not allowed"]) {
        return ErrorClass::PlainHttp;
    }
    // The prefix and the key together may be longer than the store takes.
    if says(&["KeyTooLongError", "<Code>InvalidUri</Code>", "<Code>OutOfRangeInput</Code>"]) {
        return ErrorClass::BadKey;
    }
    match error {
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
            ErrorClass::Denied
        }
        object_store::Error::InvalidPath { .. } | object_store::Error::NotSupported { .. } => ErrorClass::BadKey,
        object_store::Error::NotFound { .. } => ErrorClass::Absent,
        _ if says(&[
            "AccessDenied",
            "SignatureDoesNotMatch",
            "InvalidAccessKeyId",
            "ExpiredToken",
            "AuthorizationFailure",
            "AuthenticationFailed",
            "AuthenticationRequired",
        ]) =>
        {
            ErrorClass::Denied
        }
        // Azure answers 409 for a blob under a retention or a legal hold and for one in the archive tier, whatever is tried how often.
        _ if is_refusal(words) || says(&["<Code>NotImplemented</Code>", "BlobImmutable", "BlobArchived"]) => {
            ErrorClass::Refused
        }
        _ => ErrorClass::Failed,
    }
}

/// Whether the status in a transport's `words` blames the request itself, so that a retry cannot help.
fn is_refusal(words: &str) -> bool {
    let status = words.split("status code: ").nth(1).and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
    let passing = ["RequestTimeout", "IncompleteBody", "BadDigest"].iter().any(|code| words.contains(code));
    status.is_some_and(|status: u16| (400..500).contains(&status) && ![408, 409, 429].contains(&status)) && !passing
}

fn is_folder_gone(error: &object_store::Error) -> bool {
    causes(error).any(<dyn Error>::is::<FolderGone>)
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

/// The messages of an error and all its causes, joined by `: `. A message that an outer error already repeats is left out.
pub fn error_chain(error: &(dyn Error + 'static)) -> String {
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

/// The code and the message of the store's own answer, where `words` holds its body.
fn store_message(words: &str) -> Option<String> {
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

/// `words` on one line, cut to [`MAX_WHY_CHARS`].
fn shortened(words: &str) -> String {
    let line = words.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_WHY_CHARS) {
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
        assert!(said("<Code>KeyTooLongError</Code>").contains("cannot hold \"x\""));
        assert!(said("<Code>AccessDenied</Code>").contains("check the credentials"));
        // Azure's words, as its listings are refused.
        assert!(said("<Code>AuthorizationFailure</Code>").contains("check the credentials"));
        // Google's.
        assert!(said("<Code>AuthenticationRequired</Code>").contains("check the credentials"));
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
        assert!(!status("409 Conflict: <Code>BlobImmutableDueToPolicy</Code>").is_retryable());
        assert!(!status("409 Conflict: <Code>BlobArchived</Code>").is_retryable());
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
        assert_eq!(store_message(body).unwrap(), "NoSuchBucket: no such bucket at all");
        assert_eq!(store_message("<Code>SlowDown</Code>").unwrap(), "SlowDown");
        assert_eq!(store_message("connection refused"), None);
    }

    #[test]
    fn long_words_are_cut() {
        let words = "é ".repeat(1000);
        assert_eq!(shortened(&words).chars().count(), MAX_WHY_CHARS + 1);
    }
}
